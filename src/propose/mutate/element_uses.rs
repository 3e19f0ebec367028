//! Finds the accesses to the memory of a parameter, for transformations that move iterations from one thread to another.
//!
//! Errs on the safe side: an access that cannot be followed counts as an access to any element.

use tree_sitter::Node;

use super::effects::Effects;
use super::indices::index_grows_by_one;
use super::loops::CountingLoop;
use super::memory::memory_reads;
use super::nodes::{index_of, is_field};
use super::scope::Scope;
use crate::kernel::syntax::{contains, descendants};
use crate::propose::code_layout::without_spaces;

/// Whether no other memory that the function accesses may be the memory of a parameter.
pub(super) fn is_apart(scope: &Scope<'_, '_>, root: &str) -> bool {
    let body = scope.function.body;
    let accessed = memory_reads(scope, body);
    (accessed.iter().chain(&Effects::of(scope, body).stored))
        .all(|other| *other == Some(root) || !scope.may_alias(Some(root), *other))
}

/// The uses of pointers to the memory of a parameter, except to make other pointers from them.
pub(super) fn memory_uses<'t>(scope: &Scope<'t, '_>, root: &str) -> Vec<Node<'t>> {
    descendants(scope.function.body)
        .filter(|node| {
            node.kind() == "identifier"
                && (scope.lookup_node(*node))
                    .is_some_and(|declaration| declaration.pointer_depth > 0)
                && scope.memory_root(*node) == Some(root)
                && !(scope.declarations.iter()).any(|declaration| {
                    declaration.identifier.id() == node.id()
                        || declaration.pointer_depth > 0
                            && (declaration.initializer)
                                .is_some_and(|initializer| contains(initializer, *node))
                })
        })
        .collect()
}

/// Whether loops with the same range access the memory by one index, and nothing else does: an element then always belongs to the same
/// iteration.
pub(super) fn uses_one_element<'t>(
    scope: &Scope<'t, '_>,
    root: &str,
    loops: &[CountingLoop<'t, '_>],
) -> bool {
    let keys: Option<Vec<_>> = memory_uses(scope, root)
        .into_iter()
        .map(|pointer| {
            let element = (pointer.parent()).filter(|element| {
                element.kind() == "subscript_expression" && is_field(*element, "argument", pointer)
            })?;
            let index = index_of(element)?;
            let one = loops.iter().find(|one| contains(one.body, element))?;
            let variable = one.variable;
            let is_element = index_grows_by_one(scope, index, variable)
                && is_fixed(scope, pointer)
                && descendants(index)
                    .filter(|node| node.kind() == "identifier" && scope.text(*node) != variable)
                    .all(|node| is_fixed(scope, node));
            is_element.then(|| {
                let names = (scope.text(pointer), without_spaces(scope.text(index)));
                (
                    names,
                    (variable, scope.text(one.start), one.step_text(scope)),
                )
            })
        })
        .collect();
    keys.is_some_and(|keys| {
        let first = keys.first();
        first.is_some() && keys.iter().all(|key| Some(key) == first)
    })
}

/// Whether a name has one value throughout the function.
fn is_fixed(scope: &Scope<'_, '_>, name: Node<'_>) -> bool {
    let body = scope.function.body;
    (scope.lookup_node(name)).is_none_or(|declaration| {
        let is_outermost = declaration.parameter_index.is_some()
            || (declaration.node.parent()).is_some_and(|block| block.id() == body.id());
        is_outermost && !declaration.is_reference && !scope.assigns_variable(body, declaration.name)
    })
}
