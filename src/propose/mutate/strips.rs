//! Rewrites a counting loop as a loop over strips of some iterations, with an inner loop over each strip.
//!
//! `split_accumulator` and `strip_mine` share it. The order of all effects of the body is kept; only the accumulators that are
//! given are combined in another order.

use tree_sitter::Node;

use super::accumulator::{Accumulator, AccumulatorOperation};
use super::effects::Effects;
use super::loops::CountingLoop;
use super::nodes::is_innermost;
use super::scope::Scope;
use crate::kernel::syntax::descendants;
use crate::propose::code_layout::indent_following_lines;
use crate::propose::source_edits::SourceEdits;

/// Maximum size of a body, in syntax nodes. Longer ones are not rewritten, to keep the kernel readable.
const MAX_BODY_NODES: usize = 400;

/// Whether a loop can be rewritten in strips: innermost, in a block, short enough, and never left early.
pub(super) fn can_be_strip_mined(
    scope: &Scope<'_, '_>,
    counting_loop: &CountingLoop<'_, '_>,
) -> bool {
    counting_loop.is_in_block(scope)
        && is_innermost(counting_loop.body)
        && counting_loop.body.descendant_count() <= MAX_BODY_NODES
        && !Effects::of(scope, counting_loop.body).jumps
        && descendants(counting_loop.body).all(|node| {
            // They name the variables that they use, and an edit of a name may not fit there.
            !matches!(node.kind(), "lambda_expression" | "gnu_asm_expression")
        })
}

/// Whether the loop runs for at least two strips of `count` iterations, as far as is known.
pub(super) fn may_have_two_strips(
    scope: &Scope<'_, '_>,
    counting_loop: &CountingLoop<'_, '_>,
    count: i64,
) -> bool {
    counting_loop
        .trip_count(scope)
        .is_none_or(|trips| trips >= 2 * count)
}

/// A loop to be rewritten in strips.
pub(super) struct Strips<'s, 't, 'a> {
    pub scope: &'s Scope<'t, 'a>,
    pub counting_loop: &'s CountingLoop<'t, 'a>,
    /// Variables that get one copy per iteration of a strip.
    pub accumulators: &'s [Accumulator<'t, 'a>],
    /// Iterations in a strip: a number, or the name of a tunable.
    pub count: &'s str,
    /// All values that `count` can have.
    pub counts: &'s [i64],
    /// The index among the loops that are rewritten together, which keeps new names apart.
    pub index: usize,
}

/// The texts around the main loop.
#[derive(Default)]
struct Surroundings {
    /// Declarations before it.
    before: String,
    /// Code after the loops that combines the copies of the accumulators.
    after: String,
}

impl<'t> Strips<'_, 't, '_> {
    /// The text of the rewritten loop; `None` if the body cannot be edited.
    pub(super) fn text(&self) -> Option<String> {
        let (scope, counting_loop, count) = (self.scope, self.counting_loop, self.count);
        let indent = counting_loop.indent(scope);
        let part = scope.subject.fresh_name("part");
        let step = self.step();
        let (sum, stride) = match step.as_str() {
            "1" => (
                format!("{} + {part}", counting_loop.variable),
                count.to_owned(),
            ),
            _ => (
                format!("{} + {part} * {step}", counting_loop.variable),
                format!("{count} * {step}"),
            ),
        };
        let mut edits = counting_loop.replace_variable(scope, &sum);
        let mut around = Surroundings::default();
        for accumulator in self.accumulators {
            self.split_accumulator(accumulator, &part, &mut edits, &mut around);
        }
        let mut bound = scope.text(counting_loop.bound).to_owned();
        let mut rest = String::new();
        let is_whole = |count: &i64| counting_loop.has_trip_multiple_of(scope, *count);
        if !self.counts.iter().all(is_whole) {
            let whole = self.remainder_name();
            let type_name = self.remainder_type();
            let value = self.whole_strips_bound(type_name);
            around.before = format!(
                "{indent}const {type_name} {whole} = {value};\n{}",
                around.before
            );
            rest = self.remainder_loop(&whole)?;
            bound = whole;
        }
        let body = indent_following_lines(&counting_loop.body_text(scope, &edits)?);
        Some(format!(
            "{before}{pragma}{indent}{head} {{\n#pragma unroll\n{indent}    for (int {part} = 0; {part} < {count}; ++{part}) {{\n{indent}        {body}\n{indent}    }}\n{indent}}}{rest}{after}",
            before = around.before,
            pragma = counting_loop.pragma_line(scope),
            head = counting_loop.header_with(scope.text(counting_loop.start), &bound, &stride),
            after = around.after,
        ))
    }

    /// The step, in parentheses unless it is a single name or number.
    fn step(&self) -> String {
        let step = self.counting_loop.step_text(self.scope);
        let is_word = step
            .chars()
            .all(|letter| letter.is_alphanumeric() || letter == '_');
        if is_word {
            step.to_owned()
        } else {
            format!("({step})")
        }
    }

    /// Replaces an accumulator by an array with one element per iteration of a strip.
    fn split_accumulator(
        &self,
        accumulator: &Accumulator<'_, '_>,
        part: &str,
        edits: &mut SourceEdits,
        around: &mut Surroundings,
    ) {
        let (indent, count) = (self.counting_loop.indent(self.scope), self.count);
        let (name, type_name) = (accumulator.name, accumulator.type_name);
        let parts = self.scope.subject.fresh_name(&format!("{name}_parts"));
        for used in &accumulator.uses {
            edits.replace(used.byte_range(), format!("{parts}[{part}]"));
        }
        let over_parts =
            format!("#pragma unroll\n{indent}for (int {part} = 0; {part} < {count}; ++{part})");
        let (declared, combined) = match accumulator.combination {
            AccumulatorOperation::Sum => (
                format!("{indent}{type_name} {parts}[{count}] = {{}};\n"),
                format!("{name} += {parts}[{part}];"),
            ),
            AccumulatorOperation::Function(function) => (
                format!(
                    "{indent}{type_name} {parts}[{count}];\n{over_parts} {parts}[{part}] = {name};\n"
                ),
                format!("{name} = {function}({name}, {parts}[{part}]);"),
            ),
        };
        around.before.push_str(&declared);
        around.after.extend(["\n", &over_parts, " ", &combined]);
    }

    /// A name for the bound of the whole strips. Loops that are rewritten together need different names.
    fn remainder_name(&self) -> String {
        self.scope.subject.fresh_name(&match self.index {
            0 => "whole".to_owned(),
            index => format!("whole_{}", index + 1),
        })
    }

    /// A signed type that holds every value of the loop variable.
    fn remainder_type(&self) -> &'static str {
        let (scope, counting_loop) = (self.scope, self.counting_loop);
        let parts = [
            Some(counting_loop.start),
            Some(counting_loop.bound),
            counting_loop.step,
        ];
        let is_small = parts.into_iter().flatten().all(|node| {
            // The indices of CUDA are unsigned and small.
            scope.type_of(node) == Some("int") || node.kind() == "field_expression"
        });
        if counting_loop.variable_type == "int" && is_small {
            "int"
        } else {
            "long long"
        }
    }

    /// The bound up to which whole strips fit, as an expression of the signed type `type_name`.
    fn whole_strips_bound(&self, type_name: &str) -> String {
        let (scope, counting_loop, count) = (self.scope, self.counting_loop, self.count);
        let signed = |node: Node<'t>| {
            let text = scope.text(node);
            let is_word = matches!(
                node.kind(),
                "identifier" | "number_literal" | "call_expression" | "field_expression"
            );
            match (scope.type_of(node) == Some(type_name), is_word) {
                (true, true) => text.to_owned(),
                (true, false) => format!("({text})"),
                (false, true) => format!("({type_name}){text}"),
                (false, false) => format!("({type_name})({text})"),
            }
        };
        let stride = match counting_loop.step {
            Some(step) if scope.text(step) != "1" => format!("({count} * {})", signed(step)),
            _ => count.to_owned(),
        };
        let bound = signed(counting_loop.bound);
        if scope.text(counting_loop.start) == "0" {
            format!("{bound} / {stride} * {stride}")
        } else {
            let start = signed(counting_loop.start);
            format!("{start} + ({bound} - {start}) / {stride} * {stride}")
        }
    }

    /// The original loop, for the iterations that do not fill a strip.
    fn remainder_loop(&self, start: &str) -> Option<String> {
        let (scope, counting_loop) = (self.scope, self.counting_loop);
        let indent = counting_loop.indent(scope);
        let body = counting_loop.body_text(scope, &SourceEdits::new())?;
        let head = counting_loop.header_with(
            start,
            scope.text(counting_loop.bound),
            counting_loop.step_text(scope),
        );
        Some(format!(
            "\n{indent}{head} {{\n{indent}    {body}\n{indent}}}"
        ))
    }
}
