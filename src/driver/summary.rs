//! `summary.json`: counts and the best of every task. A copy for people and scripts: nothing is ever read back from it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use super::model_stats::{ModelStats, ModelTally};
use crate::base::files;
use crate::event::{Cost, FailedReason, Operator, StopReason};
use crate::report::Progress;
use crate::run::{self, RunDirectory};
use crate::search::SearchCounts;
use crate::verdict::{Speedup, Status};

/// The version of `summary.json`.
const SCHEMA: u32 = 1;

/// How often an improvement alone rewrites the file.
const MIN_WRITE_INTERVAL: Duration = Duration::from_secs(1);

/// The file and what goes into it.
pub(super) struct Summary {
    directory: RunDirectory,
    last_written: Option<Instant>,
    contents: SummaryContents,
}

#[derive(Serialize)]
struct SummaryContents {
    schema: u32,
    kforge: String,
    updated: String,
    /// Whether every task has come to its end.
    finished: bool,
    /// What models have cost, over all tasks; without dollars where a price is missing.
    spent: Option<Cost>,
    tasks: Vec<TaskSummary>,
}

/// One task's part.
#[derive(Serialize)]
struct TaskSummary {
    task: String,
    steps: u64,
    total: u64,
    /// Why the search is over; `null` while it is not.
    stopped: Option<StopReason>,
    /// What broke, where something did.
    failure: Option<String>,
    judged: u64,
    passed: u64,
    /// passed / judged; `null` before the first verdict.
    validity: Option<f64>,
    cells: usize,
    best: Option<BestSummary>,
    by_status: BTreeMap<Status, u64>,
    /// Steps without a candidate.
    by_failure: BTreeMap<FailedReason, u64>,
    by_operator: BTreeMap<Operator, OperatorSummary>,
    /// Steps that asked models, by model and by the version of the prompts; empty where none was asked.
    models: BTreeMap<String, ModelStats>,
    prompts: BTreeMap<String, ModelStats>,
    /// Wall time over all processes.
    seconds: f64,
}

#[derive(Serialize)]
struct BestSummary {
    step: u64,
    speedup: Speedup,
    confirmed: bool,
    /// Relative to the run's directory.
    kernel: String,
}

#[derive(Serialize)]
struct OperatorSummary {
    steps: u64,
    judged: u64,
    passed: u64,
    /// Candidates that the archive took.
    added: u64,
}

impl Summary {
    pub(super) fn new(directory: RunDirectory, kforge: &str) -> Self {
        let contents = SummaryContents {
            schema: SCHEMA,
            kforge: kforge.to_owned(),
            updated: String::new(),
            finished: false,
            spent: None,
            tasks: Vec::new(),
        };
        Self {
            directory,
            last_written: None,
            contents,
        }
    }

    /// Puts a task's present state in.
    pub(super) fn set_task(
        &mut self,
        progress: &Progress,
        counts: &SearchCounts,
        tally: &ModelTally,
        failure: Option<String>,
    ) {
        self.contents.spent = progress.spent;
        let operator = |counts: &crate::search::OperatorCounts| OperatorSummary {
            steps: counts.asked,
            judged: counts.judged,
            passed: counts.passed,
            added: counts.added,
        };
        let by_operator = counts.operators.iter();
        let summary = TaskSummary {
            task: progress.task.clone(),
            steps: progress.steps,
            total: progress.total,
            stopped: progress.stopped,
            failure,
            judged: counts.judged,
            passed: counts.passed,
            validity: counts.validity(),
            cells: progress.cells,
            best: progress.best.map(|best| BestSummary {
                step: best.step,
                speedup: best.speedup,
                confirmed: best.confirmed,
                kernel: format!("{}/best.cu", progress.task),
            }),
            by_status: counts.verdicts.clone(),
            by_failure: counts.failed.clone(),
            by_operator: by_operator
                .map(|(name, counts)| (*name, operator(counts)))
                .collect(),
            models: tally.by_model(),
            prompts: tally.by_prompts_version(),
            seconds: (progress.spent_before + progress.elapsed).as_secs_f64(),
        };
        let mut tasks = self.contents.tasks.iter_mut();
        match tasks.find(|other| other.task == summary.task) {
            Some(place) => *place = summary,
            None => self.contents.tasks.push(summary),
        }
    }

    /// Whether it is long enough since the file was written.
    pub(super) fn may_be_written(&self) -> bool {
        self.last_written
            .is_none_or(|written| written.elapsed() >= MIN_WRITE_INTERVAL)
    }

    /// Writes the file.
    pub(super) fn write(&mut self, finished: bool) -> Result<()> {
        self.contents.finished = finished;
        self.contents.updated = run::timestamp(run::now_milliseconds());
        self.last_written = Some(Instant::now());
        let mut text = serde_json::to_vec_pretty(&self.contents)?;
        text.push(b'\n');
        files::replace_durably(&self.directory.summary(), &text)
    }
}
