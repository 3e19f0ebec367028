//! What to do when the judge itself fails: retry, give up on the step, or end the run.
//!
//! Giving up on a step is final, so the event is recorded only after the judge has shown that it works: by the outcome of an
//! evaluation that was started later. If the machinery is broken, no such outcome comes, the run ends, and a resumed run judges
//! these steps again.
//!
//! Counts and decides. Starts no evaluation and writes nothing.

use std::collections::HashMap;

use anyhow::{Result, anyhow};

use super::running::EvaluationPurpose;
use crate::event::Event;
use crate::search::DuelRequest;
use crate::verdict::Status;
use crate::worker::JobOutcome;

/// Number of harness errors of one evaluation after which it is not repeated.
const MAX_TRIES: u32 = 3;

/// Number of steps given up in a row after which the machinery counts as broken.
const MAX_GIVEN_UP_IN_A_ROW: u32 = 5;

/// The step number of evaluations of the baseline, which belongs to no step.
pub(super) const BASELINE_STEP: u64 = 0;

/// Harness errors of one task, in this process.
#[derive(Default)]
pub(super) struct FaultPolicy {
    /// Number of harness errors. Each purpose has its own tries.
    faults: HashMap<(u64, EvaluationPurpose), u32>,
    given_up_in_a_row: u32,
    pending_give_ups: Vec<PendingGiveUp>,
}

/// A step that was given up, while it is unknown whether the judge works.
struct PendingGiveUp {
    event: Event,
    /// Number of evaluations that had started by then.
    evaluations_started: u64,
}

impl FaultPolicy {
    /// Counts a harness error. Returns whether it was the last try.
    pub(super) fn count_fault(
        &mut self,
        step: u64,
        purpose: EvaluationPurpose,
        error: &anyhow::Error,
    ) -> bool {
        let faults = self.faults.entry((step, purpose)).or_default();
        *faults += 1;
        if purpose == EvaluationPurpose::CheckJudge {
            tracing::warn!("the judge failed on the baseline (failure {faults}): {error:#}");
        } else {
            tracing::warn!("the judge failed on step {step} (failure {faults}): {error:#}");
        }
        *faults >= MAX_TRIES
    }

    /// Whether the judge has failed on a step before.
    pub(super) fn has_failed_to_judge(&self, step: u64) -> bool {
        self.faults.contains_key(&(step, EvaluationPurpose::Judge))
    }

    /// Whether all tries to confirm a step have failed.
    pub(super) fn cannot_be_confirmed(&self, step: u64) -> bool {
        let faults = self.faults.get(&(step, EvaluationPurpose::Confirm));
        faults.is_some_and(|faults| *faults >= MAX_TRIES)
    }

    /// Whether all tries to compare a kernel with a starting kernel have failed.
    pub(super) fn cannot_be_compared(&self, request: DuelRequest) -> bool {
        let DuelRequest { step, against } = request;
        let purpose = EvaluationPurpose::Compare { against };
        let faults = self.faults.get(&(step, purpose));
        faults.is_some_and(|faults| *faults >= MAX_TRIES)
    }

    /// Whether all tries to time a kernel against the strongest baselines have failed.
    pub(super) fn cannot_compare_strongest(&self, step: u64) -> bool {
        let purpose = EvaluationPurpose::CompareStrongest;
        let faults = self.faults.get(&(step, purpose));
        faults.is_some_and(|faults| *faults >= MAX_TRIES)
    }

    /// Keeps the event of a step that was given up until the judge has shown that it works.
    pub(super) fn give_up(&mut self, event: Event, evaluations_started: u64) {
        self.pending_give_ups.push(PendingGiveUp {
            event,
            evaluations_started,
        });
    }

    /// Counts a step that was given up.
    ///
    /// # Errors
    /// `error` with context, if too many steps in a row were given up.
    pub(super) fn count_given_up(&mut self, error: anyhow::Error) -> Result<()> {
        self.given_up_in_a_row += 1;
        if self.given_up_in_a_row >= MAX_GIVEN_UP_IN_A_ROW {
            return Err(error.context(format!(
                "the judge failed for {MAX_GIVEN_UP_IN_A_ROW} steps in a row"
            )));
        }
        Ok(())
    }

    /// A candidate was judged: the row of given-up steps ends.
    pub(super) fn count_judged(&mut self) {
        self.given_up_in_a_row = 0;
    }

    /// Whether a step was given up and the event is not recorded yet.
    pub(super) fn is_give_up_pending(&self, step: u64) -> bool {
        let mut pending = self.pending_give_ups.iter();
        pending.any(|pending| pending.event.step() == Some(step))
    }

    pub(super) fn has_pending_give_ups(&self) -> bool {
        !self.pending_give_ups.is_empty()
    }

    /// The judge completed the evaluation `number`, so it works: returns the events of all steps that were given up before that
    /// evaluation started.
    pub(super) fn clear_give_ups(&mut self, number: u64) -> Vec<Event> {
        let pending = std::mem::take(&mut self.pending_give_ups).into_iter();
        let (cleared, left): (Vec<_>, Vec<_>) =
            pending.partition(|pending| pending.evaluations_started < number);
        self.pending_give_ups = left;
        cleared.into_iter().map(|cleared| cleared.event).collect()
    }

    /// Takes the result of judging the baseline: `None` if it was judged, else the harness error.
    ///
    /// # Errors
    /// `error` with context, after the last try.
    pub(super) fn judge_checked(&mut self, error: Option<anyhow::Error>) -> Result<()> {
        let purpose = EvaluationPurpose::CheckJudge;
        match error {
            None => {
                self.faults.remove(&(BASELINE_STEP, purpose));
                Ok(())
            }
            Some(error) if self.count_fault(BASELINE_STEP, purpose, &error) => {
                Err(error.context("the judge fails on the baseline too"))
            }
            // The give-ups are still pending, so the baseline is judged again.
            Some(_) => Ok(()),
        }
    }
}

/// The harness error that an outcome reports, if it reports one.
pub(super) fn harness_fault(outcome: &JobOutcome) -> Option<anyhow::Error> {
    match outcome {
        JobOutcome::Verdict { verdict, .. } if verdict.status == Status::HarnessError => {
            Some(anyhow!(verdict.reason.clone().unwrap_or_default()))
        }
        JobOutcome::Verdict { .. }
        | JobOutcome::Duel { .. }
        | JobOutcome::Tried(_)
        | JobOutcome::Strongest(_)
        | JobOutcome::SameCode { .. } => None,
    }
}
