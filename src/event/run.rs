//! Events of the run's own journal: those that concern the whole run or more than one task.
//!
//! Plain data. `run::journal` reads and writes the lines.

use serde::{Deserialize, Serialize};

use super::task::StopReason;
use crate::verdict::{SelfTest, Speedup};

/// One line of the run's journal. The variant's name in snake case is the line's `event`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum RunEvent {
    /// The run directory was created.
    Created(Session),
    /// Another process resumed the run.
    Resumed(Session),
    /// The user accepted changes with `--accept-changes`.
    Accepted(Accepted),
    /// A process started or resumed a task.
    TaskStarted(TaskStarted),
    /// The baseline was timed against itself.
    SelfTested(SelfTested),
    /// A worker could not be started again.
    WorkerFailed(WorkerFailed),
    /// A process finished its work on a task.
    TaskEnded(TaskEnded),
    /// A process was interrupted while it worked on a task.
    Interrupted(Interrupted),
    /// Enough tasks have a fast kernel (`search.target_tasks`): the run ended before it came to the others.
    TasksLeftOut(TasksLeftOut),
}

/// A process that works in the run directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Version of kforge.
    pub kforge: String,
    pub host: String,
    /// Number of steps requested for each task.
    pub steps: u64,
    /// Number of kernels that are judged at the same time.
    pub in_flight: usize,
    /// Why other processes of the machine may not wait for this one while it times a launch. `None` if all of them wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_lock: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    pub changes: Vec<RecordChange>,
}

/// A recorded value that differs from the current one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordChange {
    /// Dotted key, such as `config.search.window`.
    pub what: String,
    /// Recorded value as JSON, or `absent`.
    pub was: String,
    /// Current value as JSON, or `absent`.
    pub now: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskStarted {
    pub task: String,
    /// Number of lines of the task's journal. `None` in runs of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<u64>,
}

/// The baseline against itself on every workload: the smallest difference that the clock resolves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SelfTested {
    pub task: String,
    pub workloads: Vec<SelfTest>,
}

/// A worker could not be started where one has worked before. What it was to judge is judged by another, or the run ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerFailed {
    pub task: String,
    /// `the CPU`, or the GPU.
    pub device: String,
    pub error: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskEnded {
    pub task: String,
    pub steps: u64,
    /// Why the search stopped. `None` if it failed.
    pub why: Option<StopReason>,
    /// Error message of a failed oracle or baseline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    pub best: Option<BestOfTask>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BestOfTask {
    pub step: u64,
    pub speedup: Speedup,
    /// Confirmed to be faster than the baseline. Otherwise the task has no best kernel, and this is the fastest other one.
    pub confirmed: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TasksLeftOut {
    /// The tasks that this process did not come to.
    pub tasks: Vec<String>,
    /// How many tasks of the run have a best kernel above the target.
    pub fast: u64,
    /// All tasks of the run.
    pub of: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interrupted {
    pub task: String,
    /// The process ended by itself, because nothing was left to do before replies of a mailbox (`--no-wait`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub awaits_replies: bool,
}
