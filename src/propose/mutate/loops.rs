//! Counting loops, `for (int i = START; i < BOUND; i += STEP)`: their parts, their trip counts, and text to rewrite them.
//!
//! Any other loop is left alone by the transformations that use this module.

use std::ops::Range;

use tree_sitter::Node;

use super::effects::Effects;
use super::nodes::operator_of;
use super::scope::Scope;
use crate::kernel::syntax::{children, descendants, named_children};
use crate::propose::code_layout::{body_range, indentation, parenthesize_if_needed};
use crate::propose::source_edits::SourceEdits;

/// A loop whose variable counts up by a fixed step. The body does not change the variable, the bound or the step.
#[derive(Clone, Copy, Debug)]
pub(super) struct CountingLoop<'t, 'a> {
    pub node: Node<'t>,
    /// The `#pragma unroll` directly before it.
    pub pragma: Option<Node<'t>>,
    pub variable: &'a str,
    /// The type of the variable, as written.
    pub variable_type: &'a str,
    pub start: Node<'t>,
    pub bound: Node<'t>,
    /// `None` for a step of 1.
    pub step: Option<Node<'t>>,
    pub body: Node<'t>,
}

impl<'t, 'a> CountingLoop<'t, 'a> {
    /// The counting loop at a node; `None` if the node is anything else.
    pub(super) fn of(scope: &Scope<'t, 'a>, node: Node<'t>) -> Option<Self> {
        if node.kind() != "for_statement" {
            return None;
        }
        let (variable_type, variable, start) = initializer_of(scope, node)?;
        let is_variable =
            |node: Option<Node<'_>>| node.is_some_and(|node| scope.text(node) == variable);
        let condition = node
            .child_by_field_name("condition")
            .filter(|condition| condition.kind() == "binary_expression")?;
        if !is_variable(condition.child_by_field_name("left")) || operator_of(condition) != "<" {
            return None;
        }
        let bound = condition.child_by_field_name("right")?;
        let update = node.child_by_field_name("update")?;
        let step = match (update.kind(), operator_of(update)) {
            ("update_expression", "++") if is_variable(update.child_by_field_name("argument")) => {
                None
            }
            ("assignment_expression", "+=") if is_variable(update.child_by_field_name("left")) => {
                Some(update.child_by_field_name("right")?)
            }
            _ => return None,
        };
        let body = node.child_by_field_name("body")?;
        if scope.subject.hides_code(node) {
            return None;
        }
        let effects = Effects::of(scope, body);
        let is_steady = |expression: Node<'t>| {
            !effects.may_change(scope, expression) && scope.uses(expression, variable).is_empty()
        };
        let is_shadowed = scope.declarations.iter().any(|declaration| {
            declaration.name == variable
                && body
                    .byte_range()
                    .contains(&declaration.identifier.start_byte())
        });
        let is_counting = !effects.assigned.contains(variable)
            && !is_shadowed
            && is_steady(bound)
            && step.is_none_or(is_steady);
        is_counting.then(|| Self {
            node,
            pragma: unroll_pragma_before(scope, node),
            variable,
            variable_type,
            start,
            bound,
            step,
            body,
        })
    }

    /// All counting loops of a function, outer ones before inner ones.
    pub(super) fn all_in(scope: &Scope<'t, 'a>) -> Vec<Self> {
        descendants(scope.function.body)
            .filter_map(|node| Self::of(scope, node))
            .collect()
    }

    /// The bytes of the loop and its pragma.
    pub(super) fn range_with_pragma(&self) -> Range<usize> {
        self.pragma
            .map_or(self.node.start_byte(), |pragma| pragma.start_byte())
            ..self.node.end_byte()
    }

    /// Inserts whole lines before the loop and its pragma.
    pub(super) fn insert_before(
        &self,
        scope: &Scope<'_, '_>,
        lines: &str,
        edits: &mut SourceEdits,
    ) {
        edits.insert_lines(
            scope.subject.source(),
            self.range_with_pragma().start,
            lines,
        );
    }

    pub(super) fn indent(&self, scope: &Scope<'_, 'a>) -> &'a str {
        indentation(scope.subject.source(), self.node.start_byte())
    }

    /// Whether statements can be put before and after the loop.
    pub(super) fn is_in_block(&self, scope: &Scope<'t, 'a>) -> bool {
        is_block_statement(scope, self.node)
    }

    pub(super) fn step_text(&self, scope: &Scope<'_, 'a>) -> &'a str {
        self.step.map_or("1", |step| scope.text(step))
    }

    /// Whether the trip count is a positive multiple of `count` for all tunable values.
    pub(super) fn has_trip_multiple_of(&self, scope: &Scope<'_, '_>, count: i64) -> bool {
        scope.subject.holds_at_all_points(&|evaluate| {
            let step = self.step.map_or(Some(1), evaluate)?;
            let length = evaluate(self.bound)?.checked_sub(evaluate(self.start)?)?;
            Some(step > 0 && length > 0 && length % count.checked_mul(step)? == 0)
        })
    }

    /// The trip count, if it is known and the same for all tunable values.
    pub(super) fn trip_count(&self, scope: &Scope<'_, '_>) -> Option<i64> {
        let constant = |node| scope.subject.constant_value(node);
        let step = self
            .step
            .map_or(Some(1), constant)
            .filter(|step| *step > 0)?;
        let length = constant(self.bound)?.checked_sub(constant(self.start)?)?;
        Some((length.max(0) + step - 1) / step)
    }

    /// Whether the body executes at least once for all tunable values.
    pub(super) fn runs_at_least_once(&self, scope: &Scope<'_, '_>) -> bool {
        scope
            .subject
            .holds_at_all_points(&|evaluate| Some(evaluate(self.start)? < evaluate(self.bound)?))
    }

    /// The statements of the body.
    pub(super) fn statements(&self) -> Vec<Node<'t>> {
        if self.body.kind() == "compound_statement" {
            named_children(self.body).collect()
        } else {
            vec![self.body]
        }
    }

    /// The body without braces, after the edits inside it.
    pub(super) fn body_text(&self, scope: &Scope<'_, '_>, edits: &SourceEdits) -> Option<String> {
        edits.apply_within(
            scope.subject.source(),
            body_range(&scope.subject.syntax, self.body),
        )
    }

    /// Edits that replace the variable by `sum`, such as `i + lane`, throughout the body.
    pub(super) fn replace_variable(&self, scope: &Scope<'t, 'a>, sum: &str) -> SourceEdits {
        let mut edits = SourceEdits::new();
        for used in scope.uses(self.body, self.variable) {
            // A macro may put any operator next to its argument.
            let text = if scope.subject.has_macro_functions() {
                format!("({sum})")
            } else {
                parenthesize_if_needed(used, sum)
            };
            edits.replace(used.byte_range(), text);
        }
        edits
    }

    /// The `for (…)` of this loop with another start, bound and step.
    pub(super) fn header_with(&self, start: &str, bound: &str, step: &str) -> String {
        let (kind, variable) = (self.variable_type, self.variable);
        let update = match step {
            "1" => format!("++{variable}"),
            _ => format!("{variable} += {step}"),
        };
        format!("for ({kind} {variable} = {start}; {variable} < {bound}; {update})")
    }

    /// The line of the pragma with its line break; empty without a pragma.
    pub(super) fn pragma_line(&self, scope: &Scope<'_, '_>) -> String {
        self.pragma.map_or(String::new(), |pragma| {
            format!("{}\n", scope.text(pragma).trim_end())
        })
    }

    /// Edits that replace the loop and its pragma by whole lines. Other statements on the same lines stay.
    pub(super) fn replace_with(&self, scope: &Scope<'_, '_>, lines: &str) -> SourceEdits {
        let mut edits = SourceEdits::new();
        edits.replace_by_lines(scope.subject.source(), self.range_with_pragma(), lines);
        edits
    }

    /// Whether two loops have the same start, bound and step, as written.
    pub(super) fn has_same_range(&self, scope: &Scope<'_, '_>, other: &Self) -> bool {
        scope.text(self.start) == scope.text(other.start)
            && scope.text(self.bound) == scope.text(other.bound)
            && self.step.map(|step| scope.text(step)) == other.step.map(|step| scope.text(step))
    }

    /// Whether `other` is in the same block and runs over the same range with the same variable.
    pub(super) fn has_same_iterations(&self, scope: &Scope<'_, '_>, other: &Self) -> bool {
        let block = |counting_loop: &Self| counting_loop.node.parent().map(|parent| parent.id());
        self.variable == other.variable
            && self.variable_type == other.variable_type
            && self.has_same_range(scope, other)
            && block(self) == block(other)
    }
}

/// The type, the name and the start value in `for (TYPE NAME = START; …)`, for an integer type.
fn initializer_of<'t, 'a>(
    scope: &Scope<'t, 'a>,
    node: Node<'t>,
) -> Option<(&'a str, &'a str, Node<'t>)> {
    let initializer = node
        .child_by_field_name("initializer")
        .filter(|initializer| initializer.kind() == "declaration")?;
    let variable_type = scope.text(initializer.child_by_field_name("type")?);
    if !matches!(
        variable_type,
        "int" | "unsigned" | "unsigned int" | "long long" | "size_t"
    ) {
        return None;
    }
    let mut cursor = initializer.walk();
    let mut declarators = initializer.children_by_field_name("declarator", &mut cursor);
    let (declarator, None) = (declarators.next()?, declarators.next()) else {
        return None;
    };
    let identifier = declarator
        .child_by_field_name("declarator")
        .filter(|identifier| identifier.kind() == "identifier")?;
    let start = declarator
        .child_by_field_name("value")
        .filter(|value| value.kind() != "initializer_list")?;
    Some((variable_type, scope.text(identifier), start))
}

/// The `#pragma unroll` directly before a statement.
pub(super) fn unroll_pragma_before<'t>(
    scope: &Scope<'t, '_>,
    statement: Node<'t>,
) -> Option<Node<'t>> {
    directive_before(statement).filter(|before| scope.text(*before).contains("unroll"))
}

/// Inserts whole lines before a statement and its pragma.
pub(super) fn insert_before_statement<'t>(
    scope: &Scope<'t, '_>,
    statement: Node<'t>,
    lines: &str,
    edits: &mut SourceEdits,
) {
    let first = unroll_pragma_before(scope, statement).unwrap_or(statement);
    edits.insert_lines(scope.subject.source(), first.start_byte(), lines);
}

/// Whether other statements can be put before and after a statement: it is in a block, which is not the body of a `switch`, and
/// no pragma but `unroll` applies to it.
pub(super) fn is_block_statement<'t>(scope: &Scope<'t, '_>, statement: Node<'t>) -> bool {
    let Some(block) = statement.parent() else {
        return false;
    };
    let is_block = block.kind() == "compound_statement"
        && block
            .parent()
            .is_none_or(|around| around.kind() != "switch_statement");
    is_block && !has_other_pragma(scope, statement)
}

/// Whether a pragma other than `unroll` is directly before a statement.
pub(super) fn has_other_pragma<'t>(scope: &Scope<'t, '_>, statement: Node<'t>) -> bool {
    let first = unroll_pragma_before(scope, statement).unwrap_or(statement);
    directive_before(first).is_some()
}

/// The directive directly before a node, without comments.
fn directive_before(node: Node<'_>) -> Option<Node<'_>> {
    children(node.parent()?)
        .take_while(|child| child.id() != node.id())
        .filter(|child| child.kind() != "comment")
        .last()
        .filter(|before| before.kind() == "preproc_call")
}
