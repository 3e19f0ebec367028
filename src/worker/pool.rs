//! The driver's side: worker processes of one task, started on demand, kept while idle, killed as a group.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::task::JoinSet;

use super::child::{Died, Worker};
use super::confirm::Confirmation;
use super::look::{Looker, Looks};
use super::place::{Busy, Place};
use super::protocol::{Hello, Request, Response, VERSION};
use super::{Evaluator, EvaluatorFactory, Job, JobKind, Outcome, Work};
use crate::base::Failure;
use crate::device::Cache;
use crate::eval;
use crate::task::{Task, TaskFiles};
use crate::verdict::{DeviceIdentity, SelfTest, Status, Verdict};

/// How many times its timing budget a confirmation may take, and how many times as precise it wants to be: it is the number
/// that is reported, and there are few.
const CONFIRMATION: f64 = 3.0;
/// In how many fresh processes a kernel is confirmed on a GPU, where a process is the largest source of chance.
const CONFIRMING_PROCESSES: usize = 5;
/// How often a request is made whose worker dies.
const ATTEMPTS: u32 = 2;
/// How often a worker is started on a card before the card is taken for broken, and what the card is given to recover in between.
const STARTS: u32 = 3;
const REST: Duration = Duration::from_secs(2);
/// On how many cards a kernel may be the last that ran there: what more than one does not survive is the kernel's doing.
const LAST_ON: usize = 2;
/// How long a worker may take to leave.
const LEAVING: Duration = Duration::from_secs(5);

/// Judges one task in child processes of this same program.
pub(crate) struct Pool {
    inner: Arc<Inner>,
}

/// Where and how the kernels of a task are judged.
#[derive(Clone, Debug)]
pub(crate) struct Order {
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
    /// For the fresh processes that confirm. On a card every process is fresh, and they are the same.
    confirming: String,
    deadline: Duration,
    places: Vec<Place>,
}

impl Pool {
    pub(crate) fn new(order: Order) -> anyhow::Result<Self> {
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
            hello.options.thorough = true;
        }
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

    /// Starts the first workers, on all devices at once: shows that the oracle and the baseline work, and which device judges. A
    /// card on which they do not is left out where there is another.
    pub(crate) async fn start(&self) -> anyhow::Result<DeviceIdentity> {
        let mut starting = JoinSet::new();
        for index in 0..self.inner.places.len() {
            let inner = Arc::clone(&self.inner);
            starting.spawn(async move {
                let place = &inner.places[index];
                let started = inner.spawn(place, &inner.starting).await;
                (
                    index,
                    started.map(|worker| {
                        let identity = worker.identity.clone();
                        place.keep(worker);
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
            let place = &self.inner.places[index];
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
        let request = Request::Judge {
            name: name.to_owned(),
            source: source.to_owned(),
            seed,
        };
        self.verdict(&request, false).await
    }

    /// Looks at a kernel that has passed as the order says: what is found goes into its verdict. The profiler's own report.
    pub(crate) async fn look(&self, verdict: &mut Verdict, source: &str) -> Option<Vec<u8>> {
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
                return match Arc::clone(&self.inner).ask(&request, false, None).await? {
                    (Response::Duel(duel), _) => Ok(Outcome::Duel(duel)),
                    _ => bail!("a worker answered with something else than was asked for"),
                };
            }
        };
        let mut report = None;
        let mut verdict;
        if confirms {
            let processes = match self.inner.on_cards() {
                true => CONFIRMING_PROCESSES,
                false => 1,
            };
            let mut confirmation = Confirmation::new(processes);
            while confirmation.goes_on() {
                confirmation.note(*self.verdict(&request, true).await?);
            }
            verdict = Box::new(confirmation.verdict().context("nothing was confirmed")?);
            report = self.look(&mut verdict, &looked_at).await;
        } else {
            verdict = self.verdict(&request, false).await?;
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
        let mut broken = 0;
        let (mut verdict, index) = loop {
            let (verdict, index) = self.one_verdict(request, fresh, None).await?;
            if !self.inner.on_cards() || !may_be_the_device(&verdict) {
                return Ok(verdict);
            }
            // A fresh worker shows first that its device still does what the baseline wants of it.
            let place = &self.inner.places[index];
            match self.inner.make_ready(place, &self.inner.hello).await {
                Ok(worker) => {
                    place.keep(worker);
                    break (verdict, index);
                }
                // What a broken device said of a kernel is worth nothing, unless it was the kernel that broke it.
                Err(_) => {
                    broken += 1;
                    if broken == LAST_ON {
                        return Ok(verdict);
                    }
                }
            }
        };
        // On the same inputs and hidden shapes: one that only some of them make fail would seem to fail by chance.
        let repeated = request.repeating(verdict.seeds.first().copied());
        let (again, _) = self.one_verdict(&repeated, fresh, Some(index)).await?;
        if !may_be_the_device(&again) {
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
    async fn one_verdict(
        &self,
        request: &Request,
        fresh: bool,
        wanted: Option<usize>,
    ) -> anyhow::Result<(Box<Verdict>, usize)> {
        let mut attempt = 1;
        loop {
            match Arc::clone(&self.inner).ask(request, fresh, wanted).await {
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

    /// The device that is wanted if it is in use, else the one with the least to do.
    fn place(&self, wanted: Option<usize>) -> Option<usize> {
        let is_usable = |index: &usize| !self.places[*index].is_quarantined();
        let busy = |index: &usize| self.places[*index].busy.load(Ordering::Relaxed);
        wanted.filter(is_usable).or_else(|| {
            let usable = (0..self.places.len()).filter(is_usable);
            usable.min_by_key(busy)
        })
    }

    /// A worker for one request, and the device that it is on. Where none can be made ready on one card, another one is tried.
    async fn worker(
        &self,
        confirms: bool,
        wanted: Option<usize>,
    ) -> anyhow::Result<(usize, Busy<'_>, Worker)> {
        let hello = match confirms {
            true => &self.confirming,
            false => &self.hello,
        };
        while let Some(index) = self.place(wanted) {
            let place = &self.places[index];
            let busy = Busy::on(&place.busy);
            let kept = match confirms && place.card.is_none() {
                true => None,
                false => place.take(),
            };
            match kept {
                Some(worker) => return Ok((index, busy, worker)),
                None => match self.make_ready(place, hello).await {
                    Ok(worker) => return Ok((index, busy, worker)),
                    Err(error) if !place.is_quarantined() => return Err(error),
                    Err(_) => {}
                },
            }
        }
        let last = self.places.iter().filter_map(Place::trouble).next_back();
        Err(Failure::environment(format!(
            "no GPU is left that works: {}",
            last.unwrap_or_default()
        ))
        .hint("`nvidia-smi` and `kforge doctor` say what is there; nothing that was judged is lost")
        .into())
    }

    /// A new worker on a device. A card on which none can be made ready, though oracle and baseline have worked there, is not used
    /// any more; one that is only busy, or not yet rid of what a worker left, has time for that.
    async fn make_ready(&self, place: &Place, hello: &str) -> anyhow::Result<Worker> {
        let mut starts = 1;
        loop {
            match self.spawn(place, hello).await {
                Ok(worker) => return Ok(worker),
                Err(error) if place.card.is_none() || !place.proven.load(Ordering::Relaxed) => {
                    return Err(error);
                }
                Err(error) if starts < STARTS && !place.is_quarantined() => {
                    tracing::warn!("{}: no worker could be made ready: {error:#}", place.name());
                    tokio::time::sleep(REST).await;
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
    async fn ask(
        self: Arc<Self>,
        request: &Request,
        confirms: bool,
        wanted: Option<usize>,
    ) -> anyhow::Result<(Response, usize)> {
        let (index, _busy, mut worker) = self.worker(confirms, wanted).await?;
        let place = &self.places[index];
        let line = serde_json::to_string(request)?;
        let Ok(response) = tokio::time::timeout(self.deadline, worker.say(&line)).await else {
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
        let card = place.card.as_ref().and_then(|card| card.uuid.as_deref());
        let worker = Worker::start(card, hello, self.deadline).await?;
        place.proven.store(true, Ordering::Relaxed);
        Ok(worker)
    }
}

/// What a device that is out of order could also show. What the screen has found was not found there.
fn may_be_the_device(verdict: &Verdict) -> bool {
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
pub(crate) struct Pools {
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
                .ask(&Request::SelfTest, false, None)
                .await?
            {
                (Response::SelfTest(tests), _) => Ok(tests),
                _ => bail!("a worker answered with something else than was asked for"),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Kind;

    /// Of cards that are nowhere.
    fn pool(cards: &[&str]) -> Pool {
        let files = TaskFiles::find("softmax").unwrap();
        let card = |uuid: &&str| DeviceIdentity {
            uuid: Some((*uuid).to_owned()),
            ..DeviceIdentity::default()
        };
        Pool::new(Order {
            options: eval::Options {
                profile: files.load().unwrap().settings.profiles["quick"].clone(),
                launch_seconds: 1.0,
                thorough: false,
                cache: Cache::Cold,
            },
            files,
            workloads: 1,
            cards: cards.iter().map(card).collect(),
            screen: false,
            looks: Looks::default(),
        })
        .unwrap()
    }

    #[test]
    fn the_least_busy_card_that_works_is_taken() {
        let pool = pool(&["GPU-a", "GPU-b", "GPU-c"]);
        let places = &pool.inner.places;
        let (_one, _two) = (Busy::on(&places[0].busy), Busy::on(&places[0].busy));
        let three = Busy::on(&places[1].busy);
        assert_eq!(pool.inner.place(None), Some(2));
        assert_eq!(pool.inner.place(Some(0)), Some(0));
        places[2].quarantine(&anyhow::anyhow!("it fell off"));
        places[0].quarantine(&anyhow::anyhow!("so did this"));
        drop(three);
        assert_eq!(pool.inner.place(Some(0)), Some(1));
    }

    #[tokio::test]
    async fn without_a_card_that_works_the_run_stops_and_no_candidate_is_blamed() {
        let pool = pool(&["GPU-a", "GPU-b"]);
        for place in &pool.inner.places {
            place.quarantine(&anyhow::anyhow!("it fell off"));
        }
        let error = pool.judge("k.cu", "", None).await.unwrap_err();
        let failure = error.downcast_ref::<Failure>().unwrap();
        assert_eq!(failure.kind, Kind::Environment);
        assert!(
            failure.message.contains("GPU-b fails") && failure.message.contains("it fell off"),
            "{failure}"
        );
    }
}
