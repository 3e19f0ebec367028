//! The progress of a task: counts, best candidate, time and cost. Plain data.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::continuation::Continuation;
use super::time_spent::TimeSpent;
use crate::event::{Cost, StopReason};
use crate::verdict::{Duel, Speedup, StrongestBaseline};

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
    /// The candidate to report: the best kernel, or else the fastest other candidate.
    pub best: Option<BestCandidate>,
    /// The strongest known baselines beside the best kernel, the strongest first. Empty if none is known, or the kernel is not confirmed.
    pub strongest: Vec<StrongestBaseline>,
    /// The best kernel beside the baseline that targets are over, if that is not the task's own and the kernel is confirmed.
    pub yardstick: Option<StrongestBaseline>,
    /// The best kernel against the best starting kernel. `None` if it was not made, or the best kernel is a starting kernel.
    pub comparison: Option<Comparison>,
    /// Name of the baseline.
    pub baseline: String,
    /// Timing budget of each workload, in seconds.
    pub timing_seconds: f64,
    /// The run's directory.
    pub directory: PathBuf,
    /// Filled cells of the archive.
    pub cells: usize,
    /// All cells of the archive for candidates with a number on each axis.
    pub all_cells: usize,
    /// Time since this process started to work on the task.
    pub elapsed: Duration,
    /// Candidates with a verdict when this process started, so that a rate covers this process only.
    pub judged_before: u64,
    /// Wall-time budget of the task for all of its work, over all processes.
    pub budget: Option<Duration>,
    /// Budget of device time of the task for all of its work, over all processes.
    pub device_budget: Option<Duration>,
    /// The share of both for confirmation and comparison.
    pub confirm_share: f64,
    /// Wall time of all processes.
    pub worked: Duration,
    /// The part of it in which the search was running.
    pub searched: Duration,
    /// What the time was spent on.
    pub time: TimeSpent,
    /// What the process does now.
    pub phase: RunPhase,
    /// Whether kernels were left unconfirmed, or the best one was not compared, because no time was left.
    pub unmeasured: Unmeasured,
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
    /// How this process has ended its work on the task. `None` while it works.
    pub end: Option<EndOfWork>,
}

/// What a process does with a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunPhase {
    #[default]
    Searching,
    /// The search has stopped; the last judgements end.
    Ending,
    Confirming {
        /// From 1.
        number: usize,
        of: usize,
        /// The expected time until all confirmations and comparisons are made. `None` if it is unknown.
        left: Option<Duration>,
    },
    /// The best kernel is timed against the strongest baselines.
    ComparingStrongest { left: Option<Duration> },
    /// The best kernel is timed against the best starting kernel.
    Comparing { left: Option<Duration> },
}

/// What was not measured again at the end of a task because the time was spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unmeasured {
    /// No kernel is confirmed to be faster than the baseline, and some were not confirmed.
    pub confirmation: bool,
    /// The best kernel was not compared with the best starting kernel.
    pub comparison: bool,
    /// The best kernel was not timed against the strongest baselines, although some can be timed here.
    pub strongest: bool,
}

/// How a process has ended its work on a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndOfWork {
    Finished,
    Interrupted,
    /// Replies in a mailbox are missing.
    Waiting,
    Failed,
}

/// The candidate that a task reports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BestCandidate {
    pub step: u64,
    /// The speedup of its confirmation if that has one, else of the search.
    pub speedup: Speedup,
    pub standing: Standing,
}

/// What is known about the speedup of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Confirmed, and the whole interval is above 1. Only such a candidate is a result.
    Faster,
    /// Confirmed, and the interval contains 1.
    NotClear,
    /// Confirmed, and the whole interval is below 1.
    Slower,
    /// Correct when it was measured again, but the interval stayed too wide.
    TooNoisy,
    /// Measured by the search only.
    Provisional,
}

impl Standing {
    /// The standing of a candidate with this confirmed speedup.
    pub(crate) fn of_confirmed(speedup: &Speedup) -> Self {
        if speedup.is_faster() {
            Self::Faster
        } else if speedup.is_slower() {
            Self::Slower
        } else {
            Self::NotClear
        }
    }

    /// Whether the figure is that of a confirmation.
    pub(crate) fn is_confirmed(self) -> bool {
        match self {
            Self::Faster | Self::NotClear | Self::Slower => true,
            Self::TooNoisy | Self::Provisional => false,
        }
    }
}

/// A kernel of the search timed against a starting kernel, in pairs in fresh processes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    pub step: u64,
    /// Step of the starting kernel.
    pub against: u64,
    /// Its name.
    pub kernel: String,
    /// Time of the starting kernel / time of the other. `None` if one of them failed, or was not timed precisely enough.
    pub duel: Option<Duel>,
}

impl Progress {
    /// The best kernel, which is confirmed to be faster than the baseline.
    pub fn confirmed_best(&self) -> Option<BestCandidate> {
        self.best.filter(|best| best.standing == Standing::Faster)
    }

    /// Candidates that were judged in a minute of the search, over all processes. `None` before the first.
    pub(crate) fn candidates_per_minute(&self) -> Option<f64> {
        let minutes = self.searched.as_secs_f64() / 60.0;
        (self.judged > 0 && minutes > 0.0).then(|| self.judged as f64 / minutes)
    }

    /// Share of the counted steps whose candidate passed. `None` if there is none.
    pub(crate) fn validity(&self) -> Option<f64> {
        (self.counted > 0).then(|| self.passed as f64 / self.counted as f64)
    }
}
