//! What the judge fails on: asked anew, and in the end given up, so that the search goes on.
//!
//! That a step was given up is final, so it is written down only once the judge has shown that it works: by an answer to a
//! question that was put to it later. Where the machinery itself is broken the answer never comes, the run ends, and whatever takes
//! it up judges these steps again.

use anyhow::{Result, anyhow};

use super::running::Purpose;
use super::task::TaskLoop;
use crate::event::{Event, Failed, FailedReason};
use crate::verdict::Status;
use crate::worker::{JobKind, Outcome};

/// How often something is asked anew because the judge failed, before it is given up.
const TRIES: u32 = 3;

/// So many steps given up in a row mean that the machinery is broken, not a kernel unlucky.
const GIVEN_UP_IN_A_ROW: u32 = 5;

/// No step's: what the baseline is judged as.
const NO_STEP: u64 = 0;

/// Something given up, while it is not known whose fault it was.
pub(super) struct Doubted {
    event: Event,
    /// How many evaluations had begun by then.
    begun: u64,
}

impl TaskLoop<'_> {
    /// Judges a step once more, or gives it up.
    pub(super) fn try_again(
        &mut self,
        step: u64,
        purpose: Purpose,
        error: anyhow::Error,
    ) -> Result<()> {
        let is_again = purpose == Purpose::JudgeAgain;
        if !self.is_last_fault(step, purpose, &error) {
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
        self.closed += 1;
        if self.closed >= GIVEN_UP_IN_A_ROW {
            return Err(error.context(format!(
                "the judge failed for {GIVEN_UP_IN_A_ROW} steps in a row"
            )));
        }
        Ok(())
    }

    /// Counts, and says whether that was once too often. Each purpose has its own tries.
    pub(super) fn is_last_fault(
        &mut self,
        step: u64,
        purpose: Purpose,
        error: &anyhow::Error,
    ) -> bool {
        let faults = self.faults.entry((step, purpose)).or_default();
        *faults += 1;
        match purpose {
            Purpose::Proof => {
                tracing::warn!("the judge failed on the baseline, time {faults}: {error:#}");
            }
            _ => tracing::warn!("the judge failed on step {step}, time {faults}: {error:#}"),
        }
        *faults >= TRIES
    }

    /// Whether it makes no sense to confirm a step once more.
    pub(super) fn is_hopeless(&self, step: u64) -> bool {
        let faults = self.faults.get(&(step, Purpose::Confirm));
        faults.is_some_and(|faults| *faults >= TRIES)
    }

    /// Keeps the word that something was given up until the judge has shown that it works.
    pub(super) fn give_up(&mut self, event: Event) {
        let begun = self.running.begun();
        self.doubted.push(Doubted { event, begun });
    }

    /// Whether a step was given up, and the journal does not say so yet.
    pub(super) fn is_doubted(&self, step: u64) -> bool {
        let mut doubted = self.doubted.iter();
        doubted.any(|doubted| doubted.event.step() == Some(step))
    }

    /// The judge has answered the evaluation of this number: what was given up before that began was not the machinery's doing.
    pub(super) fn judge_works(&mut self, number: u64, events: &mut Vec<Event>) {
        let (cleared, left) = std::mem::take(&mut self.doubted)
            .into_iter()
            .partition(|doubted: &Doubted| doubted.begun < number);
        self.doubted = left;
        let cleared: Vec<Doubted> = cleared;
        events.extend(cleared.into_iter().map(|doubted| doubted.event));
    }

    /// Where the search waits for nothing else than what was given up, the baseline shows whether the judge works.
    pub(super) fn settle_doubts(&mut self) -> Result<()> {
        if self.doubted.is_empty() || !self.running.is_empty() {
            return Ok(());
        }
        let source = self.task.baseline().1.into();
        self.judge(NO_STEP, source, JobKind::Judge, Purpose::Proof)
    }

    /// What came of judging the baseline.
    pub(super) fn proof(&mut self, fault: Option<anyhow::Error>) -> Result<()> {
        match fault {
            None => {
                self.faults.remove(&(NO_STEP, Purpose::Proof));
                Ok(())
            }
            Some(error) if self.is_last_fault(NO_STEP, Purpose::Proof, &error) => {
                Err(error.context("the judge fails on the baseline too"))
            }
            // The search waits still, and asks again.
            Some(_) => Ok(()),
        }
    }
}

/// kforge's own fault, where an answer tells of one.
pub(super) fn fault(outcome: &Outcome) -> Option<anyhow::Error> {
    match outcome {
        Outcome::Verdict { verdict, .. } if verdict.status == Status::HarnessError => {
            Some(anyhow!(verdict.reason.clone().unwrap_or_default()))
        }
        Outcome::Verdict { .. } | Outcome::Duel(_) => None,
    }
}
