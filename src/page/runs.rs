//! A list of runs: one line for each task of each run.
//!
//! Pure, except that the age of a run is counted from now.

use std::path::Path;

use serde::Serialize;

use super::answer::Answer;
use super::figures;
use crate::history::RunHistory;
use crate::run::{now_milliseconds, parse_timestamp};
use crate::verdict::{SpeedupOrigin, StrongestBaseline, within_tolerance};

/// A task of a run.
#[derive(Debug, Serialize)]
pub(crate) struct RunLine {
    run: String,
    task: String,
    state: &'static str,
    /// The confirmed speedup of the best kernel. `None` without one.
    confirmed: Option<f64>,
    ci95: Option<[f64; 2]>,
    /// The strongest known baselines beside the best kernel, the strongest first.
    strongest: Vec<StrongestBaseline>,
    /// The fastest elite of the search: provisional.
    provisional: Option<f64>,
    device: String,
    steps: u64,
    tokens: u64,
    /// `None` if a price is unknown.
    dollars: Option<f64>,
    /// Empty if the run has not started.
    pub(crate) started: String,
    /// Since the last event. `None` without one.
    age_seconds: Option<f64>,
}

impl RunLine {
    /// The line with another name of its run.
    pub(crate) fn named(self, name: &str) -> Self {
        Self {
            run: name.to_owned(),
            ..self
        }
    }
}

/// The lines of a run of a sweep that has not started.
pub(crate) fn lines_of_open_run<'a>(
    directory: &Path,
    tasks: impl Iterator<Item = &'a str>,
) -> Vec<RunLine> {
    let lines = tasks.map(|task| RunLine {
        run: directory.display().to_string(),
        task: task.to_owned(),
        state: "not started",
        confirmed: None,
        ci95: None,
        strongest: Vec::new(),
        provisional: None,
        device: String::new(),
        steps: 0,
        tokens: 0,
        dollars: Some(0.0),
        started: String::new(),
        age_seconds: None,
    });
    lines.collect()
}

/// The lines of a run.
pub(crate) fn run_lines(run: &RunHistory) -> Vec<RunLine> {
    let now = now_milliseconds();
    let age = parse_timestamp(&run.last_event).map(|last| now.saturating_sub(last) as f64 / 1000.0);
    let lines = run.tasks.iter().map(|task| {
        let answer = Answer::of(task, run.state);
        RunLine {
            run: run.directory.display().to_string(),
            task: task.name.clone(),
            state: run.state.name(),
            confirmed: answer.speedup.map(|speedup| speedup.geomean),
            ci95: answer.speedup.map(|speedup| speedup.ci95),
            strongest: answer.strongest,
            provisional: task
                .unrefuted_elites()
                .next()
                .map(|elite| elite.speedup.geomean),
            device: run.record.device.name.clone(),
            steps: task.ended(),
            tokens: task.tokens,
            dollars: task.dollars(),
            started: run.started.clone(),
            age_seconds: age,
        }
    });
    lines.collect()
}

/// The lines as a table. Columns are as wide as their widest value.
pub(crate) fn runs_table(lines: &[RunLine]) -> String {
    let heads = [
        "run",
        "task",
        "confirmed",
        "over the strongest",
        "search",
        "state",
        "steps",
        "cost",
        "age",
        "device",
    ];
    let rows = lines.iter().map(|line| {
        let confirmed = line
            .confirmed
            .map_or_else(|| "-".to_owned(), figures::confirmed);
        let strongest =
            within_tolerance(&line.strongest).map_or_else(|| "-".to_owned(), strongest_text);
        let search = line
            .provisional
            .map_or_else(|| "-".to_owned(), figures::provisional);
        let cost = match (line.tokens, line.dollars) {
            (0, _) => "-".to_owned(),
            (_, Some(dollars)) => figures::dollars(dollars),
            (tokens, None) => format!("{} tokens", figures::count(tokens)),
        };
        [
            line.run.clone(),
            line.task.clone(),
            confirmed,
            strongest,
            search,
            line.state.to_owned(),
            line.steps.to_string(),
            cost,
            line.age_seconds.map_or_else(|| "-".to_owned(), age_text),
            line.device.clone(),
        ]
    });
    let rows: Vec<[String; 10]> = std::iter::once(heads.map(str::to_owned))
        .chain(rows)
        .collect();
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let lines = rows.iter().map(|row| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        format!("{}\n", line.trim_end())
    });
    lines.collect()
}

/// `1.160x torch 2.11.0`, and whether the figure is derived.
fn strongest_text(strongest: &StrongestBaseline) -> String {
    let figure = figures::confirmed(strongest.speedup.geomean);
    let derived = match strongest.origin {
        SpeedupOrigin::Derived => " (derived)",
        SpeedupOrigin::Pairs => "",
    };
    format!("{figure} {}{derived}", strongest.label())
}

/// How long ago something was: one unit.
fn age_text(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 120.0 => format!("{seconds:.0} s"),
        seconds if seconds < 7200.0 => format!("{:.0} min", seconds / 60.0),
        seconds if seconds < 172_800.0 => format!("{:.0} h", seconds / 3600.0),
        seconds => format!("{:.0} days", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_one_unit() {
        let ages = [5.0, 600.0, 9000.0, 259_200.0].map(age_text);
        assert_eq!(ages, ["5 s", "10 min", "2 h", "3 days"]);
    }
}
