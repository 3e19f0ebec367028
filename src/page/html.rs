//! The page of one run: collects what the templates and the script show.

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::json;

use super::answer::Answer;
use super::archive_view::{ArchiveView, archive_view};
use super::chart::{Chart, charts};
use super::details::{DetailsReader, StepDetails};
use super::environment::{self, Command};
use super::family::{self, Ancestor, TreeNode};
use super::figures;
use super::selection::Selection;
use super::tables::{
    EliteRow, FailureKind, StepRow, TallyRow, WorkloadTable, elite_rows, failure_kinds, step_rows,
    tally_rows, workload_table,
};
use super::template::render;
use super::texts::Texts;
use crate::history::{Outcome, RunHistory, RunState, Tallies, TaskHistory};
use crate::report::pluralize;

/// The most steps that a page lists.
const MAX_STEPS: usize = 1000;

/// The most bytes of kernels, prompts and replies in a page.
const MAX_TEXT_BYTES: usize = 800_000;

/// The most bytes of a page.
const MAX_PAGE_BYTES: usize = 2_000_000;

/// How much a page may have.
#[derive(Clone, Copy)]
struct PageLimits {
    /// Listed steps.
    steps: usize,
    /// Bytes of kernels, prompts and replies.
    text_bytes: usize,
}

impl PageLimits {
    /// The limits for the next attempt if a page is this much too large: first fewer texts, then fewer steps. `None`: there is hardly
    /// anything to leave out.
    fn reduced(self, excess: usize) -> Option<Self> {
        let least = MAX_TEXT_BYTES / 2;
        if self.text_bytes > least {
            let text_bytes = self.text_bytes.saturating_sub(excess + excess / 8);
            return Some(Self {
                text_bytes: text_bytes.max(least),
                ..self
            });
        }
        (self.steps > 20).then_some(Self {
            steps: self.steps * 3 / 4,
            ..self
        })
    }
}

/// The page of a run.
#[derive(Serialize)]
struct Page {
    title: String,
    directory: String,
    state: &'static str,
    is_finished: bool,
    started: String,
    damage: Vec<String>,
    failures: Vec<String>,
    tasks: Vec<TaskPage>,
    facts: Vec<(&'static str, String)>,
    commands: Vec<Command>,
    config: String,
}

/// The part of a page about one task.
#[derive(Serialize)]
struct TaskPage {
    /// Begins the ids of the task in the page.
    prefix: String,
    name: String,
    answer: Answer,
    /// What stands in the place of a speedup, and how it is marked.
    instead: &'static str,
    mark: &'static str,
    tiles: Vec<[String; 3]>,
    charts: Vec<Chart>,
    /// The workloads of the best kernel's confirmation. `None` without a best kernel.
    workloads: Option<WorkloadTable>,
    workload_ids: Vec<String>,
    elites: Vec<EliteRow>,
    elites_in_all: usize,
    archive: Option<ArchiveView>,
    path: Vec<Ancestor>,
    tree: Vec<TreeNode>,
    tallies: Vec<TallyTable>,
    failures: Vec<FailureKind>,
    steps: Vec<StepRow>,
    steps_in_all: usize,
    texts_left_out: u64,
    has_models: bool,
    has_islands: bool,
}

#[derive(Serialize)]
struct TallyTable {
    title: &'static str,
    kind: &'static str,
    rows: Vec<TallyRow>,
}

/// The page of a run: one HTML document that loads nothing.
///
/// # Errors
/// If a template does not fit: an error of kforge.
pub(crate) fn html(run: &RunHistory) -> Result<String> {
    let mut limits = PageLimits {
        steps: MAX_STEPS,
        text_bytes: MAX_TEXT_BYTES,
    };
    loop {
        let page = limited_html(run, limits)?;
        let excess = page.len().saturating_sub(MAX_PAGE_BYTES - 1);
        let next = (excess > 0).then(|| limits.reduced(excess)).flatten();
        match next {
            Some(next) => limits = next,
            None => return Ok(page),
        }
    }
}

fn limited_html(run: &RunHistory, limits: PageLimits) -> Result<String> {
    let share = run.tasks.len().max(1);
    let mut tasks = Vec::new();
    let mut data = Vec::new();
    for (index, task) in run.tasks.iter().enumerate() {
        let selection = Selection::of(task, limits.steps / share);
        let mut texts = Texts::new(limits.text_bytes / share);
        let mut reader = DetailsReader::new(task, &mut texts);
        reader.read_kernels(&selection.steps);
        let steps = selection.steps.iter().filter_map(|step| task.step(*step));
        let details: Vec<StepDetails> = steps.map(|step| reader.details(step)).collect();
        let path = family::path(task, &reader);
        let left_out = texts.left_out;
        let page = TaskPage::new(run, task, (index, &selection));
        data.push(json!({
            "steps": details,
            "texts": texts.json(),
            "archive": page.archive,
        }));
        tasks.push(TaskPage {
            path,
            texts_left_out: left_out,
            ..page
        });
    }
    let config = serde_yaml::to_string(&run.record.config);
    let names: Vec<_> = run.tasks.iter().map(|task| task.name.as_str()).collect();
    let page = Page {
        title: names.join(", "),
        directory: run.directory.display().to_string(),
        state: run.state.name(),
        is_finished: run.state == RunState::Finished,
        started: run.started.clone(),
        damage: run.damage.clone(),
        failures: run.failures.clone(),
        tasks,
        facts: environment::facts(run),
        commands: environment::commands(run),
        config: config.context("cannot write the config")?,
    };
    render("page.html", &page, &json!({ "tasks": data }))
}

impl TaskPage {
    /// Everything except the path, for which sources are read. `selection`: the task's number in the page, and its listed steps.
    fn new(run: &RunHistory, task: &TaskHistory, (index, selection): (usize, &Selection)) -> Self {
        let prefix = format!("t{index}");
        let listed = &selection.set;
        let tallies = Tallies::of(task);
        let tables = [
            ("Operators", "operator", &tallies.operators),
            ("Models", "model", &tallies.models),
            ("Strategy cards", "card", &tallies.cards),
            ("Versions of the prompts", "version", &tallies.prompts),
        ];
        let tables = tables.into_iter().filter(|(.., groups)| !groups.is_empty());
        let tallies = tables.map(|(title, kind, groups)| TallyTable {
            title,
            kind,
            rows: tally_rows(groups, listed, task.dollars().is_some()),
        });
        let answer = Answer::of(task, run.state);
        let (instead, mark) = match answer.kind {
            _ if task.ended() == 0 => ("No result yet", "unconfirmed"),
            "unconfirmed" => ("No gain confirmed", answer.kind),
            kind => ("Nothing passed", kind),
        };
        Self {
            name: task.name.clone(),
            answer,
            instead,
            mark,
            tiles: tiles(task),
            charts: charts(task, &prefix, listed),
            workloads: task
                .best()
                .map(|(_, best, _)| workload_table(&best.verdict, task.strongest_timed())),
            workload_ids: task.workloads.clone(),
            elites: elite_rows(task, listed),
            elites_in_all: task.unrefuted_elites().count(),
            archive: archive_view(task, listed),
            path: Vec::new(),
            tree: family::tree(task, listed),
            tallies: tallies.collect(),
            failures: failure_kinds(task, listed),
            steps: step_rows(task, selection),
            steps_in_all: task.steps.len(),
            texts_left_out: 0,
            has_models: task.steps.iter().any(|step| step.requests > 0),
            has_islands: task.steps.iter().any(|step| step.island.is_some()),
            prefix,
        }
    }
}

/// The counts of a task: name, value, explanation.
fn tiles(task: &TaskHistory) -> Vec<[String; 3]> {
    let steps = task.ended();
    let judged = task.count(Outcome::is_judged);
    let passed = task.count(|outcome| matches!(outcome, Outcome::Passed | Outcome::Dismissed));
    let dismissed = task.count(|outcome| outcome == Outcome::Dismissed);
    let failures = task.count(Outcome::is_failure);
    let mut tiles = vec![
        (
            "steps",
            figures::count(steps),
            counts_text(&[
                (judged, "judged"),
                (task.count(Outcome::is_repeat), "duplicates"),
                (task.steps.len() as u64 - steps, "not ended"),
            ]),
        ),
        (
            "passed",
            figures::count(passed),
            match dismissed {
                0 => "correct, and timed to the end".to_owned(),
                count => format!("{} of them surely slower", figures::count(count)),
            },
        ),
        (
            "failures",
            figures::count(failures),
            format!(
                "{} of the steps",
                figures::percent(failures as f64 / steps.max(1) as f64)
            ),
        ),
        (
            "kinds of kernels",
            task.grid.elites().len().to_string(),
            "filled cells of the archive".to_owned(),
        ),
        (
            "time of work",
            figures::duration(task.seconds),
            match task.seconds > 0.0 {
                true => format!(
                    "{:.1} judged in a minute",
                    judged as f64 / task.seconds * 60.0
                ),
                false => String::new(),
            },
        ),
    ];
    if task.tokens > 0 {
        let tokens = figures::count(task.tokens);
        tiles.push(match task.dollars() {
            Some(dollars) => (
                "models",
                figures::dollars(dollars),
                format!("{tokens} tokens"),
            ),
            None => (
                "tokens",
                tokens,
                "of models whose price is unknown".to_owned(),
            ),
        });
    }
    let confirmed = task.confirmations.len() as u64;
    tiles.push((
        "confirmed",
        task.confirmations
            .values()
            .filter(|one| one.speedup.is_some())
            .count()
            .to_string(),
        format!("{} measured again", pluralize(confirmed, "kernel")),
    ));
    tiles
        .into_iter()
        .map(|(name, value, note)| [name.to_owned(), value, note])
        .collect()
}

/// The first count, and those of the others that are not 0.
fn counts_text(counts: &[(u64, &str)]) -> String {
    let shown = counts.iter().enumerate();
    let shown = shown.filter(|(index, (count, _))| *index == 0 || *count > 0);
    let texts = shown.map(|(_, (count, name))| format!("{} {name}", figures::count(*count)));
    texts.collect::<Vec<_>>().join(", ")
}
