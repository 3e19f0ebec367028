//! Judges, duels and confirms kernels of one task in worker processes.
//!
//! Decides when a result must be repeated: because a worker died, because the device may be broken, or because a confirmation needs
//! several fresh processes. `dispatch` owns the workers; `confirm` merges the verdicts of a confirmation.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;

use super::child::WorkerDied;
use super::confirm::{ConfirmationRuns, FreshProcesses, merge_duels};
use super::deadlines::{Deadlines, REMEDY};
use super::dispatch::{Dispatcher, ServedBy, WorkerChoice};
use super::pool_options::PoolOptions;
use super::precompile::{Compilation, Precompiler};
use super::profiling::Profiler;
use super::protocol::{Greeting, PROTOCOL_VERSION, WorkerRequest, WorkerResponse};
use super::strongest::{self, Contenders, Contest, PreparedWorker};
use super::trials::PointTrials;
use super::{Evaluator, Job, JobFuture, JobKind, JobOutcome, WorkerFault};
use crate::eval::{self, DuelPurpose, Judgement, OpponentTimes};
use crate::search::KnownCode;
use crate::verdict::{BaselineTable, DeviceIdentity, SelfTest, Status, Verdict};

/// Attempts of a request whose worker dies.
const MAX_ATTEMPTS: u32 = 2;
/// If this many GPUs fail after the same kernel ran there, the kernel is blamed, not the GPUs.
const MAX_BROKEN_DEVICES: usize = 2;

/// Judges the kernels of one task in worker processes.
pub(crate) struct WorkerPool {
    dispatcher: Arc<Dispatcher>,
    /// `None` if the CPU judges.
    precompiler: Option<Precompiler>,
    profiler: Profiler,
    trials: PointTrials,
    deadlines: Deadlines,
    /// What `kforge baselines` has measured.
    tables: Vec<BaselineTable>,
    /// For workers that time baselines.
    options: PoolOptions,
    /// The worker that prepares the strongest baselines, once it was asked for. Dropping it ends the worker.
    preparation: Mutex<JoinSet<Option<PreparedWorker>>>,
    /// Set when it is needed: what is not prepared by then is compiled when it is timed.
    is_preparation_over: Arc<AtomicBool>,
    /// `None` once the driver has taken it.
    faults: Mutex<Option<UnboundedReceiver<WorkerFault>>>,
}

impl WorkerPool {
    pub(crate) fn new(pool: PoolOptions) -> anyhow::Result<Self> {
        let profiler = Profiler::new(pool.files.clone(), &pool.options, pool.profiling);
        let on_gpu = !pool.gpus.is_empty();
        let arch = pool.gpus.first().map(|gpu| gpu.arch.as_str());
        let precompiler = Precompiler::start(&pool.files, arch);
        let deadlines = Deadlines::new(&pool.options, pool.workloads);
        let trials = PointTrials::new(pool.clone());
        let tables = BaselineTable::read_all(&pool.files.baseline_tables);
        let options = pool.clone();
        let greeting = Greeting {
            version: PROTOCOL_VERSION,
            files: pool.files,
            options: pool.options,
            on_gpu,
            screen: pool.screen && on_gpu,
            baseline_is_proven: false,
            space: None,
        };
        let (sender, faults) = unbounded_channel();
        Ok(Self {
            dispatcher: Arc::new(Dispatcher::new(greeting, pool.gpus, deadlines, sender)?),
            precompiler,
            profiler,
            trials,
            deadlines,
            tables,
            options,
            preparation: Mutex::default(),
            is_preparation_over: Arc::default(),
            faults: Mutex::new(Some(faults)),
        })
    }

    /// Starts the first workers. Returns the device that judges.
    ///
    /// # Errors
    /// If the oracle and the baseline work on no device.
    pub(crate) async fn start(&self) -> anyhow::Result<DeviceIdentity> {
        self.dispatcher.start().await
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
            coverage: eval::Coverage::Part,
            rivals: Box::default(),
            opponents: OpponentTimes::default(),
        };
        let judgement = self.judge_with_retry(&request, false).await?;
        let mut verdict = judgement.into_verdict()?;
        self.add_strongest(&mut verdict);
        Ok(verdict)
    }

    /// Compares a verdict with the strongest baseline of a table.
    fn add_strongest(&self, verdict: &mut Verdict) {
        let mut tables = self.tables.iter();
        verdict.strongest = tables.find_map(|table| table.compare(verdict));
        let mut tables = self.tables.iter();
        verdict.faster_outside = tables.find_map(|table| table.compare_outside(verdict));
    }

    /// Judges a candidate of a search.
    async fn judge_candidate(&self, name: &str, job: &Job) -> anyhow::Result<Judgement> {
        let request = WorkerRequest::Judge {
            name: name.to_owned(),
            source: job.source.to_string(),
            seed: None,
            coverage: eval::Coverage::Part,
            rivals: Box::new(job.rivals.clone()),
            opponents: OpponentTimes::default(),
        };
        self.judge_with_retry(&request, false).await
    }

    /// Runs the NVIDIA tools of the options on a kernel that has passed, and writes the results into its verdict. Returns the
    /// profiler's own report file.
    pub(crate) async fn profile(&self, verdict: &mut Verdict, source: &str) -> Option<Vec<u8>> {
        self.profiler.run(verdict, source).await
    }

    /// Evaluates a kernel within the deadline of its evaluation. Profiling comes after it and has limits of its own.
    async fn evaluate(&self, job: Job) -> anyhow::Result<JobOutcome> {
        let processes = FreshProcesses::usual(!self.dispatcher.on_gpus());
        let processes = u32::try_from(processes).unwrap_or(u32::MAX);
        let limit = self.deadlines.evaluation(&job.kind, processes);
        let Ok(outcome) = tokio::time::timeout(limit, self.run_job(&job)).await else {
            bail!(
                "an evaluation took more than {} s; {REMEDY}",
                limit.as_secs()
            );
        };
        let mut outcome = outcome?;
        if matches!(job.kind, JobKind::Confirm)
            && let JobOutcome::Verdict {
                verdict, report, ..
            } = &mut outcome
        {
            *report = self.profile(verdict, &job.source).await;
        }
        Ok(outcome)
    }

    async fn run_job(&self, job: &Job) -> anyhow::Result<JobOutcome> {
        let name = format!("step {}", job.step);
        let verdict = match &job.kind {
            JobKind::Duel { against } => {
                let choice = WorkerChoice::default();
                let purpose = DuelPurpose::Search;
                return self.duel(&job.source, against, purpose, choice).await;
            }
            JobKind::Try { others } => {
                let mut sources = vec![Arc::clone(&job.source)];
                sources.extend(others.iter().cloned());
                let outcome = (self.trials).try_all(&sources, self.precompiler.as_ref());
                return Ok(JobOutcome::Tried(outcome.await?));
            }
            JobKind::Compare { against } => {
                return self.compare(&job.source, against, job.limit).await;
            }
            JobKind::CompareStrongest(contenders) => {
                let contest = Contest {
                    pool: self.options.clone(),
                    kernel: (&name, &job.source),
                    contenders,
                    prepared: self.take_prepared().await,
                };
                let outcome = contest.run(job.limit).await?;
                return Ok(JobOutcome::Strongest(Box::new(outcome)));
            }
            JobKind::Judge => match self.judge_candidate(&name, job).await? {
                Judgement::Verdict(verdict) => verdict,
                Judgement::SameCode {
                    known: KnownCode { code, step },
                    device_seconds,
                } => {
                    return Ok(JobOutcome::SameCode {
                        of: step,
                        code,
                        device_seconds,
                    });
                }
            },
            JobKind::Confirm => Box::new(self.confirm(&name, &job.source, job.limit).await?),
        };
        let mut verdict = verdict;
        self.add_strongest(&mut verdict);
        let log = verdict
            .evidence
            .as_ref()
            .and_then(|evidence| evidence.log.clone());
        Ok(JobOutcome::Verdict {
            compile_log: log.unwrap_or_default(),
            report: None,
            verdict,
        })
    }

    /// The prepared worker, once it is ready. `None` if there is none, or it has failed.
    async fn take_prepared(&self) -> Option<PreparedWorker> {
        let mut preparation = match self.preparation.lock() {
            Ok(mut preparation) => std::mem::take(&mut *preparation),
            Err(_) => return None,
        };
        self.is_preparation_over.store(true, Ordering::Relaxed);
        preparation.join_next().await?.ok()?
    }

    async fn duel(
        &self,
        challenger: &str,
        incumbent: &str,
        purpose: DuelPurpose,
        choice: WorkerChoice,
    ) -> anyhow::Result<JobOutcome> {
        let request = WorkerRequest::Duel {
            challenger: challenger.to_owned(),
            incumbent: incumbent.to_owned(),
            purpose,
        };
        match Arc::clone(&self.dispatcher)
            .request(&request, choice)
            .await?
        {
            (
                WorkerResponse::Duel {
                    duel,
                    device_seconds,
                },
                _,
            ) => Ok(JobOutcome::Duel {
                duel,
                device_seconds,
            }),
            _ => bail!("a worker's response to `duel` has the wrong type"),
        }
    }

    /// Times two kernels against each other in as many fresh processes as a confirmation has, or as the time allows. Has no result if
    /// one of the processes has none.
    async fn compare(
        &self,
        challenger: &str,
        incumbent: &str,
        limit: Option<Duration>,
    ) -> anyhow::Result<JobOutcome> {
        let choice = WorkerChoice {
            confirming: true,
            device: None,
        };
        let processes = FreshProcesses::new(!self.dispatcher.on_gpus(), limit);
        let (mut duels, mut seconds) = (Vec::new(), 0.0);
        let mut last = Duration::ZERO;
        while duels.len() < processes.wanted && (duels.is_empty() || processes.has_time_for(last)) {
            let started = Instant::now();
            let outcome = self
                .duel(challenger, incumbent, DuelPurpose::Report, choice)
                .await?;
            last = started.elapsed();
            if let JobOutcome::Duel {
                duel,
                device_seconds,
            } = outcome
            {
                seconds += device_seconds;
                let Some(duel) = duel else {
                    duels.clear();
                    break;
                };
                duels.push(duel);
            }
        }
        Ok(JobOutcome::Duel {
            duel: merge_duels(&duels),
            device_seconds: seconds,
        })
    }

    /// Judges a kernel in several fresh processes with new seeds, in fewer if the time is short.
    async fn confirm(
        &self,
        name: &str,
        source: &str,
        limit: Option<Duration>,
    ) -> anyhow::Result<Verdict> {
        let processes = FreshProcesses::new(!self.dispatcher.on_gpus(), limit);
        let mut runs = ConfirmationRuns::new(processes);
        while runs.needs_another() {
            let request = WorkerRequest::Judge {
                name: name.to_owned(),
                source: source.to_owned(),
                seed: None,
                coverage: runs.next_coverage(),
                rivals: Box::default(),
                opponents: OpponentTimes::default(),
            };
            let started = Instant::now();
            let judgement = self.judge_with_retry(&request, true).await?;
            runs.add(*judgement.into_verdict()?, started.elapsed());
        }
        runs.into_verdict().context("a confirmation ran no process")
    }

    /// Judges a kernel, and judges it again if a broken GPU could be the cause of the result.
    async fn judge_with_retry(
        &self,
        request: &WorkerRequest,
        confirming: bool,
    ) -> anyhow::Result<Judgement> {
        let mut broken_devices = 0;
        let (mut verdict, index) = loop {
            let choice = WorkerChoice {
                confirming,
                device: None,
            };
            let (verdict, served) = match self.judge_once(request, choice).await? {
                (Judgement::Verdict(verdict), served) => (verdict, served),
                (same_code, _) => return Ok(same_code),
            };
            if !self.dispatcher.on_gpus() || !may_be_device_fault(&verdict) {
                return Ok(Judgement::Verdict(verdict));
            }
            // A fresh worker checks the baseline, so it shows whether the GPU still works.
            if self.dispatcher.retest_device(served).await.is_ok() {
                break (verdict, served.device);
            }
            // The verdict of a broken GPU means nothing, unless the kernel breaks GPUs.
            broken_devices += 1;
            if broken_devices == MAX_BROKEN_DEVICES {
                return Ok(Judgement::Verdict(verdict));
            }
        };
        // The same seed gives the same inputs and hidden shapes. With others, a fault that only some shapes trigger would look
        // random.
        let repeated = request.with_seed(verdict.seeds.first().copied());
        let choice = WorkerChoice {
            confirming,
            device: Some(index),
        };
        let (again, _) = self.judge_once(&repeated, choice).await?;
        let again = again.into_verdict()?;
        if !may_be_device_fault(&again) {
            let reason = verdict.reason.take().unwrap_or_default();
            verdict.status = Status::Nondeterministic;
            verdict.reason = Some(format!(
                "the kernel failed ({reason}); repeated with the same inputs in a fresh process on the same GPU, it did not fail this way: {}",
                again.reason.as_deref().unwrap_or("it passed")
            ));
        }
        Ok(Judgement::Verdict(verdict))
    }

    fn start_compilation(&self, request: &WorkerRequest) -> Compilation {
        match (&self.precompiler, request) {
            (Some(precompiler), WorkerRequest::Judge { source, .. }) => precompiler.compile(source),
            _ => Compilation::NONE,
        }
    }

    /// Judges a kernel once. Tries another worker if the first one dies. Also returns which device served it.
    async fn judge_once(
        &self,
        request: &WorkerRequest,
        choice: WorkerChoice,
    ) -> anyhow::Result<(Judgement, ServedBy)> {
        let mut attempt = 1;
        loop {
            let dispatcher = Arc::clone(&self.dispatcher);
            let compilation = self.start_compilation(request);
            match dispatcher.request_after(compilation, request, choice).await {
                Ok((WorkerResponse::Judged(judged), served)) => {
                    return Ok((judged.judgement, served));
                }
                Ok(_) => bail!("a worker's response to `judge` has the wrong type"),
                Err(error) if error.is::<WorkerDied>() && attempt < MAX_ATTEMPTS => {
                    tracing::warn!("{error:#}; trying another worker");
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Evaluator for WorkerPool {
    fn evaluate(&self, job: Job) -> JobFuture<'_, JobOutcome> {
        Box::pin(self.evaluate(job))
    }

    /// On a CPU nothing else may run while a kernel is timed, so preparing would take time from the search.
    fn prepare_strongest(&self, contenders: Arc<Contenders>) {
        let Ok(mut preparation) = self.preparation.lock() else {
            return;
        };
        if !self.dispatcher.on_gpus() || !preparation.is_empty() {
            return;
        }
        let pool = self.options.clone();
        let is_over = Arc::clone(&self.is_preparation_over);
        preparation.spawn(async move {
            strongest::prepare(pool, &contenders, &is_over)
                .await
                .unwrap_or_else(|error| {
                    tracing::info!("baselines are compiled at the end of the run: {error:#}");
                    None
                })
        });
    }

    fn worker_faults(&self) -> Option<UnboundedReceiver<WorkerFault>> {
        self.faults.lock().ok()?.take()
    }

    fn self_test(&self) -> JobFuture<'_, Vec<SelfTest>> {
        Box::pin(async {
            // Not needed on a CPU: both kernels get fresh processes during a measurement, so every interval includes process noise.
            if !self.dispatcher.on_gpus() {
                return Ok(Vec::new());
            }
            let dispatcher = Arc::clone(&self.dispatcher);
            let request = dispatcher.request(&WorkerRequest::SelfTest, WorkerChoice::default());
            match request.await? {
                (WorkerResponse::SelfTest(tests), _) => Ok(tests),
                _ => bail!("a worker's response to `self_test` has the wrong type"),
            }
        })
    }
}

/// Whether a broken GPU could be the cause of this verdict. A finding of the CPU screen is not from the GPU.
fn may_be_device_fault(verdict: &Verdict) -> bool {
    let is_fault = matches!(
        verdict.status,
        Status::OutOfBounds
            | Status::Misaligned
            | Status::Crashed
            | Status::TimedOut
            | Status::SyncError
    );
    is_fault && verdict.screen.as_deref() != Some("found")
}
