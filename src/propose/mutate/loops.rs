//! Counting loops: `for (int i = START; i < BOUND; i += STEP)`, their ranges, and how they are written anew.

use std::ops::Range;

use tree_sitter::Node;

use super::effects::Effects;
use super::scope::Scope;
use crate::kernel::syntax::{children, descendants, named_children};
use crate::propose::source_edits::{
    SourceEdits, body_range, indentation, line_start, parenthesize_if_needed,
};

/// A loop whose variable counts upwards by a fixed step and is left alone by the body.
#[derive(Clone, Copy, Debug)]
pub(super) struct CountingLoop<'t, 'a> {
    pub node: Node<'t>,
    /// `#pragma unroll …` in front of it.
    pub pragma: Option<Node<'t>>,
    pub variable: &'a str,
    /// The variable's type as written.
    pub variable_type: &'a str,
    pub start: Node<'t>,
    pub bound: Node<'t>,
    /// `None` is 1.
    pub step: Option<Node<'t>>,
    pub body: Node<'t>,
}

impl<'t, 'a> CountingLoop<'t, 'a> {
    pub(super) fn of(scope: &Scope<'t, 'a>, node: Node<'t>) -> Option<Self> {
        if node.kind() != "for_statement" {
            return None;
        }
        let initializer = node
            .child_by_field_name("initializer")
            .filter(|initializer| initializer.kind() == "declaration")?;
        let kind = scope.text(initializer.child_by_field_name("type")?);
        if !matches!(
            kind,
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
        let variable = scope.text(identifier);
        let start = declarator
            .child_by_field_name("value")
            .filter(|value| value.kind() != "initializer_list")?;

        let condition = node
            .child_by_field_name("condition")
            .filter(|condition| condition.kind() == "binary_expression")?;
        let is_variable =
            |node: Option<Node<'_>>| node.is_some_and(|node| scope.text(node) == variable);
        if !is_variable(condition.child_by_field_name("left"))
            || condition.child_by_field_name("operator")?.kind() != "<"
        {
            return None;
        }
        let bound = condition.child_by_field_name("right")?;

        let update = node.child_by_field_name("update")?;
        let step = match update.kind() {
            "update_expression"
                if is_variable(update.child_by_field_name("argument"))
                    && update.child_by_field_name("operator")?.kind() == "++" =>
            {
                None
            }
            "assignment_expression"
                if is_variable(update.child_by_field_name("left"))
                    && update.child_by_field_name("operator")?.kind() == "+=" =>
            {
                Some(update.child_by_field_name("right")?)
            }
            _ => return None,
        };
        let body = node.child_by_field_name("body")?;
        let found = Self {
            node,
            pragma: unroll_pragma_before(scope, node),
            variable,
            variable_type: kind,
            start,
            bound,
            step,
            body,
        };
        let effects = Effects::of(scope, body);
        let is_steady = |expression: Node<'t>| {
            !effects.may_change(scope, expression) && scope.uses(expression, variable).is_empty()
        };
        // Shadowing the variable would make its uses mean something else.
        let is_own = !effects.assigned.contains(variable)
            && !scope.declarations.iter().any(|declared| {
                declared.name == variable
                    && body
                        .byte_range()
                        .contains(&declared.identifier.start_byte())
            });
        (is_own && is_steady(bound) && step.is_none_or(is_steady)).then_some(found)
    }

    /// All counting loops of a function, outer ones first.
    pub(super) fn all_in(scope: &Scope<'t, 'a>) -> Vec<Self> {
        descendants(scope.function.body)
            .filter_map(|node| Self::of(scope, node))
            .collect()
    }

    /// The loop with its pragma.
    pub(super) fn range_with_pragma(&self) -> Range<usize> {
        self.pragma
            .map_or(self.node.start_byte(), |pragma| pragma.start_byte())
            ..self.node.end_byte()
    }

    /// Where a statement can be put in front of the loop and its pragma: the begin of that line.
    pub(super) fn insertion_point(&self, scope: &Scope<'_, '_>) -> usize {
        line_start(scope.subject.source(), self.range_with_pragma().start)
    }

    pub(super) fn indent(&self, scope: &Scope<'_, 'a>) -> &'a str {
        indentation(scope.subject.source(), self.node.start_byte())
    }

    /// Whether the loop stands in a block, so that statements can be put around it.
    pub(super) fn is_in_block(&self) -> bool {
        self.node
            .parent()
            .is_some_and(|parent| parent.kind() == "compound_statement")
    }

    pub(super) fn step_text(&self, scope: &Scope<'_, 'a>) -> &'a str {
        self.step.map_or("1", |step| scope.text(step))
    }

    /// Whether the number of iterations is above zero and a multiple of `count`, whatever the tunables are.
    pub(super) fn has_trip_multiple_of(&self, scope: &Scope<'_, '_>, count: i64) -> bool {
        scope.subject.holds_at_all_points(&|evaluate| {
            let step = self.step.map_or(Some(1), evaluate)?;
            let length = evaluate(self.bound)?.checked_sub(evaluate(self.start)?)?;
            Some(step > 0 && length > 0 && length % count.checked_mul(step)? == 0)
        })
    }

    /// The number of iterations, if it is known and the same whatever the tunables are.
    pub(super) fn trip_count(&self, scope: &Scope<'_, '_>) -> Option<i64> {
        let step = self
            .step
            .map_or(Some(1), |step| scope.subject.constant_value(step))
            .filter(|step| *step > 0)?;
        let length = scope
            .subject
            .constant_value(self.bound)?
            .checked_sub(scope.subject.constant_value(self.start)?)?;
        Some((length.max(0) + step - 1) / step)
    }

    /// Whether the body is certainly executed at least once.
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

    /// The body's text without braces, with the edits that lie within it.
    pub(super) fn body_text(&self, scope: &Scope<'_, '_>, edits: &SourceEdits) -> Option<String> {
        edits.apply_within(
            scope.subject.source(),
            body_range(&scope.subject.syntax, self.body),
        )
    }

    /// Edits that put `sum`, such as `i + lane`, in place of the variable throughout the body.
    pub(super) fn replace_variable(&self, scope: &Scope<'t, 'a>, sum: &str) -> SourceEdits {
        let mut edits = SourceEdits::new();
        for place in scope.uses(self.body, self.variable) {
            edits.replace(place.byte_range(), parenthesize_if_needed(place, sum));
        }
        edits
    }

    /// `for (int i = 0; i < n; i += 4)`, with another start, bound and step.
    pub(super) fn header_with(&self, start: &str, bound: &str, step: &str) -> String {
        let (kind, variable) = (self.variable_type, self.variable);
        match step {
            "1" => format!("for ({kind} {variable} = {start}; {variable} < {bound}; ++{variable})"),
            _ => format!(
                "for ({kind} {variable} = {start}; {variable} < {bound}; {variable} += {step})"
            ),
        }
    }

    /// The pragma's line, with its line break; empty where there is none.
    pub(super) fn pragma_line(&self, scope: &Scope<'_, '_>) -> String {
        self.pragma.map_or(String::new(), |pragma| {
            format!("{}\n", scope.text(pragma).trim_end())
        })
    }

    /// The text that takes the loop's place together with its pragma, from the begin of its line.
    pub(super) fn replace_with(&self, scope: &Scope<'_, '_>, text: &str) -> SourceEdits {
        let mut edits = SourceEdits::new();
        edits.replace(self.insertion_point(scope)..self.node.end_byte(), text);
        edits
    }

    /// Two loops over the same values of their variables.
    pub(super) fn has_same_range(
        &self,
        scope: &Scope<'_, '_>,
        other: &CountingLoop<'_, '_>,
    ) -> bool {
        scope.text(self.start) == scope.text(other.start)
            && scope.text(self.bound) == scope.text(other.bound)
            && self.step.map(|step| scope.text(step)) == other.step.map(|step| scope.text(step))
    }
}

/// The `#pragma unroll` directly in front of a statement.
pub(super) fn unroll_pragma_before<'t>(
    scope: &Scope<'t, '_>,
    statement: Node<'t>,
) -> Option<Node<'t>> {
    let before = children(statement.parent()?)
        .take_while(|child| child.id() != statement.id())
        .filter(|child| child.kind() != "comment")
        .last()?;
    (before.kind() == "preproc_call" && scope.text(before).contains("unroll")).then_some(before)
}
