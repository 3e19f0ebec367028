//! How the index of an element depends on a loop variable: its stride, and whether it is a multiple of a vector width.

use tree_sitter::Node;

use super::nodes::{is_field, operator_of};
use super::scope::Scope;
use crate::kernel::syntax::{descendants, named_children};

/// Limit of the recursion through nested expressions and initializers.
const MAX_DEPTH: usize = 32;

/// Whether `index` grows by one when `variable` does: the variable is a term of the sum, exactly once.
pub(super) fn index_grows_by_one(scope: &Scope<'_, '_>, index: Node<'_>, variable: &str) -> bool {
    let uses: Vec<_> = descendants(index)
        .filter(|node| node.kind() == "identifier" && scope.text(*node) == variable)
        .collect();
    let [used] = uses.as_slice() else {
        return false;
    };
    let mut at = *used;
    while at.id() != index.id() {
        let Some(parent) = at.parent() else {
            return false;
        };
        let is_term = match (parent.kind(), operator_of(parent)) {
            ("parenthesized_expression", _) | ("binary_expression", "+") => true,
            ("binary_expression", "-") => is_field(parent, "left", at),
            _ => false,
        };
        if !is_term {
            return false;
        }
        at = parent;
    }
    true
}

/// Whether expressions are multiples of a vector width, given that one variable is.
pub(super) struct Alignment<'s, 't, 'a> {
    pub scope: &'s Scope<'t, 'a>,
    /// The loop variable, which counts as a multiple of `width`; empty for none.
    pub variable: &'s str,
    /// In elements.
    pub width: i64,
}

impl<'t> Alignment<'_, 't, '_> {
    /// Whether an integer expression is a multiple of the width.
    pub(super) fn is_multiple(&self, node: Node<'t>) -> bool {
        self.is_multiple_at_depth(node, 0)
    }

    fn is_multiple_at_depth(&self, node: Node<'t>, depth: usize) -> bool {
        if depth > MAX_DEPTH {
            return false;
        }
        let of = |field: &str| {
            node.child_by_field_name(field)
                .is_some_and(|inner| self.is_multiple_at_depth(inner, depth + 1))
        };
        let is_constant_multiple = || {
            self.scope
                .subject
                .holds_at_all_points(&|evaluate| Some(evaluate(node)? % self.width == 0))
        };
        match node.kind() {
            "identifier" if self.scope.text(node) == self.variable => true,
            "identifier" => match self.scope.lookup_node(node) {
                None => is_constant_multiple(),
                Some(declaration) => {
                    let is_set_once = declaration.parameter_index.is_none()
                        && !declaration.is_reference
                        && !self
                            .scope
                            .assigns_variable(self.scope.function.body, declaration.name);
                    // The initializer is evaluated before the loop, where the variable does not count.
                    is_set_once
                        && declaration.initializer.is_some_and(|initializer| {
                            self.without_variable()
                                .is_multiple_at_depth(initializer, depth + 1)
                        })
                }
            },
            "parenthesized_expression" => named_children(node)
                .next()
                .is_some_and(|inner| self.is_multiple_at_depth(inner, depth + 1)),
            "binary_expression" => match operator_of(node) {
                "+" | "-" => of("left") && of("right"),
                "*" => of("left") || of("right"),
                _ => false,
            },
            _ => is_constant_multiple(),
        }
    }

    /// Whether a pointer is a parameter of a `__global__` function, or a multiple of the width away from one. kforge aligns
    /// every tensor.
    pub(super) fn is_aligned(&self, pointer: Node<'t>) -> bool {
        self.is_aligned_at_depth(pointer, 0)
    }

    fn is_aligned_at_depth(&self, pointer: Node<'t>, depth: usize) -> bool {
        if depth > MAX_DEPTH {
            return false;
        }
        match pointer.kind() {
            "identifier" => self.scope.lookup_node(pointer).is_some_and(|declaration| {
                declaration.pointer_depth == 1
                    && !self
                        .scope
                        .assigns_variable(self.scope.function.body, declaration.name)
                    && match declaration.parameter_index {
                        Some(_) => self.scope.function.is_global,
                        None => declaration.initializer.is_some_and(|initializer| {
                            self.is_aligned_at_depth(initializer, depth + 1)
                        }),
                    }
            }),
            "binary_expression" if operator_of(pointer) == "+" => {
                let (Some(left), Some(right)) = (
                    pointer.child_by_field_name("left"),
                    pointer.child_by_field_name("right"),
                ) else {
                    return false;
                };
                self.is_aligned_at_depth(left, depth + 1)
                    && self
                        .without_variable()
                        .is_multiple_at_depth(right, depth + 1)
            }
            "parenthesized_expression" => named_children(pointer)
                .next()
                .is_some_and(|inner| self.is_aligned_at_depth(inner, depth + 1)),
            _ => false,
        }
    }

    fn without_variable(&self) -> Self {
        Self {
            variable: "",
            ..*self
        }
    }
}
