//! Finds values that are worth a variable, for transformations that compute or load a value once instead of several times.

use tree_sitter::Node;

use super::nodes::is_field;
use super::purity::is_pure;
use super::scope::Scope;
use crate::kernel::syntax::descendants;

/// Whether `node` reads an element behind a pointer or in shared memory, or is a call, and has no effect besides its value.
pub(super) fn is_reusable_value<'t>(scope: &Scope<'t, '_>, node: Node<'t>) -> bool {
    let parent_is = |kind: &str, field: &str| {
        node.parent()
            .is_some_and(|parent| parent.kind() == kind && is_field(parent, field, node))
    };
    match node.kind() {
        "subscript_expression" => {
            let is_memory = node
                .child_by_field_name("argument")
                .is_some_and(|argument| argument.kind() == "identifier")
                && scope
                    .memory_root(node)
                    .is_some_and(|root| is_memory_name(scope, root, node));
            let is_read = !parent_is("assignment_expression", "left")
                && !parent_is("update_expression", "argument")
                && !parent_is("pointer_expression", "argument")
                && !parent_is("field_expression", "argument")
                && !parent_is("subscript_expression", "argument");
            is_memory && is_read && is_pure(scope, node)
        }
        "call_expression" => is_plain_call(node) && is_pure(scope, node),
        _ => false,
    }
}

/// Whether a name is a pointer or a shared array where `node` is.
pub(super) fn is_memory_name(scope: &Scope<'_, '_>, name: &str, node: Node<'_>) -> bool {
    scope
        .lookup(name, node.start_byte())
        .is_some_and(|declaration| declaration.pointer_depth > 0 || declaration.is_shared)
}

/// Whether a call names its function directly: `f(x)`, but not a cast or a member function.
pub(super) fn is_plain_call(call: Node<'_>) -> bool {
    call.child_by_field_name("function")
        .is_some_and(|function| function.kind() == "identifier")
}

/// Whether a statement is `x = …;`, `x += …;` or the like, and changes nothing else.
pub(super) fn is_plain_assignment(statement: Node<'_>) -> bool {
    let mut changes = descendants(statement)
        .filter(|node| matches!(node.kind(), "assignment_expression" | "update_expression"));
    let first = changes.next();
    statement.kind() == "expression_statement"
        && changes.next().is_none()
        && first.is_some_and(|first| {
            first.kind() == "assignment_expression"
                && first
                    .parent()
                    .is_some_and(|parent| parent.id() == statement.id())
        })
}
