//! Checks the syntax tree of any text, and the facts and integers read from it.

use kforge::kernel::syntax::{
    Syntax, declares_at_namespace_scope, descendants, line_of, source_facts,
};

/// At most this many nodes are evaluated.
const MAX_NODES: usize = 200;

pub fn syntax(input: &[u8]) {
    let text = super::lossy_text(input);
    let value_of =
        |name: &str| (name.len() > 1).then(|| (super::hash(name.as_bytes()) % 4096) as i64);
    let _ = source_facts(&text, &value_of);
    let extreme = |name: &str| {
        Some(if name.len().is_multiple_of(2) {
            i64::MAX
        } else {
            i64::MIN
        })
    };
    let _ = source_facts(&text, &extreme);
    let _ = declares_at_namespace_scope(&text, "WIDTH");
    let tree = Syntax::parse(&text);
    for lexeme in tree.lexemes() {
        assert!(!lexeme.is_empty() && !lexeme.contains(char::is_whitespace));
    }
    for function in tree.functions() {
        assert!(tree.is_sound());
        super::assert_line(line_of(function.node) as u32, &text, &"a function");
        assert!(text.contains(tree.function_name(&function)));
    }
    if tree.is_sound() {
        for node in descendants(tree.root()).take(MAX_NODES) {
            let _ = tree.evaluate_integer(node, &extreme);
        }
    }
}
