//! The fold: what is held until its turn, what a step comes to, and what follows from it.

use std::sync::Arc;

use super::archive::{Cell, ChallengeOutcome, Elite};
use super::ledger::{ArchiveDecision, StepOutcome, StepRecord};
use super::{DuelRequest, Search, SearchUpdate};
use crate::event::{Brief, Dueled, Event, Failed, FailedReason, Proposed, StopReason};
use crate::verdict::{Speedup, Status, Verdict};

/// What was told of a step that the fold has not passed.
#[derive(Debug, Default)]
pub(super) struct PendingStep {
    pub(super) asked: Option<Brief>,
    pub(super) proposed: Option<Proposed>,
    pub(super) failed: Option<Failed>,
    pub(super) judged: Option<CandidateResult>,
    dueled: Vec<Dueled>,
}

/// What the fold needs of a verdict.
#[derive(Clone, Debug)]
pub(super) enum CandidateResult {
    Passed {
        speedup: Speedup,
        cell: Cell,
        /// Only where the candidate could be among the fastest.
        verdict: Option<Arc<Verdict>>,
    },
    NotPassed(Status),
}

/// What a step comes to.
enum StepResolution {
    Failed(FailedReason),
    Duplicate(u64),
    /// Its verdict and its proposal are those of this step: itself, or a later one with the same source.
    Judged(u64),
}

/// The speedup of a verdict that passed, if it is one: positive, finite, inside its interval.
pub(super) fn valid_speedup(verdict: &Verdict) -> Option<Speedup> {
    let speedup = verdict.speedup.filter(|_| verdict.passed())?;
    let [low, high] = speedup.ci95;
    (low > 0.0 && low <= speedup.geomean && speedup.geomean <= high && high.is_finite())
        .then_some(speedup)
}

impl Search {
    /// Keeps an event until the fold comes to its step.
    pub(super) fn store_event(
        &mut self,
        step: u64,
        event: &Event,
        changes: &mut Vec<SearchUpdate>,
    ) {
        let judgement = match event {
            Event::Judged(judged) => self.candidate_result(&judged.verdict),
            _ => None,
        };
        let held = self.pending.entry(step).or_default();
        match event {
            Event::Asked(brief) => {
                held.asked = Some(brief.clone());
                self.check_recorded_brief(step, changes);
            }
            Event::Proposed(proposed) => held.proposed = Some(proposed.clone()),
            Event::Failed(failed) => held.failed = Some(failed.clone()),
            Event::Judged(_) if judgement.is_none() => {
                changes.push(SearchUpdate::HarnessError { step })
            }
            Event::Judged(_) => held.judged = judgement,
            Event::Dueled(dueled) => held.dueled.push(dueled.clone()),
            Event::Sent(_) | Event::Replied(_) | Event::Confirmed(_) | Event::Stopped(_) => {}
        }
    }

    /// `None` for kforge's own fault, which is no result.
    fn candidate_result(&self, verdict: &Verdict) -> Option<CandidateResult> {
        match verdict.status {
            Status::HarnessError => None,
            Status::Passed => {
                let Some(speedup) = valid_speedup(verdict) else {
                    // Correct, but without a number that could be compared with another.
                    return Some(CandidateResult::NotPassed(Status::Inconclusive));
                };
                let cell = self.archive.cell_of(&verdict.features, &speedup);
                let verdict = self
                    .archive
                    .keeps_verdict(&speedup)
                    .then(|| Arc::new(verdict.clone()));
                Some(CandidateResult::Passed {
                    speedup,
                    cell,
                    verdict,
                })
            }
            status => Some(CandidateResult::NotPassed(status)),
        }
    }

    /// Folds every step whose turn has come.
    pub(super) fn advance(&mut self, changes: &mut Vec<SearchUpdate>) {
        while self.stop_reason().is_none() {
            let step = self.folded() + 1;
            let Some(resolved) = self.resolve_step(step) else {
                return;
            };
            let insert = match &resolved {
                StepResolution::Judged(from) => match self.decide_insert(step, *from) {
                    Ok(insert) => insert,
                    Err(request) => {
                        if self.pending_duel != Some(request) {
                            self.pending_duel = Some(request);
                            changes.push(SearchUpdate::DuelWanted(request));
                        }
                        return;
                    }
                },
                _ => None,
            };
            self.pending_duel = None;
            self.fold_step(step, resolved, insert, changes);
        }
    }

    /// What a step comes to; `None` while something is missing.
    fn resolve_step(&self, step: u64) -> Option<StepResolution> {
        let held = self.pending.get(&step)?;
        let failed = held.failed.as_ref();
        let kernel = held
            .proposed
            .as_ref()
            .map(|proposed| proposed.kernel)
            .or(failed.and_then(|failed| failed.kernel));
        if let Some(owner) = kernel.and_then(|kernel| self.ledger.step_of_kernel(&kernel)) {
            return Some(StepResolution::Duplicate(owner));
        }
        if let Some(failed) = failed.filter(|failed| failed.reason != FailedReason::Duplicate) {
            return Some(StepResolution::Failed(failed.reason));
        }
        let Some(failed) = failed else {
            return (held.proposed.is_some() && held.judged.is_some())
                .then_some(StepResolution::Judged(step));
        };
        // A duplicate of a later step, which had proposed the source first: the verdict is there, at the end of the chain.
        let mut of = failed.of.unwrap_or(0);
        for _ in 0..=self.pending.len() {
            if of <= step {
                break;
            }
            let other = self.pending.get(&of)?;
            match &other.failed {
                None => {
                    return (other.proposed.is_some() && other.judged.is_some())
                        .then_some(StepResolution::Judged(of));
                }
                Some(failed) if failed.reason == FailedReason::Duplicate => {
                    of = failed.of.unwrap_or(0)
                }
                Some(failed) => return Some(StepResolution::Failed(failed.reason)),
            }
        }
        Some(StepResolution::Duplicate(of))
    }

    /// What the archive does with a candidate: `None` if it did not pass, the duel that is needed if only that can tell.
    fn decide_insert(&self, step: u64, from: u64) -> Result<Option<ArchiveDecision>, DuelRequest> {
        let judgement = self
            .pending
            .get(&from)
            .and_then(|held| held.judged.as_ref());
        let Some(CandidateResult::Passed { speedup, cell, .. }) = judgement else {
            return Ok(None);
        };
        Ok(Some(match self.archive.challenge(cell, speedup) {
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

    /// Whether the challenger won, once the two have been timed against each other. If one of them no longer passed, it did not.
    fn challenger_won(&self, step: u64, against: u64) -> Option<bool> {
        let dueled = self
            .pending
            .get(&step)?
            .dueled
            .iter()
            .find(|dueled| dueled.against == against)?;
        Some(dueled.duel.is_some_and(|duel| duel.ci95[0] > 1.0))
    }

    /// Folds a step whose outcome is known.
    fn fold_step(
        &mut self,
        step: u64,
        resolved: StepResolution,
        insert: Option<ArchiveDecision>,
        changes: &mut Vec<SearchUpdate>,
    ) {
        let Some(plan) = self.planned.pop_front() else {
            return;
        };
        let mut held = self.pending.remove(&step).unwrap_or_default();
        let mut kernel = None;
        let mut detail = held
            .proposed
            .as_ref()
            .map(|proposed| proposed.detail.clone());
        let (mut family, mut cell) = (None, None);
        let outcome = match resolved {
            StepResolution::Failed(reason) => StepOutcome::Failed(reason),
            StepResolution::Duplicate(of) => StepOutcome::Duplicate { of },
            StepResolution::Judged(from) => {
                let mut judged = held.judged.take();
                let mut proposed = held.proposed.take();
                if from != step {
                    let other = self.pending.get_mut(&from);
                    (judged, proposed) = other.map_or((None, None), |other| {
                        (other.judged.take(), other.proposed.clone())
                    });
                    self.source_steps.insert(step, from);
                }
                if let Some(proposed) = &proposed {
                    family = Some(self.families.add_member(
                        proposed.family,
                        &proposed.space,
                        &proposed.point,
                    ));
                    kernel = Some(proposed.kernel);
                }
                match (judged, insert) {
                    (
                        Some(CandidateResult::Passed {
                            speedup,
                            cell: place,
                            verdict,
                        }),
                        Some(insert),
                    ) => {
                        if let (Some(family), Some(proposed)) = (family, &proposed) {
                            self.families.record_speedup(
                                family,
                                &proposed.point,
                                step,
                                speedup.geomean,
                            );
                        }
                        cell = Some(place.clone());
                        self.insert_elite(
                            Elite {
                                step,
                                cell: place,
                                speedup,
                                verdict,
                            },
                            insert,
                            changes,
                        );
                        StepOutcome::Passed {
                            speedup: speedup.geomean,
                            insert,
                        }
                    }
                    (Some(CandidateResult::NotPassed(status)), _) => StepOutcome::NotPassed(status),
                    _ => StepOutcome::Failed(FailedReason::HarnessError),
                }
            }
        };
        if let Some(failed) = held.failed {
            detail = detail.or(failed.detail);
        }
        let record = StepRecord {
            operator: plan.brief.operator,
            parents: plan.brief.parents.clone().into(),
            detail: detail.unwrap_or_default().into(),
            outcome,
            family,
        };
        self.ledger.push(record, kernel);
        self.planner
            .record_outcome(&plan.brief, &outcome, &self.settings);
        self.exhausted_in_a_row = if plan.exhausted && !outcome.has_candidate() {
            self.exhausted_in_a_row + 1
        } else {
            0
        };
        changes.push(SearchUpdate::Folded {
            step,
            outcome,
            cell,
        });
        self.plan_step(step + self.window, changes);
        self.decide_stop(step);
        if let Some(why) = self.stop_reason() {
            changes.push(SearchUpdate::Stopped { why, at: step });
        }
    }

    /// Puts a candidate into the archive if that is what was decided.
    fn insert_elite(
        &mut self,
        elite: Elite,
        insert: ArchiveDecision,
        changes: &mut Vec<SearchUpdate>,
    ) {
        let proven = match (insert, self.best_proven) {
            (ArchiveDecision::NotAdded { .. }, _) => return,
            (_, None) => true,
            (ArchiveDecision::Improved { over }, Some((marked, _))) if over == marked => true,
            (_, Some((_, mark))) => elite.speedup.ci95[0] > mark.ci95[1],
        };
        let (step, speedup) = (elite.step, elite.speedup);
        if proven {
            self.best_proven = Some((step, speedup));
        }
        self.archive.insert(elite);
        if self
            .archive
            .elites()
            .first()
            .is_some_and(|best| best.step == step)
        {
            changes.push(SearchUpdate::Best { step, speedup });
        }
    }

    fn decide_stop(&mut self, step: u64) {
        let reached = |target: f64| {
            self.archive
                .elites()
                .iter()
                .any(|elite| elite.step == step && elite.speedup.ci95[0] >= target)
        };
        let begun = self
            .best_proven
            .map_or(0, |(step, _)| step)
            .max(self.starting_kernels.len() as u64);
        self.stopped = if self.settings.target_speedup.is_some_and(reached) {
            Some(StopReason::Target)
        } else if self
            .settings
            .patience
            .is_some_and(|patience| step >= begun.saturating_add(patience))
        {
            Some(StopReason::Patience)
        } else if self.exhausted_in_a_row >= self.window {
            Some(StopReason::Exhausted)
        } else {
            None
        };
    }

    /// An elite was measured again, because what it is measured with has changed: it keeps its cell, moves to another, or goes.
    /// Between two elites that meet in a cell there is no duel: the better estimate stays.
    pub(super) fn remeasure_elite(
        &mut self,
        step: u64,
        verdict: &Verdict,
        changes: &mut Vec<SearchUpdate>,
    ) {
        let found = self
            .archive
            .elites()
            .iter()
            .find(|elite| elite.step == step)
            .map(|elite| elite.cell.clone());
        let (Some(cell), Some(judgement)) = (found, self.candidate_result(verdict)) else {
            return;
        };
        self.archive.remove(&cell);
        let mut kept = false;
        if let CandidateResult::Passed {
            speedup,
            cell,
            verdict,
        } = judgement
        {
            let standing = self.archive.challenge(&cell, &speedup);
            kept = !matches!(standing, ChallengeOutcome::NotFaster(_));
            if kept {
                self.archive.insert(Elite {
                    step,
                    cell,
                    speedup,
                    verdict,
                });
            }
        }
        if let Some((marked, mark)) = &mut self.best_proven
            && let Some(elite) = self
                .archive
                .elites()
                .iter()
                .find(|elite| elite.step == *marked)
        {
            *mark = elite.speedup;
        }
        changes.push(SearchUpdate::Remeasured { step, kept });
        self.advance(changes);
    }
}
