//! Finds accumulators: variables that a loop only adds to, or only combines with other values by `fmaxf` or the like.

use tree_sitter::Node;

use super::loops::CountingLoop;
use super::nodes::operator_of;
use super::scope::Scope;
use crate::kernel::syntax::{contains, descendants, named_children};

/// A variable that a loop body uses only to accumulate.
pub(super) struct Accumulator<'t, 'a> {
    pub name: &'a str,
    pub type_name: &'a str,
    pub combination: AccumulatorOperation<'a>,
    /// Every use in the body.
    pub uses: Vec<Node<'t>>,
}

/// How an accumulator takes in a value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum AccumulatorOperation<'a> {
    Sum,
    /// `fmaxf`, `fminf`, `max` or `min`.
    Function(&'a str),
}

/// The accumulators of a loop, each of a numeric type and used for nothing else in the body.
pub(super) fn find_accumulators<'t, 'a>(
    scope: &Scope<'t, 'a>,
    counting_loop: &CountingLoop<'t, 'a>,
) -> Vec<Accumulator<'t, 'a>> {
    let mut accumulators: Vec<Accumulator<'t, 'a>> = Vec::new();
    for node in
        descendants(counting_loop.body).filter(|node| node.kind() == "assignment_expression")
    {
        let Some(name) = node
            .child_by_field_name("left")
            .filter(|left| left.kind() == "identifier")
            .map(|left| scope.text(left))
        else {
            continue;
        };
        if accumulators.iter().any(|known| known.name == name) {
            continue;
        }
        let uses = scope.uses(counting_loop.body, name);
        let combinations: Vec<_> = uses
            .iter()
            .map(|used| combination_of(scope, *used, name))
            .collect();
        let Some(Some(combination)) = combinations.first().copied() else {
            continue;
        };
        let is_the_same = combinations.iter().all(|other| *other == Some(combination));
        let declaration = scope.lookup(name, counting_loop.node.start_byte());
        let Some(declaration) = declaration.filter(|declaration| {
            declaration.pointer_depth == 0
                && declaration.array_sizes.is_empty()
                && !declaration.is_reference
                && !declaration.is_shared
                && !is_reachable_otherwise(scope, declaration.name)
        }) else {
            continue;
        };
        let is_number = matches!(
            declaration.type_name,
            "float" | "double" | "int" | "unsigned"
        );
        if is_number && is_the_same {
            accumulators.push(Accumulator {
                name,
                type_name: declaration.type_name,
                combination,
                uses,
            });
        }
    }
    accumulators
}

/// Whether code may reach a variable without its name: through its address, a reference to it, or a lambda.
fn is_reachable_otherwise(scope: &Scope<'_, '_>, name: &str) -> bool {
    let names_it = |node: Node<'_>| {
        descendants(node).any(|inner| inner.kind() == "identifier" && scope.text(inner) == name)
    };
    descendants(scope.function.body).any(|node| match node.kind() {
        "pointer_expression" => operator_of(node) == "&" && names_it(node),
        "lambda_expression" => true,
        "init_declarator" => {
            node.child_by_field_name("declarator")
                .is_some_and(|inner| inner.kind() == "reference_declarator")
                && names_it(node)
        }
        _ => false,
    })
}

/// How one use of a variable accumulates; `None` if it does anything else.
fn combination_of<'a>(
    scope: &Scope<'_, 'a>,
    used: Node<'_>,
    name: &str,
) -> Option<AccumulatorOperation<'a>> {
    let assignment = std::iter::successors(used.parent(), Node::parent)
        .find(|around| around.kind() == "assignment_expression")?;
    let left = assignment
        .child_by_field_name("left")
        .filter(|left| scope.text(*left) == name)?;
    let right = assignment.child_by_field_name("right")?;
    if assignment.parent()?.kind() != "expression_statement" {
        return None;
    }
    match operator_of(assignment) {
        // sum += value
        "+=" | "-=" => (left.id() == used.id()).then_some(AccumulatorOperation::Sum),
        "=" => {
            let uses: Vec<_> = descendants(right)
                .filter(|node| node.kind() == "identifier" && scope.text(*node) == name)
                .collect();
            let [own] = uses.as_slice() else { return None };
            let is_this_use = contains(left, used) || own.id() == used.id();
            combination_in(scope, right, *own).filter(|_| is_this_use)
        }
        _ => None,
    }
}

/// How `name = right` accumulates, where `own` is the only use of the name in `right`.
fn combination_in<'a>(
    scope: &Scope<'_, 'a>,
    right: Node<'_>,
    own: Node<'_>,
) -> Option<AccumulatorOperation<'a>> {
    let parent = own.parent()?;
    match right.kind() {
        // sum = sum + value
        "binary_expression" => (parent.id() == right.id() && operator_of(right) == "+")
            .then_some(AccumulatorOperation::Sum),
        "call_expression" => {
            let function = scope.text(right.child_by_field_name("function")?);
            let arguments = right.child_by_field_name("arguments")?;
            if parent.id() != arguments.id() {
                return None;
            }
            match function {
                // largest = fmaxf(largest, value)
                "fmaxf" | "fminf" | "max" | "min" => Some(AccumulatorOperation::Function(function)),
                // sum = fmaf(a, b, sum)
                "fmaf" | "__fmaf_rn" => named_children(arguments)
                    .last()
                    .filter(|last| last.id() == own.id())
                    .map(|_| AccumulatorOperation::Sum),
                _ => None,
            }
        }
        _ => None,
    }
}
