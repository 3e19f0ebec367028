//! Finds the element accesses of a loop body that one wide load or store can serve for several iterations.

use tree_sitter::Node;

use super::effects::Effects;
use super::indices::{Alignment, index_grows_by_one};
use super::loops::CountingLoop;
use super::memory::{WriteTarget, write_target};
use super::nodes::{is_field, operator_of, pointer_and_index};
use super::purity::is_pure;
use super::scope::Scope;
use crate::kernel::syntax::{builtin_type_bytes, contains, descendants};
use crate::propose::code_layout::without_spaces;

/// All accesses of a loop body to one element `p[base + i]`.
pub(super) struct VectorAccess<'t, 'a> {
    pub pointer: &'a str,
    pub type_name: &'a str,
    /// The size of an element.
    pub bytes: i64,
    pub is_const: bool,
    pub members: Vec<Node<'t>>,
    pub index: Node<'t>,
    /// Whether an iteration reads the element before it writes it.
    pub is_read: bool,
    pub is_written: bool,
    /// The condition under which the element exists, as written in the body; `None` if it always does.
    pub guard: Option<String>,
}

/// How one expression uses an element.
struct AccessMode {
    reads: bool,
    writes: bool,
}

/// A loop body whose accesses are combined.
pub(super) struct AccessFinder<'s, 't, 'a> {
    pub scope: &'s Scope<'t, 'a>,
    pub counting_loop: &'s CountingLoop<'t, 'a>,
    /// Elements in a vector.
    pub width: i64,
}

impl<'t, 'a> AccessFinder<'_, 't, 'a> {
    /// The accesses that a vector of the given width can serve, one for each pointer and index.
    pub(super) fn vector_accesses(&self) -> Vec<VectorAccess<'t, 'a>> {
        let scope = self.scope;
        let nodes: Vec<_> = descendants(self.counting_loop.body)
            .filter(|node| is_memory_access(scope, *node))
            .collect();
        let mut found: Vec<VectorAccess<'t, 'a>> = Vec::new();
        let mut known: Vec<(&str, String)> = Vec::new();
        let key_of = |node: Node<'t>| {
            let (pointer, index) = pointer_and_index(node)?;
            Some((scope.text(pointer), without_spaces(scope.text(index))))
        };
        for node in &nodes {
            let Some(key) = key_of(*node) else { continue };
            if known.contains(&key) {
                continue;
            }
            let members: Vec<_> = nodes
                .iter()
                .copied()
                .filter(|other| key_of(*other).as_ref() == Some(&key))
                .collect();
            known.push(key);
            found.extend(self.vector_access(members, &nodes));
        }
        found
    }

    /// The access of `members`, which have the same pointer and index; `None` if a vector cannot serve it.
    fn vector_access(
        &self,
        members: Vec<Node<'t>>,
        all: &[Node<'t>],
    ) -> Option<VectorAccess<'t, 'a>> {
        let scope = self.scope;
        let (pointer, index) = pointer_and_index(members[0])?;
        let type_name = scope.type_of(members[0])?;
        let bytes = i64::from(builtin_type_bytes(type_name)?);
        let declaration = scope.lookup_node(pointer)?;
        let root = scope
            .memory_root(pointer)
            .filter(|root| scope.unshadowed_parameter(root).is_some())?;
        // From one 4-byte vector to two 16-byte vectors.
        let total = self.width * bytes;
        let fits_vectors = matches!(bytes, 1 | 2 | 4) && (4..=32).contains(&total);
        if !fits_vectors
            || !self.is_aligned(pointer, index)
            || scope.assigns_variable(self.counting_loop.body, declaration.name)
            || !self.index_is_steady(index)
        {
            return None;
        }
        let modes: Vec<_> = members.iter().map(|member| access_mode(*member)).collect();
        let is_written = modes.iter().any(|mode| mode.writes);
        // An element that is written first need not be loaded. The right side of an assignment is evaluated before it writes.
        let first_write = members[0].parent().unwrap_or(members[0]);
        let is_before =
            |member: &Node<'t>| !is_written || member.start_byte() < first_write.end_byte();
        let is_read = modes[0].reads
            || (members.iter().zip(&modes).skip(1))
                .any(|(member, mode)| mode.reads && is_before(member));
        if !self.is_alone(root, &members, is_written, all) {
            return None;
        }
        let is_unconditional =
            |member: &Node<'t>| scope.is_unconditional(*member, self.counting_loop.body);
        if is_written && !members.iter().all(is_unconditional) {
            return None;
        }
        let guard = if members.iter().any(is_unconditional) {
            None
        } else {
            Some(self.common_guard(&members)?)
        };
        Some(VectorAccess {
            pointer: declaration.name,
            type_name,
            bytes,
            is_const: declaration.is_const,
            members,
            index,
            is_read,
            is_written,
            guard,
        })
    }

    /// Whether the elements of consecutive iterations are consecutive, and every vector of them starts at a multiple of its
    /// width.
    fn is_aligned(&self, pointer: Node<'t>, index: Node<'t>) -> bool {
        let alignment = Alignment {
            scope: self.scope,
            variable: self.counting_loop.variable,
            width: self.width,
        };
        index_grows_by_one(self.scope, index, self.counting_loop.variable)
            && alignment.is_multiple(index)
            && alignment.is_aligned(pointer)
    }

    /// Whether no access besides `members` may reach the same memory, if one of the two writes.
    fn is_alone(
        &self,
        root: &str,
        members: &[Node<'t>],
        is_written: bool,
        all: &[Node<'t>],
    ) -> bool {
        all.iter()
            .filter(|other| !members.iter().any(|member| member.id() == other.id()))
            .all(|other| {
                let neither_writes = !is_written && !access_mode(*other).writes;
                neither_writes
                    || !self
                        .scope
                        .may_alias(Some(root), self.scope.memory_root(*other))
            })
    }

    /// Whether every name in an index but the loop variable means the same before the loop, and the loop does not change it.
    fn index_is_steady(&self, index: Node<'t>) -> bool {
        let scope = self.scope;
        let effects = Effects::of(scope, self.counting_loop.body);
        descendants(index)
            .filter(|node| {
                node.kind() == "identifier" && scope.text(*node) != self.counting_loop.variable
            })
            .all(|node| {
                scope.resolves_same_before(node, self.counting_loop.node)
                    && !effects.may_change(scope, node)
            })
    }

    /// The condition of `? :` that guards all members, if the loop does not change it.
    fn common_guard(&self, members: &[Node<'t>]) -> Option<String> {
        let scope = self.scope;
        let effects = Effects::of(scope, self.counting_loop.body);
        let mut guards = members.iter().map(|member| {
            let choice = std::iter::successors(member.parent(), Node::parent)
                .find(|around| around.kind() == "conditional_expression")?;
            let condition = choice.child_by_field_name("condition")?;
            let is_steady = is_pure(scope, condition)
                && scope.resolves_same_before(condition, self.counting_loop.node)
                && !effects.may_change(scope, condition)
                && scope.is_unconditional(choice, self.counting_loop.body);
            let in_consequence = choice
                .child_by_field_name("consequence")
                .is_some_and(|consequence| contains(consequence, *member));
            is_steady.then(|| {
                if in_consequence {
                    scope.text(condition).to_owned()
                } else {
                    negation(scope, condition)
                }
            })
        });
        let first = guards.next()??;
        guards
            .all(|guard| guard.as_deref() == Some(first.as_str()))
            .then_some(first)
    }
}

fn access_mode(element: Node<'_>) -> AccessMode {
    let (reads, writes) = match element.parent() {
        Some(parent) if parent.kind() == "assignment_expression" => {
            let is_target = is_field(parent, "left", element);
            (!is_target || operator_of(parent) != "=", is_target)
        }
        Some(parent) if matches!(parent.kind(), "update_expression" | "pointer_expression") => {
            (true, true)
        }
        _ => (true, false),
    };
    AccessMode { reads, writes }
}

/// Whether a node is a subscript or an indirection that reaches memory behind a pointer.
fn is_memory_access<'t>(scope: &Scope<'t, '_>, node: Node<'t>) -> bool {
    let is_indirect = matches!(
        (node.kind(), operator_of(node)),
        ("subscript_expression", _) | ("pointer_expression", "*") | ("field_expression", "->")
    );
    is_indirect && matches!(write_target(scope, node), WriteTarget::Memory(_))
}

/// The opposite of a condition.
fn negation(scope: &Scope<'_, '_>, condition: Node<'_>) -> String {
    let text = scope.text(condition);
    let operator = condition
        .child_by_field_name("operator")
        .filter(|_| condition.kind() == "binary_expression");
    match operator.map(|operator| (operator, operator.kind())) {
        Some((operator, "==" | "!=")) => {
            let at = operator.start_byte() - condition.start_byte();
            let opposite = if operator.kind() == "==" { "!=" } else { "==" };
            format!("{}{opposite}{}", &text[..at], &text[at + 2..])
        }
        _ => format!("!({text})"),
    }
}
