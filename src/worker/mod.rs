//! Evaluation of kernels in worker processes, for the driver.
//!
//! A worker is this same program, started as `kforge __worker`. Messages contain the contents of files, never paths. A bad kernel
//! is a `JobOutcome`; an `Err` is broken machinery. This module does not judge kernels: `eval` does, inside the worker.
//!
//! On the driver's side `pool` judges, repeats and confirms; `dispatch` chooses a device and sends a request; `child` owns a
//! process. `precompile` compiles while a worker starts. `space` and `point_compiler` measure recorded spaces; `trials` tries
//! points of candidates; `baselines` times kernels against baselines, and `strongest` the best kernel of a run. `server` is the worker's side. `profiling` runs NVIDIA's tools
//! on kernels that have passed.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::base::Digest;
use crate::search::{Anchor, Incumbents, KnownCode};
use crate::task::Task;
use crate::verdict::{Duel, SelfTest, Status, Verdict};

mod baselines;
mod child;
mod confirm;
mod deadlines;
mod device_workers;
mod dispatch;
mod factory;
mod launch;
mod point_compiler;
mod pool;
mod pool_options;
mod precompile;
mod profiling;
mod protocol;
mod server;
mod space;
mod strongest;
mod tool;
mod trials;

pub(crate) use baselines::{BaselineWorker, MeasuredBaseline, blank_entry};
pub(crate) use factory::WorkerPools;
pub(crate) use launch::{LAUNCH_COMMAND, serve_launch};
pub(crate) use point_compiler::{PointCompiler, PointPlan, PreparedPoint};
pub(crate) use pool::WorkerPool;
pub(crate) use pool_options::PoolOptions;
pub(crate) use profiling::Profiling;
pub use server::{cpu_limits, serve};
pub(crate) use space::SpaceWorker;
pub use strongest::{Contenders, StrongestOutcome};

/// A future that may be dropped at any await point. Dropping it kills the processes that run for it.
pub type JobFuture<'a, T> = Pin<Box<dyn Future<Output = anyhow::Result<T>> + Send + 'a>>;

/// Judges kernels of one task. The driver calls it for several jobs at a time.
pub trait Evaluator: Send + Sync {
    fn evaluate(&self, job: Job) -> JobFuture<'_, JobOutcome>;

    /// Times the baseline against itself on every workload, to find the smallest difference that can be measured. Empty if the
    /// device needs no such test.
    fn self_test(&self) -> JobFuture<'_, Vec<SelfTest>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// Starts, beside the search, what timing the best kernel against these baselines needs. Only saves time at the end of a run.
    fn prepare_strongest(&self, contenders: Arc<Contenders>) {
        let _ = contenders;
    }

    /// Receives the faults of workers, so that they can be recorded. `None` if the evaluator has no workers, or a second time.
    fn worker_faults(&self) -> Option<UnboundedReceiver<WorkerFault>> {
        None
    }
}

/// A worker that could not be started again. The evaluation went on without it, or was repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerFault {
    /// `the CPU`, or the GPU.
    pub device: String,
    pub error: String,
}

/// Makes evaluators.
pub trait EvaluatorFactory: Send + Sync {
    /// Makes an evaluator for a task. It is ready: the oracle and the baseline compile and work.
    ///
    /// # Errors
    /// A `Failure` of kind `Reference` if the oracle or the baseline does not work. It ends this task only.
    fn open(&self, task: Arc<Task>) -> JobFuture<'_, Arc<dyn Evaluator>>;
}

/// A request to evaluate one kernel.
#[derive(Clone, Debug)]
pub struct Job {
    /// The step, for messages; 0 for the baseline. There is at most one job per step at a time.
    pub step: u64,
    /// Text of the kernel file.
    pub source: Arc<str>,
    pub kind: JobKind,
    /// How long a confirmation or a comparison may take: it then has fewer fresh processes, but always one. `None`: as long as it takes.
    pub limit: Option<Duration>,
    /// Only for `JobKind::Judge`.
    pub rivals: Rivals,
}

/// What a search knows that makes the judgement of a candidate shorter. Empty for everything else.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rivals {
    /// What the candidate must beat; `None`: it is judged completely.
    #[serde(default)]
    pub incumbents: Option<Incumbents>,
    /// What a candidate with incumbents is timed against; `None`: the baseline.
    #[serde(default)]
    pub anchor: Option<Anchor>,
    /// A candidate that compiles to code among these is not judged.
    #[serde(default)]
    pub known_code: Vec<KnownCode>,
}

/// What to do with the kernel.
#[derive(Clone, Debug)]
pub enum JobKind {
    /// Check and time it.
    Judge,
    /// Time it against another kernel. Both have passed before.
    Duel { against: Arc<str> },
    /// Check and time it again with new seeds in fresh processes.
    Confirm,
    /// Check and time it briefly, and then the same kernel at other points: the sources are `others`.
    Try { others: Vec<Arc<str>> },
    /// Time it against another kernel in fresh processes, as precisely as a confirmation. Both have passed before.
    Compare { against: Arc<str> },
    /// Time it against the strongest of other baselines in fresh processes. It has passed before.
    CompareStrongest(Arc<Contenders>),
}

/// The result of a job, of the kind that was requested.
#[derive(Clone, Debug)]
pub enum JobOutcome {
    Verdict {
        verdict: Box<Verdict>,
        /// Output of the compiler: untrusted text, capped; empty if there is none.
        compile_log: String,
        /// The profiler's own report file, if one was requested and made.
        report: Option<Vec<u8>>,
    },
    Duel {
        /// `None` if one of the two kernels did not pass this time, or was not timed precisely enough.
        duel: Option<Duel>,
        /// Device time of all its processes, as `seconds.device` of a verdict.
        device_seconds: f64,
    },
    Tried(TrialOutcome),
    Strongest(Box<StrongestOutcome>),
    /// The kernel compiles to the code of step `of`, so it was not judged.
    SameCode {
        of: u64,
        code: Digest,
        /// As `seconds.device` of a verdict: on a CPU it has been compiled.
        device_seconds: f64,
    },
}

/// What was found at the points of a kernel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrialOutcome {
    /// In the order of the request. There are fewer if trying more was not worth it.
    pub trials: Vec<PointTrial>,
    /// Device time of all of them, as `seconds.device` of a verdict.
    pub device_seconds: f64,
}

/// A short trial of one point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PointTrial {
    /// `passed`, or the fault.
    pub status: Status,
    /// The geometric mean of the times on the tried workloads. `None` if it did not pass.
    pub microseconds: Option<f64>,
}
