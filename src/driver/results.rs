//! The results of a task for its table: elites in order, starting kernels, baseline and device.
//!
//! Reads the state of the task and changes nothing.

use super::reporter::elite_verdict;
use super::task_state::TaskState;
use crate::event::Operator;
use crate::report::{RankedElite, StartingKernelResult, TaskResults};
use crate::search::{Confirmation, StepOutcome};
use crate::verdict::{Status, TimedAgainst, Verdict};

/// Collects the results of a task. `failure`: the error message of a failed oracle or baseline.
pub(super) fn task_results(state: &TaskState<'_>, failure: Option<String>) -> TaskResults {
    let directory = state.writer.directory();
    let (elites, refuted) = ranked_elites(state);
    let (starts, start_verdict) = starting_kernel_results(state);
    let best = state.search.best();
    // It is read only for the names of the baseline and the device, which any verdict has.
    let best_verdict = best.and_then(|elite| {
        let verdict = elite_verdict(elite.step, &state.search, &state.writer);
        verdict.ok().flatten()
    });
    let verdict = best_verdict.or(start_verdict);
    let baseline = verdict
        .as_ref()
        .and_then(|verdict| verdict.baseline.as_ref());
    TaskResults {
        progress: state.reporter.progress().clone(),
        failure,
        elites,
        refuted,
        starts,
        unanswered: state.reporter.unanswered(),
        baseline: baseline.map_or_else(String::new, |baseline| baseline.name.clone()),
        anchor: anchor(state),
        device: verdict.map(|verdict| verdict.device),
        best: directory.best_source(),
        best_verdict: directory.best_verdict(),
        steps: directory.root().join("steps"),
    }
}

/// The anchor of the first elite that was timed against an anchor.
fn anchor(state: &TaskState<'_>) -> Option<TimedAgainst> {
    let mut elites = state.search.archive().elites().iter();
    elites.find_map(|elite| {
        let verdict = elite_verdict(elite.step, &state.search, &state.writer);
        verdict.ok()??.timed_against
    })
}

/// The elites that were not refuted, and the number of those that were. Confirmed elites come first, fastest first; the others keep the
/// archive's order.
fn ranked_elites(state: &TaskState<'_>) -> (Vec<RankedElite>, usize) {
    let search = &state.search;
    let mut refuted = 0;
    let mut elites = Vec::new();
    for elite in search.archive().elites() {
        let confirmation = search.confirmation(elite.step);
        if confirmation.is_some_and(Confirmation::refutes) {
            refuted += 1;
            continue;
        }
        let Some(record) = search.record(elite.step) else {
            continue;
        };
        let source_step = search.source_step(elite.step);
        elites.push(RankedElite {
            step: elite.step,
            operator: record.operator,
            detail: record.detail.to_string(),
            cell: search.archive().describe_cell(&elite.cell),
            measured: elite.speedup,
            confirmed: confirmation.and_then(|confirmation| confirmation.speedup),
            too_noisy: confirmation.is_some_and(is_too_noisy),
            not_done: confirmation
                .filter(|confirmation| confirmation.speedup.is_some())
                .map_or_else(Vec::new, |confirmation| {
                    confirmation.verdict.not_done.clone()
                }),
            source: state.writer.directory().source(source_step),
        });
    }
    let speedup_of = |elite: &RankedElite| {
        let confirmed = elite.confirmed;
        confirmed.map_or(f64::NEG_INFINITY, |speedup| speedup.geomean)
    };
    // The sort is stable.
    elites.sort_by(|one, other| speedup_of(other).total_cmp(&speedup_of(one)));
    (elites, refuted)
}

/// Whether a candidate was correct when it was measured again, and has no figure.
fn is_too_noisy(confirmation: &Confirmation) -> bool {
    confirmation.speedup.is_none() && !confirmation.refutes()
}

/// The starting kernels that were tried, and the verdict of the first of them that has one.
fn starting_kernel_results(state: &TaskState<'_>) -> (Vec<StartingKernelResult>, Option<Verdict>) {
    let mut results = Vec::new();
    let mut first_verdict = None;
    for (step, (name, _)) in (1..).zip(state.task.starting_kernels()) {
        let record = state.search.record(step);
        let Some(record) = record.filter(|record| record.operator == Operator::Start) else {
            continue;
        };
        // The copy for people is good enough for a table.
        let verdict = std::fs::read(state.writer.directory().verdict(step)).ok();
        let verdict = verdict.and_then(|text| serde_json::from_slice::<Verdict>(&text).ok());
        let confirmation = state.search.confirmation(step);
        results.push(StartingKernelResult {
            step,
            name: name.to_owned(),
            status: match record.outcome {
                StepOutcome::Passed { .. } | StepOutcome::PassedBefore => Some(Status::Passed),
                StepOutcome::NotPassed(status) => Some(status),
                StepOutcome::Failed(_) | StepOutcome::Duplicate { .. } => None,
            },
            measured: verdict.as_ref().and_then(|verdict| verdict.speedup),
            confirmed: confirmation.and_then(|confirmation| confirmation.speedup),
            too_noisy: confirmation.is_some_and(is_too_noisy),
            refuted: confirmation.is_some_and(Confirmation::refutes),
            dismissed: matches!(record.outcome, StepOutcome::Passed { .. })
                && !record.outcome.is_complete_pass(),
        });
        first_verdict = first_verdict.or(verdict);
    }
    (results, first_verdict)
}
