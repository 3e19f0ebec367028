//! Whether a recombined kernel still declares the names that it uses.
//!
//! Finds what a compiler would reject, so that no evaluation is spent on it. Knows only names that a parent declares.

use std::collections::HashSet;
use std::ops::Range;

use tree_sitter::Node;

use crate::kernel::syntax::{Syntax, children, descendants, enclosing};

/// Whether the child declares every name of its parents that it uses, where it uses it, and only once in each block.
pub(super) fn declares_every_name_once(child: &str, first: &str, second: &str) -> bool {
    let declared_in_parents: HashSet<&str> = [first, second]
        .into_iter()
        .flat_map(|source| {
            visible_declarations(&Syntax::parse(source))
                .into_iter()
                .map(|(name, _)| name)
        })
        .collect();
    let syntax = Syntax::parse(child);
    let declared = visible_declarations(&syntax);
    let has_duplicate = declared.iter().enumerate().any(|(index, (name, visible))| {
        declared[..index]
            .iter()
            .any(|(other, seen)| other == name && seen.end == visible.end)
    });
    let is_declared = |node: Node<'_>| {
        let name = syntax.text(node);
        !declared_in_parents.contains(name)
            || declared.iter().any(|(own, visible)| {
                *own == name && visible.start <= node.start_byte() && node.end_byte() <= visible.end
            })
    };
    let mut uses = syntax
        .functions()
        .into_iter()
        .flat_map(|function| descendants(function.body))
        .filter(|node| node.kind() == "identifier");
    !has_duplicate && uses.all(is_declared)
}

/// The names that functions declare, parameters included, each with the bytes in which it is visible.
fn visible_declarations<'s>(syntax: &Syntax<'s>) -> Vec<(&'s str, Range<usize>)> {
    let mut declared = Vec::new();
    for function in syntax.functions() {
        for node in descendants(function.node).filter(|node| declares_names(*node)) {
            let blocks = [
                "compound_statement",
                "for_statement",
                "if_statement",
                "lambda_expression",
            ];
            let function_end = function.node.end_byte();
            let end = enclosing(node, &blocks)
                .map_or(function_end, |block| block.end_byte())
                .min(function_end);
            let mut cursor = node.walk();
            for declarator in node.children_by_field_name("declarator", &mut cursor) {
                let name = identifier_in(declarator);
                declared.extend(name.map(|name| (syntax.text(name), name.start_byte()..end)));
            }
        }
    }
    declared
}

fn declares_names(node: Node<'_>) -> bool {
    matches!(
        node.kind(),
        "declaration"
            | "parameter_declaration"
            | "optional_parameter_declaration"
            | "for_range_loop"
    )
}

/// The identifier inside a declarator such as `*name[4] = value`.
fn identifier_in(declarator: Node<'_>) -> Option<Node<'_>> {
    let mut at = declarator;
    while at.kind() != "identifier" {
        at = at.child_by_field_name("declarator").or_else(|| {
            children(at)
                .find(|child| child.kind() == "identifier" || child.kind().ends_with("declarator"))
        })?;
    }
    Some(at)
}
