//! Judging beside the driver: what an evaluator is asked, and what it answers.
//!
//! Messages carry contents, never paths. A bad kernel is an `Outcome`; an `Err` is broken machinery.

use std::pin::Pin;
use std::sync::Arc;

use crate::task::Task;
use crate::verdict::{Duel, SelfTest, Verdict};

mod child;
mod confirm;
mod device_workers;
mod launch;
mod pool;
mod profiling;
mod protocol;
mod server;
mod tool;

pub(crate) use launch::{LAUNCH_COMMAND, serve_launch};
pub(crate) use pool::{PoolOptions, WorkerPool, WorkerPools};
pub(crate) use profiling::Profiling;
pub use server::{cpu_limits, serve};

/// A future that may be dropped at any await: whatever runs for it is killed then.
pub type JobFuture<'a, T> = Pin<Box<dyn Future<Output = anyhow::Result<T>> + Send + 'a>>;

/// Judges kernels of one task. Called for several jobs at once, as many as the driver has in flight.
pub trait Evaluator: Send + Sync {
    fn evaluate(&self, job: Job) -> JobFuture<'_, JobOutcome>;

    /// What the clock can tell apart: the baseline against itself, on every workload. Empty where nothing needs to be known ahead.
    fn self_test(&self) -> JobFuture<'_, Vec<SelfTest>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

/// Makes an evaluator ready for a task: oracle and baseline compiled and seen to work.
/// A fault of theirs is a `Failure` of kind `Reference`, which ends the task and no other.
pub trait EvaluatorFactory: Send + Sync {
    fn open(&self, task: Arc<Task>) -> JobFuture<'_, Arc<dyn Evaluator>>;
}

/// One question about one kernel.
#[derive(Clone, Debug)]
pub struct Job {
    /// For messages and deadlines; a step is judged at most once at a time. 0: of no step, the baseline.
    pub step: u64,
    /// The whole kernel file.
    pub source: Arc<str>,
    pub kind: JobKind,
}

#[derive(Clone, Debug)]
pub enum JobKind {
    /// Check and measure.
    Judge,
    /// Time it against another kernel, both known to pass.
    Duel { against: Arc<str> },
    /// Check and measure again: new seeds, fresh processes, the profile's whole budget.
    Confirm,
}

/// The answer, of the kind that the job asked for.
#[derive(Clone, Debug)]
pub enum JobOutcome {
    Verdict {
        verdict: Box<Verdict>,
        /// What the compiler said: untrusted text, capped; empty where it said nothing.
        compile_log: String,
        /// The profiler's own report, where one was asked for and made.
        report: Option<Vec<u8>>,
    },
    /// `None` where one of the two no longer passed.
    Duel(Option<Duel>),
}
