//! Turns results into events: what a finished proposal, prompt, request or evaluation means for its step.
//!
//! Writes files through the journal writer and collects events in a `Round`. Nothing takes effect before the round is durable.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::asking::ModelProposal;
use super::fault_policy::harness_fault;
use super::replay_turns::ReplayTurns;
use super::round::Round;
use super::running::{Evaluation, EvaluationPurpose, WorkResult};
use super::task_state::TaskState;
use super::untried::Proposal;
use crate::base::{Digest, Failure};
use crate::event::{
    Brief, Compared, Confirmed, Dueled, EditCounts, EvaluationSeconds, Event, Failed, FailedReason,
    Judged, Operator, Proposed, StrongestCompared,
};
use crate::kernel::normal_form;
use crate::propose::{BriefOutcome, Candidate};
use crate::run;
use crate::verdict::Verdict;
use crate::worker::{JobOutcome, StrongestOutcome};

/// The error for a result that only a run with models can have.
const NO_MODELS: &str = "a request to a model returned, but the run has no models";

/// What the replies of a model say besides the kernel.
#[derive(Clone, Copy, Default)]
struct ModelNotes {
    edits: EditCounts,
    expected: Option<f64>,
}

/// An outcome and the wall time that it took.
struct Timed {
    outcome: JobOutcome,
    took: Duration,
}

impl TaskState<'_> {
    /// Makes all results durable and acts on them. In a replay, results wait until the replayed run had them.
    pub(super) fn settle(&mut self, results: Vec<WorkResult>) -> Result<()> {
        let due = match &mut self.replay {
            Some(turns) => turns.take_due(results),
            None => results,
        };
        self.settle_due(due)
    }

    /// Settles the next results that wait for a turn which does not come. Returns whether there are any.
    pub(super) fn settle_overdue(&mut self) -> Result<bool> {
        let overdue = self.replay.as_mut().map(ReplayTurns::take_overdue);
        let overdue = overdue.unwrap_or_default();
        let is_any = !overdue.is_empty();
        self.settle_due(overdue)?;
        Ok(is_any)
    }

    /// Settles all results that wait for their turn. Later ones do not wait: the search has ended.
    pub(super) fn end_replay(&mut self) -> Result<()> {
        let held = self.replay.take().map(|mut turns| turns.take_all());
        self.settle_due(held.unwrap_or_default())
    }

    /// Makes results durable and acts on them. A failure of the machinery is returned only after the other results are recorded.
    fn settle_due(&mut self, results: Vec<WorkResult>) -> Result<()> {
        let mut round = Round::default();
        let mut first_error = None;
        for result in results {
            if let Err(error) = self.settle_one(result, &mut round) {
                first_error.get_or_insert(error);
            }
        }
        self.record(round.events)?;
        first_error.map_or(Ok(()), Err)?;
        self.follow_up(round.follow_ups)
    }

    fn settle_one(&mut self, result: WorkResult, round: &mut Round) -> Result<()> {
        match result {
            WorkResult::Proposed(proposals) => proposals
                .into_iter()
                .try_for_each(|(step, outcome)| self.proposed(step, outcome, round)),
            WorkResult::Rendered(step, request) => {
                let (requests, mut parts) = self.requests_and_parts().context(NO_MODELS)?;
                requests.rendered(step, request, &mut parts, round)
            }
            WorkResult::Replied(step, outcome) => {
                let (requests, mut parts) = self.requests_and_parts().context(NO_MODELS)?;
                requests.replied(step, outcome, &mut parts, round)
            }
            WorkResult::Parsed(step, replies) => {
                let (requests, mut parts) = self.requests_and_parts().context(NO_MODELS)?;
                match requests.parsed(step, *replies, &mut parts)? {
                    Some(proposal) => self.model_proposed(step, proposal, round),
                    None => Ok(()),
                }
            }
            WorkResult::Evaluated(evaluation) => self.evaluated(evaluation, round),
        }
    }

    /// Settles a proposal of kforge's own operators.
    fn proposed(
        &mut self,
        step: u64,
        outcome: Result<BriefOutcome>,
        round: &mut Round,
    ) -> Result<()> {
        let brief = self.close(step)?;
        let outcome = outcome.with_context(|| format!("cannot propose for step {step}"))?;
        let event = self.proposal_event(brief, outcome, ModelNotes::default())?;
        round.events.extend(event);
        Ok(())
    }

    /// Settles a proposal of a model: as any other, with the counts of its edits and the change that it expects.
    fn model_proposed(
        &mut self,
        step: u64,
        proposal: ModelProposal,
        round: &mut Round,
    ) -> Result<()> {
        let brief = self.close(step)?;
        let notes = ModelNotes {
            edits: proposal.edits,
            expected: proposal.expected,
        };
        let event = self.proposal_event(brief, proposal.outcome, notes)?;
        round.events.extend(event);
        Ok(())
    }

    fn close(&mut self, step: u64) -> Result<Brief> {
        self.briefs
            .close(step)
            .with_context(|| format!("step {step} has a proposal but was not asked"))
    }

    /// The event of a proposal. `None` if points of it are tried first.
    fn proposal_event(
        &mut self,
        brief: Brief,
        outcome: BriefOutcome,
        notes: ModelNotes,
    ) -> Result<Option<Event>> {
        let failed = |reason, detail| {
            Ok(Some(Event::Failed(Failed {
                edits: notes.edits,
                ..Failed::new(brief.step, reason, detail)
            })))
        };
        let candidate = match outcome {
            BriefOutcome::Candidate(candidate) => candidate,
            BriefOutcome::NoOp(detail) => return failed(FailedReason::NoOp, detail),
            BriefOutcome::Failed(reason, detail) => return failed(reason, detail),
        };
        let Candidate {
            source,
            detail,
            family,
            point,
            space,
        } = candidate;
        let proposed = Proposed {
            step: brief.step,
            kernel: Digest::of(&source),
            form: normal_form(&source),
            operator: brief.operator,
            parents: brief.parents,
            detail,
            family,
            point,
            space,
            constraints: self.point_limits.rules(&source, &self.task),
            expected: notes.expected,
            edits: notes.edits,
            shingles: self.shingles_of(&source),
            tried: None,
        };
        if let Some(event) = self.near_copy(&proposed) {
            return Ok(Some(event));
        }
        self.place(Proposal {
            proposed,
            source: source.into(),
        })
    }

    /// The earlier kernel that a proposal repeats. A starting kernel is judged as it is, even if another differs in nothing but comments.
    pub(super) fn same_kernel(&self, proposed: &Proposed) -> Option<Digest> {
        let form = proposed.form;
        let form = form.filter(|_| proposed.operator != Operator::Start);
        let of_form = form.and_then(|form| self.sources.kernel_of_form(form));
        let same = of_form.unwrap_or(proposed.kernel);
        self.sources.step_of(same).map(|_| same)
    }

    /// Makes a proposal the candidate of its step: writes its file and queues it for the judge. A duplicate becomes none.
    pub(super) fn accept(&mut self, proposal: Proposal) -> Result<Event> {
        let Proposal { proposed, source } = proposal;
        let (step, kernel) = (proposed.step, proposed.kernel);
        if let Some(same) = self.same_kernel(&proposed) {
            let earlier = self.sources.step_of(same);
            self.sources.add(step, same);
            return Ok(Event::Failed(Failed {
                of: earlier,
                kernel: Some(same),
                edits: proposed.edits,
                seconds: proposed.tried.map(|tried| tried.seconds),
                ..Failed::new(step, FailedReason::Duplicate, proposed.detail)
            }));
        }
        self.sources.add(step, kernel);
        self.sources.add_form(proposed.form, kernel);
        self.writer.write_kernel(step, &source)?;
        self.sources.cache_text(kernel, source.clone());
        self.scheduler.queue_candidate(step, source);
        Ok(Event::Proposed(proposed))
    }

    fn evaluated(&mut self, evaluation: Evaluation, round: &mut Round) -> Result<()> {
        let Evaluation {
            step,
            purpose,
            number,
            outcome,
            took,
        } = evaluation;
        let outcome = match outcome {
            Ok(JobOutcome::Tried(tried)) if purpose == EvaluationPurpose::Try => {
                round.events.push(self.tried(step, tried, took)?);
                return Ok(());
            }
            Ok(outcome) => outcome,
            Err(error) if purpose == EvaluationPurpose::Try => {
                round.events.push(self.trials_failed(step, &error)?);
                return Ok(());
            }
            Err(error) => return self.evaluation_failed(step, purpose, error),
        };
        // Known code ends a judgement before the kernel runs, so it says nothing about the judge.
        let is_known = matches!(outcome, JobOutcome::SameCode { .. });
        let judge_works = !is_known && harness_fault(&outcome).is_none();
        let settled = self.settle_outcome(step, purpose, Timed { outcome, took }, round);
        if judge_works {
            round.events.extend(self.faults.clear_give_ups(number));
        }
        settled
    }

    fn settle_outcome(
        &mut self,
        step: u64,
        purpose: EvaluationPurpose,
        Timed { outcome, took }: Timed,
        round: &mut Round,
    ) -> Result<()> {
        use EvaluationPurpose::{
            CheckJudge, Compare, CompareStrongest, Confirm, Duel, Judge, Rejudge,
        };
        let wall = took.as_secs_f64();
        let seconds = |device| Some(EvaluationSeconds { wall, device });
        let fault = harness_fault(&outcome);
        match (purpose, outcome) {
            (
                Judge | Rejudge,
                JobOutcome::Verdict {
                    verdict,
                    compile_log,
                    ..
                },
            ) => {
                let event = self.judged(step, *verdict, &compile_log)?;
                round.events.push(event);
                if let Some(error) = fault {
                    return self.retry_or_give_up(step, purpose, error);
                }
                self.faults.count_judged();
                Ok(())
            }
            (
                Confirm,
                JobOutcome::Verdict {
                    verdict, report, ..
                },
            ) => {
                let seconds = seconds(verdict.seconds.device);
                let event = self.confirmed(step, *verdict, report, seconds)?;
                round.events.push(event);
                if let Some(error) = fault {
                    self.faults.count_fault(step, purpose, &error);
                }
                Ok(())
            }
            (
                Judge,
                JobOutcome::SameCode {
                    of,
                    code,
                    device_seconds,
                },
            ) => {
                let seconds = seconds(device_seconds);
                round.events.push(same_code(step, of, code, seconds));
                Ok(())
            }
            (CheckJudge, JobOutcome::Verdict { .. }) => self.faults.judge_checked(fault),
            (Duel { .. } | Compare { .. } | CompareStrongest, outcome) => {
                round.events.push(timed(step, purpose, outcome, wall)?);
                Ok(())
            }
            _ => Err(other_outcome(step)),
        }
    }

    fn confirmed(
        &mut self,
        step: u64,
        mut verdict: Verdict,
        report: Option<Vec<u8>>,
        seconds: Option<EvaluationSeconds>,
    ) -> Result<Event> {
        if let Some(report) = report {
            self.writer
                .write_profiler_report(step, &mut verdict, &report)?;
        }
        Ok(Event::Confirmed(Confirmed {
            step,
            verdict,
            seconds,
        }))
    }

    fn judged(&mut self, step: u64, mut verdict: Verdict, compile_log: &str) -> Result<Event> {
        // The judge may use another name for the kernel.
        verdict.kernel = format!("step {step}");
        self.writer.write_verdict(step, &verdict, compile_log)?;
        Ok(Event::Judged(Judged { step, verdict }))
    }

    /// An evaluation without an outcome: the machinery failed. A `Failure` that a person can fix ends the task; anything else is
    /// retried.
    fn evaluation_failed(
        &mut self,
        step: u64,
        purpose: EvaluationPurpose,
        error: anyhow::Error,
    ) -> Result<()> {
        if error.downcast_ref::<Failure>().is_some() {
            return Err(error);
        }
        match purpose {
            EvaluationPurpose::Judge | EvaluationPurpose::Rejudge => {
                return self.retry_or_give_up(step, purpose, error);
            }
            EvaluationPurpose::CheckJudge => return self.faults.judge_checked(Some(error)),
            EvaluationPurpose::Duel { against } => {
                if self.faults.count_fault(step, purpose, &error) {
                    self.give_up(Event::Dueled(Dueled {
                        step,
                        against,
                        duel: None,
                        seconds: None,
                    }));
                }
            }
            EvaluationPurpose::Confirm
            | EvaluationPurpose::Compare { .. }
            | EvaluationPurpose::CompareStrongest
            | EvaluationPurpose::Try => {
                self.faults.count_fault(step, purpose, &error);
            }
        }
        Ok(())
    }

    /// Queues a step for the judge again, or gives it up after the last try.
    fn retry_or_give_up(
        &mut self,
        step: u64,
        purpose: EvaluationPurpose,
        error: anyhow::Error,
    ) -> Result<()> {
        let is_rejudge = purpose == EvaluationPurpose::Rejudge;
        if !self.faults.count_fault(step, purpose, &error) {
            if is_rejudge {
                self.scheduler.queue_stale(&self.search, step);
            } else {
                let source = self.sources.text(step)?;
                self.scheduler.queue_candidate(step, source);
            }
            return Ok(());
        }
        // An elite keeps its old measurement; a resumed run measures it again.
        if !is_rejudge {
            let detail = format!("{error:#}");
            let failed = Failed::new(step, FailedReason::HarnessError, detail);
            self.give_up(Event::Failed(failed));
        }
        self.faults.count_given_up(error)
    }

    fn give_up(&mut self, event: Event) {
        let started = self.scheduler.running.evaluations_started();
        self.faults.give_up(event, started);
    }
}

/// The event of a candidate that compiles to the code of step `of`.
fn same_code(step: u64, of: u64, code: Digest, seconds: Option<EvaluationSeconds>) -> Event {
    let detail = format!("compiles to the same code as step {of}");
    Event::Failed(Failed {
        of: Some(of),
        code: Some(code),
        seconds,
        ..Failed::new(step, FailedReason::Duplicate, detail)
    })
}

/// The event of a kernel that was timed against another or against baselines. `wall`: what that took, in seconds.
fn timed(step: u64, purpose: EvaluationPurpose, outcome: JobOutcome, wall: f64) -> Result<Event> {
    let seconds = |device| Some(EvaluationSeconds { wall, device });
    Ok(match (purpose, outcome) {
        (EvaluationPurpose::CompareStrongest, JobOutcome::Strongest(outcome)) => {
            let seconds = seconds(outcome.device_seconds);
            Event::StrongestCompared(strongest_compared(step, *outcome, seconds))
        }
        (
            EvaluationPurpose::Duel { against } | EvaluationPurpose::Compare { against },
            JobOutcome::Duel {
                duel,
                device_seconds,
            },
        ) => {
            let dueled = Dueled {
                step,
                against,
                duel,
                seconds: seconds(device_seconds),
            };
            match purpose {
                EvaluationPurpose::Duel { .. } => Event::Dueled(dueled),
                _ => compared(dueled),
            }
        }
        _ => return Err(other_outcome(step)),
    })
}

fn other_outcome(step: u64) -> anyhow::Error {
    anyhow!("the evaluation of step {step} has an outcome of another kind")
}

/// The payload of the event of a kernel that was timed against the strongest baselines.
pub(super) fn strongest_compared(
    step: u64,
    outcome: StrongestOutcome,
    seconds: Option<EvaluationSeconds>,
) -> StrongestCompared {
    StrongestCompared {
        step,
        entries: outcome.entries,
        reason: outcome.reason,
        processes: outcome.processes as u64,
        measured: run::timestamp(run::now_milliseconds()),
        seconds,
    }
}

/// The event of a comparison, which is a duel with a starting kernel.
fn compared(dueled: Dueled) -> Event {
    let Dueled {
        step,
        against,
        duel,
        seconds,
    } = dueled;
    Event::Compared(Compared {
        step,
        against,
        duel,
        seconds,
    })
}
