//! The driver's side: worker processes of one task, started on demand, kept while idle, killed as a group.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::confirm::confirmed;
use super::look::{Looker, Looks};
use super::protocol::{Hello, Request, Response, VERSION};
use super::{Evaluator, EvaluatorFactory, Job, JobKind, Outcome, Work};
use crate::device::Cache;
use crate::eval;
use crate::task::{Task, TaskFiles};
use crate::verdict::{DeviceIdentity, SelfTest, Status, Verdict};

/// The most that a worker may say in one line.
const MAX_LINE: u64 = 16 << 20;

/// How many times its timing budget a confirmation may take, and how many times as precise it wants to be: it is the number
/// that is reported, and there are few.
const CONFIRMATION: f64 = 3.0;
/// In how many fresh processes a kernel is confirmed on a GPU, where a process is the largest source of chance.
const CONFIRMING_PROCESSES: usize = 5;
/// How often a request is made whose worker dies.
const ATTEMPTS: u32 = 2;
/// How long a worker may take to leave.
const LEAVING: Duration = Duration::from_secs(5);

/// Judges one task in child processes of this same program.
pub struct Pool {
    inner: Arc<Inner>,
}

/// Where and how the kernels of a task are judged.
#[derive(Clone, Debug)]
pub struct Order {
    pub files: TaskFiles,
    pub options: eval::Options,
    /// How many workloads are timed.
    pub workloads: usize,
    /// The GPUs that judge; none: this machine's processor does.
    pub cards: Vec<DeviceIdentity>,
    /// Whether kernels run on the processor before they cost time on a GPU.
    pub screen: bool,
    /// What is looked at once a kernel has passed.
    pub looks: Looks,
}

struct Inner {
    looker: Looker,
    /// For the first worker of every device.
    starting: String,
    hello: String,
    /// For the fresh processes that confirm.
    confirming: String,
    deadline: Duration,
    places: Vec<Place>,
}

/// A device with its workers.
struct Place {
    /// `None`: the host's processor.
    card: Option<DeviceIdentity>,
    idle: Mutex<Vec<Worker>>,
    busy: AtomicUsize,
    /// It failed with a kernel that is known to be good.
    quarantined: AtomicBool,
}

struct Worker {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    identity: DeviceIdentity,
}

impl Pool {
    pub fn new(order: Order) -> anyhow::Result<Self> {
        let Order {
            files,
            options,
            workloads,
            cards,
            screen,
            looks,
        } = order;
        let looker = Looker::new(files.clone(), &options, looks);
        // Far beyond any honest judgement: what takes longer is broken machinery, not a slow kernel, which has its own deadline.
        let deadline = Duration::from_secs_f64(
            180.0
                + 20.0 * CONFIRMATION * options.profile.seconds * workloads as f64
                + 10.0 * options.launch_seconds,
        );
        let mut hello = Hello {
            version: VERSION,
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
            hello.options.profile.seconds *= CONFIRMATION;
            hello.options.profile.precision /= CONFIRMATION;
        }
        hello.options.thorough = true;
        let cards = match cards.is_empty() {
            true => vec![None],
            false => cards.into_iter().map(Some).collect(),
        };
        Ok(Self {
            inner: Arc::new(Inner {
                looker,
                starting,
                hello: judging,
                confirming: serde_json::to_string(&hello)?,
                deadline,
                places: cards.into_iter().map(Place::new).collect(),
            }),
        })
    }

    /// Starts the first workers: shows that the oracle and the baseline work, and which device judges.
    pub async fn start(&self) -> anyhow::Result<DeviceIdentity> {
        let mut identity = None;
        for place in &self.inner.places {
            let worker = self.inner.spawn(place, &self.inner.starting).await?;
            identity.get_or_insert_with(|| worker.identity.clone());
            place.keep(worker);
        }
        identity.context("a pool without a device")
    }

    /// Judges one kernel. `seed` repeats an earlier judgement.
    pub async fn judge(
        &self,
        name: &str,
        source: &str,
        seed: Option<u64>,
    ) -> anyhow::Result<Box<Verdict>> {
        let request = Request::Judge {
            name: name.to_owned(),
            source: source.to_owned(),
            seed,
        };
        self.verdict(&request, false).await
    }

    /// Looks at a kernel that has passed as the order says: what is found goes into its verdict. The profiler's own report.
    pub async fn look(&self, verdict: &mut Verdict, source: &str) -> Option<Vec<u8>> {
        self.inner.looker.look(verdict, source).await
    }

    async fn evaluate(&self, job: Job) -> anyhow::Result<Outcome> {
        let name = format!("step {}", job.step);
        let confirms = matches!(job.kind, JobKind::Confirm);
        let source = job.source.to_string();
        let looked_at = Arc::clone(&job.source);
        let request = match job.kind {
            JobKind::Judge | JobKind::Confirm => Request::Judge {
                name,
                source,
                seed: None,
            },
            JobKind::Duel { against } => {
                let request = Request::Duel {
                    challenger: source,
                    incumbent: against.to_string(),
                };
                return match Arc::clone(&self.inner).ask(&request, false).await? {
                    (Response::Duel(duel), _) => Ok(Outcome::Duel(duel)),
                    _ => bail!("a worker answered with something else than was asked for"),
                };
            }
        };
        let mut verdict = self.verdict(&request, confirms).await?;
        let mut report = None;
        if confirms {
            let processes = match self.inner.on_cards() {
                true => CONFIRMING_PROCESSES,
                false => 1,
            };
            let mut verdicts = vec![*verdict];
            while verdicts.len() < processes && verdicts.iter().all(Verdict::passed) {
                verdicts.push(*self.verdict(&request, true).await?);
            }
            verdict = Box::new(confirmed(verdicts));
            report = self.look(&mut verdict, &looked_at).await;
        }
        let log = verdict
            .evidence
            .as_ref()
            .and_then(|evidence| evidence.log.clone());
        Ok(Outcome::Verdict {
            compile_log: log.unwrap_or_default(),
            report,
            verdict,
        })
    }

    /// A verdict, asked for again where it or the worker's end may be the device's fault.
    async fn verdict(&self, request: &Request, fresh: bool) -> anyhow::Result<Box<Verdict>> {
        let (mut verdict, place) = self.one_verdict(request, fresh).await?;
        if self.inner.on_cards() && may_be_the_device(verdict.status) {
            // A fresh worker shows first that its device still does what the baseline wants of it.
            let place = &self.inner.places[place];
            match self.inner.spawn(place, &self.inner.hello).await {
                Ok(worker) => place.keep(worker),
                Err(error) => {
                    place.quarantined.store(true, Ordering::Relaxed);
                    let card = place.card.as_ref();
                    let name = card.and_then(|card| card.uuid.clone()).unwrap_or_default();
                    return Err(error.context(format!(
                        "GPU {name} fails with a kernel that is known to be good: it is not used any more"
                    )));
                }
            }
            // On the same inputs and hidden shapes: one that only some of them make fail would seem to fail by chance.
            let repeated = request.repeating(verdict.seeds.first().copied());
            let (again, _) = self.one_verdict(&repeated, fresh).await?;
            if !may_be_the_device(again.status) {
                let reason = verdict.reason.take().unwrap_or_default();
                verdict.status = Status::Nondeterministic;
                verdict.reason = Some(format!(
                    "it failed ({reason}), and in a fresh process on the same device did not: {}",
                    again.reason.as_deref().unwrap_or("it passed")
                ));
            }
        }
        Ok(verdict)
    }

    async fn one_verdict(
        &self,
        request: &Request,
        fresh: bool,
    ) -> anyhow::Result<(Box<Verdict>, usize)> {
        let mut attempt = 1;
        loop {
            match Arc::clone(&self.inner).ask(request, fresh).await {
                Ok((Response::Verdict(verdict), place)) => return Ok((verdict, place)),
                Ok(_) => bail!("a worker gave no verdict"),
                Err(error) if error.is::<Died>() && attempt < ATTEMPTS => {
                    tracing::warn!("{error:#}: another one judges");
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Inner {
    fn on_cards(&self) -> bool {
        self.places.iter().any(|place| place.card.is_some())
    }

    /// The device with the least to do.
    fn place(&self) -> anyhow::Result<usize> {
        let usable = (self.places.iter().enumerate())
            .filter(|(_, place)| !place.quarantined.load(Ordering::Relaxed));
        let least = usable.min_by_key(|(_, place)| place.busy.load(Ordering::Relaxed));
        let (index, _) = least.context("no device is left that works")?;
        Ok(index)
    }

    /// One request to one worker; the answer, and where it was given. A worker that fails to answer is killed.
    async fn ask(
        self: Arc<Self>,
        request: &Request,
        confirms: bool,
    ) -> anyhow::Result<(Response, usize)> {
        let index = self.place()?;
        let place = &self.places[index];
        let _busy = Busy::on(&place.busy);
        let hello = match confirms {
            true => &self.confirming,
            false => &self.hello,
        };
        // On a card every worker is fresh.
        let kept = match confirms && place.card.is_none() {
            true => None,
            false => place.idle.lock().ok().and_then(|mut idle| idle.pop()),
        };
        let mut worker = match kept {
            Some(worker) => worker,
            None => self.spawn(place, hello).await?,
        };
        let Ok(response) = tokio::time::timeout(self.deadline, worker.ask(request)).await else {
            bail!(
                "a worker gave no answer within {:.0} s",
                self.deadline.as_secs_f64()
            );
        };
        let response = response?;
        if place.card.is_some() {
            // Its memory is back once it is gone. The next one is made ready while others are judged.
            let _ = tokio::time::timeout(LEAVING, worker.child.wait()).await;
            drop(worker);
            let inner = Arc::clone(&self);
            tokio::spawn(async move {
                let place = &inner.places[index];
                if let Ok(worker) = inner.spawn(place, &inner.hello).await {
                    place.keep(worker);
                }
            });
        } else if !confirms {
            place.keep(worker);
        }
        match response {
            Response::Failure(failure) => Err(failure.into_error()),
            response => Ok((response, index)),
        }
    }

    async fn spawn(&self, place: &Place, hello: &str) -> anyhow::Result<Worker> {
        let program =
            std::env::current_exe().context("failed to find kforge's own program file")?;
        let mut command = Command::new(&program);
        command
            .arg("__worker")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        // Nothing below ever needs a model's key.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().ends_with("_API_KEY") {
                command.env_remove(name);
            }
        }
        if let Some(uuid) = place.card.as_ref().and_then(|card| card.uuid.as_ref()) {
            command.env("CUDA_VISIBLE_DEVICES", uuid);
        }
        command.process_group(0).kill_on_drop(true);
        let mut child = command
            .spawn()
            .with_context(|| format!("failed to start a worker from `{}`", program.display()))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("a worker started without its pipes");
        };
        let mut worker = Worker {
            child,
            input,
            output: BufReader::new(output),
            identity: DeviceIdentity::default(),
        };
        worker.send(hello).await?;
        match tokio::time::timeout(self.deadline, worker.receive()).await {
            Ok(Ok(Response::Ready(identity))) => worker.identity = identity,
            Ok(Ok(Response::Failure(failure))) => return Err(failure.into_error()),
            Ok(Ok(_)) => bail!("a worker did not greet back"),
            Ok(Err(error)) => return Err(error),
            Err(_) => bail!(
                "a worker was not ready within {:.0} s",
                self.deadline.as_secs_f64()
            ),
        }
        Ok(worker)
    }
}

impl Place {
    fn new(card: Option<DeviceIdentity>) -> Self {
        Self {
            card,
            idle: Mutex::default(),
            busy: AtomicUsize::new(0),
            quarantined: AtomicBool::new(false),
        }
    }

    fn keep(&self, worker: Worker) {
        if let Ok(mut idle) = self.idle.lock() {
            idle.push(worker);
        }
    }
}

/// Counts one request for as long as it lives.
struct Busy<'a>(&'a AtomicUsize);

impl<'a> Busy<'a> {
    fn on(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A worker's end without an answer.
#[derive(Debug, thiserror::Error)]
#[error("a worker ended without an answer: {0}")]
struct Died(std::process::ExitStatus);

/// What a device that is out of order could also show.
fn may_be_the_device(status: Status) -> bool {
    matches!(
        status,
        Status::OutOfBounds
            | Status::Misaligned
            | Status::Crashed
            | Status::TimedOut
            | Status::SyncError
    )
}

/// Makes a pool for each task: every task of a run is judged by the same options, its own profile aside.
pub struct Pools {
    /// The GPUs that judge; none: this machine's processor does.
    pub cards: Vec<DeviceIdentity>,
    pub cache: Cache,
    /// Whether kernels run on the processor before they cost time on a GPU.
    pub screen: bool,
    /// What is looked at once a kernel was confirmed.
    pub looks: Looks,
    /// The files of the tasks, by the task's name.
    pub files: HashMap<String, TaskFiles>,
    /// The profile's name: `quick` or `full`.
    pub profile: String,
    pub launch_seconds: f64,
}

impl EvaluatorFactory for Pools {
    fn open(&self, task: Arc<Task>) -> Work<'_, Arc<dyn Evaluator>> {
        Box::pin(async move {
            let files = self
                .files
                .get(&task.name)
                .with_context(|| format!("task `{}` came without its files", task.name))?;
            let profile = task.settings.profiles.get(&self.profile).with_context(|| {
                format!("task `{}` has no profile `{}`", task.name, self.profile)
            })?;
            let options = eval::Options {
                profile: profile.clone(),
                launch_seconds: self.launch_seconds,
                thorough: false,
                cache: self.cache,
            };
            let pool = Pool::new(Order {
                files: files.clone(),
                options,
                workloads: task.selected(profile).len(),
                cards: self.cards.clone(),
                screen: self.screen,
                looks: self.looks,
            })?;
            pool.start().await?;
            Ok(Arc::new(pool) as Arc<dyn Evaluator>)
        })
    }
}

impl Evaluator for Pool {
    fn evaluate(&self, job: Job) -> Work<'_, Outcome> {
        Box::pin(self.evaluate(job))
    }

    fn self_test(&self) -> Work<'_, Vec<SelfTest>> {
        Box::pin(async {
            // On a CPU both arms begin anew every other block, and every verdict's interval says what that costs.
            if !self.inner.on_cards() {
                return Ok(Vec::new());
            }
            match Arc::clone(&self.inner)
                .ask(&Request::SelfTest, false)
                .await?
            {
                (Response::SelfTest(tests), _) => Ok(tests),
                _ => bail!("a worker answered with something else than was asked for"),
            }
        })
    }
}

impl Worker {
    async fn ask(&mut self, request: &Request) -> anyhow::Result<Response> {
        self.send(&serde_json::to_string(request)?).await?;
        self.receive().await
    }

    async fn send(&mut self, line: &str) -> anyhow::Result<()> {
        let written = async {
            self.input.write_all(line.as_bytes()).await?;
            self.input.write_all(b"\n").await?;
            self.input.flush().await
        };
        written.await.context("a worker has closed its pipe")
    }

    async fn receive(&mut self) -> anyhow::Result<Response> {
        let mut line = String::new();
        let read = (&mut self.output)
            .take(MAX_LINE)
            .read_line(&mut line)
            .await
            .context("failed to read from a worker")?;
        if read == 0 {
            let status = self
                .child
                .wait()
                .await
                .context("failed to wait for a worker")?;
            return Err(Died(status).into());
        }
        serde_json::from_str(&line).context("a worker's answer is not understood")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The worker leads its own process group; whatever it started goes with it.
        if let Some(id) = self.child.id().and_then(|id| i32::try_from(id).ok()) {
            // SAFETY: kill has no memory preconditions; the group is that of a child that was not yet waited for.
            unsafe {
                libc::kill(-id, libc::SIGKILL);
            }
        }
    }
}
