//! The syntax tree of any text, and what is read off it.

use kforge::kernel::syntax::{Syntax, declares_at_namespace_scope, descendants, facts, line_of};

/// More nodes than these are not evaluated.
const MOST_NODES: usize = 200;

pub fn syntax(input: &[u8]) {
    let text = super::text(input);
    let value_of =
        |name: &str| (name.len() > 1).then(|| (super::choice(name.as_bytes()) % 4096) as i64);
    let _ = facts(&text, &value_of);
    let extreme = |name: &str| {
        Some(if name.len().is_multiple_of(2) {
            i64::MAX
        } else {
            i64::MIN
        })
    };
    let _ = facts(&text, &extreme);
    let _ = declares_at_namespace_scope(&text, "WIDTH");
    let tree = Syntax::parse(&text);
    for word in tree.words() {
        assert!(!word.is_empty() && !word.contains(char::is_whitespace));
    }
    for function in tree.functions() {
        assert!(tree.is_sound());
        super::assert_line(line_of(function.node) as u32, &text, &"a function");
        assert!(text.contains(tree.name_of(&function)));
    }
    if tree.is_sound() {
        for node in descendants(tree.root()).take(MOST_NODES) {
            let _ = tree.integer(node, &extreme);
        }
    }
}
