//! An open run directory: lock, record, the run's own journal, and the state of a task when work on it starts.
//!
//! Writes everything in the run directory that concerns more than one task, except `summary.json`. Never searches; `task_loop` does.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use anyhow::{Context, Result};

use super::asking::{self, ModelRequests};
use super::briefs::OpenBriefs;
use super::fault_policy::FaultPolicy;
use super::journal_writer::JournalWriter;
use super::options::{CPU_BACKEND, RunOptions, StartMode};
use super::point_limits::PointLimits;
use super::proposer::Proposer;
use super::replay_turns::ReplayTurns;
use super::reporter::Reporter;
use super::resume;
use super::scheduler::Scheduler;
use super::summary::Summary;
use super::task_state::TaskState;
use super::task_time::{TaskTime, TimeLimits};
use super::untried::Untried;
use super::yardstick::targets_over_baseline;
use crate::base::files::WriteBatch;
use crate::base::{Digest, Failure, files};
use crate::device::lock_scope;
use crate::event::{
    Accepted, BestOfTask, Interrupted, RunEvent, SelfTested, Session, TaskEnded, TaskStarted,
    TasksLeftOut, WorkerFailed,
};
use crate::llm::{Budget, BudgetLimits};
use crate::report::{EndOfWork, Observer, Progress, Standing};
use crate::run::{self, Journal, RunDirectory, RunLock, RunRecord, TaskDirectory, TaskSessions};
use crate::search::{FoldOrder, Search};
use crate::task::Task;
use crate::verdict::SelfTest;
use crate::worker::WorkerFault;

/// A run directory that this process has locked.
pub(super) struct OpenRun {
    directory: RunDirectory,
    journal: Journal,
    /// By task.
    earlier_sessions: HashMap<String, TaskSessions>,
    /// The last event of the journal that ends a run, if it is this one.
    left_out: Option<TasksLeftOut>,
    /// Tasks that this process has started to work on.
    started_tasks: HashSet<String>,
    _lock: RunLock,
}

/// What a task uses of the run.
pub(super) struct SharedParts<'a> {
    pub(super) proposer: Arc<dyn Proposer>,
    pub(super) summary: &'a mut Summary,
    pub(super) observer: &'a mut dyn Observer,
    /// `None` if the run has no models.
    pub(super) budget: Option<&'a mut Budget>,
}

impl OpenRun {
    /// Creates a run directory, or opens an existing one and checks that it holds the same experiment.
    ///
    /// # Errors
    /// A usage failure if the directory is in use, is not what `options.start` expects, or has a record with other settings.
    pub(super) fn open(options: &RunOptions) -> Result<Self> {
        let directory = RunDirectory::new(&options.directory);
        check_task_names(&options.tasks)?;
        // Before anything is written, so that a mistyped directory is not created.
        if options.start != StartMode::New {
            RunRecord::read(&directory)?;
        }
        files::create_folder_durably(directory.root())?;
        let lock = RunLock::acquire(&directory.lock())?;
        let recorded = match options.start {
            StartMode::New if directory.record().exists() => {
                return Err(already_a_run(&directory).into());
            }
            StartMode::New => None,
            StartMode::Resume { .. } => Some(RunRecord::read(&directory)?),
        };
        let tasks = options.tasks.iter().map(|task| task.name.clone());
        let mut earlier_sessions: HashMap<String, TaskSessions> =
            tasks.map(|task| (task, TaskSessions::default())).collect();
        let mut left_out = None;
        let journal = Journal::open(&directory.journal(), |head, event: RunEvent| {
            match &event {
                RunEvent::TasksLeftOut(event) => left_out = Some(event.clone()),
                RunEvent::TaskStarted(_) => left_out = None,
                _ => {}
            }
            for (task, sessions) in &mut earlier_sessions {
                sessions.apply(task, head.time, &event);
            }
            Ok(())
        })?;
        let mut run = Self {
            directory,
            journal,
            earlier_sessions,
            left_out,
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

    pub(super) fn directory(&self) -> &RunDirectory {
        &self.directory
    }

    /// Copies the warm starts into the run directory before any journal line names them. From then on their origin may change.
    fn copy_warm_starts(&self, options: &RunOptions) -> Result<()> {
        for (name, recorded) in &options.record.tasks {
            let task = options.tasks.iter().find(|task| task.name == *name);
            for (index, warm_start) in recorded.from.iter().enumerate() {
                let source = task.and_then(|task| task.kernels.get(&warm_start.name));
                let source = source.with_context(|| {
                    format!("the warm start `{}` has no source", warm_start.name)
                })?;
                let path = self.directory.create_task(name)?.warm_start(index + 1);
                let mut batch = WriteBatch::default();
                batch.write_in_new_folder(path, source.as_bytes())?;
                batch.sync()?;
            }
        }
        Ok(())
    }

    /// Records that this process works here, and the changes that the user has accepted.
    fn record_session(&mut self, options: &RunOptions, recorded: Option<&RunRecord>) -> Result<()> {
        let changes = recorded
            .map(|recorded| recorded.differences(&options.record))
            .unwrap_or_default();
        let are_accepted = options.start
            == StartMode::Resume {
                accept_changes: true,
            };
        if !changes.is_empty() && !are_accepted {
            return Err(run::changes_not_accepted(&self.directory, &changes).into());
        }
        let session = Session {
            kforge: options.record.kforge.clone(),
            host: options.record.host.clone(),
            steps: options.steps,
            in_flight: options.in_flight,
            private_lock: lock_scope().private,
        };
        let event = if self.journal.is_empty() {
            RunEvent::Created(session)
        } else {
            RunEvent::Resumed(session)
        };
        self.journal.append(&event)?;
        if changes.is_empty() {
            return self.journal.sync();
        }
        let accepted = RunEvent::Accepted(Accepted { changes });
        let now = run::timestamp(run::now_milliseconds());
        for (task, sessions) in &mut self.earlier_sessions {
            sessions.apply(task, &now, &accepted);
        }
        self.record(accepted)
    }

    fn record(&mut self, event: RunEvent) -> Result<()> {
        self.journal.append(&event)?;
        self.journal.sync()
    }

    /// The budget for models, less what the journals of all tasks say was spent.
    pub(super) fn remaining_budget(
        &self,
        tasks: &[Arc<Task>],
        limits: BudgetLimits,
    ) -> Result<Budget> {
        let mut budget = Budget::new(limits);
        for task in tasks {
            let journal = self.directory.task_for_reading(&task.name)?.journal();
            for cost in asking::recorded_costs(&journal)? {
                budget.add_spent(&cost);
            }
        }
        Ok(budget)
    }

    /// Replays a task's journal and restores what the last process left open. Starts no work.
    pub(super) fn open_task<'a>(
        &mut self,
        options: &RunOptions,
        task: &Arc<Task>,
        shared: SharedParts<'a>,
    ) -> Result<TaskState<'a>> {
        let directory = self.directory.create_task(&task.name)?;
        let earlier = self.earlier_sessions.remove(&task.name).unwrap_or_default();
        let search = new_search(options, task);
        let mut replayed = resume::replay(&directory, search, &earlier)?;
        // The steps made so far are paid for, so the total is never smaller.
        let steps = options.steps.max(replayed.next_step - 1);
        replayed.search.set_steps(steps);
        let progress = Progress {
            task: task.name.clone(),
            total: steps,
            budget: options.budget,
            device_budget: options.device_budget,
            confirm_share: options.confirm_share,
            baseline: baseline_name(task),
            timing_seconds: timing_seconds(&options.record, task),
            directory: self.directory.root().to_owned(),
            ..Progress::default()
        };
        let limits = TimeLimits {
            wall: options.budget,
            device: options.device_budget,
            confirm_share: options.confirm_share,
            strongest: options.contenders.contains_key(&task.name),
            foresees_confirmations: options.record.backend == CPU_BACKEND,
        };
        let models = options.models.as_ref().zip(shared.budget);
        let requests = models.map(|(models, budget)| {
            let max_history = options.search.history;
            ModelRequests::new(models, budget, replayed.feedback, max_history)
        });
        let replay = replay_turns(options, task, &directory)?;
        let mut state = TaskState {
            task: task.clone(),
            search: replayed.search,
            sources: replayed.sources,
            briefs: OpenBriefs::new(replayed.next_step, replayed.open),
            untried: Untried::default(),
            scheduler: Scheduler::new(shared.proposer, options, replayed.stale),
            point_limits: PointLimits::new(&options.record, task),
            anchor: OnceCell::new(),
            requests,
            replay,
            faults: FaultPolicy::default(),
            contenders: options.contenders.get(&task.name).cloned(),
            time: TaskTime::new(limits, replayed.earlier, replayed.time_tally),
            writer: JournalWriter::new(directory, replayed.journal, replayed.lines),
            reporter: Reporter::new(
                progress,
                shared.observer,
                shared.summary,
                replayed.model_tally,
                options.yardsticks.get(&task.name).cloned(),
            ),
            recorded_stop: replayed.stopped,
            work_recorded: false,
        };
        for step in replayed.unjudged {
            let source = state.sources.text(step)?;
            state.scheduler.queue_candidate(step, source);
        }
        if let Some((requests, mut parts)) = state.requests_and_parts() {
            for (step, recorded) in replayed.requests {
                requests.restore(step, recorded, &mut parts)?;
            }
        }
        state.update_progress();
        state.reporter.set_steps_before();
        Ok(state)
    }

    /// Records that this process starts to work on a task, whose journal has this number of lines.
    pub(super) fn record_task_start(&mut self, task: &str, lines: u64) -> Result<()> {
        let task = task.to_owned();
        self.started_tasks.insert(task.clone());
        let lines = Some(lines);
        self.record(RunEvent::TaskStarted(TaskStarted { task, lines }))
    }

    /// Whether this process has started to work on a task.
    pub(super) fn has_started(&self, task: &str) -> bool {
        self.started_tasks.contains(task)
    }

    /// Records that the run does not come to some tasks, unless an earlier process has, and nothing was done since.
    pub(super) fn record_tasks_left_out(&mut self, event: &TasksLeftOut) -> Result<()> {
        if self.started_tasks.is_empty() && self.left_out.as_ref() == Some(event) {
            return Ok(());
        }
        self.record(RunEvent::TasksLeftOut(event.clone()))
    }

    /// Records the baseline's measurements against itself, if there are any.
    pub(super) fn record_self_test(&mut self, task: &str, workloads: Vec<SelfTest>) -> Result<()> {
        if workloads.is_empty() {
            return Ok(());
        }
        let task = task.to_owned();
        self.record(RunEvent::SelfTested(SelfTested { task, workloads }))
    }

    /// Records that a worker could not be started again.
    pub(super) fn record_worker_fault(&mut self, task: &str, fault: WorkerFault) -> Result<()> {
        let WorkerFault { device, error } = fault;
        let task = task.to_owned();
        self.record(RunEvent::WorkerFailed(WorkerFailed {
            task,
            device,
            error,
        }))
    }

    /// Records how far a task has come. Does nothing for a task that was finished before.
    pub(super) fn record_task_end(
        &mut self,
        progress: &Progress,
        failure: Option<String>,
    ) -> Result<()> {
        let task = progress.task.clone();
        if !self.has_started(&task) {
            return Ok(());
        }
        let awaits_replies = progress.end == Some(EndOfWork::Waiting);
        if awaits_replies || progress.end == Some(EndOfWork::Interrupted) {
            return self.record(RunEvent::Interrupted(Interrupted {
                task,
                awaits_replies,
            }));
        }
        self.record(RunEvent::TaskEnded(TaskEnded {
            task,
            steps: progress.steps,
            why: progress.stopped,
            failure,
            best: progress.best.map(|best| BestOfTask {
                step: best.step,
                speedup: best.speedup,
                confirmed: best.standing == Standing::Faster,
            }),
        }))
    }
}

fn check_task_names(tasks: &[Arc<Task>]) -> Result<()> {
    let mut names = HashSet::new();
    match tasks.iter().find(|task| !names.insert(&task.name)) {
        Some(task) => Err(
            Failure::usage(format!("the task `{}` is named twice", task.name))
                .hint("name each task once")
                .into(),
        ),
        None => Ok(()),
    }
}

fn already_a_run(directory: &RunDirectory) -> Failure {
    Failure::usage(format!(
        "`{}` already holds a run",
        directory.root().display()
    ))
    .hint("continue it with `kforge resume`, or choose another directory with `--output`")
}

/// The name of the baseline in `task.yaml`, which verdicts have too.
fn baseline_name(task: &Task) -> String {
    let mut names = task.settings.baselines.keys();
    names.next().cloned().unwrap_or_default()
}

/// The timing budget of each workload, in seconds. 0 if the run's profile is unknown.
fn timing_seconds(record: &RunRecord, task: &Task) -> f64 {
    let profile = record.config["profile"].as_str();
    let profile = profile.and_then(|name| task.settings.profiles.get(name));
    profile.map_or(0.0, |profile| profile.seconds)
}

/// The turns of a task's results if the run replays another. In step order nothing depends on them.
fn replay_turns(
    options: &RunOptions,
    task: &Task,
    directory: &TaskDirectory,
) -> Result<Option<ReplayTurns>> {
    let models = options.models.as_ref();
    let replayed = models.and_then(|models| models.backend.replayed_run());
    let Some(replayed) = replayed.filter(|_| options.record.order == FoldOrder::Journal) else {
        return Ok(None);
    };
    let replayed = RunDirectory::new(&replayed).task_for_reading(&task.name)?;
    ReplayTurns::open(&replayed.journal(), &directory.journal()).map(Some)
}

/// The search of a task before its first step.
fn new_search(options: &RunOptions, task: &Task) -> Search {
    let starts: Vec<_> = task
        .starting_kernels()
        .map(|(name, _)| name.to_owned())
        .collect();
    let models = options.models.as_ref();
    let pool = models.map(|models| models.backend.model_pool(task));
    let RunRecord {
        seed,
        window,
        order,
        ..
    } = options.record;
    let yardstick = options.yardsticks.get(&task.name);
    let settings = yardstick.map(|over| targets_over_baseline(&options.search, over));
    let settings = settings.as_ref().unwrap_or(&options.search);
    Search::new(settings, seed, window, u64::MAX, &starts)
        .with_order(order)
        .with_models(pool.unwrap_or_default())
        .with_baseline(Digest::of(task.baseline().1))
}
