//! The driver: runs a search to its end, and resumes it after a kill at any point.
//!
//! `run` opens the run directory (`open_run`) and works through its tasks one after the other. Each task has one loop
//! (`task_loop`) over the parts that own its state (`task_state`). Proposals, requests and evaluations run next to the loop and
//! send back results.
//!
//! Invariant: an event is durable in the journal before the search, the observer or any other work sees it.
//! The driver knows nothing of arguments, terminals or exit codes.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;

mod anchor;
mod asking;
mod briefs;
mod continuation;
mod fault_policy;
mod interrupt;
mod journal_writer;
mod lessons;
mod model_stats;
mod near_copies;
mod open_run;
mod operators;
mod options;
mod point_limits;
mod promote;
mod promote_strongest;
mod proposer;
mod replay_turns;
mod reporter;
mod results;
mod resume;
mod round;
mod running;
mod scheduler;
mod settle;
mod side_by_side;
mod sources;
mod step_lines;
mod summary;
mod task_loop;
mod task_state;
mod task_time;
mod time_tally;
mod trials;
mod untried;
mod work_time;
mod yardstick;

pub use asking::{
    EarlierReply, ModelBackend, ModelStep, ParsedReplies, PreparedRequest, PromptDevice,
    RepliesOutcome, ReplyFuture, RunKernel, TemplateBackend, parse_replies,
};
pub use interrupt::{never_interrupted, watch_signals};
pub use operators::Operators;
pub use options::{ModelOptions, RunOptions, StartMode};
pub(crate) use promote::{Contest, contest};
pub use proposer::Proposer;
pub(crate) use side_by_side::side_by_side;
pub use work_time::{device_time, worked_time};

use crate::base::{Failure, FailureKind};
use crate::event::{StopReason, TasksLeftOut};
use crate::report::{BestCandidate, Continuation, EndOfWork, Observer, Progress, TaskResults};
use crate::verdict::SelfTest;
use crate::worker::{Evaluator, EvaluatorFactory, WorkerFault};
use open_run::{OpenRun, SharedParts};
use summary::Summary;
use task_loop::{LoopEnd, TaskLoop};
use task_state::TaskState;

/// How a run ended.
#[derive(Clone, Debug)]
pub struct RunEnd {
    /// The run was interrupted and can be resumed.
    pub interrupted: bool,
    /// Replies in a mailbox are missing. The run can be resumed once they are there.
    pub waiting: bool,
    /// The tasks that this process opened, in order.
    pub tasks: Vec<TaskEnd>,
    /// The run ended before it came to some tasks, because enough of the others have a fast kernel.
    pub left_out: Option<TasksLeftOut>,
}

impl RunEnd {
    /// How the run is continued: the flags of all tasks together. An interrupted run needs none.
    pub fn continuation(&self) -> Continuation {
        if self.interrupted || self.waiting {
            return Continuation::default();
        }
        let tasks = self.tasks.iter();
        let flags = tasks.map(|task| task.progress.continuation.clone());
        let mut flags = flags.fold(Continuation::default(), Continuation::merged);
        if self.left_out.is_some() {
            flags.lifted.insert("search.target_tasks=null");
        }
        flags
    }
}

/// How a task ended.
#[derive(Clone, Debug)]
pub struct TaskEnd {
    /// Counts, and the best kernel with its speedup.
    pub progress: Progress,
    /// The folder of the task, with `best.cu` and `best.json`.
    pub directory: PathBuf,
    /// This process has recorded nothing for the task, because a limit was reached before.
    pub did_nothing: bool,
    /// Error message of a failed oracle or baseline.
    pub failure: Option<String>,
    /// The elites and the starting kernels.
    pub results: TaskResults,
}

impl TaskEnd {
    /// Why the search stopped. `None` if it was interrupted or failed.
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.progress.stopped
    }

    /// The files that the run waits for: a reply each.
    pub fn awaited_replies(&self) -> &[PathBuf] {
        &self.progress.awaited
    }

    /// The best kernel: confirmed to be faster than the baseline.
    pub fn best(&self) -> Option<BestCandidate> {
        self.progress.confirmed_best()
    }
}

/// Runs every task to its end.
///
/// # Errors
/// Broken machinery, a directory that cannot be used, or a full disk. Everything recorded before is kept, and the run can be
/// resumed. A failed oracle or baseline ends only its own task and is not an error.
pub async fn run(
    options: RunOptions,
    proposer: Arc<dyn Proposer>,
    evaluators: &dyn EvaluatorFactory,
    observer: &mut dyn Observer,
    mut interrupt: watch::Receiver<bool>,
) -> Result<RunEnd> {
    let mut run = OpenRun::open(&options)?;
    let mut summary = Summary::new(
        run.directory().clone(),
        &options.record.kforge,
        options.tasks.len(),
    );
    let mut budget = match &options.models {
        Some(models) => Some(run.remaining_budget(&options.tasks, models.limits)?),
        None => None,
    };
    let mut end = RunEnd {
        interrupted: false,
        waiting: false,
        tasks: Vec::new(),
        left_out: None,
    };
    for task in &options.tasks {
        end.left_out = tasks_left_out(&options, &end.tasks);
        if let Some(left_out) = &end.left_out {
            run.record_tasks_left_out(left_out)?;
            break;
        }
        let shared = SharedParts {
            proposer: proposer.clone(),
            summary: &mut summary,
            observer: &mut *observer,
            budget: budget.as_mut(),
        };
        let mut state = run.open_task(&options, task, shared)?;
        state.reporter.show_start();
        let (loop_end, failure) =
            match run_task(&mut run, &mut state, evaluators, &mut interrupt).await {
                Ok(loop_end) => (Some(loop_end), None),
                Err(error) => match reference_failure(error) {
                    Ok(failure) => (None, Some(failure)),
                    Err(error) => {
                        write_failed_summary(&mut state, &error);
                        return Err(error);
                    }
                },
            };
        end.interrupted = loop_end == Some(LoopEnd::Interrupted);
        let is_waiting = loop_end == Some(LoopEnd::AwaitingReplies);
        end.waiting |= is_waiting;
        state.reporter.set_end(end_of_work(loop_end));
        run.record_task_end(state.reporter.progress(), failure.clone())?;
        if is_waiting {
            state.note_awaited_replies();
        }
        end.tasks.push(end_task(&mut state, failure)?);
        if end.interrupted {
            break;
        }
    }
    summary.set_continuation(&end.continuation());
    summary.write(!end.interrupted && !end.waiting)?;
    Ok(end)
}

/// The tasks that need no search any more, because `ended` have enough fast kernels (`search.target_tasks`).
fn tasks_left_out(options: &RunOptions, ended: &[TaskEnd]) -> Option<TasksLeftOut> {
    let target = options.search.target_tasks?;
    let is_fast = |task: &&TaskEnd| {
        let over_yardstick = task.progress.yardstick.as_ref().map(|one| one.speedup);
        let best = task.best();
        best.is_some_and(|best| over_yardstick.unwrap_or(best.speedup).geomean > target.speedup)
    };
    let fast = ended.iter().filter(is_fast).count();
    let is_reached = fast as f64 >= target.share * options.tasks.len() as f64;
    let left = options.tasks.iter().skip(ended.len());
    (is_reached && fast > 0).then(|| TasksLeftOut {
        tasks: left.map(|task| task.name.clone()).collect(),
        fast: fast as u64,
        of: options.tasks.len() as u64,
    })
}

/// `None`: the oracle or a baseline has failed.
fn end_of_work(loop_end: Option<LoopEnd>) -> EndOfWork {
    match loop_end {
        None => EndOfWork::Failed,
        Some(LoopEnd::Interrupted) => EndOfWork::Interrupted,
        Some(LoopEnd::AwaitingReplies) => EndOfWork::Waiting,
        Some(LoopEnd::Finished) => EndOfWork::Finished,
    }
}

/// Runs a task to its end. A finished task is left as it is, and gets no evaluator.
async fn run_task(
    run: &mut OpenRun,
    state: &mut TaskState<'_>,
    evaluators: &dyn EvaluatorFactory,
    interrupt: &mut watch::Receiver<bool>,
) -> Result<LoopEnd> {
    if state.is_finished() {
        let reason = state.recorded_stop.as_ref().map(|stopped| stopped.why);
        state.reporter.set_stopped(reason);
        state.note_unmeasured();
        state.write_best()?;
        return Ok(LoopEnd::Finished);
    }
    let task = state.task.clone();
    run.record_task_start(&task.name, state.writer.line_count())?;
    state.time.start();
    let open = async {
        let evaluator = evaluators.open(task.clone()).await?;
        let self_test = evaluator.self_test().await?;
        anyhow::Ok((evaluator, self_test))
    };
    let (evaluator, self_test): (Arc<dyn Evaluator>, Vec<SelfTest>) = tokio::select! {
        biased;
        () = interrupt::interrupted(interrupt) => return Ok(LoopEnd::Interrupted),
        opened = open => opened?,
    };
    warn_of_imprecise_clock(task.baseline().0, &self_test);
    run.record_self_test(&task.name, self_test)?;
    let mut faults = evaluator.worker_faults();
    // A process that will leave requests in a mailbox hardly ever reaches the end of the run, for which Python would be prepared.
    let mut requests = state.requests.iter();
    if let Some(contenders) = &state.contenders
        && !requests.any(|requests| requests.may_leave_requests())
    {
        evaluator.prepare_strongest(contenders.clone());
    }
    state.scheduler.set_evaluator(evaluator);
    let mut task_loop = TaskLoop::new(state, interrupt);
    let mut looping = std::pin::pin!(task_loop.run());
    let end = loop {
        tokio::select! {
            biased;
            fault = next_fault(&mut faults) => run.record_worker_fault(&task.name, fault)?,
            end = &mut looping => break end,
        }
    };
    // The last fault may be what has ended the loop.
    while let Some(fault) = faults.as_mut().and_then(|faults| faults.try_recv().ok()) {
        run.record_worker_fault(&task.name, fault)?;
    }
    end
}

/// The next fault of a worker. Waits forever if there can be none.
async fn next_fault(faults: &mut Option<UnboundedReceiver<WorkerFault>>) -> WorkerFault {
    let fault = match faults {
        Some(faults) => faults.recv().await,
        None => None,
    };
    match fault {
        Some(fault) => fault,
        None => std::future::pending().await,
    }
}

/// Warns if the baseline differs from itself: smaller differences between kernels cannot be trusted.
fn warn_of_imprecise_clock(baseline: &str, self_test: &[SelfTest]) {
    if let Some(test) = self_test.iter().find(|test| !test.contains_one()) {
        tracing::warn!(
            "`{baseline}` timed against itself on `{}` gives {:.4} [{:.4}, {:.4}]: differences of this size are not significant",
            test.id,
            test.ratio,
            test.ci95[0],
            test.ci95[1]
        );
    }
}

/// Writes the last summary of a task and collects its results.
fn end_task(state: &mut TaskState<'_>, failure: Option<String>) -> Result<TaskEnd> {
    let continuation = continuation::continuation(state, failure.is_some());
    state.reporter.set_continuation(continuation);
    if state.work_recorded {
        lessons::write_lessons(state)?;
    }
    state.write_summary(failure.clone())?;
    state.reporter.show_end();
    let progress = state.reporter.progress().clone();
    Ok(TaskEnd {
        did_nothing: progress.stopped.is_some() && failure.is_none() && !state.work_recorded,
        progress,
        directory: state.writer.directory().root().to_owned(),
        results: results::task_results(state, failure.clone()),
        failure,
    })
}

/// Writes why the run ends into the summary. The error is reported in any case, so another one while writing does not matter.
fn write_failed_summary(state: &mut TaskState<'_>, error: &anyhow::Error) {
    let Some(failure) = error.downcast_ref::<Failure>() else {
        return;
    };
    state.reporter.set_end(EndOfWork::Failed);
    if let Err(error) = state.write_summary(Some(failure.message.clone())) {
        tracing::warn!("cannot write the summary: {error:#}");
    }
}

/// The message of a failed oracle or baseline. Any other error is returned as it is.
fn reference_failure(error: anyhow::Error) -> Result<String> {
    match error.downcast_ref::<Failure>() {
        Some(failure) if failure.kind == FailureKind::Reference => Ok(failure.to_string()),
        _ => Err(error),
    }
}
