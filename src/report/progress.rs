//! The progress of a task: counts, best candidate, time and cost. Plain data.

use std::time::Duration;

use crate::event::{Cost, StopReason};
use crate::verdict::Speedup;

/// How far a task has come.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    pub task: String,
    /// Steps that the search has folded: all steps up to this one are judged, or ended without a candidate.
    pub steps: u64,
    /// The value of `steps` when this process started, so that a rate covers this process only.
    pub steps_before: u64,
    /// Steps requested in total.
    pub total: u64,
    /// Candidates with a verdict.
    pub judged: u64,
    pub passed: u64,
    pub best: Option<BestCandidate>,
    /// Filled cells of the archive.
    pub cells: usize,
    /// Time since this process started to work on the task.
    pub elapsed: Duration,
    /// Wall-time budget of the task, over all processes.
    pub budget: Option<Duration>,
    /// Wall time that earlier processes spent on the task.
    pub spent_before: Duration,
    /// Cost of models so far, over all tasks of the run. `None` if the run has no models.
    pub spent: Option<Cost>,
    /// One line for each request that is waiting.
    pub waiting: Vec<String>,
    /// Why the search stopped. Confirmations may still follow.
    pub stopped: Option<StopReason>,
}

/// The fastest candidate so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BestCandidate {
    pub step: u64,
    pub speedup: Speedup,
    /// It was measured again with new seeds in fresh processes.
    pub confirmed: bool,
}

impl Progress {
    /// Share of judged candidates that passed. `None` if none was judged.
    pub(crate) fn validity(&self) -> Option<f64> {
        (self.judged > 0).then(|| self.passed as f64 / self.judged as f64)
    }
}
