//! Queries on syntax nodes that several transformations share.
//!
//! Knows node and field names of the grammar, and nothing about types or effects.

use tree_sitter::Node;

use crate::kernel::syntax::{descendants, named_children};

/// The operator of an expression, such as `+=`; empty if the node has none.
pub(super) fn operator_of(node: Node<'_>) -> &str {
    node.child_by_field_name("operator")
        .map_or("", |operator| operator.kind())
}

/// The operands of `left OPERATOR right`; `None` for any other expression.
pub(super) fn operands<'t>(node: Node<'t>, operator: &str) -> Option<(Node<'t>, Node<'t>)> {
    (node.kind() == "binary_expression" && operator_of(node) == operator).then_some(())?;
    Some((
        node.child_by_field_name("left")?,
        node.child_by_field_name("right")?,
    ))
}

/// Whether `child` is in the field `field` of `parent`.
pub(super) fn is_field(parent: Node<'_>, field: &str, child: Node<'_>) -> bool {
    parent
        .child_by_field_name(field)
        .is_some_and(|own| own.id() == child.id())
}

/// The index of `p[index]`.
pub(super) fn index_of(subscript: Node<'_>) -> Option<Node<'_>> {
    named_children(subscript.child_by_field_name("indices")?).next()
}

/// The pointer and the index of `p[index]`, where `p` is a plain name.
pub(super) fn pointer_and_index(node: Node<'_>) -> Option<(Node<'_>, Node<'_>)> {
    let pointer = node.child_by_field_name("argument").filter(|argument| {
        node.kind() == "subscript_expression" && argument.kind() == "identifier"
    })?;
    Some((pointer, index_of(node)?))
}

/// Whether `node` itself is assigned or incremented, or its address is taken.
pub(super) fn is_changed_directly(node: Node<'_>) -> bool {
    node.parent().is_some_and(|parent| match parent.kind() {
        "assignment_expression" => is_field(parent, "left", node),
        "update_expression" | "pointer_expression" => true,
        _ => false,
    })
}

/// Whether an element or a part of it is assigned or incremented, or its address is taken.
pub(super) fn is_written(element: Node<'_>) -> bool {
    element.parent().is_some_and(|parent| match parent.kind() {
        "assignment_expression" => is_field(parent, "left", element),
        "update_expression" | "pointer_expression" => true,
        "field_expression" | "subscript_expression" => is_written(parent),
        _ => false,
    })
}

/// Whether an expression subscripts or dereferences anything.
pub(super) fn accesses_elements(expression: Node<'_>) -> bool {
    descendants(expression)
        .any(|node| matches!(node.kind(), "subscript_expression" | "pointer_expression"))
}

/// Whether a loop body contains no other `for` loop.
pub(super) fn is_innermost(body: Node<'_>) -> bool {
    descendants(body).all(|node| node.kind() != "for_statement")
}
