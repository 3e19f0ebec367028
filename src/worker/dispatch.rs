//! Dispatches requests to the workers of a task: chooses a device, starts workers when needed, and waits for the response.
//!
//! A GPU worker ends after a kernel that was faulty, or that was judged outside of a search, and the next worker starts in the background.
//! While a fresh process works for a confirmation, the next one starts. After a candidate of a search that passed or lost, the worker stays
//! idle for the next request, as CPU workers do. A device on which workers no longer become ready is quarantined: this process does not
//! use it again. Dropping a `Worker` kills it. Judges nothing: `eval` does, in the worker. Of a verdict it reads only whether the worker
//! must end; `pool` interprets the rest.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;

use super::WorkerFault;
use super::child::Worker;
use super::deadlines::{Deadlines, REMEDY};
use super::device_workers::{ActiveRequest, DeviceWorkers};
use super::precompile::Compilation;
use super::protocol::{Greeting, WorkerRequest, WorkerResponse};
use crate::base::Failure;
use crate::eval::Judgement;
use crate::verdict::{DeviceIdentity, Status};

/// Attempts to start a worker on a GPU before the GPU is quarantined.
const MAX_STARTS: u32 = 3;
/// The pause between two attempts, in which the GPU can recover.
const START_PAUSE: Duration = Duration::from_secs(2);
/// Requests whose kernels ran in one GPU worker, at most. The end of a process and the start of the next one take up to half a second, and the
/// driver's calls of the other processes on the GPU may have to wait meanwhile.
const MAX_SERVED: u32 = 16;
/// How long a GPU worker may take to end after its response.
const EXIT_WAIT: Duration = Duration::from_secs(5);

/// The devices of a pool with their workers, and the greetings for new ones.
pub(super) struct Dispatcher {
    greetings: Greetings,
    deadlines: Deadlines,
    devices: Vec<DeviceWorkers>,
    /// Receives every failure to start a worker where one has worked before.
    faults: UnboundedSender<WorkerFault>,
}

/// The first messages to a new worker, as JSON lines: the task, the options, and what to check before it is ready.
struct Greetings {
    /// For the first worker of every device.
    first: String,
    /// For every other worker. It checks the baseline on one workload only.
    usual: String,
    /// For the fresh processes of a confirmation. On a GPU every process is fresh, and this is the same as `usual`.
    confirming: String,
}

/// Which worker may serve a request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WorkerChoice {
    /// Whether the request belongs to a confirmation. On a CPU it then needs a fresh process with more thorough options.
    pub(super) confirming: bool,
    /// Index of the preferred device, if it is not quarantined.
    pub(super) device: Option<usize>,
}

/// Which device served a request, and when its worker had responded.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServedBy {
    pub(super) device: usize,
    at: Instant,
}

impl Dispatcher {
    /// `greeting`: for the first worker of a device. `gpus`: the GPUs that judge; if empty, the CPU judges.
    pub(super) fn new(
        mut greeting: Greeting,
        gpus: Vec<DeviceIdentity>,
        deadlines: Deadlines,
        faults: UnboundedSender<WorkerFault>,
    ) -> anyhow::Result<Self> {
        let on_cpu = gpus.is_empty();
        let first = serde_json::to_string(&greeting)?;
        // The first worker has checked the baseline. Without that, no other worker starts.
        greeting.baseline_is_proven = true;
        let usual = serde_json::to_string(&greeting)?;
        if on_cpu {
            greeting.options.thorough = true;
        }
        let devices = if on_cpu {
            vec![None]
        } else {
            gpus.into_iter().map(Some).collect()
        };
        Ok(Self {
            greetings: Greetings {
                first,
                usual,
                confirming: serde_json::to_string(&greeting)?,
            },
            deadlines,
            faults,
            devices: devices.into_iter().map(DeviceWorkers::new).collect(),
        })
    }

    pub(super) fn on_gpus(&self) -> bool {
        self.devices.iter().any(|device| device.gpu.is_some())
    }

    /// Starts one worker on every device, all at once. Returns the first device on which the oracle and the baseline work. The
    /// devices on which they do not are quarantined.
    ///
    /// # Errors
    /// If they work on no device: the failure of the first device.
    pub(super) async fn start(self: &Arc<Self>) -> anyhow::Result<DeviceIdentity> {
        let mut starting = JoinSet::new();
        for index in 0..self.devices.len() {
            let dispatcher = Arc::clone(self);
            starting.spawn(async move {
                let device = &dispatcher.devices[index];
                let started = dispatcher
                    .start_worker(device, &dispatcher.greetings.first)
                    .await;
                let identity = started.map(|worker| {
                    let identity = worker.identity.clone();
                    device.put_back(worker);
                    identity
                });
                (index, identity)
            });
        }
        let mut started = starting.join_all().await;
        started.sort_by_key(|(index, _)| *index);
        let (mut first, mut failures) = (None, Vec::new());
        for (index, identity) in started {
            match identity {
                Ok(identity) => {
                    first.get_or_insert(identity);
                }
                Err(error) => failures.push((index, error)),
            }
        }
        let Some(identity) = first else {
            let failure = failures.into_iter().next().map(|(_, error)| error);
            return Err(failure.context("a worker pool has no device")?);
        };
        for (index, error) in failures {
            self.report_fault(&self.devices[index], &error);
            self.devices[index].quarantine(&error);
        }
        Ok(identity)
    }

    /// Sends a request to one worker. Returns the response, and which device served it.
    ///
    /// # Errors
    /// If no worker becomes ready, if it does not respond in time or ends, or if the judge in it failed.
    pub(super) async fn request(
        self: Arc<Self>,
        request: &WorkerRequest,
        choice: WorkerChoice,
    ) -> anyhow::Result<(WorkerResponse, ServedBy)> {
        self.request_after(Compilation::NONE, request, choice).await
    }

    /// Like `request`, for a kernel that is being compiled: the worker may start meanwhile.
    ///
    /// # Errors
    /// See `request`.
    pub(super) async fn request_after(
        self: Arc<Self>,
        compilation: Compilation,
        request: &WorkerRequest,
        choice: WorkerChoice,
    ) -> anyhow::Result<(WorkerResponse, ServedBy)> {
        let (index, _active, mut worker) = self.obtain_worker(choice).await?;
        if choice.confirming {
            self.prepare_fresh(index);
        }
        compilation.wait().await;
        let device = &self.devices[index];
        let line = serde_json::to_string(&request.with_opponents(device.opponents()))?;
        let deadline = self.deadlines.request;
        let Ok(response) = tokio::time::timeout(deadline, worker.exchange(&line)).await else {
            bail!(
                "a worker did not respond in {} s and was killed; {REMEDY}",
                deadline.as_secs()
            );
        };
        let response = response?;
        let served = ServedBy {
            device: index,
            at: Instant::now(),
        };
        worker.served += 1;
        if let WorkerResponse::Judged(judged) = &response {
            device.set_opponents(&judged.opponents);
        }
        let serves_again = !choice.confirming && may_serve_again(worker.served, request, &response);
        if device.gpu.is_some() && !serves_again {
            // The response need not wait until the process has freed the GPU's memory, which takes about 0.2 s.
            let next = Arc::clone(&self).replace_worker(index, worker);
            device.put_starting(next);
        } else if !choice.confirming {
            device.put_back(worker);
        }
        match response {
            WorkerResponse::Failure(failure) => Err(failure.into_error()),
            response => Ok((response, served)),
        }
    }

    /// Starts a worker on a GPU in the background if no fresh one is there. Fresh processes follow one another, and each should be ready
    /// when the one before it has ended: otherwise the GPU would wait for about half a second.
    fn prepare_fresh(self: &Arc<Self>, index: usize) {
        let device = &self.devices[index];
        if device.gpu.is_some() && !device.has_fresh() {
            let next = Arc::clone(self).start_next(index);
            device.put_starting(next);
        }
    }

    /// Waits until a GPU worker has ended, so that its GPU memory is free, and starts the next one.
    async fn replace_worker(self: Arc<Self>, index: usize, worker: Worker) -> Option<Worker> {
        worker.end(EXIT_WAIT).await;
        self.start_next(index).await
    }

    /// Starts a worker for a later request. `None` if that failed: the next request tries again, and quarantines the GPU if it cannot
    /// start a worker either.
    async fn start_next(self: Arc<Self>, index: usize) -> Option<Worker> {
        let device = &self.devices[index];
        let started = self.start_worker(device, &self.greetings.usual).await;
        started
            .map_err(|error| {
                let device = device.describe();
                tracing::warn!("{device}: failed to start the next worker: {error:#}");
            })
            .ok()
    }

    /// Waits until a worker has started on the device after it served a request, to see whether the baseline still works there on one
    /// workload. Keeps the worker for the next request.
    ///
    /// # Errors
    /// If no worker becomes ready. A GPU is then quarantined.
    pub(super) async fn retest_device(&self, served: ServedBy) -> anyhow::Result<()> {
        let device = &self.devices[served.device];
        // A waiting worker may have checked the baseline before the fault. The one in the place of the faulty worker does it after.
        let worker = match device.take_started_since(served.at).await {
            Some(worker) => worker,
            None => {
                self.start_with_retries(device, &self.greetings.usual)
                    .await?
            }
        };
        device.put_back(worker);
        Ok(())
    }

    /// The preferred device if it works, else the working device with the fewest active requests.
    fn choose_device(&self, preferred: Option<usize>) -> Option<usize> {
        let is_usable = |index: &usize| !self.devices[*index].is_quarantined();
        let load = |index: &usize| self.devices[*index].active_requests.load(Ordering::Relaxed);
        preferred.filter(is_usable).or_else(|| {
            let usable = (0..self.devices.len()).filter(is_usable);
            usable.min_by_key(load)
        })
    }

    /// An idle or new worker for one request, and the index of its device. If none becomes ready on a GPU, the next GPU is tried.
    async fn obtain_worker(
        &self,
        choice: WorkerChoice,
    ) -> anyhow::Result<(usize, ActiveRequest<'_>, Worker)> {
        let greeting = if choice.confirming {
            &self.greetings.confirming
        } else {
            &self.greetings.usual
        };
        while let Some(index) = self.choose_device(choice.device) {
            let device = &self.devices[index];
            let active = ActiveRequest::start(&device.active_requests);
            // On a CPU a confirmation has other options too.
            let ready = if choice.confirming && device.gpu.is_none() {
                None
            } else {
                match device.take_idle(choice.confirming) {
                    None => device.take_starting().await,
                    idle => idle,
                }
            };
            match ready {
                Some(worker) => return Ok((index, active, worker)),
                None => match self.start_with_retries(device, greeting).await {
                    Ok(worker) => return Ok((index, active, worker)),
                    Err(error) if !device.is_quarantined() => return Err(error),
                    Err(_) => {}
                },
            }
        }
        let last = self
            .devices
            .iter()
            .filter_map(DeviceWorkers::quarantine_reason)
            .next_back();
        Err(Failure::environment(format!(
            "no working GPU is left: {}",
            last.unwrap_or_default()
        ))
        .hint("check the GPUs with `nvidia-smi` and `kforge doctor`; no result is lost, the run can be resumed")
        .into())
    }

    /// Starts a worker. A GPU on which the oracle and the baseline have worked before gets several attempts: it may be busy, or
    /// still be freeing the memory of an earlier worker. If all of them fail, the GPU is quarantined.
    async fn start_with_retries(
        &self,
        device: &DeviceWorkers,
        greeting: &str,
    ) -> anyhow::Result<Worker> {
        let mut starts = 1;
        loop {
            match self.start_worker(device, greeting).await {
                Ok(worker) => return Ok(worker),
                Err(error) if device.gpu.is_none() || !device.is_proven.load(Ordering::Relaxed) => {
                    return Err(error);
                }
                Err(error) if starts < MAX_STARTS && !device.is_quarantined() => {
                    tracing::warn!("{}: failed to start a worker: {error:#}", device.describe());
                    tokio::time::sleep(START_PAUSE).await;
                    starts += 1;
                }
                Err(error) => {
                    device.quarantine(&error);
                    return Err(error);
                }
            }
        }
    }

    async fn start_worker(&self, device: &DeviceWorkers, greeting: &str) -> anyhow::Result<Worker> {
        let uuid = device.gpu.as_ref().and_then(|gpu| gpu.uuid.as_deref());
        let started = Worker::start(uuid, greeting, self.deadlines.start).await;
        match &started {
            Ok(_) => device.is_proven.store(true, Ordering::Relaxed),
            // The failure of a first worker ends the task, which is recorded.
            Err(error) if device.is_proven.load(Ordering::Relaxed) => {
                self.report_fault(device, error);
            }
            Err(_) => {}
        }
        started
    }

    fn report_fault(&self, device: &DeviceWorkers, error: &anyhow::Error) {
        // Commands that keep no journal have no receiver.
        let _ = self.faults.send(WorkerFault {
            device: device.describe(),
            error: format!("{error:#}"),
        });
    }
}

/// Whether a GPU worker may serve another request. A candidate runs in its process and may have damaged it, so a process whose kernel did
/// anything forbidden ends, and so does one whose kernel was judged outside of a search. What a candidate of a search leaves behind does
/// not help the next one: all memory that this one can read is filled or overwritten before each launch, and reported results are
/// confirmed in fresh processes.
fn may_serve_again(served: u32, request: &WorkerRequest, response: &WorkerResponse) -> bool {
    if served >= MAX_SERVED {
        return false;
    }
    let judged = match response {
        WorkerResponse::Judged(judged) => judged,
        // Both kernels have run to the end.
        WorkerResponse::Duel { duel, .. } => return duel.is_some() && request.is_of_search(),
        _ => return false,
    };
    let verdict = match &judged.judgement {
        Judgement::SameCode { .. } => return true,
        Judgement::Verdict(verdict) => verdict,
    };
    match verdict.status {
        Status::CompileError
        | Status::Rejected
        | Status::Unsupported
        | Status::WrongOutput
        | Status::OutputUnwritten => true,
        Status::Passed => verdict.is_dismissed() || request.is_of_search(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Rivals;
    use super::super::protocol::{Judged, PROTOCOL_VERSION};
    use super::*;
    use crate::eval::{Coverage, DuelPurpose, OpponentTimes};
    use tokio::sync::mpsc::unbounded_channel;

    use crate::base::FailureKind;
    use crate::device::Cache;
    use crate::eval;
    use crate::search::Incumbents;
    use crate::task::TaskFiles;
    use crate::verdict::{Duel, Verdict};

    /// A dispatcher for GPUs that do not exist.
    fn dispatcher(gpus: &[&str]) -> Arc<Dispatcher> {
        let files = TaskFiles::find("softmax").unwrap();
        let gpu = |uuid: &&str| DeviceIdentity {
            uuid: Some((*uuid).to_owned()),
            ..DeviceIdentity::default()
        };
        let greeting = Greeting {
            version: PROTOCOL_VERSION,
            options: eval::JudgeOptions {
                profile: files.load().unwrap().settings.profiles["quick"].clone(),
                launch_seconds: 1.0,
                thorough: false,
                cache: Cache::Cold,
            },
            files,
            on_gpu: true,
            screen: false,
            baseline_is_proven: false,
            space: None,
        };
        let gpus = gpus.iter().map(gpu).collect();
        let deadlines = Deadlines::new(&greeting.options, 2);
        let (faults, _) = unbounded_channel();
        Arc::new(Dispatcher::new(greeting, gpus, deadlines, faults).unwrap())
    }

    fn judge_request(rivals: Rivals) -> WorkerRequest {
        WorkerRequest::Judge {
            name: "k.cu".to_owned(),
            source: String::new(),
            seed: None,
            coverage: Coverage::Part,
            rivals: Box::new(rivals),
            opponents: OpponentTimes::default(),
        }
    }

    fn judged(status: Status) -> WorkerResponse {
        let verdict = Verdict {
            status,
            ..Verdict::harness_error("softmax", "", "cuda", String::new())
        };
        WorkerResponse::Judged(Box::new(Judged {
            judgement: Judgement::Verdict(Box::new(verdict)),
            opponents: OpponentTimes::default(),
        }))
    }

    #[test]
    fn least_busy_working_gpu_is_chosen() {
        let dispatcher = dispatcher(&["GPU-a", "GPU-b", "GPU-c"]);
        let devices = &dispatcher.devices;
        let start = |index: usize| ActiveRequest::start(&devices[index].active_requests);
        let (_one, _two, three) = (start(0), start(0), start(1));
        assert_eq!(dispatcher.choose_device(None), Some(2));
        assert_eq!(dispatcher.choose_device(Some(0)), Some(0));
        devices[2].quarantine(&anyhow::anyhow!("it fell off the bus"));
        devices[0].quarantine(&anyhow::anyhow!("it fell off the bus too"));
        drop(three);
        assert_eq!(dispatcher.choose_device(Some(0)), Some(1));
    }

    /// The workers do not become ready: this program serves no greeting. What is tested is how many are started.
    #[tokio::test]
    async fn one_fresh_worker_is_prepared_while_another_one_works() {
        let dispatcher = dispatcher(&["GPU-a", "GPU-b"]);
        let count = |index: usize| dispatcher.devices[index].count_starting();
        dispatcher.prepare_fresh(1);
        assert_eq!([count(0), count(1)], [0, 1]);
        assert!(dispatcher.devices[1].has_fresh());
        dispatcher.prepare_fresh(1);
        assert_eq!(count(1), 1, "one is enough");
        assert!(dispatcher.devices[1].take_starting().await.is_none());
        assert!(!dispatcher.devices[1].has_fresh());
        let on_cpu = self::dispatcher(&[]);
        on_cpu.prepare_fresh(0);
        assert_eq!(on_cpu.devices[0].count_starting(), 0);
    }

    #[test]
    fn a_candidate_of_a_search_leaves_its_worker_to_the_next_one_and_a_reported_kernel_does_not() {
        let judge = |in_search: bool| {
            judge_request(Rivals {
                incumbents: in_search.then(Incumbents::default),
                ..Rivals::default()
            })
        };
        let duel_for = |purpose| WorkerRequest::Duel {
            challenger: String::new(),
            incumbent: String::new(),
            purpose,
        };
        let duel = WorkerResponse::Duel {
            duel: Some(Duel {
                ratio: 1.0,
                ci95: [0.9, 1.1],
            }),
            device_seconds: 0.1,
        };
        let failed_duel = WorkerResponse::Duel {
            duel: None,
            device_seconds: 0.1,
        };
        let search = judge(true);
        for status in [Status::Passed, Status::WrongOutput] {
            assert!(may_serve_again(1, &search, &judged(status)));
            assert!(!may_serve_again(MAX_SERVED, &search, &judged(status)));
        }
        for status in [Status::OutOfBounds, Status::Stateful, Status::TimedOut] {
            assert!(!may_serve_again(1, &search, &judged(status)));
        }
        assert!(!may_serve_again(1, &judge(false), &judged(Status::Passed)));
        assert!(may_serve_again(1, &duel_for(DuelPurpose::Search), &duel));
        assert!(!may_serve_again(1, &duel_for(DuelPurpose::Report), &duel));
        assert!(!may_serve_again(
            1,
            &duel_for(DuelPurpose::Search),
            &failed_duel
        ));
    }

    #[tokio::test]
    async fn no_working_gpu_is_an_environment_failure() {
        let dispatcher = dispatcher(&["GPU-a", "GPU-b"]);
        for device in &dispatcher.devices {
            device.quarantine(&anyhow::anyhow!("it fell off the bus"));
        }
        let error = dispatcher
            .request(&judge_request(Rivals::default()), WorkerChoice::default())
            .await
            .unwrap_err();
        let failure = error.downcast_ref::<Failure>().unwrap();
        assert_eq!(failure.kind, FailureKind::Environment);
        assert!(
            failure.message.contains("GPU-b fails")
                && failure.message.contains("it fell off the bus"),
            "{failure}"
        );
    }
}
