//! The progress of a task: counts, best candidate, time and cost. Plain data.

use std::path::PathBuf;
use std::time::Duration;

use super::continuation::Continuation;
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
    /// Steps that cost an evaluation or a reply, without noise and kforge's own faults.
    pub counted: u64,
    /// Correct candidates that were not measured precisely enough. Not counted.
    pub inconclusive: u64,
    pub best: Option<BestCandidate>,
    /// Filled cells of the archive.
    pub cells: usize,
    /// Time since this process started to work on the task.
    pub elapsed: Duration,
    /// Wall-time budget of the task, over all processes.
    pub budget: Option<Duration>,
    /// Wall time that earlier processes spent on the task.
    pub spent_before: Duration,
    /// The part of it that counts for the budget: without confirmations.
    pub searched_before: Duration,
    /// Time of the search over all processes when it stopped. Zero while it runs.
    pub searched: Duration,
    /// Cost of models so far, over all tasks of the run. `None` if the run has no models.
    pub spent: Option<Cost>,
    /// One line for each request that is waiting.
    pub waiting: Vec<String>,
    /// Why the search stopped. Confirmations may still follow.
    pub stopped: Option<StopReason>,
    /// Replies that are missing in mailboxes when the process ends: the files to write.
    pub awaited: Vec<PathBuf>,
    /// How to continue once this process has ended.
    pub continuation: Continuation,
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
    /// Share of the counted steps whose candidate passed. `None` if there is none.
    pub(crate) fn validity(&self) -> Option<f64> {
        (self.counted > 0).then(|| self.passed as f64 / self.counted as f64)
    }
}
