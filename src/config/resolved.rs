//! The resolved config: every `auto` replaced by a choice, every default filled in, every file read.
//!
//! Plain data; `resolve` makes it.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::lessons::Lessons;
use super::warm_start::WarmStarts;
use crate::device::Cache;
use crate::task::{Task, TaskFiles};
use crate::verdict::DeviceIdentity;
use crate::{llm, search};

/// A config with every choice made.
#[derive(Clone, Debug)]
pub struct ResolvedConfig {
    /// The tasks, each with its warm starts and starting kernels.
    pub tasks: Vec<(TaskFiles, Task)>,
    /// The warm starts, by task.
    pub from: WarmStarts,
    pub steps: u64,
    pub seed: u64,
    pub output: PathBuf,
    /// Whether the user did not name the directory, so that another may be used if it exists.
    pub output_is_default: bool,
    /// `cpu` or `cuda`.
    pub backend: String,
    /// The name of a profile that every task has.
    pub profile: String,
    pub in_flight: usize,
    /// The GPUs that judge; empty if the CPU does.
    pub gpus: Vec<DeviceIdentity>,
    pub cache: Cache,
    /// Whether kernels run on the CPU before they run on a GPU.
    pub screen: bool,
    /// Whether `ncu` counters of confirmed kernels are read.
    pub counters: bool,
    /// Whether `compute-sanitizer` runs confirmed kernels.
    pub device_sanitize: bool,
    pub launch_seconds: f64,
    /// What the targets of the searches are over: `naive`, `strongest` or a name.
    pub baseline: String,
    /// Whether kernels race against the best of their kind.
    pub racing: bool,
    pub require_sandbox: bool,
    pub window: u64,
    /// The order in which the searches take the results of steps.
    pub order: search::FoldOrder,
    pub search: search::SearchSettings,
    /// The models and how they are used, resolved.
    pub llm: llm::LlmSettings,
    /// Lessons from earlier runs, by task.
    pub(crate) lessons: Lessons,
    /// What the models may cost, over all tasks.
    pub limits: llm::BudgetLimits,
    /// Wall time for each task.
    pub budget: Option<Duration>,
    /// Device time for each task.
    pub device_budget: Option<Duration>,
    /// The share of both for confirmation and comparison.
    pub confirm_share: f64,
    /// The choices that were made for the user, one line each: `backend: cpu (no GPU was found: times are CPU times)`.
    pub choices: Vec<String>,
    /// The config with its choices, as `run.yaml` records it.
    pub record: Value,
}
