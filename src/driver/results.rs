//! What a task has come to, for its table: elites in order, starting kernels, what they were measured with.

use super::task::TaskLoop;
use crate::event::Operator;
use crate::report::{RankedElite, StartingKernelResult, TaskResults};
use crate::search::{Confirmation, StepOutcome};
use crate::verdict::{Status, Verdict};

/// Looks, and changes nothing.
pub(super) fn task_results(work: &TaskLoop<'_>, failure: Option<String>) -> TaskResults {
    let (search, directory) = (&work.search, &work.directory);
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
        elites.push(RankedElite {
            step: elite.step,
            operator: record.operator,
            detail: record.detail.to_string(),
            cell: search.archive().describe_cell(&elite.cell),
            measured: elite.speedup,
            confirmed: confirmation.and_then(|confirmation| confirmation.speedup),
            too_noisy: confirmation.is_some_and(|confirmation| confirmation.speedup.is_none()),
            source: directory.source(search.source_step(elite.step)),
        });
    }
    // The sort is stable: elites that were not confirmed stay in the archive's order.
    elites.sort_by(|one, other| {
        let speed = |elite: &RankedElite| {
            elite
                .confirmed
                .map_or(f64::NEG_INFINITY, |speedup| speedup.geomean)
        };
        speed(other).total_cmp(&speed(one))
    });
    let mut judged_with = search
        .best()
        .and_then(|elite| elite.verdict.clone())
        .as_deref()
        .cloned();
    let mut starts = Vec::new();
    for (step, (name, _)) in (1..).zip(work.task.starting_kernels()) {
        let Some(record) = search
            .record(step)
            .filter(|record| record.operator == Operator::Start)
        else {
            continue;
        };
        // A copy for people is good enough for a table for people.
        let verdict = std::fs::read(directory.verdict(step)).ok();
        let verdict = verdict.and_then(|text| serde_json::from_slice::<Verdict>(&text).ok());
        starts.push(StartingKernelResult {
            step,
            name: name.to_owned(),
            status: match record.outcome {
                StepOutcome::Passed { .. } => Some(Status::Passed),
                StepOutcome::NotPassed(status) => Some(status),
                StepOutcome::Failed(_) | StepOutcome::Duplicate { .. } => None,
            },
            speedup: verdict.as_ref().and_then(|verdict| verdict.speedup),
        });
        judged_with = judged_with.or(verdict);
    }
    let baseline = judged_with
        .as_ref()
        .and_then(|verdict| verdict.baseline.as_ref());
    TaskResults {
        progress: work.progress.clone(),
        failure,
        elites,
        refuted,
        starts,
        baseline: baseline.map_or_else(String::new, |baseline| baseline.name.clone()),
        device: judged_with.map(|verdict| verdict.device),
        best: directory.best_source(),
        best_verdict: directory.best_verdict(),
        steps: directory.root().join("steps"),
    }
}
