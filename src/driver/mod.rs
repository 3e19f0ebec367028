//! The driver: runs a search to its end, and takes it up again wherever it was stopped (DESIGN sections 7 and 10).
//!
//! `run` lays out or opens the run's directory, then works through its tasks one after the other. Each task has one loop
//! (`task`) that owns the search and the journal; a `Proposer` and an `Evaluator` work beside it and send messages.
//! Invariant: nothing is told to the search, shown, or built upon before the journal's line of it is on disk.
//!
//! Knows nothing of arguments, terminals or exit codes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::sync::watch;

mod asking;
mod fault_policy;
mod interrupt;
mod model_stats;
mod operators;
mod promote;
mod proposer;
mod results;
mod resume;
mod running;
mod settle;
mod sources;
mod summary;
mod task;

pub use asking::{
    EarlierReply, ModelBackend, ModelStep, ParsedReplies, PreparedRequest, PromptDevice,
    RepliesOutcome, ReplyFuture, RunKernel, TemplateBackend, read_replies,
};
pub use interrupt::{never_interrupted, watch_signals};
pub use operators::Operators;
pub(crate) use promote::{Contest, contest};
pub use proposer::{BriefOutcome, Candidate, Parent, Proposer};

use crate::base::files::WriteBatch;
use crate::base::{Failure, FailureKind, files};
use crate::event::{
    Accepted, BestOfTask, Interrupted, RunEvent, SelfTested, Session, StopReason, TaskEnded,
    TaskStarted,
};
use crate::llm::{Budget, BudgetLimits};
use crate::report::{BestCandidate, Observer, Progress, TaskResults};
use crate::run::{self, Journal, RunDirectory, RunLock, RunRecord};
use crate::search::{self, Search};
use crate::task::Task;
use crate::worker::EvaluatorFactory;
use asking::ModelRequests;
use resume::EarlierSessions;
use running::Running;
use summary::Summary;
use task::{LoopEnd, TaskLoop};

/// A run: what to search for, how, and where to keep it.
pub struct RunOptions {
    pub directory: PathBuf,
    pub start: StartMode,
    /// What the results depend on. On resume it is compared with the one in the directory, so `window` must be the recorded
    /// one unless somebody asked for another.
    pub record: RunRecord,
    pub tasks: Vec<Arc<Task>>,
    pub search: search::SearchSettings,
    /// Per task, those of earlier processes included.
    pub steps: u64,
    /// How many kernels are with the judge at once; at least 1.
    pub in_flight: usize,
    /// Wall time per task, that of earlier processes included.
    pub budget: Option<Duration>,
    /// Whom to ask beside kforge's own operators.
    pub models: Option<ModelOptions>,
}

/// Whom to ask, and what it may cost.
pub struct ModelOptions {
    pub backend: Arc<dyn ModelBackend>,
    /// Over all tasks and processes of the run.
    pub limits: BudgetLimits,
    /// Questions under way at once.
    pub concurrency: usize,
    /// The version of the prompts.
    pub prompts_version: String,
}

/// Whether the directory is expected to hold a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartMode {
    /// It must not.
    New,
    /// It must, with the same record; `accept_changes`: or with another, which is written down.
    Resume { accept_changes: bool },
}

/// How a run came to its end.
#[derive(Clone, Debug)]
pub struct RunEnd {
    /// Told to stop: there is more to do, and resuming will do it.
    pub interrupted: bool,
    /// Replies are awaited from somebody for whom this process does not wait; resuming goes on with them.
    pub waiting: bool,
    /// The tasks that were taken up, in order.
    pub tasks: Vec<TaskEnd>,
}

/// How a task came to its end.
#[derive(Clone, Debug)]
pub struct TaskEnd {
    /// Where it stands: counts, and the best kernel with its speedup.
    pub progress: Progress,
    /// Where `best.cu` and `best.json` lie, and everything else of this task.
    pub directory: PathBuf,
    /// It was finished already: nothing was judged.
    pub already_finished: bool,
    /// The oracle or the baseline failed.
    pub failure: Option<String>,
    /// The best kernels of each kind beside those that the task started from.
    pub results: TaskResults,
}

impl TaskEnd {
    /// Why the search stopped; `None` where it was interrupted or failed.
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.progress.stopped
    }

    /// The best kernel that passed.
    pub fn best(&self) -> Option<BestCandidate> {
        self.progress.best
    }
}

/// Runs every task to its end. An `Err` is broken machinery, a directory that cannot be used, or a full disk: what was
/// recorded until then is kept, and the run can be resumed.
pub async fn run(
    options: RunOptions,
    proposer: Arc<dyn Proposer>,
    evaluators: &dyn EvaluatorFactory,
    observer: &mut dyn Observer,
    mut interrupt: watch::Receiver<bool>,
) -> Result<RunEnd> {
    let mut run = OpenRun::open(&options)?;
    let mut summary = Summary::new(run.directory.clone(), &options.record.kforge);
    let mut budget = match &options.models {
        Some(models) => Some(run.remaining_budget(&options.tasks, models.limits)?),
        None => None,
    };
    let mut ended = RunEnd {
        interrupted: false,
        waiting: false,
        tasks: Vec::new(),
    };
    for task in &options.tasks {
        let money = budget.as_mut();
        let mut work = run.open_task(&options, task, &proposer, &mut summary, observer, money)?;
        work.observer.started(&work.progress);
        let mut waits = false;
        let failure = match run.run_task(&mut work, evaluators, &mut interrupt).await {
            Ok(end) => {
                ended.interrupted = end == LoopEnd::Interrupted;
                waits = end == LoopEnd::Waiting;
                ended.waiting |= waits;
                None
            }
            // One task's oracle or baseline is nothing to the others.
            Err(error) => Some(reference_failure(error)?),
        };
        run.record_task_end(&work, ended.interrupted || waits, failure.clone())?;
        work.write_summary(failure.clone())?;
        work.observer.ended(&work.progress);
        ended.tasks.push(TaskEnd {
            progress: work.progress.clone(),
            directory: work.directory.root().to_owned(),
            already_finished: !run.started_tasks.contains(&task.name),
            results: results::task_results(&work, failure.clone()),
            failure,
        });
        if ended.interrupted {
            break;
        }
    }
    summary.write(!ended.interrupted && !ended.waiting)?;
    Ok(ended)
}

/// The words of a failed oracle or baseline; any other error as it is.
fn reference_failure(error: anyhow::Error) -> Result<String> {
    match error.downcast_ref::<Failure>() {
        Some(failure) if failure.kind == FailureKind::Reference => Ok(failure.to_string()),
        _ => Err(error),
    }
}

/// An open run directory.
struct OpenRun {
    directory: RunDirectory,
    journal: Journal,
    /// By task.
    earlier_sessions: HashMap<String, EarlierSessions>,
    /// The last change that somebody accepted.
    last_accepted: Option<String>,
    /// Tasks that this process has begun to work on.
    started_tasks: HashSet<String>,
    _lock: RunLock,
}

impl OpenRun {
    /// Lays out a new directory, or opens an existing one and sees that it is still the same experiment.
    fn open(options: &RunOptions) -> Result<Self> {
        let directory = RunDirectory::new(&options.directory);
        let mut names = HashSet::new();
        if let Some(task) = options.tasks.iter().find(|task| !names.insert(&task.name)) {
            return Err(
                Failure::usage(format!("the task `{}` is named twice", task.name))
                    .hint("name every task once")
                    .into(),
            );
        }
        // Before anything is written: a mistyped directory is not to come into being.
        if options.start != StartMode::New {
            RunRecord::read(&directory)?;
        }
        files::create_folder(directory.root())?;
        let lock = RunLock::acquire(&directory.lock())?;
        let recorded = match options.start {
            StartMode::New if directory.record().exists() => {
                return Err(Failure::usage(format!(
                    "`{}` already holds a run",
                    directory.root().display()
                ))
                .hint(
                    "go on with it by `kforge resume`, or choose another directory with `--output`",
                )
                .into());
            }
            StartMode::New => None,
            StartMode::Resume { .. } => Some(RunRecord::read(&directory)?),
        };
        let mut pasts: HashMap<String, EarlierSessions> = HashMap::new();
        let mut accepted = None;
        let journal = Journal::open(&directory.journal(), |head, event: RunEvent| {
            match event {
                RunEvent::TaskStarted(started) => {
                    let past = pasts.entry(started.task).or_default();
                    past.started.push(head.time.to_owned());
                }
                RunEvent::Accepted(_) => accepted = Some(head.time.to_owned()),
                _ => {}
            }
            Ok(())
        })?;
        let mut run = Self {
            directory,
            journal,
            earlier_sessions: pasts,
            last_accepted: accepted,
            started_tasks: HashSet::new(),
            _lock: lock,
        };
        if recorded.is_none() {
            run.copy_warm_starts(options)?;
        }
        run.record_session(options, recorded.as_ref())?;
        if recorded.as_ref() != Some(&options.record) {
            options.record.write(&run.directory)?;
        }
        Ok(run)
    }

    /// Copies the kernels from elsewhere that the tasks begin from, before anything names them: from then on nobody needs to know
    /// where they were.
    fn copy_warm_starts(&self, options: &RunOptions) -> Result<()> {
        for (name, recorded) in &options.record.tasks {
            let task = options.tasks.iter().find(|task| task.name == *name);
            for (index, begun) in recorded.from.iter().enumerate() {
                let source = task.and_then(|task| task.kernels.get(&begun.name));
                let source = source.with_context(|| format!("`{}` has no text", begun.name))?;
                let path = self.directory.create_task(name)?.warm_start(index + 1);
                let mut batch = WriteBatch::default();
                batch.write_in_new_folder(path, source.as_bytes())?;
                batch.sync()?;
            }
        }
        Ok(())
    }

    /// Writes down that this process works here, and with what changes.
    fn record_session(&mut self, options: &RunOptions, recorded: Option<&RunRecord>) -> Result<()> {
        let changes = recorded
            .map(|recorded| recorded.differences(&options.record))
            .unwrap_or_default();
        if !changes.is_empty()
            && options.start
                != (StartMode::Resume {
                    accept_changes: true,
                })
        {
            return Err(run::changes_not_accepted(&self.directory, &changes).into());
        }
        let session = Session {
            kforge: options.record.kforge.clone(),
            host: options.record.host.clone(),
            steps: options.steps,
            in_flight: options.in_flight,
        };
        let event = match self.journal.is_empty() {
            true => RunEvent::Created(session),
            false => RunEvent::Resumed(session),
        };
        self.journal.append(&event)?;
        if changes.is_empty() {
            return self.journal.sync();
        }
        self.journal
            .append(&RunEvent::Accepted(Accepted { changes }))?;
        self.journal.sync()?;
        self.last_accepted = Some(run::timestamp(run::now_milliseconds()));
        Ok(())
    }

    /// What may be spent, less what the journals of all tasks say was.
    fn remaining_budget(&self, tasks: &[Arc<Task>], limits: BudgetLimits) -> Result<Budget> {
        let mut budget = Budget::new(limits);
        for task in tasks {
            let journal = self.directory.task_for_reading(&task.name)?.journal();
            for cost in asking::recorded_costs(&journal) {
                budget.add_spent(&cost);
            }
        }
        Ok(budget)
    }

    /// Folds a task's journal, and puts what it left open back in its place.
    fn open_task<'a>(
        &mut self,
        options: &RunOptions,
        task: &Arc<Task>,
        proposer: &Arc<dyn Proposer>,
        summary: &'a mut Summary,
        observer: &'a mut dyn Observer,
        budget: Option<&'a mut Budget>,
    ) -> Result<TaskLoop<'a>> {
        let directory = self.directory.create_task(&task.name)?;
        let mut past = self.earlier_sessions.remove(&task.name).unwrap_or_default();
        past.accepted = self.last_accepted.clone();
        let starts: Vec<_> = task
            .starting_kernels()
            .map(|(name, _)| name.to_owned())
            .collect();
        let RunRecord { seed, window, .. } = options.record;
        let models = options.models.as_ref();
        let askable = models.map(|models| models.backend.model_pool());
        let search = Search::new(&options.search, seed, window, u64::MAX, &starts)
            .with_models(askable.unwrap_or_default());
        let mut replayed = resume::replay(&directory, task, search, &past)?;
        // What was asked once is paid for: fewer steps than that are not a way back.
        let steps = options.steps.max(replayed.next_step - 1);
        replayed.search.set_steps(steps);
        let mut work = TaskLoop {
            task: task.clone(),
            directory,
            journal: replayed.journal,
            search: replayed.search,
            sources: replayed.sources,
            next_step: replayed.next_step,
            waiting_for_proposer: replayed.open.keys().copied().collect(),
            open: replayed.open,
            unjudged: BTreeMap::new(),
            stale: replayed.stale.into(),
            faults: HashMap::new(),
            given_up_in_a_row: 0,
            pending_give_ups: Vec::new(),
            stopped: replayed.stopped,
            running: Running::default(),
            batch: WriteBatch::default(),
            progress: Progress {
                task: task.name.clone(),
                total: steps,
                budget: options.budget,
                spent_before: replayed.time_spent,
                ..Progress::default()
            },
            best_on_disk: None,
            started: Instant::now(),
            ticked: Instant::now(),
            in_flight: options.in_flight.max(1),
            proposer: proposer.clone(),
            requests: models.zip(budget).map(|(models, budget)| ModelRequests {
                backend: models.backend.clone(),
                budget,
                concurrency: models.concurrency.max(1),
                unanswered_in_a_row: 0,
                fatal: None,
            }),
            exchanges: BTreeMap::new(),
            feedback: replayed.feedback,
            model_stats: replayed.model_stats,
            max_history: options.search.history,
            evaluator: None,
            summary,
            observer,
        };
        for step in replayed.unjudged {
            let source = work.sources.text(step)?;
            work.unjudged.insert(step, source);
        }
        for (step, past) in replayed.requests {
            if work.open.contains_key(&step) {
                work.waiting_for_proposer.remove(&step);
                work.restore_exchange(step, past)?;
            }
        }
        work.update_progress();
        work.progress.steps_before = work.progress.steps;
        Ok(work)
    }

    /// Runs a task to its end. One that is there already is left as it is, and no judge is made ready for it.
    async fn run_task(
        &mut self,
        work: &mut TaskLoop<'_>,
        evaluators: &dyn EvaluatorFactory,
        interrupt: &mut watch::Receiver<bool>,
    ) -> Result<LoopEnd> {
        if work.is_finished() {
            work.progress.stopped = work.stopped.as_ref().map(|stopped| stopped.why);
            work.write_best()?;
            return Ok(LoopEnd::Finished);
        }
        let task = work.task.name.clone();
        self.started_tasks.insert(task.clone());
        self.journal
            .append(&RunEvent::TaskStarted(TaskStarted { task }))?;
        self.journal.sync()?;
        work.started = Instant::now();
        work.evaluator = tokio::select! {
            biased;
            () = interrupt::interrupted(interrupt) => return Ok(LoopEnd::Interrupted),
            evaluator = evaluators.open(work.task.clone()) => Some(evaluator?),
        };
        if let Some(evaluator) = &work.evaluator {
            let workloads = tokio::select! {
                biased;
                () = interrupt::interrupted(interrupt) => return Ok(LoopEnd::Interrupted),
                tests = evaluator.self_test() => tests?,
            };
            if let Some(off) = workloads.iter().find(|test| !test.contains_one()) {
                tracing::warn!(
                    "`{}` against itself on `{}`: {:.4} [{:.4}, {:.4}]: differences as small as this say nothing",
                    work.task.baseline().0,
                    off.id,
                    off.ratio,
                    off.ci95[0],
                    off.ci95[1]
                );
            }
            if !workloads.is_empty() {
                let task = work.task.name.clone();
                self.journal
                    .append(&RunEvent::SelfTested(SelfTested { task, workloads }))?;
                self.journal.sync()?;
            }
        }
        work.run(interrupt).await
    }

    /// Writes down how far a task has come.
    fn record_task_end(
        &mut self,
        work: &TaskLoop<'_>,
        interrupted: bool,
        failure: Option<String>,
    ) -> Result<()> {
        let task = work.task.name.clone();
        if !self.started_tasks.contains(&task) {
            return Ok(());
        }
        let event = match interrupted {
            true => RunEvent::Interrupted(Interrupted { task }),
            false => RunEvent::TaskEnded(TaskEnded {
                task,
                steps: work.progress.steps,
                why: work.progress.stopped,
                failure,
                best: work.progress.best.map(|best| BestOfTask {
                    step: best.step,
                    speedup: best.speedup,
                    confirmed: best.confirmed,
                }),
            }),
        };
        self.journal.append(&event)?;
        self.journal.sync()
    }
}
