//! What of the kernels and of the history fits: most worthy first, whole or not at all, the same code once.

use std::collections::HashMap;

use minijinja::{Value, context};

use super::quote::{code_span, fenced_block, one_line};
use super::render::describe_origin;
use super::{
    HistoryEntry, KernelLabel, Language, Prompt, PromptInput, ShownKernel, Templates,
    estimate_tokens, feedback_text,
};
use crate::base::{Digest, Failure};

/// Of what the fixed parts leave, the history may take one part in so many.
const HISTORY_DIVISOR: u64 = 4;
/// The most letters of what was tried, and of what came of it.
const MAX_DETAIL_CHARS: usize = 240;
const MAX_RESULT_CHARS: usize = 320;

/// Keeps count of what is left, and of what was left out.
pub(super) struct BudgetedSections<'q> {
    question: &'q PromptInput<'q>,
    templates: &'q Templates,
    language: Language,
    step_of_source: HashMap<Digest, u64>,
    left_out: Vec<String>,
}

impl<'q> BudgetedSections<'q> {
    pub(super) fn new(question: &'q PromptInput<'q>, templates: &'q Templates) -> Self {
        Self {
            question,
            templates,
            language: Language::of_backend(question.backend),
            step_of_source: HashMap::new(),
            left_out: Vec::new(),
        }
    }

    /// The parents, whatever they take.
    pub(super) fn render_parents(&mut self) -> Result<String, Failure> {
        let parents = self.question.parents;
        if parents.is_empty() {
            return Ok(String::new());
        }
        let mut text = self
            .templates
            .render("parents.md", context! { count => parents.len() })?;
        for parent in parents {
            let same = self
                .step_of_source
                .insert(Digest::of(parent.source), parent.step);
            if same.is_none() {
                text.push_str(&self.render_kernel(parent)?);
            }
        }
        Ok(text)
    }

    /// As many other kernels as `room` tokens hold. After `parents`, whose code is not told again.
    pub(super) fn render_context(&mut self, room: u64) -> Result<String, Failure> {
        let heading = self.templates.render("context.md", context! {})?;
        let mut left = room.saturating_sub(estimate_tokens(&heading));
        let mut text = String::new();
        for shown in self.question.context {
            let step = shown.step;
            if let Some(other) = self.step_of_source.get(&Digest::of(shown.source)) {
                self.left_out
                    .push(format!("step {step}: the code of step {other}"));
                continue;
            }
            // What is longer without its feedback is not rendered: most of a large population is cut.
            let min_tokens = estimate_tokens(shown.source);
            let kernel = match min_tokens <= left {
                true => self.render_kernel(shown)?,
                false => String::new(),
            };
            let needed = estimate_tokens(&kernel).max(min_tokens);
            if needed > left {
                self.left_out.push(format!(
                    "step {step}: about {needed} tokens, and {left} were left"
                ));
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

    /// As many steps as a part of `room` holds, the latest of them.
    pub(super) fn render_history(&mut self, room: u64) -> Result<String, Failure> {
        let history = self.question.history;
        if history.is_empty() {
            return Ok(String::new());
        }
        let mut left = room / HISTORY_DIVISOR;
        let mut rendered: Vec<Value> = Vec::new();
        for tried in history.iter().rev() {
            let entry = QuotedEntry::of(tried);
            // The list's own marks beside the words.
            let needed = estimate_tokens(&entry.detail) + estimate_tokens(&entry.result) + 16;
            if needed > left {
                break;
            }
            left -= needed;
            rendered.push(entry.into_value());
        }
        let cut = history.len() - rendered.len();
        if cut > 0 {
            self.left_out.push(format!(
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
        let feedback = (shown.feedback).map(|feedback| {
            feedback_text::describe_feedback(feedback, shown.source, self.question)
        });
        self.templates.render(
            "kernel.md",
            context! {
                step => shown.step,
                operator => describe_origin(shown.operator),
                label => shown.label.describe(),
                feedback,
                code => fenced_block(shown.source, self.language.name()),
            },
        )
    }

    /// Notes a part of the prompt that was dropped whole.
    pub(super) fn leave_out(&mut self, what: String) {
        self.left_out.push(what);
    }

    pub(super) fn move_left_out_to(self, prompt: &mut Prompt) {
        prompt.left_out = self.left_out;
    }
}

/// A step of the history, quoted.
struct QuotedEntry<'t> {
    tried: &'t HistoryEntry,
    detail: String,
    result: String,
}

impl<'t> QuotedEntry<'t> {
    fn of(tried: &'t HistoryEntry) -> Self {
        Self {
            tried,
            detail: code_span(&tried.detail, MAX_DETAIL_CHARS),
            result: one_line(&tried.result, MAX_RESULT_CHARS),
        }
    }

    fn into_value(self) -> Value {
        let parents: Vec<_> = self.tried.parents.iter().map(u64::to_string).collect();
        let expected = self.tried.expected.filter(|expected| expected.is_finite());
        context! {
            step => self.tried.step,
            operator => self.tried.operator.name(),
            parents => parents.join(" and "),
            detail => self.detail,
            expected => expected.map(|expected| format!("{:+.0}", expected * 100.0)),
            result => self.result,
        }
    }
}

impl KernelLabel {
    fn describe(self) -> &'static str {
        match self {
            KernelLabel::Parent => "parent",
            KernelLabel::Elite => "among the fastest",
            KernelLabel::Different => "the best of another kind",
            KernelLabel::Recent => "recent",
            KernelLabel::Failure => "failed",
        }
    }
}
