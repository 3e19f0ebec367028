//! What the driver found for one task, as the tables and `summary.json` need it. Plain data.

use std::path::PathBuf;

use serde::Serialize;

use super::progress::Progress;
use crate::event::{FailedReason, Operator};
use crate::verdict::{DeviceIdentity, Speedup, Status, TimedAgainst};

/// The results of a task.
#[derive(Clone, Debug, Default)]
pub struct TaskResults {
    pub progress: Progress,
    /// Error message of a failed oracle or baseline.
    pub failure: Option<String>,
    /// The elites: confirmed ones first, by their confirmed speedup, then the others by that of the search.
    pub elites: Vec<RankedElite>,
    /// Number of elites that did not pass when they were measured again.
    pub refuted: usize,
    pub starts: Vec<StartingKernelResult>,
    /// Steps whose model gave no candidate, by reason.
    pub unanswered: Vec<UnansweredSteps>,
    /// Name of the baseline. Empty if nothing was judged.
    pub baseline: String,
    /// The kernel that the search timed candidates against, if any; otherwise the baseline.
    pub anchor: Option<TimedAgainst>,
    pub device: Option<DeviceIdentity>,
    /// `best.cu`.
    pub best: PathBuf,
    /// `best.json`.
    pub best_verdict: PathBuf,
    /// The folder of all steps.
    pub steps: PathBuf,
}

/// The steps whose requests led to no candidate for one reason. Part of `summary.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnansweredSteps {
    pub reason: FailedReason,
    /// The number of steps.
    pub steps: u64,
    /// The last of them.
    pub last: u64,
    /// Why the last of them has no candidate, in the server's words. Untrusted text.
    pub detail: String,
}

/// An elite in the table.
#[derive(Clone, Debug)]
pub struct RankedElite {
    pub step: u64,
    pub operator: Operator,
    pub detail: String,
    /// Description of its cell, axis by axis.
    pub cell: String,
    pub measured: Speedup,
    /// The speedup of its confirmation. `None` if it is not confirmed.
    pub confirmed: Option<Speedup>,
    /// Its confirmation was correct, but the interval stayed too wide.
    pub too_noisy: bool,
    /// What its confirmation did not do for lack of time.
    pub not_done: Vec<String>,
    pub source: PathBuf,
}

/// A starting kernel in the table.
#[derive(Clone, Debug)]
pub struct StartingKernelResult {
    pub step: u64,
    pub name: String,
    /// `None` if it was not judged.
    pub status: Option<Status>,
    /// The speedup of the search.
    pub measured: Option<Speedup>,
    /// The speedup of its confirmation. `None` if it is not confirmed.
    pub confirmed: Option<Speedup>,
    /// Its confirmation was correct, but the interval stayed too wide.
    pub too_noisy: bool,
    /// It did not pass when it was measured again.
    pub refuted: bool,
    /// It was surely slower than another kernel, so its timing ended early.
    pub dismissed: bool,
}
