//! Elites that are judged again after a change that the user has accepted, and what a change of the device takes away.
//!
//! A resume tells both: first that the figures before a line of the journal are of another device, then the new verdicts.

use super::Search;
use super::archive::{ChallengeOutcome, Elite};
use super::fold::passed_code;
use super::ledger::{ArchiveDecision, StepOutcome};
use super::pending::{CandidateResult, valid_speedup};
use super::updates::SearchUpdate;
use crate::event::StopReason;
use crate::verdict::{Speedup, Status, VerdictSummary};

impl Search {
    /// Forgets every figure so far, because the device, the judge or the task has changed: no later decision may compare a figure of the
    /// one with a figure of the other. Only the elites keep theirs, until they are judged again. Steps that were judged and not folded wait for
    /// another verdict.
    pub(crate) fn forget_figures(&mut self) {
        self.ledger.forget_figures();
        self.families.forget_results();
        self.results.forget_figures();
        self.planner.forget_speedups();
        self.islands.forget_figures(&self.archive);
        self.front.clear();
        self.best_proven = None;
        self.last_gain = self.folded();
        // Nothing is left to try on any device.
        self.stopped = self.stopped.filter(|why| *why == StopReason::Exhausted);
        self.pending_duel = None;
        for (step, pending) in &mut self.pending {
            pending.dueled.clear();
            let has_figure = matches!(
                pending.judged,
                Some(CandidateResult::Passed { .. } | CandidateResult::Dismissed { .. })
            );
            if has_figure {
                pending.judged = None;
                pending.is_queued = false;
                self.complete.retain(|queued| queued != step);
            }
        }
    }

    /// Applies a new verdict to an elite, which a resume asks for after accepted changes. The elite keeps its cell, moves to
    /// another, or is removed. No candidate that it had dismissed comes back. If two elites meet in a cell, the better estimate stays; there is no duel.
    pub(super) fn remeasure_elite(
        &mut self,
        step: u64,
        verdict: &VerdictSummary,
        updates: &mut Vec<SearchUpdate>,
    ) {
        let mut elites = self.archive.elites().iter();
        let elite = elites.find(|elite| elite.step == step);
        let old_cell = elite.map(|elite| elite.cell.clone());
        let (Some(old_cell), Some(result)) = (old_cell, self.candidate_result(verdict)) else {
            return;
        };
        self.code_log.note(step, passed_code(verdict));
        self.archive.remove(&old_cell);
        let speedup = valid_speedup(verdict);
        self.front.replace(step, speedup);
        let geomean = speedup.map(|speedup| speedup.geomean);
        self.planner.record_new_speedup(step, geomean);
        let mut elite = None;
        let mut behind = None;
        if let CandidateResult::Passed {
            speedup,
            cell,
            figures,
            ..
        } = result
        {
            self.results.set_figures(step, Some(figures));
            let outcome = self.archive.challenge(&cell, &speedup);
            let new = Elite {
                step,
                cell,
                speedup,
            };
            elite = Some(new.clone());
            match outcome {
                ChallengeOutcome::NotFaster(other) => behind = Some(other),
                _ => self.archive.insert(new),
            }
        }
        self.islands.replace(step, elite.as_ref());
        let outcome = match (speedup, behind) {
            (Some(speedup), behind) => StepOutcome::Passed {
                speedup: speedup.geomean,
                insert: behind.map_or(ArchiveDecision::New, |behind| ArchiveDecision::NotAdded {
                    behind,
                }),
            },
            (None, _) if verdict.status == Status::Passed => {
                StepOutcome::NotPassed(Status::Inconclusive)
            }
            (None, _) => StepOutcome::NotPassed(verdict.status),
        };
        self.ledger.replace_outcome(step, outcome);
        let kept = outcome.was_added();
        if let Some(speedup) = speedup.filter(|_| kept) {
            self.note_new_best(step, speedup);
        }
        updates.push(SearchUpdate::Remeasured { step, kept });
        self.advance(updates);
    }

    /// Gives the proven best its new figure, or takes this kernel in its place if it is faster.
    fn note_new_best(&mut self, step: u64, speedup: Speedup) {
        let is_new = self
            .best_proven
            .is_none_or(|(best, proven)| best == step || proven.geomean < speedup.geomean);
        if is_new {
            self.best_proven = Some((step, speedup));
        }
    }
}
