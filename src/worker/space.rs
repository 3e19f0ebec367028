//! Measures the points of a recorded space in one worker process.
//!
//! Starts another process after a fault that may have damaged the first one. Chooses no point and writes no file; `point_compiler` compiles
//! ahead.

use std::time::Duration;

use anyhow::bail;

use super::child::{Worker, WorkerDied};
use super::deadlines::{Deadlines, REMEDY};
use super::pool_options::PoolOptions;
use super::protocol::{Greeting, PROTOCOL_VERSION, WorkerRequest, WorkerResponse};
use crate::eval::{PointFault, PointRequest, PointResult, PointSeconds, SpaceFacts, SpaceSettings};
use crate::verdict::DeviceIdentity;

/// Attempts of a point whose worker dies.
const MAX_ATTEMPTS: u32 = 2;
/// Attempts to start a worker where one has worked before: the GPU may still be freeing memory.
const MAX_STARTS: u32 = 3;
/// The pause between two attempts.
const START_PAUSE: Duration = Duration::from_secs(2);

/// The worker that measures the points of a space.
pub(crate) struct SpaceWorker {
    /// `None`: the CPU of this machine.
    gpu: Option<DeviceIdentity>,
    greeting: String,
    deadlines: Deadlines,
    /// `None` after a fault, until the next point.
    worker: Option<Worker>,
}

impl SpaceWorker {
    /// Starts the worker on the first GPU of the options, or on the CPU. Oracle and baseline work there when this returns.
    ///
    /// # Errors
    /// If the worker does not become ready.
    pub(crate) async fn start(
        options: PoolOptions,
        settings: SpaceSettings,
    ) -> anyhow::Result<(Self, SpaceFacts)> {
        let deadlines = Deadlines::new(&options.options, options.workloads);
        let gpu = options.gpus.into_iter().next();
        let greeting = Greeting {
            version: PROTOCOL_VERSION,
            files: options.files,
            options: options.options,
            on_gpu: gpu.is_some(),
            screen: false,
            baseline_is_proven: false,
            space: Some(settings),
        };
        let mut space = Self {
            gpu,
            greeting: serde_json::to_string(&greeting)?,
            deadlines,
            worker: None,
        };
        let mut worker = space.start_worker().await?;
        let request = serde_json::to_string(&WorkerRequest::SpaceFacts)?;
        let facts = match space.exchange(&mut worker, &request).await? {
            WorkerResponse::SpaceFacts(facts) => facts,
            WorkerResponse::Failure(failure) => return Err(failure.into_error()),
            _ => bail!("a worker's response to `space_facts` has the wrong type"),
        };
        space.worker = Some(worker);
        Ok((space, facts))
    }

    /// Measures one point. If a kernel ends its process twice, the kernel has a fault.
    ///
    /// # Errors
    /// If the machinery is broken.
    pub(crate) async fn measure(&mut self, request: PointRequest) -> anyhow::Result<PointResult> {
        let line = serde_json::to_string(&WorkerRequest::Point(request))?;
        let mut attempt = 1;
        loop {
            let mut worker = match self.worker.take() {
                Some(worker) => worker,
                None => self.start_again().await?,
            };
            match self.exchange(&mut worker, &line).await {
                Ok(WorkerResponse::Point(result)) => {
                    let fault = result.times.as_ref().err();
                    if !fault.is_some_and(PointFault::may_damage_process) {
                        self.worker = Some(worker);
                    }
                    return Ok(*result);
                }
                Ok(WorkerResponse::Failure(failure)) => return Err(failure.into_error()),
                Ok(_) => bail!("a worker's response to `point` has the wrong type"),
                Err(error) if error.is::<WorkerDied>() && attempt < MAX_ATTEMPTS => attempt += 1,
                Err(error) if error.is::<WorkerDied>() => {
                    return Ok(PointResult {
                        times: Err(PointFault::of_crash(format!("{error:#}"))),
                        baseline_us: Vec::new(),
                        is_disturbed: false,
                        seconds: PointSeconds::default(),
                        device_seconds: 0.0,
                    });
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn exchange(&self, worker: &mut Worker, line: &str) -> anyhow::Result<WorkerResponse> {
        let deadline = self.deadlines.request;
        match tokio::time::timeout(deadline, worker.exchange(line)).await {
            Ok(response) => response,
            Err(_) => bail!(
                "a worker did not respond in {} s and was killed; {REMEDY}",
                deadline.as_secs()
            ),
        }
    }

    async fn start_worker(&self) -> anyhow::Result<Worker> {
        let uuid = self.gpu.as_ref().and_then(|gpu| gpu.uuid.as_deref());
        Worker::start(uuid, &self.greeting, self.deadlines.start).await
    }

    async fn start_again(&self) -> anyhow::Result<Worker> {
        let mut starts = 1;
        loop {
            match self.start_worker().await {
                Err(error) if starts < MAX_STARTS => {
                    tracing::warn!("failed to start a worker: {error:#}");
                    tokio::time::sleep(START_PAUSE).await;
                    starts += 1;
                }
                started => return started,
            }
        }
    }
}
