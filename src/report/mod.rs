//! What people see of a run. An observer is told every event once it is durable; it decides nothing.

use std::time::Duration;

mod admission;
mod compiled;
mod describe;
mod profiling;
mod results;
mod sink;
mod spinner;

pub(crate) use admission::describe_admission;
pub(crate) use compiled::describe_compiled;
pub(crate) use describe::{
    describe_task, describe_verdict, pluralize, task_json, task_table, timing_note,
};
pub(crate) use results::{RankedElite, StartingKernelResult, TaskResults, results_tables};
pub(crate) use sink::{ProgressFormat, ProgressView};
pub(crate) use spinner::Spinner;

use crate::event::{Cost, Event, StopReason};
use crate::search::SearchUpdate;
use crate::verdict::Speedup;

/// Watches the tasks of a run, one after the other. Called from the driver's loop: it must not wait.
pub trait Observer: Send {
    /// A task begins, or goes on: what the journal held is in `progress`.
    fn started(&mut self, progress: &Progress) {
        let _ = progress;
    }

    /// Something happened, and this is what it changed; `progress` already counts it.
    fn event(&mut self, event: &Event, changes: &[SearchUpdate], progress: &Progress);

    /// Time has passed, and nothing has happened; `progress` says who is waited for.
    fn waiting(&mut self, progress: &Progress) {
        let _ = progress;
    }

    /// Nothing more will happen to this task in this process.
    fn ended(&mut self, progress: &Progress) {
        let _ = progress;
    }
}

/// Watches nothing.
pub struct SilentObserver;

impl Observer for SilentObserver {
    fn event(&mut self, _event: &Event, _changes: &[SearchUpdate], _progress: &Progress) {}
}

/// Where a task stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    pub task: String,
    /// Steps that are over: all up to this one were judged, or ended without a candidate.
    pub steps: u64,
    /// Steps that were over when this process began, so that a rate is that of this process.
    pub steps_before: u64,
    /// Steps asked for in all.
    pub total: u64,
    /// Candidates with a verdict.
    pub judged: u64,
    pub passed: u64,
    pub best: Option<BestCandidate>,
    /// Cells of the archive that hold an elite.
    pub cells: usize,
    /// Since this process took up the task.
    pub elapsed: Duration,
    /// Wall time that the task may take over all its processes, and what earlier ones took of it.
    pub budget: Option<Duration>,
    pub spent_before: Duration,
    /// What models have cost, over all tasks of the run; `None` where none is asked.
    pub spent: Option<Cost>,
    /// Questions to models that wait, one line each.
    pub waiting: Vec<String>,
    /// Set once the search is over; confirmations follow.
    pub stopped: Option<StopReason>,
}

/// The fastest candidate so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BestCandidate {
    pub step: u64,
    pub speedup: Speedup,
    /// Measured again with new seeds in fresh processes.
    pub confirmed: bool,
}

impl Progress {
    /// The share of judged candidates that passed; `None` before the first.
    pub(crate) fn validity(&self) -> Option<f64> {
        (self.judged > 0).then(|| self.passed as f64 / self.judged as f64)
    }
}
