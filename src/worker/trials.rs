//! Tries points of candidates before these are judged: a quick check and a few samples each (`search.tune_first`).
//!
//! One worker process does it for all candidates of a task, as it measures a recorded space, and keeps the oracle's outputs. It starts with
//! the first trial, and again after a fault that may have damaged it. Chooses no point: the driver does.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::pool_options::PoolOptions;
use super::precompile::{Compilation, Precompiler};
use super::space::SpaceWorker;
use super::{PointTrial, TrialOutcome};
use crate::base::random;
use crate::eval::{PointFault, PointRequest, PointResult, SpaceSettings, SpaceWorkloads};
use crate::verdict::Status;

/// Timed samples of each workload of a trial.
const SAMPLES: usize = 5;
/// After this many points of a kernel that do not compile, if none has, the others are not tried.
const MAX_COMPILE_ERRORS: usize = 2;

/// The worker of the trials of a task.
pub(super) struct PointTrials {
    options: PoolOptions,
    /// `None` before the first trial, and after the machinery has failed.
    worker: Mutex<Option<SpaceWorker>>,
}

impl PointTrials {
    pub(super) fn new(options: PoolOptions) -> Self {
        Self {
            options,
            worker: Mutex::new(None),
        }
    }

    /// Tries the points of a kernel, each given by its source, in this order. Their compilations start together. The first fault that may
    /// damage a process ends the trials: on a GPU another worker takes seconds to start.
    ///
    /// # Errors
    /// If the machinery is broken. The next call starts a new worker.
    pub(super) async fn try_all(
        &self,
        sources: &[Arc<str>],
        precompiler: Option<&Precompiler>,
    ) -> anyhow::Result<TrialOutcome> {
        let compile = |source: &Arc<str>| {
            precompiler.map_or(Compilation::NONE, |precompiler| precompiler.compile(source))
        };
        let compilations: Vec<Compilation> = sources.iter().map(compile).collect();
        let mut place = self.worker.lock().await;
        // Until it has measured everything it is not put back: a future that is dropped kills it.
        let mut worker = match place.take() {
            Some(worker) => worker,
            None => self.start_worker().await?,
        };
        let mut outcome = TrialOutcome::default();
        let mut compile_errors = 0;
        for (source, compilation) in sources.iter().zip(compilations) {
            compilation.wait().await;
            let request = PointRequest {
                source: source.to_string(),
                times_baseline: false,
            };
            let result = worker.measure(request).await?;
            outcome.device_seconds += result.device_seconds;
            outcome.trials.push(trial(&result));
            let fault = result.times.as_ref().err();
            compile_errors += usize::from(fault.is_some_and(is_compile_error));
            let none_compiles =
                compile_errors == MAX_COMPILE_ERRORS && outcome.trials.len() == compile_errors;
            if none_compiles || fault.is_some_and(PointFault::may_damage_process) {
                break;
            }
        }
        *place = Some(worker);
        Ok(outcome)
    }

    async fn start_worker(&self) -> anyhow::Result<SpaceWorker> {
        let settings = SpaceSettings {
            seed: random::fresh_seed(),
            samples: SAMPLES,
            workloads: SpaceWorkloads::Spread,
        };
        let started = SpaceWorker::start(self.options.clone(), settings).await;
        Ok(started?.0)
    }
}

fn is_compile_error(fault: &PointFault) -> bool {
    matches!(fault.status, Status::CompileError | Status::CompileTimeout)
}

/// The geometric mean of the shortest times over the workloads: an interruption makes a sample longer, never shorter.
fn trial(result: &PointResult) -> PointTrial {
    let times = match &result.times {
        Ok(times) => times,
        Err(fault) => {
            return PointTrial {
                status: fault.status,
                microseconds: None,
            };
        }
    };
    let shortest = times.iter();
    let shortest = shortest.map(|samples| samples.iter().copied().fold(f64::INFINITY, f64::min));
    let logs: Vec<f64> = shortest.map(f64::ln).collect();
    let mean = (logs.iter().sum::<f64>() / logs.len() as f64).exp();
    PointTrial {
        status: Status::Passed,
        microseconds: Some(mean).filter(|mean| mean.is_finite()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::PointSeconds;

    #[test]
    fn a_trial_has_the_geometric_mean_of_the_shortest_times() {
        let mut result = PointResult {
            times: Ok(vec![vec![9.0, 4.0, 5.0], vec![16.0, 90.0]]),
            baseline_us: Vec::new(),
            is_disturbed: false,
            seconds: PointSeconds::default(),
            device_seconds: 0.0,
        };
        let found = trial(&result);
        assert!((found.microseconds.unwrap() - 8.0).abs() < 1e-9);
        result.times = Ok(Vec::new());
        assert_eq!(trial(&result).microseconds, None);
        let fault = PointFault::of_refused(Status::CompileError, "too much".to_owned());
        assert!(is_compile_error(&fault));
        result.times = Err(fault);
        assert_eq!(trial(&result).status, Status::CompileError);
    }
}
