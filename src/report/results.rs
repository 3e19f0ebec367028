//! What came of a run: the best kernels of each task beside those that it started from, and where they lie.
//!
//! Made from the journals alone.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Progress;
use crate::event::{Event, Operator, Proposed};
use crate::run::{Journal, RunDirectory};
use crate::verdict::{DeviceIdentity, Speedup, Verdict};

/// How many kernels are listed beside the starting ones.
const LISTED: usize = 5;

/// One task's end.
pub struct TaskResults {
    pub progress: Progress,
    pub failure: Option<String>,
}

/// A kernel that passed.
struct Row {
    step: u64,
    operator: Operator,
    detail: String,
    measured: Speedup,
    confirmed: Option<Speedup>,
}

impl Row {
    /// The confirmed number where there is one.
    fn speedup(&self) -> Speedup {
        self.confirmed.unwrap_or(self.measured)
    }
}

/// The tables of all tasks.
pub fn results(directory: &RunDirectory, tasks: &[TaskResults]) -> anyhow::Result<String> {
    let mut text = String::new();
    for task in tasks {
        text += &one(directory, task)?;
    }
    Ok(text)
}

fn one(directory: &RunDirectory, results: &TaskResults) -> anyhow::Result<String> {
    let progress = &results.progress;
    let folder = directory.existing_task(&progress.task)?;
    let mut proposed = BTreeMap::<u64, Proposed>::new();
    let mut rows = BTreeMap::<u64, Row>::new();
    let mut device = None;
    let mut baseline = String::new();
    Journal::open(&folder.journal(), |_, event: Event| {
        match event {
            Event::Proposed(event) => {
                proposed.insert(event.step, event);
            }
            Event::Judged(event) => {
                if device.is_none() {
                    device = Some(event.verdict.device.clone());
                    baseline = event
                        .verdict
                        .baseline
                        .as_ref()
                        .map_or_else(String::new, |baseline| baseline.name.clone());
                }
                if let (Some(proposed), Some(speedup)) =
                    (proposed.get(&event.step), passed(&event.verdict))
                {
                    let row = Row {
                        step: event.step,
                        operator: proposed.operator,
                        detail: proposed.detail.clone(),
                        measured: speedup,
                        confirmed: None,
                    };
                    rows.insert(event.step, row);
                }
            }
            Event::Confirmed(event) => {
                if let Some(row) = rows.get_mut(&event.step) {
                    row.confirmed = passed(&event.verdict);
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    let mut text = format!(
        "\n{}: {} of {} steps, {} judged, {} passed, {} cells filled\n",
        progress.task,
        progress.steps,
        progress.total,
        progress.judged,
        progress.passed,
        progress.cells
    );
    if let Some(failure) = &results.failure {
        text += &format!("  {failure}\n");
    }
    if rows.is_empty() {
        text += "  no candidate passed\n";
        return Ok(text);
    }
    let mut order: Vec<_> = rows.values().collect();
    let best = progress.best.map(|best| best.step);
    order.sort_by(|left, right| {
        let key = |row: &Row| (Some(row.step) == best, row.confirmed.is_some());
        key(right)
            .cmp(&key(left))
            .then(right.speedup().geomean.total_cmp(&left.speedup().geomean))
    });
    text += &format!(
        "  {:>4}  {:>8}  {:<18} {:<9} {:<10} {}\n",
        "step", "speedup", "95 % interval", "confirmed", "operator", "what was done"
    );
    for row in order
        .iter()
        .filter(|row| row.operator != Operator::Start)
        .take(LISTED)
    {
        text += &line(row);
    }
    let starts: Vec<_> = order
        .iter()
        .filter(|row| row.operator == Operator::Start)
        .collect();
    if !starts.is_empty() {
        text += "  started from\n";
        starts.into_iter().for_each(|row| text += &line(row));
    }
    text += &format!(
        "  speedups are over the baseline `{baseline}`, geometric mean over the workloads{}\n",
        confirmed_note(&order)
    );
    if let Some(device) = device {
        text += &caveat(&device);
    }
    let show = |name: &str, path: PathBuf| format!("  {name:<13}{}\n", path.display());
    text += &show("best kernel", folder.best_source());
    text += &show("its verdict", folder.best_verdict());
    text += &show("all steps", folder.root().join("steps"));
    Ok(text)
}

fn line(row: &Row) -> String {
    let Speedup { geomean, ci95 } = row.speedup();
    let interval = format!("[{:.3}, {:.3}]", ci95[0], ci95[1]);
    let confirmed = if row.confirmed.is_some() { "yes" } else { "" };
    let operator = format!("{:?}", row.operator).to_lowercase();
    format!(
        "  {:>4}  {geomean:>7.3}x  {interval:<18} {confirmed:<9} {operator:<10} {}\n",
        row.step, row.detail
    )
}

fn confirmed_note(rows: &[&Row]) -> &'static str {
    match rows.iter().any(|row| row.confirmed.is_some()) {
        true => "; the confirmed ones were measured again with new seeds in fresh processes",
        false => "",
    }
}

/// A CPU time is a CPU time, wherever it is shown.
pub(super) fn caveat(device: &DeviceIdentity) -> String {
    match device.cores {
        Some(cores) => format!(
            "  times are CPU times ({}, {cores} cores): they rank kernels on this machine, not on a GPU\n",
            device.name
        ),
        None => format!("  measured on {}\n", device.name),
    }
}

fn passed(verdict: &Verdict) -> Option<Speedup> {
    verdict.speedup.filter(|_| verdict.passed())
}
