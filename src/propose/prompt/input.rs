//! What a prompt is made from. Plain data.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::feedback::Feedback;
use crate::device::DeviceFacts;
use crate::event::Operator;
use crate::task::Task;

/// The language that a kernel is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    #[default]
    Cuda,
    Metal,
}

impl Language {
    /// The language of a backend, by the backend's name in a verdict. The CPU backend runs CUDA.
    pub(crate) fn of_backend(backend: &str) -> Self {
        match backend {
            "metal" => Language::Metal,
            _ => Language::Cuda,
        }
    }

    /// The language tag of a fenced block, and the name of the templates' folder.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Language::Cuda => "cuda",
            Language::Metal => "metal",
        }
    }
}

/// Everything that a prompt is made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PromptInput<'a> {
    /// `propose`, `edit`, `crossover` or `repair`.
    pub operator: Operator,
    pub task: &'a Task,
    /// The profile, which selects the timed workloads.
    pub profile: &'a str,
    /// `cuda`, `cpu` or `metal`, as in a verdict.
    pub backend: &'a str,
    pub device: &'a DeviceFacts,
    /// The baseline's name in `task.yaml`.
    pub baseline: &'a str,
    /// The first is the kernel to edit or repair. All are shown, whatever their length.
    pub parents: &'a [ShownKernel<'a>],
    /// Other kernels, best first. As many are shown as fit.
    pub context: &'a [ShownKernel<'a>],
    /// In step order. If they do not all fit, the latest are shown.
    pub history: &'a [HistoryEntry],
    /// The name of a strategy card.
    pub card: Option<&'a str>,
    /// The times of the strongest known baseline, if it is faster than the task's.
    pub to_beat: Option<&'a TimesToBeat>,
    /// What helped in earlier runs. Text that a person may have edited.
    pub lessons: Option<&'a str>,
    /// The largest number of edits in one reply.
    pub max_edits: usize,
    /// The size that the whole prompt should not exceed, in tokens as [`super::estimate_tokens`] counts them.
    pub budget_tokens: u64,
    /// Set for a second try: the first reply, which had edits that could not be applied, or no kernel.
    pub missed: Option<RejectedReply<'a>>,
}

/// The strongest known baseline of a task on the device.
#[derive(Clone, Debug, PartialEq)]
pub struct TimesToBeat {
    /// Its name and version.
    pub label: String,
    /// Its median time on each workload, in microseconds.
    pub microseconds: IndexMap<String, f64>,
}

/// A kernel that a prompt shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShownKernel<'a> {
    pub step: u64,
    pub operator: Operator,
    pub source: &'a str,
    /// `None` if the kernel was not judged.
    pub feedback: Option<&'a Feedback>,
    pub label: KernelLabel,
}

/// Why a kernel is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelLabel {
    Parent,
    /// One of the fastest.
    Elite,
    /// The best of another cell than the parents'.
    Different,
    Recent,
    /// It did not pass, and the reason is useful.
    Failure,
}

/// An earlier step, as the history shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryEntry {
    pub step: u64,
    pub operator: Operator,
    pub parents: Vec<u64>,
    /// What the step changed: a mutation's description, or the `change` of a model's trace. Untrusted text; empty if unknown.
    pub detail: String,
    /// The relative change of the time that the model expected: -0.2 for a fifth less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<f64>,
    /// The child compared with its parent (`Feedback::describe_change_from`), or why there is no child (`describe_failed_step`).
    pub result: String,
}

/// An earlier reply of the same step that gave no candidate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RejectedReply<'a> {
    pub reply: &'a str,
    /// What was wrong with it, and where.
    pub message: &'a str,
    /// It had edits, which could not be applied. Otherwise it had neither a kernel nor edits.
    pub had_edits: bool,
}
