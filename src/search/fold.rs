//! The fold: what is held until its turn, what a step comes to, and what follows from it.

use std::sync::Arc;

use super::archive::{Cell, Elite, Standing};
use super::ledger::{Insert, Outcome, Record};
use super::{Change, DuelRequest, Search};
use crate::event::{Brief, Dueled, Event, Failed, FailedReason, Proposed, StopReason};
use crate::verdict::{Speedup, Status, Verdict};

/// What was told of a step that the fold has not passed.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) asked: Option<Brief>,
    pub(super) proposed: Option<Proposed>,
    pub(super) failed: Option<Failed>,
    pub(super) judged: Option<Judgement>,
    dueled: Vec<Dueled>,
}

/// What the fold needs of a verdict.
#[derive(Clone, Debug)]
pub(super) enum Judgement {
    Passed {
        speedup: Speedup,
        cell: Cell,
        /// Only where the candidate could be among the fastest.
        verdict: Option<Arc<Verdict>>,
    },
    NotPassed(Status),
}

/// What a step comes to.
enum Resolved {
    Failed(FailedReason),
    Duplicate(u64),
    /// Its verdict and its proposal are those of this step: itself, or a later one with the same source.
    Judged(u64),
}

/// The speedup of a verdict that passed, if it is one: positive, finite, inside its interval.
pub(super) fn measured(verdict: &Verdict) -> Option<Speedup> {
    let speedup = verdict.speedup.filter(|_| verdict.passed())?;
    let [low, high] = speedup.ci95;
    (low > 0.0 && low <= speedup.geomean && speedup.geomean <= high && high.is_finite())
        .then_some(speedup)
}

impl Search {
    /// Keeps an event until the fold comes to its step.
    pub(super) fn hold(&mut self, step: u64, event: &Event, changes: &mut Vec<Change>) {
        let judgement = match event {
            Event::Judged(judged) => self.judgement(&judged.verdict),
            _ => None,
        };
        let held = self.held.entry(step).or_default();
        match event {
            Event::Asked(brief) => {
                held.asked = Some(brief.clone());
                self.compare(step, changes);
            }
            Event::Proposed(proposed) => held.proposed = Some(proposed.clone()),
            Event::Failed(failed) => held.failed = Some(failed.clone()),
            Event::Judged(_) if judgement.is_none() => changes.push(Change::HarnessError { step }),
            Event::Judged(_) => held.judged = judgement,
            Event::Dueled(dueled) => held.dueled.push(dueled.clone()),
            Event::Sent(_) | Event::Replied(_) | Event::Confirmed(_) | Event::Stopped(_) => {}
        }
    }

    /// `None` for kforge's own fault, which is no result.
    fn judgement(&self, verdict: &Verdict) -> Option<Judgement> {
        match verdict.status {
            Status::HarnessError => None,
            Status::Passed => {
                let Some(speedup) = measured(verdict) else {
                    // Correct, but without a number that could be compared with another.
                    return Some(Judgement::NotPassed(Status::Inconclusive));
                };
                let cell = self.archive.cell(&verdict.features, &speedup);
                let verdict = self
                    .archive
                    .keeps_verdict(&speedup)
                    .then(|| Arc::new(verdict.clone()));
                Some(Judgement::Passed {
                    speedup,
                    cell,
                    verdict,
                })
            }
            status => Some(Judgement::NotPassed(status)),
        }
    }

    /// Folds every step whose turn has come.
    pub(super) fn advance(&mut self, changes: &mut Vec<Change>) {
        while self.stop().is_none() {
            let step = self.folded() + 1;
            let Some(resolved) = self.resolve(step) else {
                return;
            };
            let insert = match &resolved {
                Resolved::Judged(from) => match self.settle(step, *from) {
                    Ok(insert) => insert,
                    Err(request) => {
                        if self.duel != Some(request) {
                            self.duel = Some(request);
                            changes.push(Change::DuelWanted(request));
                        }
                        return;
                    }
                },
                _ => None,
            };
            self.duel = None;
            self.pass(step, resolved, insert, changes);
        }
    }

    /// What a step comes to; `None` while something is missing.
    fn resolve(&self, step: u64) -> Option<Resolved> {
        let held = self.held.get(&step)?;
        let failed = held.failed.as_ref();
        let kernel = held
            .proposed
            .as_ref()
            .map(|proposed| proposed.kernel)
            .or(failed.and_then(|failed| failed.kernel));
        if let Some(owner) = kernel.and_then(|kernel| self.ledger.owner(&kernel)) {
            return Some(Resolved::Duplicate(owner));
        }
        if let Some(failed) = failed.filter(|failed| failed.reason != FailedReason::Duplicate) {
            return Some(Resolved::Failed(failed.reason));
        }
        let Some(failed) = failed else {
            return (held.proposed.is_some() && held.judged.is_some())
                .then_some(Resolved::Judged(step));
        };
        // A duplicate of a later step, which had proposed the source first: the verdict is there, at the end of the chain.
        let mut of = failed.of.unwrap_or(0);
        for _ in 0..=self.held.len() {
            if of <= step {
                break;
            }
            let other = self.held.get(&of)?;
            match &other.failed {
                None => {
                    return (other.proposed.is_some() && other.judged.is_some())
                        .then_some(Resolved::Judged(of));
                }
                Some(failed) if failed.reason == FailedReason::Duplicate => {
                    of = failed.of.unwrap_or(0)
                }
                Some(failed) => return Some(Resolved::Failed(failed.reason)),
            }
        }
        Some(Resolved::Duplicate(of))
    }

    /// What the archive does with a candidate: `None` if it did not pass, the duel that is needed if only that can tell.
    fn settle(&self, step: u64, from: u64) -> Result<Option<Insert>, DuelRequest> {
        let judgement = self.held.get(&from).and_then(|held| held.judged.as_ref());
        let Some(Judgement::Passed { speedup, cell, .. }) = judgement else {
            return Ok(None);
        };
        Ok(Some(match self.archive.standing(cell, speedup) {
            Standing::Alone => Insert::New,
            Standing::Above(over) => Insert::Improved { over },
            Standing::Below(behind) => Insert::NotAdded { behind },
            Standing::Close(against) => match self.fought(step, against) {
                None => return Err(DuelRequest { step, against }),
                Some(true) => Insert::Improved { over: against },
                Some(false) => Insert::NotAdded { behind: against },
            },
        }))
    }

    /// Whether the challenger won, once the two have been timed against each other. If one of them no longer passed, it did not.
    fn fought(&self, step: u64, against: u64) -> Option<bool> {
        let dueled = self
            .held
            .get(&step)?
            .dueled
            .iter()
            .find(|dueled| dueled.against == against)?;
        Some(dueled.duel.is_some_and(|duel| duel.ci95[0] > 1.0))
    }

    /// Folds a step whose outcome is known.
    fn pass(
        &mut self,
        step: u64,
        resolved: Resolved,
        insert: Option<Insert>,
        changes: &mut Vec<Change>,
    ) {
        let Some(plan) = self.plans.pop_front() else {
            return;
        };
        let mut held = self.held.remove(&step).unwrap_or_default();
        let mut kernel = None;
        let mut detail = held
            .proposed
            .as_ref()
            .map(|proposed| proposed.detail.clone());
        let (mut family, mut cell) = (None, None);
        let outcome = match resolved {
            Resolved::Failed(reason) => Outcome::Failed(reason),
            Resolved::Duplicate(of) => Outcome::Duplicate { of },
            Resolved::Judged(from) => {
                let mut judged = held.judged.take();
                let mut proposed = held.proposed.take();
                if from != step {
                    let other = self.held.get_mut(&from);
                    (judged, proposed) = other.map_or((None, None), |other| {
                        (other.judged.take(), other.proposed.clone())
                    });
                    self.elsewhere.insert(step, from);
                }
                if let Some(proposed) = &proposed {
                    family = Some(self.families.enter(
                        proposed.family,
                        &proposed.space,
                        &proposed.point,
                    ));
                    kernel = Some(proposed.kernel);
                }
                match (judged, insert) {
                    (
                        Some(Judgement::Passed {
                            speedup,
                            cell: place,
                            verdict,
                        }),
                        Some(insert),
                    ) => {
                        if let (Some(family), Some(proposed)) = (family, &proposed) {
                            self.families
                                .credit(family, &proposed.point, step, speedup.geomean);
                        }
                        cell = Some(place.clone());
                        self.insert(
                            Elite {
                                step,
                                cell: place,
                                speedup,
                                verdict,
                            },
                            insert,
                            changes,
                        );
                        Outcome::Passed {
                            speedup: speedup.geomean,
                            insert,
                        }
                    }
                    (Some(Judgement::NotPassed(status)), _) => Outcome::NotPassed(status),
                    _ => Outcome::Failed(FailedReason::HarnessError),
                }
            }
        };
        if let Some(failed) = held.failed {
            detail = detail.or(failed.detail);
        }
        let record = Record {
            operator: plan.brief.operator,
            parents: plan.brief.parents.clone().into(),
            detail: detail.unwrap_or_default().into(),
            outcome,
            family,
        };
        self.ledger.push(record, kernel);
        self.planner.learn(&plan.brief, &outcome, &self.settings);
        self.barren = if plan.barren && !outcome.candidate() {
            self.barren + 1
        } else {
            0
        };
        changes.push(Change::Folded {
            step,
            outcome,
            cell,
        });
        self.plan(step + self.window, changes);
        self.decide_stop(step);
        if let Some(why) = self.stop() {
            changes.push(Change::Stopped { why, at: step });
        }
    }

    /// Puts a candidate into the archive if that is what was decided.
    fn insert(&mut self, elite: Elite, insert: Insert, changes: &mut Vec<Change>) {
        let proven = match (insert, self.mark) {
            (Insert::NotAdded { .. }, _) => return,
            (_, None) => true,
            (Insert::Improved { over }, Some((marked, _))) if over == marked => true,
            (_, Some((_, mark))) => elite.speedup.ci95[0] > mark.ci95[1],
        };
        let (step, speedup) = (elite.step, elite.speedup);
        if proven {
            self.mark = Some((step, speedup));
        }
        self.archive.put(elite);
        if self
            .archive
            .elites()
            .first()
            .is_some_and(|best| best.step == step)
        {
            changes.push(Change::Best { step, speedup });
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
            .mark
            .map_or(0, |(step, _)| step)
            .max(self.starts.len() as u64);
        self.stopped = if self.settings.target_speedup.is_some_and(reached) {
            Some(StopReason::Target)
        } else if self
            .settings
            .patience
            .is_some_and(|patience| step >= begun.saturating_add(patience))
        {
            Some(StopReason::Patience)
        } else if self.barren >= self.window {
            Some(StopReason::Exhausted)
        } else {
            None
        };
    }

    /// An elite was measured again, because what it is measured with has changed: it keeps its cell, moves to another, or goes.
    /// Between two elites that meet in a cell there is no duel: the better estimate stays.
    pub(super) fn judge_again(&mut self, step: u64, verdict: &Verdict, changes: &mut Vec<Change>) {
        let found = self
            .archive
            .elites()
            .iter()
            .find(|elite| elite.step == step)
            .map(|elite| elite.cell.clone());
        let (Some(cell), Some(judgement)) = (found, self.judgement(verdict)) else {
            return;
        };
        self.archive.take(&cell);
        let mut kept = false;
        if let Judgement::Passed {
            speedup,
            cell,
            verdict,
        } = judgement
        {
            let standing = self.archive.standing(&cell, &speedup);
            kept = !matches!(standing, Standing::Below(_));
            if kept {
                self.archive.put(Elite {
                    step,
                    cell,
                    speedup,
                    verdict,
                });
            }
        }
        if let Some((marked, mark)) = &mut self.mark
            && let Some(elite) = self
                .archive
                .elites()
                .iter()
                .find(|elite| elite.step == *marked)
        {
            *mark = elite.speedup;
        }
        changes.push(Change::Remeasured { step, kept });
        self.advance(changes);
    }
}
