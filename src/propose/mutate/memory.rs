//! The memory behind pointers: what an expression reads, what an assignment writes, and whether two pointers may overlap.
//!
//! Memory is named by its *root*: the parameter or array that a pointer comes from. An unknown root may be any memory.

use std::collections::BTreeSet;

use tree_sitter::Node;

use super::nodes::operator_of;
use super::scope::{MAX_DEPTH, Scope};
use crate::kernel::syntax::{descendants, named_children};

impl<'t, 'a> Scope<'t, 'a> {
    /// The root of an lvalue or a pointer, followed through local pointers; `None` if it is unknown.
    pub(super) fn memory_root(&self, node: Node<'t>) -> Option<&'a str> {
        self.memory_root_at_depth(node, 0)
    }

    fn memory_root_at_depth(&self, node: Node<'t>, depth: usize) -> Option<&'a str> {
        if depth > MAX_DEPTH {
            return None;
        }
        let of =
            |field: &str| self.memory_root_at_depth(node.child_by_field_name(field)?, depth + 1);
        match node.kind() {
            "identifier" => {
                let declaration = self.lookup_node(node)?;
                if declaration.is_reference {
                    return None;
                }
                let is_local_pointer = declaration.pointer_depth > 0
                    && declaration.parameter_index.is_none()
                    && declaration.array_sizes.is_empty();
                if !is_local_pointer {
                    return Some(declaration.name);
                }
                // A local pointer that is never reassigned leads to the memory of its initializer.
                if self.assigns_variable(self.function.body, declaration.name) {
                    return None;
                }
                self.memory_root_at_depth(declaration.initializer?, depth + 1)
            }
            "subscript_expression" | "field_expression" | "pointer_expression" => of("argument"),
            "parenthesized_expression" => {
                self.memory_root_at_depth(named_children(node).next()?, depth + 1)
            }
            "cast_expression" => of("value"),
            "call_expression" => {
                let function = node
                    .child_by_field_name("function")
                    .filter(|function| function.kind() == "template_function")?;
                let is_cast = self
                    .text(function.child_by_field_name("name")?)
                    .ends_with("_cast");
                let argument = named_children(node.child_by_field_name("arguments")?)
                    .next()
                    .filter(|_| is_cast)?;
                self.memory_root_at_depth(argument, depth + 1)
            }
            "binary_expression" => of("left").or_else(|| of("right")),
            _ => None,
        }
    }

    /// Whether two roots may be the same memory.
    pub(super) fn may_alias(&self, left: Option<&str>, right: Option<&str>) -> bool {
        let (Some(left), Some(right)) = (left, right) else {
            return true;
        };
        if left == right {
            return true;
        }
        match (
            self.unshadowed_parameter(left),
            self.unshadowed_parameter(right),
        ) {
            (Some(left), Some(right)) => match (left.parameter_index, right.parameter_index) {
                (Some(first), Some(second)) if self.function.is_global => self
                    .subject
                    .parameters_may_alias(&self.function, first, second),
                _ => !(left.is_restrict && right.is_restrict),
            },
            // An array of the function overlaps nothing else. A name without a declaration is unknown.
            _ => [left, right].iter().any(|name| {
                !self
                    .declarations
                    .iter()
                    .any(|declaration| declaration.name == *name)
            }),
        }
    }
}

/// What an assignment changes.
pub(super) enum WriteTarget<'a> {
    /// A variable, array or structure of the function.
    Variable(&'a str),
    /// The memory with this root; `None` if the root is unknown.
    Memory(Option<&'a str>),
}

/// What an assignment to `lvalue` changes: a variable of the function or a part of one, or memory behind a pointer.
pub(super) fn write_target<'t, 'a>(scope: &Scope<'t, 'a>, lvalue: Node<'t>) -> WriteTarget<'a> {
    let mut at = lvalue;
    loop {
        let next = match at.kind() {
            "identifier" => {
                return match scope.lookup_node(at) {
                    Some(declaration) if declaration.is_reference => WriteTarget::Memory(None),
                    // `p[i] = …` changes memory; `p = …` changes the pointer, which is a variable.
                    Some(declaration)
                        if declaration.pointer_depth > 0 && at.id() != lvalue.id() =>
                    {
                        WriteTarget::Memory(scope.memory_root(at))
                    }
                    Some(declaration) => WriteTarget::Variable(declaration.name),
                    None => WriteTarget::Memory(None),
                };
            }
            "field_expression" if operator_of(at) != "->" => at.child_by_field_name("argument"),
            "subscript_expression" => at.child_by_field_name("argument"),
            "parenthesized_expression" => named_children(at).next(),
            _ => None,
        };
        match next {
            Some(next) => at = next,
            None => return WriteTarget::Memory(scope.memory_root(at)),
        }
    }
}

/// The roots of the memory that an expression may read. Arrays of the function count as variables, not as memory.
pub(super) fn memory_reads<'t, 'a>(
    scope: &Scope<'t, 'a>,
    expression: Node<'t>,
) -> BTreeSet<Option<&'a str>> {
    let mut roots = BTreeSet::new();
    for node in descendants(expression) {
        match (node.kind(), operator_of(node)) {
            ("subscript_expression", _) => {
                if let WriteTarget::Memory(root) = write_target(scope, node) {
                    roots.insert(root);
                }
            }
            ("pointer_expression", "*") | ("field_expression", "->") => {
                roots.insert(scope.memory_root(node));
            }
            ("call_expression", _) => {
                // A function may read the memory behind its pointer arguments.
                let arguments = node.child_by_field_name("arguments");
                for argument in arguments.into_iter().flat_map(named_children) {
                    if is_pointer_value(scope, argument) {
                        roots.insert(scope.memory_root(argument));
                    }
                }
            }
            _ => {}
        }
    }
    roots
}

/// Whether an expression is recognizably a pointer.
fn is_pointer_value<'t>(scope: &Scope<'t, '_>, expression: Node<'t>) -> bool {
    match expression.kind() {
        "pointer_expression" => operator_of(expression) == "&",
        "identifier" => scope
            .lookup_node(expression)
            .is_some_and(|declaration| declaration.pointer_depth > 0),
        "binary_expression" | "parenthesized_expression" | "cast_expression" => {
            named_children(expression).any(|child| is_pointer_value(scope, child))
        }
        _ => false,
    }
}
