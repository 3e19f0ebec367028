//! Times kernels against baselines in one worker process.
//!
//! Decides nothing: `eval::Judge::measure_baseline` times, and `cli::baselines` chooses what.

use std::time::Duration;

use anyhow::bail;

use super::child::Worker;
use super::deadlines::{Deadlines, REMEDY};
use super::pool_options::PoolOptions;
use super::protocol::{Greeting, PROTOCOL_VERSION, WorkerRequest, WorkerResponse};
use crate::eval::{BaselineRequest, BaselineResult};

/// What Python may take in addition, to start and to compile: twice, if a baseline cannot be captured in a graph.
const PYTHON_TIME: Duration = Duration::from_secs(900);

/// The worker that times kernels against baselines.
pub(crate) struct BaselineWorker {
    worker: Worker,
    deadline: Duration,
}

impl BaselineWorker {
    /// Starts the worker on the first GPU of the options, or on the CPU. Oracle and baseline work there when this returns.
    ///
    /// # Errors
    /// If the worker does not become ready.
    pub(crate) async fn start(options: PoolOptions) -> anyhow::Result<Self> {
        let deadlines = Deadlines::new(&options.options, options.workloads);
        let gpu = options.gpus.into_iter().next();
        let greeting = Greeting {
            version: PROTOCOL_VERSION,
            files: options.files,
            options: options.options,
            on_gpu: gpu.is_some(),
            screen: false,
            baseline_is_proven: false,
            space: None,
        };
        let greeting = serde_json::to_string(&greeting)?;
        let uuid = gpu.as_ref().and_then(|gpu| gpu.uuid.as_deref());
        Ok(Self {
            worker: Worker::start(uuid, &greeting, deadlines.start).await?,
            deadline: deadlines.request + PYTHON_TIME,
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

    /// Times a kernel against a baseline.
    ///
    /// # Errors
    /// If the machinery is broken.
    pub(crate) async fn measure(
        &mut self,
        request: BaselineRequest,
    ) -> anyhow::Result<BaselineResult> {
        let request = WorkerRequest::MeasureBaseline(Box::new(request));
        match self.exchange(&request).await? {
            WorkerResponse::Baseline(result) => Ok(*result),
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
