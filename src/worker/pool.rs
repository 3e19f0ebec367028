//! The driver's side: worker processes of one task, started on demand, kept while idle, killed as a group.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::task::JoinSet;

use super::child::{Worker, WorkerDied};
use super::confirm::ConfirmationRuns;
use super::device_workers::{ActiveRequest, DeviceWorkers};
use super::profiling::{Profiler, Profiling};
use super::protocol::{Greeting, PROTOCOL_VERSION, WorkerRequest, WorkerResponse};
use super::{Evaluator, EvaluatorFactory, Job, JobFuture, JobKind, JobOutcome};
use crate::base::Failure;
use crate::device::Cache;
use crate::eval;
use crate::task::{Task, TaskFiles};
use crate::verdict::{DeviceIdentity, SelfTest, Status, Verdict};

/// How many times its timing budget a confirmation may take, and how many times as precise it wants to be: it is the number
/// that is reported, and there are few.
const CONFIRMATION_FACTOR: f64 = 3.0;
/// In how many fresh processes a kernel is confirmed on a GPU, where a process is the largest source of chance.
const CONFIRMING_PROCESSES: usize = 5;
/// How often a request is made whose worker dies.
const MAX_ATTEMPTS: u32 = 2;
/// How often a worker is started on a card before the card is taken for broken, and what the card is given to recover in between.
const MAX_STARTS: u32 = 3;
const START_PAUSE: Duration = Duration::from_secs(2);
/// On how many cards a kernel may be the last that ran there: what more than one does not survive is the kernel's doing.
const MAX_BROKEN_DEVICES: usize = 2;
/// How long a worker may take to leave.
const EXIT_WAIT: Duration = Duration::from_secs(5);

/// Judges one task in child processes of this same program.
pub(crate) struct WorkerPool {
    state: Arc<PoolState>,
}

/// Where and how the kernels of a task are judged.
#[derive(Clone, Debug)]
pub(crate) struct PoolOptions {
    pub files: TaskFiles,
    pub options: eval::JudgeOptions,
    /// How many workloads are timed.
    pub workloads: usize,
    /// The GPUs that judge; none: this machine's processor does.
    pub gpus: Vec<DeviceIdentity>,
    /// Whether kernels run on the processor before they cost time on a GPU.
    pub screen: bool,
    /// What is looked at once a kernel has passed.
    pub profiling: Profiling,
}

struct PoolState {
    profiler: Profiler,
    /// For the first worker of every device.
    first_greeting: String,
    greeting: String,
    /// For the fresh processes that confirm. On a card every process is fresh, and they are the same.
    confirming_greeting: String,
    deadline: Duration,
    devices: Vec<DeviceWorkers>,
}

impl WorkerPool {
    pub(crate) fn new(order: PoolOptions) -> anyhow::Result<Self> {
        let PoolOptions {
            files,
            options,
            workloads,
            gpus: cards,
            screen,
            profiling: looks,
        } = order;
        let looker = Profiler::new(files.clone(), &options, looks);
        // Far beyond any honest judgement: what takes longer is broken machinery, not a slow kernel, which has its own deadline.
        let deadline = Duration::from_secs_f64(
            180.0
                + 20.0 * CONFIRMATION_FACTOR * options.profile.seconds * workloads as f64
                + 10.0 * options.launch_seconds,
        );
        let mut hello = Greeting {
            version: PROTOCOL_VERSION,
            files,
            options,
            on_card: !cards.is_empty(),
            screen: screen && !cards.is_empty(),
            brief: false,
        };
        let starting = serde_json::to_string(&hello)?;
        hello.brief = !cards.is_empty();
        let judging = serde_json::to_string(&hello)?;
        if cards.is_empty() {
            hello.options.profile.seconds *= CONFIRMATION_FACTOR;
            hello.options.profile.precision /= CONFIRMATION_FACTOR;
            hello.options.thorough = true;
        }
        let cards = match cards.is_empty() {
            true => vec![None],
            false => cards.into_iter().map(Some).collect(),
        };
        Ok(Self {
            state: Arc::new(PoolState {
                profiler: looker,
                first_greeting: starting,
                greeting: judging,
                confirming_greeting: serde_json::to_string(&hello)?,
                deadline,
                devices: cards.into_iter().map(DeviceWorkers::new).collect(),
            }),
        })
    }

    /// Starts the first workers, on all devices at once: shows that the oracle and the baseline work, and which device judges. A
    /// card on which they do not is left out where there is another.
    pub(crate) async fn start(&self) -> anyhow::Result<DeviceIdentity> {
        let mut starting = JoinSet::new();
        for index in 0..self.state.devices.len() {
            let inner = Arc::clone(&self.state);
            starting.spawn(async move {
                let place = &inner.devices[index];
                let started = inner.start_worker(place, &inner.first_greeting).await;
                (
                    index,
                    started.map(|worker| {
                        let identity = worker.identity.clone();
                        place.put_back(worker);
                        identity
                    }),
                )
            });
        }
        let mut started = starting.join_all().await;
        started.sort_by_key(|(index, _)| *index);
        let (mut first, mut failures) = (None, Vec::new());
        for (index, outcome) in started {
            match outcome {
                Ok(identity) => {
                    first.get_or_insert(identity);
                }
                Err(error) => failures.push((index, error)),
            }
        }
        let Some(identity) = first else {
            let failure = failures.into_iter().next().map(|(_, error)| error);
            return Err(failure.context("a pool without a device")?);
        };
        for (index, error) in failures {
            let place = &self.state.devices[index];
            place.quarantine(&error);
        }
        Ok(identity)
    }

    /// Judges one kernel. `seed` repeats an earlier judgement.
    pub(crate) async fn judge(
        &self,
        name: &str,
        source: &str,
        seed: Option<u64>,
    ) -> anyhow::Result<Box<Verdict>> {
        let request = WorkerRequest::Judge {
            name: name.to_owned(),
            source: source.to_owned(),
            seed,
        };
        self.judge_with_retry(&request, false).await
    }

    /// Looks at a kernel that has passed as the order says: what is found goes into its verdict. The profiler's own report.
    pub(crate) async fn profile(&self, verdict: &mut Verdict, source: &str) -> Option<Vec<u8>> {
        self.state.profiler.run(verdict, source).await
    }

    async fn evaluate(&self, job: Job) -> anyhow::Result<JobOutcome> {
        let name = format!("step {}", job.step);
        let confirms = matches!(job.kind, JobKind::Confirm);
        let source = job.source.to_string();
        let looked_at = Arc::clone(&job.source);
        let request = match job.kind {
            JobKind::Judge | JobKind::Confirm => WorkerRequest::Judge {
                name,
                source,
                seed: None,
            },
            JobKind::Duel { against } => {
                let request = WorkerRequest::Duel {
                    challenger: source,
                    incumbent: against.to_string(),
                };
                return match Arc::clone(&self.state)
                    .request(&request, false, None)
                    .await?
                {
                    (WorkerResponse::Duel(duel), _) => Ok(JobOutcome::Duel(duel)),
                    _ => bail!("a worker answered with something else than was asked for"),
                };
            }
        };
        let mut report = None;
        let mut verdict;
        if confirms {
            let processes = match self.state.on_gpus() {
                true => CONFIRMING_PROCESSES,
                false => 1,
            };
            let mut confirmation = ConfirmationRuns::new(processes);
            while confirmation.needs_another() {
                confirmation.add(*self.judge_with_retry(&request, true).await?);
            }
            verdict = Box::new(
                confirmation
                    .into_verdict()
                    .context("nothing was confirmed")?,
            );
            report = self.profile(&mut verdict, &looked_at).await;
        } else {
            verdict = self.judge_with_retry(&request, false).await?;
        }
        let log = verdict
            .evidence
            .as_ref()
            .and_then(|evidence| evidence.log.clone());
        Ok(JobOutcome::Verdict {
            compile_log: log.unwrap_or_default(),
            report,
            verdict,
        })
    }

    /// A verdict, asked for again where it or the worker's end may be the device's fault.
    async fn judge_with_retry(
        &self,
        request: &WorkerRequest,
        fresh: bool,
    ) -> anyhow::Result<Box<Verdict>> {
        let mut broken = 0;
        let (mut verdict, index) = loop {
            let (verdict, index) = self.judge_once(request, fresh, None).await?;
            if !self.state.on_gpus() || !may_be_device_fault(&verdict) {
                return Ok(verdict);
            }
            // A fresh worker shows first that its device still does what the baseline wants of it.
            let place = &self.state.devices[index];
            match self
                .state
                .start_with_retries(place, &self.state.greeting)
                .await
            {
                Ok(worker) => {
                    place.put_back(worker);
                    break (verdict, index);
                }
                // What a broken device said of a kernel is worth nothing, unless it was the kernel that broke it.
                Err(_) => {
                    broken += 1;
                    if broken == MAX_BROKEN_DEVICES {
                        return Ok(verdict);
                    }
                }
            }
        };
        // On the same inputs and hidden shapes: one that only some of them make fail would seem to fail by chance.
        let repeated = request.with_seed(verdict.seeds.first().copied());
        let (again, _) = self.judge_once(&repeated, fresh, Some(index)).await?;
        if !may_be_device_fault(&again) {
            let reason = verdict.reason.take().unwrap_or_default();
            verdict.status = Status::Nondeterministic;
            verdict.reason = Some(format!(
                "it failed ({reason}), and in a fresh process on the same device did not: {}",
                again.reason.as_deref().unwrap_or("it passed")
            ));
        }
        Ok(verdict)
    }

    /// `wanted`: on which of the devices, as long as that works.
    async fn judge_once(
        &self,
        request: &WorkerRequest,
        fresh: bool,
        wanted: Option<usize>,
    ) -> anyhow::Result<(Box<Verdict>, usize)> {
        let mut attempt = 1;
        loop {
            match Arc::clone(&self.state)
                .request(request, fresh, wanted)
                .await
            {
                Ok((WorkerResponse::Verdict(verdict), place)) => return Ok((verdict, place)),
                Ok(_) => bail!("a worker gave no verdict"),
                Err(error) if error.is::<WorkerDied>() && attempt < MAX_ATTEMPTS => {
                    tracing::warn!("{error:#}: another one judges");
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl PoolState {
    fn on_gpus(&self) -> bool {
        self.devices.iter().any(|place| place.gpu.is_some())
    }

    /// The device that is wanted if it is in use, else the one with the least to do.
    fn choose_device(&self, wanted: Option<usize>) -> Option<usize> {
        let is_usable = |index: &usize| !self.devices[*index].is_quarantined();
        let busy = |index: &usize| self.devices[*index].active_requests.load(Ordering::Relaxed);
        wanted.filter(is_usable).or_else(|| {
            let usable = (0..self.devices.len()).filter(is_usable);
            usable.min_by_key(busy)
        })
    }

    /// A worker for one request, and the device that it is on. Where none can be made ready on one card, another one is tried.
    async fn obtain_worker(
        &self,
        confirms: bool,
        wanted: Option<usize>,
    ) -> anyhow::Result<(usize, ActiveRequest<'_>, Worker)> {
        let hello = match confirms {
            true => &self.confirming_greeting,
            false => &self.greeting,
        };
        while let Some(index) = self.choose_device(wanted) {
            let place = &self.devices[index];
            let busy = ActiveRequest::start(&place.active_requests);
            let kept = match confirms && place.gpu.is_none() {
                true => None,
                false => place.take_idle(),
            };
            match kept {
                Some(worker) => return Ok((index, busy, worker)),
                None => match self.start_with_retries(place, hello).await {
                    Ok(worker) => return Ok((index, busy, worker)),
                    Err(error) if !place.is_quarantined() => return Err(error),
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
            "no GPU is left that works: {}",
            last.unwrap_or_default()
        ))
        .hint("`nvidia-smi` and `kforge doctor` say what is there; nothing that was judged is lost")
        .into())
    }

    /// A new worker on a device. A card on which none can be made ready, though oracle and baseline have worked there, is not used
    /// any more; one that is only busy, or not yet rid of what a worker left, has time for that.
    async fn start_with_retries(
        &self,
        place: &DeviceWorkers,
        hello: &str,
    ) -> anyhow::Result<Worker> {
        let mut starts = 1;
        loop {
            match self.start_worker(place, hello).await {
                Ok(worker) => return Ok(worker),
                Err(error) if place.gpu.is_none() || !place.is_proven.load(Ordering::Relaxed) => {
                    return Err(error);
                }
                Err(error) if starts < MAX_STARTS && !place.is_quarantined() => {
                    tracing::warn!(
                        "{}: no worker could be made ready: {error:#}",
                        place.describe()
                    );
                    tokio::time::sleep(START_PAUSE).await;
                    starts += 1;
                }
                Err(error) => {
                    place.quarantine(&error);
                    return Err(error);
                }
            }
        }
    }

    /// One request to one worker; the answer, and where it was given. A worker that fails to answer is killed.
    async fn request(
        self: Arc<Self>,
        request: &WorkerRequest,
        confirms: bool,
        wanted: Option<usize>,
    ) -> anyhow::Result<(WorkerResponse, usize)> {
        let (index, _busy, mut worker) = self.obtain_worker(confirms, wanted).await?;
        let place = &self.devices[index];
        let line = serde_json::to_string(request)?;
        let Ok(response) = tokio::time::timeout(self.deadline, worker.exchange(&line)).await else {
            bail!(
                "a worker gave no answer within {:.0} s",
                self.deadline.as_secs_f64()
            );
        };
        let response = response?;
        if place.gpu.is_some() {
            // Its memory is back once it is gone. The next one is made ready while others are judged.
            let _ = tokio::time::timeout(EXIT_WAIT, worker.child.wait()).await;
            drop(worker);
            let inner = Arc::clone(&self);
            tokio::spawn(async move {
                let place = &inner.devices[index];
                if let Ok(worker) = inner.start_worker(place, &inner.greeting).await {
                    place.put_back(worker);
                }
            });
        } else if !confirms {
            place.put_back(worker);
        }
        match response {
            WorkerResponse::Failure(failure) => Err(failure.into_error()),
            response => Ok((response, index)),
        }
    }

    async fn start_worker(&self, place: &DeviceWorkers, hello: &str) -> anyhow::Result<Worker> {
        let card = place.gpu.as_ref().and_then(|card| card.uuid.as_deref());
        let worker = Worker::start(card, hello, self.deadline).await?;
        place.is_proven.store(true, Ordering::Relaxed);
        Ok(worker)
    }
}

/// What a device that is out of order could also show. What the screen has found was not found there.
fn may_be_device_fault(verdict: &Verdict) -> bool {
    let faults = matches!(
        verdict.status,
        Status::OutOfBounds
            | Status::Misaligned
            | Status::Crashed
            | Status::TimedOut
            | Status::SyncError
    );
    faults && verdict.screen.as_deref() != Some("found")
}

/// Makes a pool for each task: every task of a run is judged by the same options, its own profile aside.
pub(crate) struct WorkerPools {
    /// The GPUs that judge; none: this machine's processor does.
    pub gpus: Vec<DeviceIdentity>,
    pub cache: Cache,
    /// Whether kernels run on the processor before they cost time on a GPU.
    pub screen: bool,
    /// What is looked at once a kernel was confirmed.
    pub profiling: Profiling,
    /// The files of the tasks, by the task's name.
    pub files: HashMap<String, TaskFiles>,
    /// The profile's name: `quick` or `full`.
    pub profile: String,
    pub launch_seconds: f64,
}

impl EvaluatorFactory for WorkerPools {
    fn open(&self, task: Arc<Task>) -> JobFuture<'_, Arc<dyn Evaluator>> {
        Box::pin(async move {
            let files = self
                .files
                .get(&task.name)
                .with_context(|| format!("task `{}` came without its files", task.name))?;
            let profile = task.settings.profiles.get(&self.profile).with_context(|| {
                format!("task `{}` has no profile `{}`", task.name, self.profile)
            })?;
            let options = eval::JudgeOptions {
                profile: profile.clone(),
                launch_seconds: self.launch_seconds,
                thorough: false,
                cache: self.cache,
            };
            let pool = WorkerPool::new(PoolOptions {
                files: files.clone(),
                options,
                workloads: task.selected_workloads(profile).len(),
                gpus: self.gpus.clone(),
                screen: self.screen,
                profiling: self.profiling,
            })?;
            pool.start().await?;
            Ok(Arc::new(pool) as Arc<dyn Evaluator>)
        })
    }
}

impl Evaluator for WorkerPool {
    fn evaluate(&self, job: Job) -> JobFuture<'_, JobOutcome> {
        Box::pin(self.evaluate(job))
    }

    fn self_test(&self) -> JobFuture<'_, Vec<SelfTest>> {
        Box::pin(async {
            // On a CPU both arms begin anew every other block, and every verdict's interval says what that costs.
            if !self.state.on_gpus() {
                return Ok(Vec::new());
            }
            match Arc::clone(&self.state)
                .request(&WorkerRequest::SelfTest, false, None)
                .await?
            {
                (WorkerResponse::SelfTest(tests), _) => Ok(tests),
                _ => bail!("a worker answered with something else than was asked for"),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::FailureKind;

    /// Of cards that are nowhere.
    fn pool(cards: &[&str]) -> WorkerPool {
        let files = TaskFiles::find("softmax").unwrap();
        let card = |uuid: &&str| DeviceIdentity {
            uuid: Some((*uuid).to_owned()),
            ..DeviceIdentity::default()
        };
        WorkerPool::new(PoolOptions {
            options: eval::JudgeOptions {
                profile: files.load().unwrap().settings.profiles["quick"].clone(),
                launch_seconds: 1.0,
                thorough: false,
                cache: Cache::Cold,
            },
            files,
            workloads: 1,
            gpus: cards.iter().map(card).collect(),
            screen: false,
            profiling: Profiling::default(),
        })
        .unwrap()
    }

    #[test]
    fn least_busy_working_gpu_is_chosen() {
        let pool = pool(&["GPU-a", "GPU-b", "GPU-c"]);
        let places = &pool.state.devices;
        let (_one, _two) = (
            ActiveRequest::start(&places[0].active_requests),
            ActiveRequest::start(&places[0].active_requests),
        );
        let three = ActiveRequest::start(&places[1].active_requests);
        assert_eq!(pool.state.choose_device(None), Some(2));
        assert_eq!(pool.state.choose_device(Some(0)), Some(0));
        places[2].quarantine(&anyhow::anyhow!("it fell off"));
        places[0].quarantine(&anyhow::anyhow!("so did this"));
        drop(three);
        assert_eq!(pool.state.choose_device(Some(0)), Some(1));
    }

    #[tokio::test]
    async fn no_working_gpu_is_an_environment_failure() {
        let pool = pool(&["GPU-a", "GPU-b"]);
        for place in &pool.state.devices {
            place.quarantine(&anyhow::anyhow!("it fell off"));
        }
        let error = pool.judge("k.cu", "", None).await.unwrap_err();
        let failure = error.downcast_ref::<Failure>().unwrap();
        assert_eq!(failure.kind, FailureKind::Environment);
        assert!(
            failure.message.contains("GPU-b fails") && failure.message.contains("it fell off"),
            "{failure}"
        );
    }
}
