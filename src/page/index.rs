//! Several runs on one page: an index, and for each task that they share what each found.
//!
//! Figures of runs stand side by side. Whether arms differ is a text that the caller gives, in the words of `kforge compare`.

use anyhow::Result;
use serde::Serialize;
use serde_json::json;

use super::answer::{Answer, timed_workloads};
use super::figures;
use super::template::render;
use crate::history::{Outcome, RunHistory};

#[derive(Serialize)]
struct Index {
    title: String,
    runs: Vec<RunRow>,
    tasks: Vec<TaskTable>,
    damage: Vec<String>,
    /// Whether arms of the runs differ, as text. Empty if there are no arms.
    comparison: String,
}

/// A task of a run.
#[derive(Clone, Serialize)]
struct RunRow {
    directory: String,
    /// The page of the run, if it exists.
    link: Option<String>,
    task: String,
    headline: String,
    confirmed: String,
    confirmed_value: Option<f64>,
    interval: String,
    /// The strongest known baselines beside the best kernel, in words.
    strongest: String,
    /// Where the interval is in a bar of 100: low end, high end, estimate.
    bar: Option<[f64; 3]>,
    search: String,
    search_value: Option<f64>,
    baseline: String,
    device: String,
    state: &'static str,
    steps: u64,
    failures: u64,
    time: String,
    seconds: f64,
    dollars: String,
    dollars_value: f64,
    started: String,
}

/// A task that several runs have, workload by workload.
#[derive(Serialize)]
struct TaskTable {
    task: String,
    rows: Vec<RunRow>,
    /// Where a speedup of 1 is in the bars.
    one: f64,
    workloads: Vec<String>,
    /// For each run the confirmed figure of its best kernel on each workload.
    figures: Vec<(String, Vec<String>)>,
    /// Why the figures cannot be set side by side.
    warnings: Vec<String>,
}

/// The page of several runs. `links`: for each run the page of its own, relative to this one. `comparison`: whether arms of them differ.
///
/// # Errors
/// If a template does not fit: an error of kforge.
pub(crate) fn index_html(
    runs: &[RunHistory],
    links: &[Option<String>],
    comparison: String,
) -> Result<String> {
    let mut names: Vec<&str> = Vec::new();
    for task in runs.iter().flat_map(|run| &run.tasks) {
        if !names.contains(&task.name.as_str()) {
            names.push(&task.name);
        }
    }
    let links = links.iter().cloned().chain(std::iter::repeat(None));
    let rows: Vec<Vec<RunRow>> = runs
        .iter()
        .zip(links)
        .map(|(run, link)| run_rows(run, link))
        .collect();
    let tables = names.iter().map(|name| task_table(name, runs, &rows));
    let index = Index {
        title: format!("{} runs", runs.len()),
        tasks: tables.collect(),
        runs: rows.iter().flatten().cloned().collect(),
        damage: runs.iter().flat_map(|run| run.damage.clone()).collect(),
        comparison,
    };
    render("index.html", &index, &json!({}))
}

fn run_rows(run: &RunHistory, link: Option<String>) -> Vec<RunRow> {
    let rows = run.tasks.iter().map(|task| {
        let answer = Answer::of(task, run.state);
        let search = task
            .unrefuted_elites()
            .next()
            .map(|elite| elite.speedup.geomean);
        let dollars = task.dollars();
        RunRow {
            directory: run.directory.display().to_string(),
            link: link.clone(),
            task: task.name.clone(),
            headline: answer.headline,
            confirmed: answer
                .speedup
                .map_or_else(String::new, |one| figures::confirmed(one.geomean)),
            confirmed_value: answer.speedup.map(|one| one.geomean),
            interval: answer
                .speedup
                .map_or_else(String::new, |one| figures::confirmed_interval(one.ci95)),
            strongest: answer.over_strongest.join("; "),
            bar: None,
            search: search.map_or_else(String::new, figures::provisional),
            search_value: search,
            baseline: answer.baseline,
            device: answer.device,
            state: run.state.name(),
            steps: task.ended(),
            failures: task.count(Outcome::is_failure),
            time: figures::duration(task.seconds),
            seconds: task.seconds,
            dollars: dollars.map_or_else(String::new, figures::dollars),
            dollars_value: dollars.unwrap_or(0.0),
            started: run.started.clone(),
        }
    });
    rows.collect()
}

fn task_table(name: &str, runs: &[RunHistory], rows: &[Vec<RunRow>]) -> TaskTable {
    let mut of_task: Vec<RunRow> = rows
        .iter()
        .flatten()
        .filter(|row| row.task == name)
        .cloned()
        .collect();
    let tasks = runs
        .iter()
        .flat_map(|run| run.tasks.iter().map(move |task| (run, task)));
    let tasks: Vec<_> = tasks.filter(|(_, task)| task.name == name).collect();
    let speedups: Vec<_> = tasks
        .iter()
        .map(|(_, task)| task.best().map(|best| best.2))
        .collect();
    let ends = speedups
        .iter()
        .flatten()
        .flat_map(|one| one.ci95)
        .map(f64::ln);
    let ends: Vec<f64> = ends.collect();
    let low = ends.iter().copied().fold(0.0, f64::min) - 0.05;
    let high = ends.iter().copied().fold(0.0, f64::max) + 0.05;
    let place = |ratio: f64| ((ratio.ln() - low) / (high - low) * 1000.0).round() / 10.0;
    for (row, speedup) in of_task.iter_mut().zip(&speedups) {
        row.bar = speedup.map(|one| [one.ci95[0], one.ci95[1], one.geomean].map(place));
    }
    let mut workloads: Vec<String> = Vec::new();
    let best_of = |task: &crate::history::TaskHistory| {
        let best = task
            .best()
            .map(|(_, best, _)| best.verdict.workloads.clone());
        best.unwrap_or_default()
    };
    for (_, task) in &tasks {
        for one in timed_workloads(&best_of(task)) {
            if !workloads.contains(&one.id) {
                workloads.push(one.id.clone());
            }
        }
    }
    let figures = tasks.iter().map(|(run, task)| {
        let best = best_of(task);
        let on = |id: &String| {
            let found = timed_workloads(&best).find(|one| one.id == *id);
            found
                .and_then(|one| one.speedup)
                .map_or_else(String::new, figures::confirmed)
        };
        (
            run.directory.display().to_string(),
            workloads.iter().map(on).collect(),
        )
    });
    let figures = figures.collect();
    TaskTable {
        task: name.to_owned(),
        warnings: warnings(
            name,
            &of_task,
            &tasks.iter().map(|(run, _)| *run).collect::<Vec<_>>(),
        ),
        rows: of_task,
        one: place(1.0),
        workloads,
        figures,
    }
}

/// What makes figures of different runs incomparable.
fn warnings(name: &str, rows: &[RunRow], runs: &[&RunHistory]) -> Vec<String> {
    let mut warnings = Vec::new();
    let differs = |values: Vec<String>| values.windows(2).any(|pair| pair[0] != pair[1]);
    if differs(rows.iter().map(|row| row.device.clone()).collect()) {
        warnings.push("The runs were made on different devices.".to_owned());
    }
    if differs(rows.iter().map(|row| row.baseline.clone()).collect()) {
        warnings.push("The runs have different baselines.".to_owned());
    }
    let folders = runs.iter().filter_map(|run| run.record.tasks.get(name));
    if differs(folders.map(|task| task.folder.to_string()).collect()) {
        warnings.push("The files of the task differ between the runs.".to_owned());
    }
    warnings
}
