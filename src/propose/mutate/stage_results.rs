//! The part of `stage_in_local` for results: several loops write and read an element, and memory is written once, at the end.

use std::collections::BTreeMap;

use tree_sitter::Node;

use super::effects::Effects;
use super::indices::index_grows_by_one;
use super::loops::CountingLoop;
use super::nodes::{index_of, is_changed_directly, operator_of};
use super::scope::Scope;
use super::transformation::RewriteSite;
use crate::base::text::collapse_white_space;
use crate::kernel::syntax::{contains, descendants, line_of, named_children};
use crate::propose::code_layout::body_range;
use crate::propose::source_edits::SourceEdits;

/// One site for each output whose elements can stay in a local array until their last change.
///
/// ```text
/// for (int i = 0; i < 64; i++) output[i] = expf(x[i]);
/// for (int i = 0; i < 64; i++) output[i] += 1.0f;
/// ```
/// becomes
/// ```text
/// float output_kept[64];
/// for (int i = 0; i < 64; i++) output_kept[i] = expf(x[i]);
/// for (int i = 0; i < 64; i++) {
///     output_kept[i] += 1.0f;
///     output[i] = output_kept[i];
/// }
/// ```
pub(super) fn stage_results<'t, 'a>(
    scope: &Scope<'t, 'a>,
    loops: &[CountingLoop<'t, 'a>],
) -> Vec<RewriteSite> {
    elements_of_outputs(scope)
        .into_iter()
        .filter_map(|(name, elements)| {
            let holder = |element: Node<'t>| {
                loops
                    .iter()
                    .find(|counting_loop| contains(counting_loop.body, element))
            };
            let first = holder(elements[0])?;
            let is_in_twin = |element: Node<'t>| {
                holder(element).is_some_and(|counting_loop| {
                    counting_loop.node.id() == first.node.id()
                        || first.has_same_iterations(scope, counting_loop)
                })
            };
            let last = elements
                .iter()
                .rev()
                .find(|element| is_changed_directly(**element))
                .and_then(|element| holder(*element))?;
            let result = StagedResult {
                scope,
                name,
                elements: &elements,
                first,
                last,
            };
            let is_legal = elements.iter().all(|element| is_in_twin(*element))
                && result.is_the_only_access()
                && result.is_not_seen_before_the_end()
                && result.is_set_first()
                && result.is_one_element_per_iteration();
            // A single loop keeps its values in registers anyway.
            let is_worth_it = !elements
                .iter()
                .all(|element| contains(first.body, *element));
            if is_legal && is_worth_it {
                result.site()
            } else {
                None
            }
        })
        .collect()
}

/// The elements `p[i]` of every pointer parameter that may be written, by parameter.
fn elements_of_outputs<'t, 'a>(scope: &Scope<'t, 'a>) -> BTreeMap<&'a str, Vec<Node<'t>>> {
    let mut elements: BTreeMap<&str, Vec<Node<'t>>> = BTreeMap::new();
    for node in
        descendants(scope.function.body).filter(|node| node.kind() == "subscript_expression")
    {
        let name = node
            .child_by_field_name("argument")
            .filter(|argument| argument.kind() == "identifier")
            .map(|argument| scope.text(argument))
            .filter(|name| {
                scope.unshadowed_parameter(name).is_some_and(|declaration| {
                    declaration.pointer_depth == 1 && !declaration.is_const
                })
            });
        if let Some(name) = name {
            elements.entry(name).or_default().push(node);
        }
    }
    elements
}

/// An output that a local array may replace.
struct StagedResult<'s, 't, 'a> {
    scope: &'s Scope<'t, 'a>,
    /// The pointer parameter.
    name: &'a str,
    /// Every `name[…]` in the function, in order.
    elements: &'s [Node<'t>],
    /// The loop of the first element.
    first: &'s CountingLoop<'t, 'a>,
    /// The loop of the last change.
    last: &'s CountingLoop<'t, 'a>,
}

impl<'t> StagedResult<'_, 't, '_> {
    /// Whether all elements have the same text, and nothing else reaches the memory behind the pointer.
    fn is_the_only_access(&self) -> bool {
        let scope = self.scope;
        let text = self.text();
        let same_text = self
            .elements
            .iter()
            .all(|element| collapse_white_space(scope.text(*element)) == text);
        let uses = scope.uses(scope.function.body, self.name).len();
        let mut other_pointers = scope.declarations.iter().filter(|other| {
            other.parameter_index.is_some() && other.pointer_depth > 0 && other.name != self.name
        });
        same_text
            && self.elements.len() > 1
            && uses == self.elements.len()
            && other_pointers.all(|other| !scope.may_alias(Some(self.name), Some(other.name)))
    }

    /// Whether nothing between the start of the first loop and the end of the last one could read the memory, or end the function
    /// before it is stored.
    fn is_not_seen_before_the_end(&self) -> bool {
        let block = self.first.node.parent().into_iter();
        block
            .flat_map(named_children)
            .filter(|node| {
                self.first.node.start_byte() <= node.start_byte()
                    && node.end_byte() <= self.last.node.end_byte()
            })
            .all(|node| {
                let effects = Effects::of(self.scope, node);
                !effects.is_opaque && !effects.jumps
            })
    }

    /// Whether the first loop always sets the element before anything reads it.
    fn is_set_first(&self) -> bool {
        let element = self.elements[0];
        let is_set = element.parent().is_some_and(|parent| {
            parent.kind() == "assignment_expression"
                && operator_of(parent) == "="
                && is_changed_directly(element)
                && parent
                    .child_by_field_name("right")
                    .is_some_and(|right| !self.elements.iter().any(|other| contains(right, *other)))
        });
        is_set && self.scope.is_unconditional(element, self.first.body)
    }

    /// Whether the index grows by one with the loop variable, and its other names keep their values in the whole function.
    fn is_one_element_per_iteration(&self) -> bool {
        let scope = self.scope;
        let Some(index) = index_of(self.elements[0]) else {
            return false;
        };
        let mut names = descendants(index)
            .filter(|node| node.kind() == "identifier" && scope.text(*node) != self.first.variable);
        index_grows_by_one(scope, index, self.first.variable)
            && names.all(|node| {
                scope.resolves_same_before(node, self.first.node)
                    && scope.lookup_node(node).is_none_or(|declaration| {
                        !scope.assigns_variable(scope.function.body, declaration.name)
                    })
            })
    }

    /// The text of every element.
    fn text(&self) -> String {
        collapse_white_space(self.scope.text(self.elements[0]))
    }

    /// The rewrite; `None` if the type of the elements is unknown.
    fn site(&self) -> Option<RewriteSite> {
        let (scope, first) = (self.scope, self.first);
        let type_name = scope.type_of(self.elements[0])?;
        let local = scope.subject.fresh_name(&format!("{}_kept", self.name));
        let (indent, variable) = (first.indent(scope), first.variable);
        let mut edits = SourceEdits::new();
        let declared = format!(
            "{indent}{type_name} {local}[{}];\n",
            scope.text(first.bound)
        );
        first.insert_before(scope, &declared, &mut edits);
        for element in self.elements {
            edits.replace(element.byte_range(), format!("{local}[{variable}]"));
        }
        let store = format!("{} = {local}[{variable}];", scope.text(self.elements[0]));
        self.insert_at_body_end(&store, &mut edits);
        Some(RewriteSite {
            label: self.text(),
            line: line_of(self.elements[0]),
            edits,
        })
    }

    /// Inserts a statement after all others in the body of the last loop.
    fn insert_at_body_end(&self, statement: &str, edits: &mut SourceEdits) {
        let body = self.last.body;
        let indent = self.last.indent(self.scope);
        if body.kind() == "compound_statement" {
            let end = body_range(&self.scope.subject.syntax, body).end;
            edits.insert(end, format!("\n{indent}    {statement}"));
        } else {
            edits
                .insert(body.start_byte(), format!("{{\n{indent}    "))
                .insert(
                    body.end_byte(),
                    format!("\n{indent}    {statement}\n{indent}}}"),
                );
        }
    }
}
