//! Events of a whole run: what concerns more than one task.

use serde::{Deserialize, Serialize};

use super::StopReason;
use crate::verdict::{SelfTest, Speedup};

/// One line of the run's journal.
#[derive(Clone, Debug, PartialEq)]
pub enum RunEvent {
    /// The directory was laid out.
    Created(Session),
    /// A process took it up again.
    Resumed(Session),
    /// Somebody said `--accept-changes`.
    Accepted(Accepted),
    /// A process began with a task, or went on with it.
    TaskStarted(TaskStarted),
    /// The baseline was timed against itself.
    SelfTested(SelfTested),
    /// A process is done with a task.
    TaskEnded(TaskEnded),
    /// A process was told to stop.
    Interrupted(Interrupted),
}

/// A process that works in the directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    pub kforge: String,
    pub host: String,
    /// Steps asked for per task.
    pub steps: u64,
    pub in_flight: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    pub changes: Vec<RecordChange>,
}

/// Something recorded that is no longer so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordChange {
    /// The dotted name, e.g. `config.search.islands`.
    pub what: String,
    /// As JSON; `absent` where there was nothing.
    pub was: String,
    pub now: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskStarted {
    pub task: String,
}

/// What the clock could tell apart when a process began with a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SelfTested {
    pub task: String,
    pub workloads: Vec<SelfTest>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskEnded {
    pub task: String,
    pub steps: u64,
    /// Why the search stopped; `None` where it could not go on.
    pub why: Option<StopReason>,
    /// What broke, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    pub best: Option<BestOfTask>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BestOfTask {
    pub step: u64,
    pub speedup: Speedup,
    pub confirmed: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interrupted {
    pub task: String,
}

impl RunEvent {
    /// The name on the journal line.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            RunEvent::Created(_) => "created",
            RunEvent::Resumed(_) => "resumed",
            RunEvent::Accepted(_) => "accepted",
            RunEvent::TaskStarted(_) => "task_started",
            RunEvent::SelfTested(_) => "self_tested",
            RunEvent::TaskEnded(_) => "task_ended",
            RunEvent::Interrupted(_) => "interrupted",
        }
    }
}
