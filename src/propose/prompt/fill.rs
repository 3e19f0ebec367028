//! The sections whose length varies: parents, other kernels and history, cut to the prompt's budget.
//!
//! Kernels are shown whole or not at all, best first, and the same code only once. Whatever is left out is recorded.

use std::collections::HashMap;

use minijinja::{Value, context};

use super::feedback_text::describe_feedback;
use super::input::{HistoryEntry, KernelLabel, Language, PromptInput, ShownKernel};
use super::quote::{code_span, fenced_block, one_line};
use super::templates::Templates;
use super::text::estimate_tokens;
use crate::base::{Digest, Failure};
use crate::event::Operator;

/// Maximum share (1 / N) of the remaining budget that the history may take.
const HISTORY_DIVISOR: u64 = 4;
/// The most characters of a change, and of its result.
const MAX_DETAIL_CHARS: usize = 240;
const MAX_RESULT_CHARS: usize = 320;
/// Tokens of a history line besides its change and its result.
const HISTORY_LINE_TOKENS: u64 = 16;

/// Renders the sections of variable length, and records what did not fit.
pub(super) struct BudgetedSections<'q> {
    input: &'q PromptInput<'q>,
    templates: &'q Templates,
    language: Language,
    /// The first step that showed each source, by the source's digest.
    step_of_source: HashMap<Digest, u64>,
    left_out: Vec<String>,
}

impl<'q> BudgetedSections<'q> {
    pub(super) fn new(input: &'q PromptInput<'q>, templates: &'q Templates) -> Self {
        Self {
            input,
            templates,
            language: Language::of_backend(input.backend),
            step_of_source: HashMap::new(),
            left_out: Vec::new(),
        }
    }

    /// All parents, whatever their length.
    pub(super) fn render_parents(&mut self) -> Result<String, Failure> {
        let parents = self.input.parents;
        if parents.is_empty() {
            return Ok(String::new());
        }
        let mut text = self
            .templates
            .render("parents.md", context! { count => parents.len() })?;
        for parent in parents {
            let same = (self.step_of_source).insert(Digest::of(parent.source), parent.step);
            if same.is_none() {
                text.push_str(&self.render_kernel(parent)?);
            }
        }
        Ok(text)
    }

    /// As many other kernels as fit into `room` tokens. Call it after `render_parents`, so that no parent is shown twice.
    pub(super) fn render_context(&mut self, room: u64) -> Result<String, Failure> {
        let heading = self.templates.render("context.md", context! {})?;
        let mut left = room.saturating_sub(estimate_tokens(&heading));
        let mut text = String::new();
        for shown in self.input.context {
            let step = shown.step;
            if let Some(other) = self.step_of_source.get(&Digest::of(shown.source)) {
                (self.left_out).push(format!("step {step}: the code of step {other}"));
                continue;
            }
            // A kernel whose source alone is too long is not rendered: most of a large population is left out.
            let min_tokens = estimate_tokens(shown.source);
            let kernel = if min_tokens <= left {
                self.render_kernel(shown)?
            } else {
                String::new()
            };
            let needed = estimate_tokens(&kernel).max(min_tokens);
            if needed > left {
                (self.left_out).push(format!("step {step}: about {needed} tokens, {left} left"));
                continue;
            }
            left -= needed;
            self.step_of_source.insert(Digest::of(shown.source), step);
            text.push_str(&kernel);
        }
        Ok(if text.is_empty() {
            text
        } else {
            heading + &text
        })
    }

    /// The latest steps, as many as fit into a fraction of `room` tokens.
    pub(super) fn render_history(&mut self, room: u64) -> Result<String, Failure> {
        let history = self.input.history;
        if history.is_empty() {
            return Ok(String::new());
        }
        let mut left = room / HISTORY_DIVISOR;
        let mut rendered: Vec<Value> = Vec::new();
        for entry in history.iter().rev() {
            let (value, needed) = history_values(entry);
            if needed > left {
                break;
            }
            left -= needed;
            rendered.push(value);
        }
        let cut = history.len() - rendered.len();
        if cut > 0 {
            (self.left_out).push(format!(
                "history: the {cut} oldest of {} steps",
                history.len()
            ));
        }
        if rendered.is_empty() {
            return Ok(String::new());
        }
        rendered.reverse();
        self.templates
            .render("history.md", context! { tried => rendered, cut })
    }

    fn render_kernel(&self, shown: &ShownKernel<'_>) -> Result<String, Failure> {
        let feedback =
            (shown.feedback).map(|feedback| describe_feedback(feedback, shown.source, self.input));
        self.templates.render(
            "kernel.md",
            context! {
                step => shown.step,
                operator => describe_origin(shown.operator),
                label => describe_label(shown.label),
                feedback,
                code => fenced_block(shown.source, self.language.name()),
            },
        )
    }

    /// Records a section that was dropped as a whole.
    pub(super) fn leave_out(&mut self, line: String) {
        self.left_out.push(line);
    }

    /// What was left out, one line each.
    pub(super) fn into_left_out(self) -> Vec<String> {
        self.left_out
    }
}

/// A history line's values for the template, and its estimated tokens.
fn history_values(entry: &HistoryEntry) -> (Value, u64) {
    let detail = match entry.detail.trim() {
        "" => String::new(),
        detail => code_span(detail, MAX_DETAIL_CHARS),
    };
    let result = one_line(&entry.result, MAX_RESULT_CHARS);
    let tokens = estimate_tokens(&detail) + estimate_tokens(&result) + HISTORY_LINE_TOKENS;
    let parents: Vec<_> = entry.parents.iter().map(u64::to_string).collect();
    let expected = entry.expected.filter(|expected| expected.is_finite());
    let values = context! {
        step => entry.step,
        operator => entry.operator.name(),
        parents => parents.join(" and "),
        detail,
        expected => expected.map(|expected| format!("{:+.0}", expected * 100.0)),
        result,
    };
    (values, tokens)
}

fn describe_label(label: KernelLabel) -> &'static str {
    match label {
        KernelLabel::Parent => "parent",
        KernelLabel::Elite => "among the fastest",
        KernelLabel::Different => "the best of another kind",
        KernelLabel::Recent => "recent",
        KernelLabel::Failure => "failed",
    }
}

/// How a kernel was made.
fn describe_origin(operator: Operator) -> &'static str {
    match operator {
        Operator::Start => "a starting kernel",
        Operator::Autotune => "other tunable values",
        Operator::Mutate => "a code transformation",
        Operator::Recombine => "parts of two kernels",
        Operator::Propose => "written from scratch",
        Operator::Edit => "an edit",
        Operator::Crossover => "a combination of two",
        Operator::Repair => "a repair",
    }
}
