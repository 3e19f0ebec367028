//! What the judge fails on: asked anew, and in the end given up, so that the search goes on.
//!
//! That a step was given up is final, so it is written down only once the judge has shown that it works: by an answer to a
//! question that was put to it later. Where the machinery itself is broken the answer never comes, the run ends, and whatever takes
//! it up judges these steps again.

use anyhow::{Result, anyhow};

use super::running::EvaluationPurpose;
use super::task::TaskLoop;
use crate::event::{Event, Failed, FailedReason};
use crate::verdict::Status;
use crate::worker::{JobKind, JobOutcome};

/// How often something is asked anew because the judge failed, before it is given up.
const MAX_TRIES: u32 = 3;

/// So many steps given up in a row mean that the machinery is broken, not a kernel unlucky.
const MAX_GIVEN_UP_IN_A_ROW: u32 = 5;

/// No step's: what the baseline is judged as.
const BASELINE_STEP: u64 = 0;

/// Something given up, while it is not known whose fault it was.
pub(super) struct PendingGiveUp {
    event: Event,
    /// How many evaluations had begun by then.
    evaluations_started: u64,
}

impl TaskLoop<'_> {
    /// Judges a step once more, or gives it up.
    pub(super) fn retry_or_give_up(
        &mut self,
        step: u64,
        purpose: EvaluationPurpose,
        error: anyhow::Error,
    ) -> Result<()> {
        let is_again = purpose == EvaluationPurpose::Rejudge;
        if !self.count_fault(step, purpose, &error) {
            if is_again {
                self.stale.push_back(step);
            } else {
                let source = self.sources.text(step)?;
                self.unjudged.insert(step, source);
            }
            return Ok(());
        }
        // An elite keeps the measurement that it has; whoever resumes measures it then.
        if !is_again {
            self.give_up(Event::Failed(Failed {
                edits: Default::default(),
                step,
                reason: FailedReason::HarnessError,
                of: None,
                detail: Some(format!("{error:#}")),
                kernel: None,
            }));
        }
        self.given_up_in_a_row += 1;
        if self.given_up_in_a_row >= MAX_GIVEN_UP_IN_A_ROW {
            return Err(error.context(format!(
                "the judge failed for {MAX_GIVEN_UP_IN_A_ROW} steps in a row"
            )));
        }
        Ok(())
    }

    /// Counts, and says whether that was once too often. Each purpose has its own tries.
    pub(super) fn count_fault(
        &mut self,
        step: u64,
        purpose: EvaluationPurpose,
        error: &anyhow::Error,
    ) -> bool {
        let faults = self.faults.entry((step, purpose)).or_default();
        *faults += 1;
        match purpose {
            EvaluationPurpose::CheckJudge => {
                tracing::warn!("the judge failed on the baseline, time {faults}: {error:#}");
            }
            _ => tracing::warn!("the judge failed on step {step}, time {faults}: {error:#}"),
        }
        *faults >= MAX_TRIES
    }

    /// Whether it makes no sense to confirm a step once more.
    pub(super) fn cannot_be_confirmed(&self, step: u64) -> bool {
        let faults = self.faults.get(&(step, EvaluationPurpose::Confirm));
        faults.is_some_and(|faults| *faults >= MAX_TRIES)
    }

    /// Keeps the word that something was given up until the judge has shown that it works.
    pub(super) fn give_up(&mut self, event: Event) {
        let begun = self.running.evaluations_started();
        self.pending_give_ups.push(PendingGiveUp {
            event,
            evaluations_started: begun,
        });
    }

    /// Whether a step was given up, and the journal does not say so yet.
    pub(super) fn is_give_up_pending(&self, step: u64) -> bool {
        let mut doubted = self.pending_give_ups.iter();
        doubted.any(|doubted| doubted.event.step() == Some(step))
    }

    /// The judge has answered the evaluation of this number: what was given up before that began was not the machinery's doing.
    pub(super) fn clear_give_ups(&mut self, number: u64, events: &mut Vec<Event>) {
        let (cleared, left) = std::mem::take(&mut self.pending_give_ups)
            .into_iter()
            .partition(|doubted: &PendingGiveUp| doubted.evaluations_started < number);
        self.pending_give_ups = left;
        let cleared: Vec<PendingGiveUp> = cleared;
        events.extend(cleared.into_iter().map(|doubted| doubted.event));
    }

    /// Where the search waits for nothing else than what was given up, the baseline shows whether the judge works.
    pub(super) fn check_judge_if_stuck(&mut self) -> Result<()> {
        if self.pending_give_ups.is_empty() || !self.running.is_empty() {
            return Ok(());
        }
        let source = self.task.baseline().1.into();
        self.judge(
            BASELINE_STEP,
            source,
            JobKind::Judge,
            EvaluationPurpose::CheckJudge,
        )
    }

    /// What came of judging the baseline.
    pub(super) fn judge_checked(&mut self, fault: Option<anyhow::Error>) -> Result<()> {
        match fault {
            None => {
                self.faults
                    .remove(&(BASELINE_STEP, EvaluationPurpose::CheckJudge));
                Ok(())
            }
            Some(error)
                if self.count_fault(BASELINE_STEP, EvaluationPurpose::CheckJudge, &error) =>
            {
                Err(error.context("the judge fails on the baseline too"))
            }
            // The search waits still, and asks again.
            Some(_) => Ok(()),
        }
    }
}

/// kforge's own fault, where an answer tells of one.
pub(super) fn harness_fault(outcome: &JobOutcome) -> Option<anyhow::Error> {
    match outcome {
        JobOutcome::Verdict { verdict, .. } if verdict.status == Status::HarnessError => {
            Some(anyhow!(verdict.reason.clone().unwrap_or_default()))
        }
        JobOutcome::Verdict { .. } | JobOutcome::Duel(_) => None,
    }
}
