//! Times kernels against baselines in one worker process.
//!
//! Decides nothing: `eval::Judge::measure_baseline` times, and `cli::baselines` chooses what.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::bail;
use indexmap::IndexMap;

use super::child::Worker;
use super::deadlines::{Deadlines, REMEDY};
use super::pool_options::PoolOptions;
use super::protocol::{Greeting, PROTOCOL_VERSION, WorkerRequest, WorkerResponse};
use crate::base::Digest;
use crate::eval::{BaselineFault, BaselineOpponent, BaselineRequest, BaselineResult};
use crate::verdict::{BaselineEntry, BaselineWorkload, Status};

/// What Python may take in addition, to start and to compile: twice, if a baseline cannot be captured in a graph.
const PYTHON_TIME: Duration = Duration::from_secs(900);

/// The worker that times kernels against baselines.
pub(crate) struct BaselineWorker {
    worker: Worker,
    deadline: Duration,
    /// How long the device was held, in seconds.
    device_seconds: f64,
}

/// The results of one baseline on all workloads.
pub(crate) struct MeasuredBaseline {
    pub entry: BaselineEntry,
    /// Why the kernel cannot be timed, if that is the reason.
    pub kernel_fault: Option<String>,
    /// Whether the reason is that the machine was too busy.
    pub is_noisy: bool,
}

impl BaselineWorker {
    /// Starts the worker on the first GPU of the options, or on the CPU. Oracle and baseline work there when this returns; a baseline that is
    /// proven is checked on its smallest workload only.
    ///
    /// # Errors
    /// If the worker does not become ready.
    pub(crate) async fn start(
        options: PoolOptions,
        baseline_is_proven: bool,
    ) -> anyhow::Result<Self> {
        let deadlines = Deadlines::new(&options.options, options.workloads);
        let gpu = options.gpus.into_iter().next();
        let greeting = Greeting {
            version: PROTOCOL_VERSION,
            files: options.files,
            options: options.options,
            on_gpu: gpu.is_some(),
            screen: false,
            baseline_is_proven,
            space: None,
        };
        let greeting = serde_json::to_string(&greeting)?;
        let uuid = gpu.as_ref().and_then(|gpu| gpu.uuid.as_deref());
        Ok(Self {
            worker: Worker::start(uuid, &greeting, deadlines.start).await?,
            deadline: deadlines.request + PYTHON_TIME,
            device_seconds: 0.0,
        })
    }

    /// The names of the baselines in a Python file (text and file name).
    ///
    /// # Errors
    /// An environment failure if Python or PyTorch is not installed; a reference failure if the file fails.
    pub(crate) async fn names(&mut self, source: [String; 2]) -> anyhow::Result<Vec<String>> {
        match (self.exchange(&WorkerRequest::BaselineNames { source })).await? {
            WorkerResponse::BaselineNames(names) => Ok(names),
            WorkerResponse::Failure(failure) => Err(failure.into_error()),
            _ => bail!("a worker's response to `baseline_names` has the wrong type"),
        }
    }

    /// Has Python compile a baseline for these workloads, until one fails, or `is_over` is set. Returns why one failed.
    ///
    /// # Errors
    /// As for [`BaselineWorker::names`].
    pub(super) async fn prepare(
        &mut self,
        name: &str,
        source: &[String; 2],
        workloads: &[String],
        is_over: &AtomicBool,
    ) -> anyhow::Result<Option<String>> {
        let mut workloads = workloads.iter();
        while !is_over.load(Ordering::Relaxed)
            && let Some(workload) = workloads.next()
        {
            let request = WorkerRequest::PrepareBaseline {
                workload: workload.clone(),
                name: name.to_owned(),
                source: source.clone(),
            };
            match self.exchange(&request).await? {
                WorkerResponse::Prepared(None) => {}
                WorkerResponse::Prepared(reason) => return Ok(reason),
                WorkerResponse::Failure(failure) => return Err(failure.into_error()),
                _ => bail!("a worker's response to `prepare_baseline` has the wrong type"),
            }
        }
        Ok(None)
    }

    /// Times a kernel (name and source) against one baseline on these workloads, until one fails. `shown` gets the id of each.
    ///
    /// # Errors
    /// If the machinery is broken.
    pub(crate) async fn measure_all(
        &mut self,
        kernel: (&str, &str),
        (mut entry, opponent): (BaselineEntry, &BaselineOpponent),
        workloads: &[String],
        shown: &(dyn Fn(&str) + Send + Sync),
    ) -> anyhow::Result<MeasuredBaseline> {
        let (mut kernel_fault, mut is_noisy) = (None, false);
        for workload in workloads {
            shown(workload);
            let request = BaselineRequest {
                kernel: kernel.1.to_owned(),
                workload: workload.clone(),
                opponent: opponent.clone(),
            };
            let result = self.measure(request).await?;
            if !result.versions.is_empty() {
                entry.versions = result.versions;
            }
            entry.launch = result.launch.or(entry.launch);
            let (text, is_kernels) = match result.times {
                Ok(times) => {
                    let deviation = result.deviation;
                    entry.workloads.extend(
                        BaselineWorkload::of(&times)
                            .map(|timed| BaselineWorkload { deviation, ..timed }),
                    );
                    continue;
                }
                Err(BaselineFault::Baseline(reason)) => (reason, false),
                // A busy machine says nothing against the kernel.
                Err(BaselineFault::Kernel { status, reason }) => {
                    is_noisy = status == Status::Inconclusive;
                    (format!("{}: {status}: {reason}", kernel.0), !is_noisy)
                }
            };
            let reason = format!("{workload}: {text}");
            kernel_fault = is_kernels.then(|| reason.clone());
            entry.reason = Some(reason);
            entry.workloads.clear();
            break;
        }
        Ok(MeasuredBaseline {
            entry,
            kernel_fault,
            is_noisy,
        })
    }

    /// How long the device was held for all requests, in seconds.
    pub(crate) fn device_seconds(&self) -> f64 {
        self.device_seconds
    }

    /// Times a kernel against a baseline on one workload.
    async fn measure(&mut self, request: BaselineRequest) -> anyhow::Result<BaselineResult> {
        let request = WorkerRequest::MeasureBaseline(Box::new(request));
        match self.exchange(&request).await? {
            WorkerResponse::Baseline(result) => {
                self.device_seconds += result.device_seconds;
                Ok(*result)
            }
            WorkerResponse::Failure(failure) => Err(failure.into_error()),
            _ => bail!("a worker's response to `measure_baseline` has the wrong type"),
        }
    }

    async fn exchange(&mut self, request: &WorkerRequest) -> anyhow::Result<WorkerResponse> {
        let line = serde_json::to_string(request)?;
        match tokio::time::timeout(self.deadline, self.worker.exchange(&line)).await {
            Ok(response) => response,
            Err(_) => bail!(
                "a worker did not respond in {} s and was killed; {REMEDY}",
                self.deadline.as_secs()
            ),
        }
    }
}

/// The entry of a baseline that was not measured yet.
pub(crate) fn blank_entry(name: &str, source: Option<&str>) -> BaselineEntry {
    let kind = if source.is_some() { "kernel" } else { "python" };
    BaselineEntry {
        name: name.to_owned(),
        kind: kind.to_owned(),
        versions: (source.iter())
            .map(|source| ("source".to_owned(), Digest::of(source).to_string()))
            .collect::<IndexMap<_, _>>(),
        launch: None,
        reason: None,
        kernel_speedup: None,
        speedup: None,
        deviation: None,
        workloads: Vec::new(),
    }
}
