//! The tables of a page: workloads, kernels, operators and models, failures, steps. Every number has a plain value to sort by.
//!
//! Pure. A confirmed figure and one of the search never share a column.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use super::answer::{made_by, timed_workloads};
use super::details::confirmation_text;
use super::figures;
use super::selection::{self, Selection};
use crate::history::{Outcome, Tally, TaskHistory};
use crate::verdict::{BaselineEntry, Verdict};

/// The most kernels in the table of elites.
const MAX_ELITES: usize = 60;

/// A workload of the best kernel.
#[derive(Debug, Serialize)]
pub(super) struct WorkloadRow {
    id: String,
    /// The axes that differ between the workloads.
    axes: String,
    time: String,
    time_us: Option<f64>,
    baseline_time: String,
    baseline_us: Option<f64>,
    speedup: String,
    ratio: Option<f64>,
    interval: String,
    /// The strongest baseline that the kernel was timed against in pairs. Empty without one.
    strongest_time: String,
    strongest_us: Option<f64>,
    over_strongest: String,
    strongest_ratio: Option<f64>,
    /// Where the interval is in a bar of 100: its low end, its high end, the estimate.
    bar: Option<[f64; 3]>,
    floor: String,
    roofline: String,
    margin: String,
    is_loss: bool,
}

/// The workloads of a verdict, all timed ones, and where a speedup of 1 is in the bars.
#[derive(Debug, Serialize)]
pub(super) struct WorkloadTable {
    rows: Vec<WorkloadRow>,
    /// The axes that all workloads have in common.
    common_axes: String,
    /// The strongest baseline that the kernel was timed against in pairs, in words.
    strongest: Option<String>,
    /// Checked and not timed.
    hidden: usize,
    one: f64,
    has_floor: bool,
}

/// The table of a verdict. `strongest`: the strongest baseline that the kernel was timed against in pairs.
pub(super) fn workload_table(
    verdict: &Verdict,
    strongest: Option<&BaselineEntry>,
) -> WorkloadTable {
    let timed: Vec<_> = timed_workloads(&verdict.workloads).collect();
    let ends = timed.iter().filter_map(|one| one.ci95).flatten();
    let ends: Vec<f64> = ends.filter(|end| *end > 0.0).map(f64::ln).collect();
    let low = ends.iter().copied().fold(0.0, f64::min) - 0.05;
    let high = ends.iter().copied().fold(0.0, f64::max) + 0.05;
    let place = |ratio: f64| {
        let share = (ratio.max(f64::MIN_POSITIVE).ln() - low) / (high - low);
        (share.clamp(0.0, 1.0) * 1000.0).round() / 10.0
    };
    let is_common = |name: &String, value: &i64| {
        timed.len() > 1 && timed.iter().all(|one| one.axes.get(name) == Some(value))
    };
    let rows = timed.iter().map(|one| {
        let median =
            |summary: &Option<crate::verdict::TimeSummary>| summary.map(|times| times.median);
        let (time_us, baseline_us) = (median(&one.candidate_us), median(&one.baseline_us));
        let time = |us: Option<f64>| us.map_or_else(String::new, figures::microseconds);
        let axes = one.axes.iter();
        let axes = axes.filter(|(name, value)| !is_common(name, value));
        let beside = strongest.and_then(|entry| entry.on(&one.id));
        let ratio = beside.map(|beside| beside.kernel_speedup);
        WorkloadRow {
            strongest_time: time(beside.map(|beside| beside.baseline_us)),
            strongest_us: beside.map(|beside| beside.baseline_us),
            over_strongest: ratio.map_or_else(String::new, figures::confirmed),
            strongest_ratio: ratio,
            id: one.id.clone(),
            axes: axes_text(axes),
            time: time(time_us),
            time_us,
            baseline_time: time(baseline_us),
            baseline_us,
            speedup: one.speedup.map_or_else(String::new, figures::confirmed),
            ratio: one.speedup,
            interval: one
                .ci95
                .map_or_else(String::new, figures::confirmed_interval),
            bar: one
                .ci95
                .zip(one.speedup)
                .map(|([low, high], middle)| [place(low), place(high), place(middle)]),
            floor: time(one.floor_us),
            roofline: one.roofline.map_or_else(String::new, figures::percent),
            margin: one
                .tolerance_margin
                .map_or_else(String::new, figures::percent),
            is_loss: one.ci95.is_some_and(|[_, high]| high < 1.0),
        }
    });
    let first = timed.first().into_iter().flat_map(|one| &one.axes);
    WorkloadTable {
        rows: rows.collect(),
        common_axes: axes_text(first.filter(|(name, value)| is_common(name, value))),
        strongest: strongest.map(BaselineEntry::label),
        hidden: verdict.workloads.iter().filter(|one| one.hidden).count(),
        one: place(1.0),
        has_floor: timed.iter().any(|one| one.floor_us.is_some()),
    }
}

/// `rows=64, columns=257`
fn axes_text<'a>(axes: impl Iterator<Item = (&'a String, &'a i64)>) -> String {
    let axes = axes.map(|(name, value)| format!("{name}={value}"));
    axes.collect::<Vec<_>>().join(", ")
}

/// A kernel of the archive.
#[derive(Debug, Serialize)]
pub(super) struct EliteRow {
    step: u64,
    is_listed: bool,
    confirmed: String,
    confirmed_value: Option<f64>,
    search: String,
    search_value: f64,
    interval: String,
    made_by: String,
    change: String,
    cell: String,
    /// The figures of the search on each workload.
    on_workloads: Vec<String>,
}

/// The fastest elites: confirmed ones first.
pub(super) fn elite_rows(task: &TaskHistory, is_listed: &HashSet<u64>) -> Vec<EliteRow> {
    let rows = task.unrefuted_elites().map(|elite| {
        let confirmation = task.confirmations.get(&elite.step);
        let step = task.step(elite.step);
        let on_workloads = step.map_or(&[][..], |step| &step.on_workloads);
        EliteRow {
            step: elite.step,
            is_listed: is_listed.contains(&elite.step),
            confirmed: confirmation.map_or_else(String::new, confirmation_text),
            confirmed_value: confirmation
                .and_then(|one| one.speedup)
                .map(|speedup| speedup.geomean),
            search: figures::provisional(elite.speedup.geomean),
            search_value: elite.speedup.geomean,
            interval: figures::provisional_interval(elite.speedup.ci95),
            made_by: made_by(task, elite.step),
            change: step.map_or_else(String::new, |step| step.detail.to_string()),
            cell: task.grid.describe(elite),
            on_workloads: on_workloads
                .iter()
                .map(|ratio| match ratio.is_nan() {
                    true => String::new(),
                    false => figures::provisional(f64::from(*ratio)),
                })
                .collect(),
        }
    });
    let mut rows: Vec<_> = rows.collect();
    let value = |row: &EliteRow| row.confirmed_value.unwrap_or(f64::NEG_INFINITY);
    // The sort is stable: the others keep the archive's order.
    rows.sort_by(|one, other| value(other).total_cmp(&value(one)));
    rows.truncate(MAX_ELITES);
    rows
}

/// An operator, model, card or version of the prompts.
#[derive(Debug, Serialize)]
pub(super) struct TallyRow {
    name: String,
    steps: u64,
    passed: u64,
    validity: String,
    validity_value: Option<f64>,
    faster: u64,
    added: u64,
    fastest: String,
    fastest_value: f64,
    fastest_step: Option<u64>,
    is_listed: bool,
    seconds: String,
    seconds_value: f64,
    requests: u64,
    tokens: String,
    tokens_value: u64,
    dollars: String,
    dollars_value: f64,
    dollars_per_elite: String,
}

pub(super) fn tally_rows(
    tallies: &BTreeMap<String, Tally>,
    is_listed: &HashSet<u64>,
    is_priced: bool,
) -> Vec<TallyRow> {
    let rows = tallies.iter().map(|(name, tally)| {
        let dollars = tally.nano_usd as f64 / 1e9;
        let validity = (tally.counted > 0).then(|| tally.passed as f64 / tally.counted as f64);
        let fastest_step = tally.fastest.map(|(_, step)| step);
        let per_elite = (tally.added > 0 && dollars > 0.0)
            .then(|| figures::dollars(dollars / tally.added as f64));
        TallyRow {
            name: name.clone(),
            steps: tally.steps,
            passed: tally.passed,
            validity: validity.map_or_else(String::new, figures::percent),
            validity_value: validity,
            faster: tally.faster,
            added: tally.added,
            fastest: tally
                .fastest
                .map_or_else(String::new, |one| figures::provisional(one.0)),
            fastest_value: tally.fastest.map_or(0.0, |one| one.0),
            fastest_step,
            is_listed: fastest_step.is_some_and(|step| is_listed.contains(&step)),
            seconds: figures::duration(tally.judge_seconds),
            seconds_value: tally.judge_seconds,
            requests: tally.requests,
            tokens: figures::count(tally.tokens),
            tokens_value: tally.tokens,
            dollars: priced(dollars, is_priced),
            dollars_value: dollars,
            dollars_per_elite: per_elite.unwrap_or_default(),
        }
    });
    rows.collect()
}

/// An amount, if the prices of all models are known.
fn priced(dollars: f64, is_priced: bool) -> String {
    match is_priced {
        true => figures::dollars(dollars),
        false => "unknown".to_owned(),
    }
}

/// All failures of one kind.
#[derive(Debug, Serialize)]
pub(super) struct FailureKind {
    name: String,
    count: u64,
    share: String,
    examples: Vec<FailureRow>,
}

#[derive(Debug, Serialize)]
struct FailureRow {
    step: u64,
    is_listed: bool,
    made_by: String,
    change: String,
    reason: String,
}

/// The failures of a task by kind, the most frequent first.
pub(super) fn failure_kinds(task: &TaskHistory, is_listed: &HashSet<u64>) -> Vec<FailureKind> {
    let mut counts = BTreeMap::<Outcome, u64>::new();
    for step in task.steps.iter().filter(|step| step.outcome.is_failure()) {
        *counts.entry(step.outcome).or_default() += 1;
    }
    let ended = task.ended().max(1) as f64;
    let kinds = selection::failures(task)
        .into_iter()
        .map(|(outcome, steps)| {
            let count = counts.get(&outcome).copied().unwrap_or(0);
            let rows = steps.iter().filter_map(|step| task.step(*step));
            let rows = rows.map(|step| FailureRow {
                step: step.step,
                is_listed: is_listed.contains(&step.step),
                made_by: made_by(task, step.step),
                change: step.detail.to_string(),
                reason: step.reason.as_deref().unwrap_or_default().to_owned(),
            });
            FailureKind {
                name: outcome.name(),
                count,
                share: figures::percent(count as f64 / ended),
                examples: rows.collect(),
            }
        });
    let mut kinds: Vec<_> = kinds.collect();
    kinds.sort_by_key(|kind| std::cmp::Reverse(kind.count));
    kinds
}

/// A step in the table of steps.
#[derive(Debug, Serialize)]
pub(super) struct StepRow {
    step: u64,
    made_by: String,
    change: String,
    parents: String,
    island: Option<u32>,
    outcome: String,
    is_failure: bool,
    search: String,
    search_value: Option<f64>,
    confirmed: String,
    confirmed_value: Option<f64>,
    dollars: String,
    dollars_value: f64,
}

/// The listed steps in order.
pub(super) fn step_rows(task: &TaskHistory, selection: &Selection) -> Vec<StepRow> {
    let steps = selection.in_order();
    let steps = steps.iter().filter_map(|step| task.step(*step));
    let rows = steps.map(|step| {
        let confirmation = task.confirmations.get(&step.step);
        let dollars = step.nano_usd as f64 / 1e9;
        let parents: Vec<_> = step.parents.iter().map(u64::to_string).collect();
        StepRow {
            step: step.step,
            made_by: made_by(task, step.step),
            change: step.detail.chars().take(160).collect(),
            parents: parents.join(", "),
            island: step.island,
            outcome: step.outcome.name(),
            is_failure: step.outcome.is_failure(),
            search: step
                .speedup
                .map_or_else(String::new, |speedup| figures::provisional(speedup.geomean)),
            search_value: step.speedup.map(|speedup| speedup.geomean),
            confirmed: confirmation.map_or_else(String::new, |one| match one.speedup {
                Some(speedup) => figures::confirmed(speedup.geomean),
                None => confirmation_text(one),
            }),
            confirmed_value: confirmation
                .and_then(|one| one.speedup)
                .map(|speedup| speedup.geomean),
            dollars: if step.requests > 0 {
                priced(dollars, task.dollars().is_some())
            } else {
                String::new()
            },
            dollars_value: dollars,
        }
    });
    rows.collect()
}

impl FailureKind {
    /// The kind and how many there are.
    pub(super) fn summary(&self) -> String {
        format!("{} {}", self.count, self.name.replace('_', " "))
    }
}
