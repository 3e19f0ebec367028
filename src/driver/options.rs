//! What a run is asked to do: directory, tasks, search settings, budgets and models.
//!
//! Plain data, made by `cli` from flags and config. Whatever changes results belongs in `record` too; the rest is here alone.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::asking::ModelBackend;
use crate::llm::BudgetLimits;
use crate::run::RunRecord;
use crate::search::SearchSettings;
use crate::task::Task;
use crate::verdict::Yardstick;
use crate::worker::Contenders;

/// The backend of runs whose device is a GPU, and of those that judge on the CPU.
pub(super) const GPU_BACKEND: &str = "cuda";
pub(super) const CPU_BACKEND: &str = "cpu";

/// Everything that `run` needs besides the proposer, the evaluators, and the observer that shows the progress.
pub struct RunOptions {
    pub directory: PathBuf,
    pub start: StartMode,
    /// What the results depend on. On resume it is compared with the record in the directory, so `record.window` must be the recorded
    /// one unless the user has changed it, and `record.order` always.
    pub record: RunRecord,
    /// The tasks of `record`, in the same order, each once.
    pub tasks: Vec<Arc<Task>>,
    pub search: SearchSettings,
    /// Number of steps per task, those of earlier processes included.
    pub steps: u64,
    /// Number of kernels that are judged at the same time, as opposed to the steps of `record.window`. 0 counts as 1.
    pub in_flight: usize,
    /// Whether the judgement of a candidate may end early because it is surely slower than what the search has (`eval.racing`).
    pub racing: bool,
    /// Wall-time budget per task for all of its work, the time of earlier processes included.
    pub budget: Option<Duration>,
    /// Budget of device time per task for all of its work, the time of earlier processes included.
    pub device_budget: Option<Duration>,
    /// The share of both that confirmation and comparison get, 0 to 0.9.
    pub confirm_share: f64,
    /// What the best kernel of a task is timed against at its end, besides the task's baseline. Tasks without an entry have nothing else
    /// that works here.
    pub contenders: HashMap<String, Arc<Contenders>>,
    /// What the targets of a task are over, if it is not the task's own baseline.
    pub yardsticks: HashMap<String, Yardstick>,
    /// The models to ask. `None`: only kforge's own operators make proposals.
    pub models: Option<ModelOptions>,
}

/// The models to ask, and what they may cost.
pub struct ModelOptions {
    pub backend: Arc<dyn ModelBackend>,
    /// Limits for all tasks and all processes of the run together.
    pub limits: BudgetLimits,
    /// Number of requests in progress at the same time, those to a mailbox not counted. 0 counts as 1.
    pub concurrency: usize,
    /// Hash of the prompt templates, for the record of the run.
    pub prompts_version: String,
}

/// Whether the directory must already hold a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartMode {
    /// The directory must not hold a run.
    New,
    /// The directory must hold a run with the same record. With `accept_changes` the record may differ; the changes are recorded.
    Resume { accept_changes: bool },
}
