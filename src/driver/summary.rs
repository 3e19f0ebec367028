//! `summary.json`: counts and the best kernel of every task.
//!
//! A copy of what the journals say, for people and scripts. kforge never reads it. `reporter` decides when to write it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use super::model_stats::{ModelStats, ModelTally};
use crate::base::files;
use crate::event::{Cost, FailedReason, Operator, StopReason};
use crate::report::{
    AttemptFigures, Comparison, Continuation, Progress, TaskFigures, TimeSpent, UnansweredSteps,
    WhyUnconfirmed,
};
use crate::run::{self, RunDirectory};
use crate::search::{Island, OperatorCounts, ResultCounts, Search};
use crate::verdict::{Speedup, Status, StrongestBaseline};

/// Version of the format of `summary.json`.
const SCHEMA: u32 = 1;

/// Minimum time between two writes while the search runs.
const MIN_WRITE_INTERVAL: Duration = Duration::from_secs(1);

/// The summary of a run, and the file that it is written to.
pub(super) struct Summary {
    directory: RunDirectory,
    task_count: usize,
    last_written: Option<Instant>,
    contents: SummaryContents,
}

#[derive(Serialize)]
struct SummaryContents {
    schema: u32,
    /// Version of kforge.
    kforge: String,
    /// When the file was written.
    updated: String,
    /// Whether every task has ended.
    finished: bool,
    /// The command that continues the run, with the flags that it needs.
    #[serde(rename = "continue")]
    resume: String,
    /// Cost of models over all tasks. Without dollars if a price is unknown.
    spent: Option<Cost>,
    /// Of the best kernels of all tasks.
    figures: TaskFigures,
    tasks: Vec<TaskSummary>,
}

#[derive(Serialize)]
struct TaskSummary {
    task: String,
    /// Steps made.
    steps: u64,
    /// Steps requested.
    total: u64,
    /// Why the search stopped. `null` while it runs.
    stopped: Option<StopReason>,
    /// Error message of a failed oracle or baseline, or of a model that cannot be used: the run ended because of it.
    failure: Option<String>,
    /// Files with replies that a mailbox waits for, relative to the run directory. Absent if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    waiting_for: Vec<PathBuf>,
    judged: u64,
    passed: u64,
    /// Those of `passed` that were dismissed: surely slower than an incumbent, so they were not timed to the end.
    dismissed: u64,
    /// Steps that cost an evaluation or a reply, without noise (`inconclusive`) and kforge's own faults.
    counted: u64,
    /// Correct candidates that were not measured precisely enough. Not counted.
    inconclusive: u64,
    /// passed / counted. `null` without a counted step.
    validity: Option<f64>,
    /// Of all attempts to make a kernel.
    figures: AttemptFigures,
    /// Filled cells of the archive.
    cells: usize,
    /// Empty without islands.
    islands: Vec<IslandSummary>,
    /// What was found, in one line.
    headline: String,
    /// The best kernel: confirmed to be faster than the baseline. `null` if there is none.
    best: Option<BestSummary>,
    /// Without a best kernel: the fastest of the others, and why it is not the best. `null` if nothing passed.
    best_unconfirmed: Option<UnconfirmedSummary>,
    /// The best kernel against the best starting kernel. `null` if the best kernel is a starting kernel, or the two were not timed against
    /// each other.
    against_start: Option<Comparison>,
    by_status: BTreeMap<Status, u64>,
    /// Steps without a candidate.
    by_failure: BTreeMap<FailedReason, u64>,
    /// Steps whose model gave no candidate, by reason, with the server's words about the last.
    unanswered: Vec<UnansweredSteps>,
    by_operator: BTreeMap<Operator, OperatorSummary>,
    /// Children of `mutate` against their parents, by transformation. A child of two transformations counts for both.
    by_transformation: BTreeMap<String, ResultSummary>,
    /// Children of models against their parents, by strategy card. Empty if no model was given one.
    by_card: BTreeMap<String, ResultSummary>,
    /// All children against their parents, by workload.
    by_workload: BTreeMap<String, WorkloadSummary>,
    /// Statistics per model. Empty if no model was asked.
    models: BTreeMap<String, ModelStats>,
    /// Statistics per version of the prompts. Empty if no model was asked.
    prompts: BTreeMap<String, ModelStats>,
    /// Wall time over all processes.
    seconds: f64,
    /// The wall time of the search.
    search_seconds: f64,
    /// Candidates judged in a minute of the search. `null` before the first.
    candidates_per_minute: Option<f64>,
    /// What the time was spent on, over all workers, in seconds.
    time: TimeSpent,
}

/// An island (`search.islands`).
#[derive(Serialize)]
struct IslandSummary {
    /// From 1.
    island: usize,
    /// Folded steps, without starting kernels.
    steps: u64,
    /// Kernels that may be parents now.
    elites: usize,
    /// The fastest of them, which may be a migrant. `null` before anything has passed.
    fastest: Option<u64>,
    /// Kernels of other islands that migrated to it, and how often it started again with those of a faster one.
    migrants: u64,
    restarts: u64,
}

#[derive(Serialize)]
struct BestSummary {
    step: u64,
    speedup: Speedup,
    confirmed: bool,
    /// The strongest known baselines beside it, the strongest first. Empty if none is known.
    strongest: Vec<StrongestBaseline>,
    /// Path of the kernel, relative to the run directory.
    kernel: String,
}

#[derive(Serialize)]
struct UnconfirmedSummary {
    step: u64,
    /// The speedup of its confirmation if `confirmed`, else of the search.
    speedup: Speedup,
    confirmed: bool,
    why: WhyUnconfirmed,
    /// The reason in words, for people.
    reason: Option<String>,
    remedy: Option<String>,
    /// Path of the kernel, relative to the run directory.
    kernel: String,
}

#[derive(Serialize)]
struct OperatorSummary {
    steps: u64,
    judged: u64,
    passed: u64,
    /// Candidates that entered the archive.
    added: u64,
    /// Against their parents. Absent if no candidate had a parent.
    #[serde(flatten)]
    children: Option<ResultSummary>,
}

/// Children against the fastest of their parents.
#[derive(Serialize)]
struct ResultSummary {
    /// Children that were judged.
    children: u64,
    #[serde(flatten)]
    compared: WorkloadSummary,
    /// Device time of their judgements.
    device_seconds: f64,
}

/// Children whose figures could be compared with those of a parent.
#[derive(Serialize)]
struct WorkloadSummary {
    compared: u64,
    /// Those that are faster and slower: their 95 % interval does not overlap with the parent's.
    faster: u64,
    slower: u64,
    /// Geometric mean of the speedups over the parent, of those compared. `null` without one.
    mean_ratio: Option<f64>,
    /// The largest of those that are faster. `null` without one.
    best_ratio: Option<f64>,
}

impl Summary {
    /// `kforge`: the version of kforge. `tasks`: how many the run has.
    pub(super) fn new(directory: RunDirectory, kforge: &str, tasks: usize) -> Self {
        let contents = SummaryContents {
            schema: SCHEMA,
            kforge: kforge.to_owned(),
            updated: String::new(),
            finished: false,
            // A run that is killed needs no flags.
            resume: Continuation::default().command(directory.root()),
            spent: None,
            figures: TaskFigures::of(&vec![None; tasks]),
            tasks: Vec::new(),
        };
        Self {
            directory,
            task_count: tasks,
            last_written: None,
            contents,
        }
    }

    /// Replaces the summary of a task. Does not write the file.
    pub(super) fn set_task(
        &mut self,
        progress: &Progress,
        search: &Search,
        model_tally: &ModelTally,
        failure: Option<String>,
    ) {
        self.contents.spent = progress.spent;
        let (counts, results) = (search.counts(), search.results());
        let by_operator = counts.operators.iter();
        let attempts = model_tally.attempts(search);
        let summary = TaskSummary {
            task: progress.task.clone(),
            steps: progress.steps,
            total: progress.total,
            stopped: progress.stopped,
            failure,
            waiting_for: progress
                .awaited
                .iter()
                .map(|path| path.strip_prefix(self.directory.root()).unwrap_or(path))
                .map(Path::to_owned)
                .collect(),
            judged: counts.judged,
            passed: counts.passed,
            dismissed: counts.dismissed,
            counted: counts.counted,
            inconclusive: counts.inconclusive(),
            validity: counts.validity(),
            figures: attempts.all.figures(),
            cells: progress.cells,
            islands: (1..)
                .zip(search.islands())
                .map(IslandSummary::new)
                .collect(),
            headline: progress.headline(),
            best: progress.confirmed_best().map(|best| BestSummary {
                step: best.step,
                speedup: best.speedup,
                confirmed: true,
                strongest: progress.strongest.clone(),
                kernel: best_path(progress),
            }),
            best_unconfirmed: best_unconfirmed(progress),
            against_start: progress.comparison.clone(),
            by_status: counts.verdicts.clone(),
            by_failure: counts.failed.clone(),
            unanswered: model_tally.unanswered(),
            by_operator: by_operator
                .map(|(operator, counts)| {
                    let children = results.by_operator().get(operator);
                    (*operator, OperatorSummary::new(counts, children))
                })
                .collect(),
            by_transformation: result_summaries(results.by_transformation()),
            by_card: result_summaries(results.by_card()),
            by_workload: (results.by_workload().iter())
                .map(|(name, counts)| (name.to_string(), WorkloadSummary::new(counts)))
                .collect(),
            models: model_tally.by_model(&attempts),
            prompts: model_tally.by_prompts_version(&attempts),
            seconds: progress.worked.as_secs_f64(),
            search_seconds: progress.searched.as_secs_f64(),
            candidates_per_minute: progress.candidates_per_minute(),
            time: progress.time,
        };
        let mut tasks = self.contents.tasks.iter_mut();
        match tasks.find(|other| other.task == summary.task) {
            Some(other) => *other = summary,
            None => self.contents.tasks.push(summary),
        }
        let mut confirmed: Vec<_> = self.contents.tasks.iter().map(confirmed_speedup).collect();
        // Tasks that have not started.
        confirmed.resize(self.task_count.max(confirmed.len()), None);
        self.contents.figures = TaskFigures::of(&confirmed);
    }

    /// Whether enough time has passed since the last write.
    pub(super) fn may_be_written(&self) -> bool {
        self.last_written
            .is_none_or(|written| written.elapsed() >= MIN_WRITE_INTERVAL)
    }

    /// Sets the command that continues the run.
    pub(super) fn set_continuation(&mut self, continuation: &Continuation) {
        self.contents.resume = continuation.command(self.directory.root());
    }

    /// Writes the file durably. `finished`: whether every task has ended.
    pub(super) fn write(&mut self, finished: bool) -> Result<()> {
        self.contents.finished = finished;
        self.contents.updated = run::timestamp(run::now_milliseconds());
        self.last_written = Some(Instant::now());
        let mut text = serde_json::to_vec_pretty(&self.contents)?;
        text.push(b'\n');
        files::replace_durably(&self.directory.summary(), &text)
    }
}

fn best_unconfirmed(progress: &Progress) -> Option<UnconfirmedSummary> {
    let (best, why) = progress.best.zip(progress.why_unconfirmed())?;
    Some(UnconfirmedSummary {
        step: best.step,
        speedup: best.speedup,
        confirmed: best.standing.is_confirmed(),
        why,
        reason: progress.unconfirmed_reason(),
        remedy: progress.unconfirmed_remedy(),
        kernel: best_path(progress),
    })
}

/// The speedup of a task's fastest confirmed kernel.
fn confirmed_speedup(task: &TaskSummary) -> Option<f64> {
    let best = task.best.as_ref().map(|best| best.speedup);
    let other = task.best_unconfirmed.as_ref().filter(|one| one.confirmed);
    let speedup = best.or(other.map(|other| other.speedup))?;
    Some(speedup.geomean)
}

fn best_path(progress: &Progress) -> String {
    format!("{}/best.cu", progress.task)
}

fn result_summaries(counts: &BTreeMap<String, ResultCounts>) -> BTreeMap<String, ResultSummary> {
    let counts = counts.iter();
    counts
        .map(|(name, counts)| (name.clone(), ResultSummary::new(counts)))
        .collect()
}

impl IslandSummary {
    fn new((number, island): (usize, &Island)) -> Self {
        let elites = island.archive.elites();
        Self {
            island: number,
            steps: island.steps,
            elites: elites.len(),
            fastest: elites.first().map(|elite| elite.step),
            migrants: island.migrants,
            restarts: island.restarts,
        }
    }
}

impl OperatorSummary {
    fn new(counts: &OperatorCounts, children: Option<&ResultCounts>) -> Self {
        Self {
            steps: counts.asked,
            judged: counts.judged,
            passed: counts.passed,
            added: counts.added,
            children: children.map(ResultSummary::new),
        }
    }
}

impl ResultSummary {
    fn new(counts: &ResultCounts) -> Self {
        Self {
            children: counts.judged,
            compared: WorkloadSummary::new(counts),
            device_seconds: counts.device_seconds,
        }
    }
}

impl WorkloadSummary {
    fn new(counts: &ResultCounts) -> Self {
        Self {
            compared: counts.compared,
            faster: counts.faster,
            slower: counts.slower,
            mean_ratio: counts.mean_ratio(),
            best_ratio: counts.best,
        }
    }
}
