//! What of the kernels and of the history fits: most worthy first, whole or not at all, the same code once.

use std::collections::HashMap;

use minijinja::{Value, context};

use super::quote::{block, line, span};
use super::render::operator_in_words;
use super::{Label, Language, Prompt, Question, Shown, Templates, Tried, tokens, words};
use crate::base::{Digest, Failure};

/// Of what the fixed parts leave, the history may take one part in so many.
const HISTORY_PART: u64 = 4;
/// The most letters of what was tried, and of what came of it.
const DETAIL: usize = 240;
const RESULT: usize = 320;

/// Keeps count of what is left, and of what was left out.
pub(super) struct Filler<'q> {
    question: &'q Question<'q>,
    templates: &'q Templates,
    language: Language,
    seen: HashMap<Digest, u64>,
    left_out: Vec<String>,
}

impl<'q> Filler<'q> {
    pub(super) fn new(question: &'q Question<'q>, templates: &'q Templates) -> Self {
        Self {
            question,
            templates,
            language: Language::of_backend(question.backend),
            seen: HashMap::new(),
            left_out: Vec::new(),
        }
    }

    /// The parents, whatever they take.
    pub(super) fn parents(&mut self) -> Result<String, Failure> {
        let parents = self.question.parents;
        if parents.is_empty() {
            return Ok(String::new());
        }
        let mut text = self
            .templates
            .render("parents.md", context! { count => parents.len() })?;
        for parent in parents {
            let same = self.seen.insert(Digest::of(parent.source), parent.step);
            if same.is_none() {
                text.push_str(&self.kernel(parent)?);
            }
        }
        Ok(text)
    }

    /// As many other kernels as `room` tokens hold. After `parents`, whose code is not told again.
    pub(super) fn context(&mut self, room: u64) -> Result<String, Failure> {
        let heading = self.templates.render("context.md", context! {})?;
        let mut left = room.saturating_sub(tokens(&heading));
        let mut text = String::new();
        for shown in self.question.context {
            let step = shown.step;
            if let Some(other) = self.seen.get(&Digest::of(shown.source)) {
                self.left_out
                    .push(format!("step {step}: the code of step {other}"));
                continue;
            }
            // What is longer without its feedback is not rendered: most of a large population is cut.
            let least = tokens(shown.source);
            let kernel = match least <= left {
                true => self.kernel(shown)?,
                false => String::new(),
            };
            let needed = tokens(&kernel).max(least);
            if needed > left {
                self.left_out.push(format!(
                    "step {step}: about {needed} tokens, and {left} were left"
                ));
                continue;
            }
            left -= needed;
            self.seen.insert(Digest::of(shown.source), step);
            text.push_str(&kernel);
        }
        Ok(if text.is_empty() {
            text
        } else {
            heading + &text
        })
    }

    /// As many steps as a part of `room` holds, the latest of them.
    pub(super) fn history(&mut self, room: u64) -> Result<String, Failure> {
        let history = self.question.history;
        if history.is_empty() {
            return Ok(String::new());
        }
        let mut left = room / HISTORY_PART;
        let mut told: Vec<Value> = Vec::new();
        for tried in history.iter().rev() {
            let entry = Entry::of(tried);
            // The list's own marks beside the words.
            let needed = tokens(&entry.detail) + tokens(&entry.result) + 16;
            if needed > left {
                break;
            }
            left -= needed;
            told.push(entry.into_value());
        }
        let cut = history.len() - told.len();
        if cut > 0 {
            self.left_out.push(format!(
                "history: the {cut} oldest of {} steps",
                history.len()
            ));
        }
        if told.is_empty() {
            return Ok(String::new());
        }
        told.reverse();
        self.templates
            .render("history.md", context! { tried => told, cut })
    }

    fn kernel(&self, shown: &Shown<'_>) -> Result<String, Failure> {
        let feedback =
            (shown.feedback).map(|feedback| words::feedback(feedback, shown.source, self.question));
        self.templates.render(
            "kernel.md",
            context! {
                step => shown.step,
                operator => operator_in_words(shown.operator),
                label => shown.label.in_words(),
                feedback,
                code => block(shown.source, self.language.name()),
            },
        )
    }

    /// Notes a part of the prompt that was dropped whole.
    pub(super) fn leave_out(&mut self, what: String) {
        self.left_out.push(what);
    }

    pub(super) fn finish(self, prompt: &mut Prompt) {
        prompt.left_out = self.left_out;
    }
}

/// A step of the history, quoted.
struct Entry<'t> {
    tried: &'t Tried,
    detail: String,
    result: String,
}

impl<'t> Entry<'t> {
    fn of(tried: &'t Tried) -> Self {
        Self {
            tried,
            detail: span(&tried.detail, DETAIL),
            result: line(&tried.result, RESULT),
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

impl Label {
    fn in_words(self) -> &'static str {
        match self {
            Label::Parent => "parent",
            Label::Elite => "among the fastest",
            Label::Different => "the best of another kind",
            Label::Recent => "recent",
            Label::Failure => "failed",
        }
    }
}
