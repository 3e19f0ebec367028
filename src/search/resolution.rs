//! The result of a step, and what the archive does with its candidate.
//!
//! Reads the events of pending steps and changes nothing. The head of `search` says what completes a step.

use super::Search;
use super::archive::ChallengeOutcome;
use super::ledger::ArchiveDecision;
use super::order::FoldOrder;
use super::pending::{CandidateResult, PendingStep};
use super::updates::DuelRequest;
use crate::event::{Failed, FailedReason};

/// The result of a complete step.
#[derive(Clone, Copy)]
pub(super) enum StepResolution {
    Failed(FailedReason),
    /// Its source is that of this step, which comes before it.
    Duplicate(u64),
    /// Its proposal and verdict are those of this step: the step itself; or, in step order, a later one with the same source.
    Judged(u64),
}

impl Search {
    /// The result of a step; `None` while an event is missing.
    pub(super) fn resolve_step(&self, step: u64) -> Option<StepResolution> {
        let pending = self.pending.get(&step)?;
        let failed = pending.failed.as_ref();
        let kernel = pending
            .proposed
            .as_ref()
            .map(|proposed| proposed.kernel)
            .or(failed.and_then(|failed| failed.kernel));
        let earlier = kernel.and_then(|kernel| self.ledger.step_of_kernel(&kernel));
        if let Some(earlier) = earlier.or(pending.duplicate_of) {
            return Some(StepResolution::Duplicate(earlier));
        }
        match failed {
            None => is_judged(pending).then_some(StepResolution::Judged(step)),
            Some(failed) if failed.reason == FailedReason::Duplicate => match self.order {
                FoldOrder::Step => self.resolve_duplicate(step, failed),
                FoldOrder::Journal => Some(StepResolution::Duplicate(failed.of.unwrap_or(0))),
            },
            Some(failed) => Some(StepResolution::Failed(failed.reason)),
        }
    }

    /// The result of a duplicate in step order. If it names a later step, which proposed the source first, that step has the verdict; a later
    /// step may be a duplicate of one later still.
    fn resolve_duplicate(&self, step: u64, failed: &Failed) -> Option<StepResolution> {
        let mut of = failed.of.unwrap_or(0);
        // Damaged journals may have a circle of duplicates, so the chain is limited.
        for _ in 0..=self.pending.len() {
            if of <= step {
                break;
            }
            let other = self.pending.get(&of)?;
            match &other.failed {
                None => return is_judged(other).then_some(StepResolution::Judged(of)),
                Some(failed) if failed.reason == FailedReason::Duplicate => {
                    of = failed.of.unwrap_or(0);
                }
                Some(failed) => return Some(StepResolution::Failed(failed.reason)),
            }
        }
        Some(StepResolution::Duplicate(of))
    }

    /// What the archive does with a candidate whose verdict is that of step `from`. `Ok(None)` if it did not pass, `Err` if only
    /// a duel can decide. A dismissed candidate needs no duel.
    pub(super) fn decide_insert(
        &self,
        step: u64,
        from: u64,
    ) -> Result<Option<ArchiveDecision>, DuelRequest> {
        let result = self
            .pending
            .get(&from)
            .and_then(|from| from.judged.as_ref());
        let (speedup, cell) = match result {
            Some(CandidateResult::Passed { speedup, cell, .. }) => (speedup, cell),
            Some(CandidateResult::Dismissed { .. }) => return Ok(Some(ArchiveDecision::Dismissed)),
            Some(CandidateResult::NotPassed(_)) | None => return Ok(None),
        };
        let outcome = self.archive.challenge(cell, speedup);
        if let ChallengeOutcome::ClearlyFaster(other) | ChallengeOutcome::NeedsDuel(other) = outcome
            && self.have_same_code(from, other)
        {
            // They were judged at the same time. A difference in speed is noise.
            return Ok(Some(ArchiveDecision::NotAdded { behind: other }));
        }
        Ok(Some(match outcome {
            ChallengeOutcome::EmptyCell => ArchiveDecision::New,
            ChallengeOutcome::ClearlyFaster(over) => ArchiveDecision::Improved { over },
            ChallengeOutcome::NotFaster(behind) => ArchiveDecision::NotAdded { behind },
            ChallengeOutcome::NeedsDuel(against) => match self.challenger_won(step, against) {
                None => return Err(DuelRequest { step, against }),
                Some(true) => ArchiveDecision::Improved { over: against },
                Some(false) => ArchiveDecision::NotAdded { behind: against },
            },
        }))
    }

    /// Whether the challenger won the duel; `None` before the duel. It did not if one of the two no longer passed.
    fn challenger_won(&self, step: u64, against: u64) -> Option<bool> {
        let mut duels = self.pending.get(&step)?.dueled.iter();
        let dueled = duels.find(|dueled| dueled.against == against)?;
        Some(dueled.duel.is_some_and(|duel| duel.ci95[0] > 1.0))
    }
}

fn is_judged(pending: &PendingStep) -> bool {
    pending.proposed.is_some() && pending.judged.is_some()
}
