//! What a model is told: the task, the device, how a kernel is written, what was tried, what to do now.
//!
//! Pure: the same question and the same templates give the same prompt, so that an unanswered one can be asked again. Sends
//! nothing, reads no reply. The stable part comes first and is the same for all steps of a run, for the providers' caches; text
//! that others wrote is quoted (`quote`), and never told are seeds, hidden shapes, regimes, and kforge's own faults.

use serde::{Deserialize, Serialize};

use crate::device::DeviceFacts;
use crate::event::Operator;
use crate::task::Task;

mod describe;
mod feedback;
mod feedback_text;
mod fill;
mod quote;
mod render;
mod template_check;
mod templates;
#[cfg(test)]
mod tests;

pub(crate) use feedback::Feedback;
pub(crate) use feedback_text::describe_failed_step;
pub(crate) use render::render;
pub use templates::{Card, CardStage, ExampleKernel, Templates};

/// What a kernel is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    #[default]
    Cuda,
    Metal,
}

impl Language {
    /// Of a backend, by its name in a verdict: the CPU judges CUDA.
    pub(crate) fn of_backend(backend: &str) -> Self {
        match backend {
            "metal" => Language::Metal,
            _ => Language::Cuda,
        }
    }

    /// What a fenced block of it is called, and the templates' folder.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Language::Cuda => "cuda",
            Language::Metal => "metal",
        }
    }
}

/// All that a prompt is made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PromptInput<'a> {
    /// `propose`, `edit`, `crossover` or `repair`.
    pub operator: Operator,
    pub task: &'a Task,
    /// Which of the task's workloads are timed.
    pub profile: &'a str,
    /// `cuda`, `cpu` or `metal`, as in a verdict.
    pub backend: &'a str,
    pub device: &'a DeviceFacts,
    /// The baseline's name in `task.yaml`.
    pub baseline: &'a str,
    /// The first is the one to edit or to mend. Shown whatever they take.
    pub parents: &'a [ShownKernel<'a>],
    /// Most worthy first: as many are shown as fit.
    pub context: &'a [ShownKernel<'a>],
    /// In the order of steps: of too many, the latest are shown.
    pub history: &'a [HistoryEntry],
    /// A strategy card, by its name.
    pub card: Option<&'a str>,
    /// The most edits that one reply may have.
    pub max_edits: usize,
    /// The most that the whole prompt should take, by the estimate of `tokens`.
    pub budget_tokens: u64,
    /// What a second try answers to.
    pub missed: Option<MissedEdits<'a>>,
}

/// A kernel to show.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShownKernel<'a> {
    pub step: u64,
    pub operator: Operator,
    pub source: &'a str,
    /// `None` where it was not judged.
    pub feedback: Option<&'a Feedback>,
    pub label: KernelLabel,
}

/// Why a kernel is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelLabel {
    Parent,
    /// Among the fastest.
    Elite,
    /// The best of its kind, which is another than the parents'.
    Different,
    Recent,
    /// It did not pass, and why is worth knowing.
    Failure,
}

/// A step that was made, in words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryEntry {
    pub step: u64,
    pub operator: Operator,
    pub parents: Vec<u64>,
    /// What was done: a mutation's own words, or the change that a model's trace names. Untrusted.
    pub detail: String,
    /// The time that the model expected, less one: -0.2 for a fifth less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<f64>,
    /// Child against parent, by `Feedback::against`, or why there was no child, by `failed_in_words`.
    pub result: String,
}

/// An earlier reply of the same step whose edits had no place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MissedEdits<'a> {
    pub reply: &'a str,
    /// What was wrong with it, and where.
    pub message: &'a str,
}

/// What is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Prompt {
    pub system: String,
    /// In order. Those that are `stable` stand first.
    pub sections: Vec<Section>,
    /// What did not fit, one line each.
    pub left_out: Vec<String>,
    /// The version of the templates.
    pub version: String,
}

/// A part of the prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Section {
    pub name: String,
    pub text: String,
    /// By `tokens`.
    pub tokens: u64,
    /// Whether it is the same for all steps of a run.
    pub stable: bool,
}

impl Prompt {
    /// The part that is the same for all steps of a run, without the system's.
    pub(crate) fn stable_text(&self) -> String {
        self.join_sections(|section| section.stable)
    }

    /// What follows it.
    pub(crate) fn changing_text(&self) -> String {
        self.join_sections(|section| !section.stable)
    }

    /// All of it as one text, as `prompt.md` has it.
    pub(crate) fn document(&self) -> String {
        let mut text = format!("{}\n\n---\n\n", self.system.trim_end());
        for section in &self.sections {
            text.push_str(&section.text);
        }
        text
    }

    /// An estimate of the whole.
    pub(crate) fn estimated_tokens(&self) -> u64 {
        let sections = self.sections.iter().map(|section| section.tokens);
        estimate_tokens(&self.system) + sections.sum::<u64>()
    }

    /// Bytes of the whole: no tokenizer makes more tokens than bytes.
    pub(crate) fn bytes(&self) -> u64 {
        let sections = self.sections.iter().map(|section| section.text.len());
        (self.system.len() + sections.sum::<usize>()) as u64
    }

    fn join_sections(&self, include: fn(&Section) -> bool) -> String {
        let sections = self.sections.iter().filter(|section| include(section));
        sections.map(|section| section.text.as_str()).collect()
    }
}

/// An estimate for showing and for filling: seven bytes are two tokens, rounded up. Device code has rather fewer bytes a token than
/// prose. Never for what may be spent: there each byte counts as one.
pub(crate) fn estimate_tokens(text: &str) -> u64 {
    (text.len() as u64 * 2).div_ceil(7)
}
