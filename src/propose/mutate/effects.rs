//! What a piece of code may change.
//!
//! Errs on the safe side: whatever cannot be followed counts as a change of anything.

use std::collections::BTreeSet;

use tree_sitter::Node;

use super::memory::{WriteTarget, memory_reads, write_target};
use super::nodes::operator_of;
use super::purity::is_pure_call;
use super::scope::Scope;
use crate::kernel::syntax::{contains, descendants, enclosing};

/// What executing a piece of code may change.
#[derive(Debug, Default)]
pub(super) struct Effects<'a> {
    /// Variables, arrays and structures of the function.
    pub assigned: BTreeSet<&'a str>,
    /// Memory behind pointers, by its root; `None` is an unknown root.
    pub stored: BTreeSet<Option<&'a str>>,
    /// Whether the code calls something that may change anything, or that waits for other threads.
    pub is_opaque: bool,
    /// Whether the code may leave early: by `return`, `goto`, or a `break` or `continue` of a surrounding loop.
    pub jumps: bool,
}

impl<'a> Effects<'a> {
    /// The effects of all code inside `region`.
    pub(super) fn of<'t>(scope: &Scope<'t, 'a>, region: Node<'t>) -> Self {
        let hides_code = scope.subject.hides_code(region);
        let mut effects = Self {
            is_opaque: hides_code,
            jumps: hides_code,
            ..Self::default()
        };
        for node in descendants(region) {
            match node.kind() {
                "assignment_expression" => {
                    effects.record_change(scope, node.child_by_field_name("left"));
                }
                "update_expression" => {
                    effects.record_change(scope, node.child_by_field_name("argument"));
                }
                "call_expression" => effects.is_opaque |= !is_pure_call(scope, node),
                "lambda_expression" | "gnu_asm_expression" | "new_expression"
                | "delete_expression" | "for_range_loop" | "try_statement" => {
                    effects.is_opaque = true;
                }
                "return_statement" | "goto_statement" => effects.jumps = true,
                "break_statement" | "continue_statement" => {
                    effects.jumps |= !stays_within(node, region);
                }
                "declaration" => effects.is_opaque |= declares_reference(node),
                "pointer_expression" if operator_of(node) == "&" => {
                    // Once its address is taken, a variable may change anywhere. The address of memory matters only to
                    // functions that read it, and to opaque calls.
                    let argument = node
                        .child_by_field_name("argument")
                        .filter(|argument| argument.kind() == "identifier");
                    effects
                        .assigned
                        .extend(argument.map(|argument| scope.text(argument)));
                }
                _ => {}
            }
        }
        effects
    }

    fn record_change<'t>(&mut self, scope: &Scope<'t, 'a>, lvalue: Option<Node<'t>>) {
        let Some(lvalue) = lvalue else {
            self.is_opaque = true;
            return;
        };
        match write_target(scope, lvalue) {
            WriteTarget::Variable(name) => {
                self.assigned.insert(name);
            }
            WriteTarget::Memory(root) => {
                self.stored.insert(root);
            }
        }
    }

    /// Whether these effects may change the value of an expression.
    pub(super) fn may_change<'t>(&self, scope: &Scope<'t, 'a>, expression: Node<'t>) -> bool {
        if self.is_opaque {
            return true;
        }
        let uses_assigned_name = descendants(expression)
            .any(|node| node.kind() == "identifier" && self.assigned.contains(scope.text(node)));
        uses_assigned_name
            || memory_reads(scope, expression).into_iter().any(|read| {
                self.stored
                    .iter()
                    .any(|stored| scope.may_alias(read, *stored))
            })
    }
}

impl Effects<'_> {
    /// Whether these effects, of a whole function, leave the memory of a parameter alone. What is called may write through any
    /// other pointer.
    pub(super) fn never_write(&self, scope: &Scope<'_, '_>, root: &str) -> bool {
        let mut stored = self.stored.iter();
        let mut others = scope.declarations.iter().filter(|other| {
            other.parameter_index.is_some() && other.pointer_depth > 0 && other.name != root
        });
        !scope.subject.hides_code(scope.function.body)
            && stored.all(|stored| !scope.may_alias(Some(root), *stored))
            && !(self.is_opaque
                && others.any(|other| scope.may_alias(Some(root), Some(other.name))))
    }
}

/// Whether a declaration binds a reference, through which a variable may change unseen.
fn declares_reference(declaration: Node<'_>) -> bool {
    let mut cursor = declaration.walk();
    declaration
        .children_by_field_name("declarator", &mut cursor)
        .any(|declarator| {
            descendants(declarator).any(|inner| inner.kind() == "reference_declarator")
        })
}

/// Whether the loop or `switch` that a `break` or `continue` belongs to is inside `region`.
fn stays_within(jump: Node<'_>, region: Node<'_>) -> bool {
    let mut kinds = vec!["for_statement", "while_statement", "do_statement"];
    if jump.kind() == "break_statement" {
        kinds.push("switch_statement");
    }
    enclosing(jump, &kinds).is_some_and(|around| contains(region, around))
}
