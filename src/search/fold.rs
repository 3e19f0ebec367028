//! The fold: applies complete steps to the archive, the ledger and the planner, one after the other, and decides when the search ends.
//!
//! `completion` says which step is next, `resolution` what its result is; `window` decides the next briefs.

use super::Search;
use super::archive::{Cell, Elite};
use super::credit::Spent;
use super::families::PointResult;
use super::islands::Origin;
use super::ledger::{ArchiveDecision, StepOutcome, StepRecord};
use super::pending::{CandidateResult, PendingStep, valid_speedup};
use super::planner::PlannedBrief;
use super::resolution::StepResolution;
use super::results::Figures;
use super::stop_rules::reached_target;
use super::tune_first::note_tried_points;
use super::updates::SearchUpdate;
use crate::base::Digest;
use crate::event::{Brief, Event, FailedReason, Operator, Proposed};
use crate::verdict::{Speedup, Status, VerdictSummary};

/// What a folded step leaves in the ledger, besides its brief.
struct FoldedCandidate {
    outcome: StepOutcome,
    /// `None` if there is no new candidate.
    proposed: Option<Proposed>,
    family: Option<u32>,
    /// The cell of a candidate that passed and was not dismissed, and its speedup.
    cell: Option<Cell>,
    speedup: Option<Speedup>,
}

impl FoldedCandidate {
    fn without_candidate(outcome: StepOutcome) -> Self {
        Self {
            outcome,
            proposed: None,
            family: None,
            cell: None,
            speedup: None,
        }
    }
}

impl Search {
    /// Stores an event other than `judged` until its step is folded.
    pub(super) fn store_event(
        &mut self,
        step: u64,
        event: &Event,
        updates: &mut Vec<SearchUpdate>,
    ) {
        let pending = self.pending.entry(step).or_default();
        match event {
            Event::Asked(brief) => {
                pending.asked = Some(brief.clone());
                self.check_recorded_brief(step, updates);
                self.continue_past_stop(step, updates);
                self.adopt_recorded_brief(step, updates);
            }
            Event::Proposed(proposed) => {
                pending.proposed = Some(proposed.clone());
                self.note_duplicate(step, proposed);
            }
            Event::Failed(failed) => pending.failed = Some(failed.clone()),
            Event::Dueled(dueled) => pending.dueled.push(dueled.clone()),
            Event::Replied(replied) => {
                let cost = replied.cost.nano_usd.unwrap_or(0);
                pending.nano_usd = pending.nano_usd.saturating_add(cost);
            }
            Event::Judged(_)
            | Event::Sent(_)
            | Event::Confirmed(_)
            | Event::Compared(_)
            | Event::StrongestCompared(_)
            | Event::Stopped(_) => {}
        }
    }

    /// Stores a verdict until its step is folded.
    pub(super) fn store_verdict(
        &mut self,
        step: u64,
        verdict: &VerdictSummary,
        updates: &mut Vec<SearchUpdate>,
    ) {
        let result = self.candidate_result(verdict);
        self.code_log.note(step, passed_code(verdict));
        let pending = self.pending.entry(step).or_default();
        pending.device_seconds = verdict.seconds.device;
        match result {
            Some(_) => pending.judged = result,
            None => updates.push(SearchUpdate::HarnessError { step }),
        }
    }

    /// The part of a verdict that the fold needs; `None` for a harness error, which is not a result.
    pub(super) fn candidate_result(&mut self, verdict: &VerdictSummary) -> Option<CandidateResult> {
        match verdict.status {
            Status::HarnessError => None,
            Status::Passed => {
                let Some(speedup) = valid_speedup(verdict) else {
                    // Correct, but without a number that can be compared.
                    return Some(CandidateResult::NotPassed(Status::Inconclusive));
                };
                if verdict.is_dismissed() {
                    return Some(CandidateResult::Dismissed { speedup });
                }
                let cell = self.archive.cell_of(&verdict.features, &speedup);
                let figures = self.results.figures_of(speedup, verdict);
                Some(CandidateResult::Passed {
                    speedup,
                    cell,
                    figures,
                    reached: reached_target(&self.settings, &speedup, verdict),
                })
            }
            status => Some(CandidateResult::NotPassed(status)),
        }
    }

    /// Folds every step that is next in order and complete.
    pub(super) fn advance(&mut self, updates: &mut Vec<SearchUpdate>) {
        while self.stop_reason().is_none() {
            let Some(step) = self.next_to_fold() else {
                return;
            };
            let Some(resolution) = self.resolve_step(step) else {
                return;
            };
            let decision = match resolution {
                StepResolution::Judged(from) => match self.decide_insert(step, from) {
                    Ok(decision) => decision,
                    Err(request) => {
                        if self.pending_duel != Some(request) {
                            self.pending_duel = Some(request);
                            updates.push(SearchUpdate::DuelWanted(request));
                        }
                        return;
                    }
                },
                StepResolution::Failed(_) | StepResolution::Duplicate(_) => None,
            };
            self.pending_duel = None;
            let Some(planned) = self.in_flight.remove(step) else {
                return;
            };
            self.complete.pop_front();
            self.fold_step(planned, resolution, decision, updates);
        }
    }

    /// Folds a complete step: archive, ledger, planner, the next brief, and the end of the search.
    fn fold_step(
        &mut self,
        planned: PlannedBrief,
        resolution: StepResolution,
        decision: Option<ArchiveDecision>,
        updates: &mut Vec<SearchUpdate>,
    ) {
        let step = planned.brief.step;
        let mut pending = self.pending.remove(&step).unwrap_or_default();
        let detail = pending
            .proposed
            .as_ref()
            .map(|proposed| proposed.detail.clone())
            .or_else(|| pending.failed.take().and_then(|failed| failed.detail));
        let tried = pending.proposed.as_ref();
        let tried = tried.and_then(|proposed| proposed.tried.as_ref());
        let spent = Spent {
            device_seconds: pending.device_seconds
                + tried.map_or(0.0, |tried| tried.seconds.device),
            nano_usd: pending.nano_usd,
        };
        let (folded, figures) = self.fold_result(step, pending, resolution, decision, updates);
        let outcome = folded.outcome;
        self.settle_on_islands(&planned.brief, &folded);
        let detail = detail.unwrap_or_default();
        self.learn(&planned.brief, &detail, &outcome, figures, spent);
        let record = StepRecord {
            operator: planned.brief.operator,
            parents: planned.brief.parents.clone().into(),
            detail: detail.into(),
            outcome,
            island: planned.brief.island,
            family: folded.family,
            position: self.folded() + 1,
        };
        let kernel = folded.proposed.map(|proposed| proposed.kernel);
        self.ledger.push(step, record, kernel);
        let is_start = self.starting_kernel(step).is_some();
        if is_start || !self.are_starts_folded() {
            self.last_gain = self.folded();
        }
        self.planner
            .record_outcome(&planned.brief, &outcome, &self.settings);
        self.exhausted_in_a_row = if planned.exhausted && !outcome.has_candidate() {
            self.exhausted_in_a_row + 1
        } else {
            0
        };
        updates.push(SearchUpdate::Folded {
            step,
            outcome,
            cell: folded.cell,
        });
        self.plan_steps(updates);
        self.decide_stop();
        if let Some(why) = self.stop_reason() {
            let at = self.folded();
            updates.push(SearchUpdate::Stopped { why, at });
        }
    }

    /// Gives the island of a step its kernel. A step whose code an earlier step has brings the island the earlier kernel.
    fn settle_on_islands(&mut self, brief: &Brief, folded: &FoldedCandidate) {
        let origin = match brief.island {
            Some(island) => Origin::Step(island),
            None if brief.operator == Operator::Start => Origin::Start,
            None => return,
        };
        let own = folded.cell.clone().zip(folded.speedup);
        let elite = match (own, folded.outcome) {
            (Some((cell, speedup)), _) => Some(Elite {
                step: brief.step,
                cell,
                speedup,
            }),
            (None, StepOutcome::Duplicate { of }) => self.islands.elite_of(of).cloned(),
            _ => None,
        };
        self.islands
            .fold(origin, elite.as_ref(), self.seed, self.folded() + 1);
    }

    /// Folds the result of a step. Returns also the speedups of a candidate that passed.
    fn fold_result(
        &mut self,
        step: u64,
        mut pending: PendingStep,
        resolution: StepResolution,
        decision: Option<ArchiveDecision>,
        updates: &mut Vec<SearchUpdate>,
    ) -> (FoldedCandidate, Option<Figures>) {
        let from = match resolution {
            StepResolution::Failed(reason) => {
                let outcome = StepOutcome::Failed(reason);
                return (FoldedCandidate::without_candidate(outcome), None);
            }
            StepResolution::Duplicate(of) => {
                let outcome = StepOutcome::Duplicate { of };
                return (FoldedCandidate::without_candidate(outcome), None);
            }
            StepResolution::Judged(from) => from,
        };
        if from != step {
            let other = self.pending.get_mut(&from);
            (pending.judged, pending.proposed) = other.map_or((None, None), |other| {
                (other.judged.take(), other.proposed.clone())
            });
            self.source_steps.insert(step, from);
        }
        let figures = match &pending.judged {
            Some(CandidateResult::Passed { figures, .. }) => Some(figures.clone()),
            _ => None,
        };
        let folded = self.fold_candidate(step, pending, decision, updates);
        (folded, figures)
    }

    /// Adds what a step gained and cost to the results, and to what the planner knows of operators, models and transformations.
    fn learn(
        &mut self,
        brief: &Brief,
        detail: &str,
        outcome: &StepOutcome,
        figures: Option<Figures>,
        spent: Spent,
    ) {
        self.planner
            .record_compilation(brief, detail, outcome, &self.ledger);
        let change = if outcome.has_candidate() {
            self.results
                .record(brief, detail, figures, spent.device_seconds)
        } else {
            None
        };
        self.planner.record_earnings(brief, detail, change, spent);
    }

    /// Enters a judged candidate into its family, and into the archive if that was decided.
    fn fold_candidate(
        &mut self,
        step: u64,
        pending: PendingStep,
        decision: Option<ArchiveDecision>,
        updates: &mut Vec<SearchUpdate>,
    ) -> FoldedCandidate {
        let proposed = pending.proposed;
        let family = proposed.as_ref().map(|proposed| {
            self.families.add_member(
                proposed.family,
                &proposed.space,
                &proposed.constraints,
                &proposed.point,
            )
        });
        let mut folded = FoldedCandidate {
            outcome: StepOutcome::Failed(FailedReason::HarnessError),
            proposed,
            family,
            cell: None,
            speedup: None,
        };
        match (pending.judged, decision) {
            (
                Some(CandidateResult::Passed {
                    speedup,
                    cell,
                    reached,
                    ..
                }),
                Some(insert),
            ) => {
                self.front.add(step, speedup);
                folded.cell = Some(cell.clone());
                folded.speedup = Some(speedup);
                folded.outcome = StepOutcome::Passed {
                    speedup: speedup.geomean,
                    insert,
                };
                self.reached = reached.filter(|_| folded.outcome.was_added());
                let elite = Elite {
                    step,
                    cell,
                    speedup,
                };
                self.insert_elite(elite, insert, updates);
            }
            (Some(CandidateResult::Dismissed { speedup }), Some(insert)) => {
                folded.outcome = StepOutcome::Passed {
                    speedup: speedup.geomean,
                    insert,
                };
            }
            (Some(CandidateResult::NotPassed(status)), _) => {
                folded.outcome = StepOutcome::NotPassed(status);
            }
            _ => {}
        }
        self.note_point(step, &folded);
        self.note_shingles(step, &folded);
        folded
    }

    /// Records what later kernels are compared by with a candidate that passed.
    fn note_shingles(&mut self, step: u64, folded: &FoldedCandidate) {
        let proposed = folded.proposed.as_ref();
        let shingles = proposed.and_then(|proposed| proposed.shingles.as_ref());
        if let Some(shingles) = shingles.filter(|_| folded.outcome.is_complete_pass()) {
            let (settings, was_added) = (self.settings.near_copies, folded.outcome.was_added());
            self.near_copies.note(settings, step, shingles, was_added);
        }
    }

    /// Records the result at a candidate's point in its family.
    fn note_point(&mut self, step: u64, folded: &FoldedCandidate) {
        let (Some(family), Some(proposed)) = (folded.family, &folded.proposed) else {
            return;
        };
        let speedup = match folded.outcome {
            StepOutcome::Passed { speedup, .. } => Some(speedup),
            _ => None,
        };
        if let Some(tried) = &proposed.tried {
            let of_step = (&proposed.point, tried);
            note_tried_points(&mut self.families, family, step, of_step, speedup);
        }
        let result = match folded.outcome {
            // It is no member to tune further.
            StepOutcome::Passed {
                speedup,
                insert: ArchiveDecision::Dismissed,
            } => PointResult::Dismissed(speedup),
            StepOutcome::Passed { speedup, .. } => PointResult::Passed(speedup),
            // Says nothing about the point.
            StepOutcome::NotPassed(Status::Inconclusive) => return,
            StepOutcome::NotPassed(_) => PointResult::Failed,
            StepOutcome::PassedBefore | StepOutcome::Failed(_) | StepOutcome::Duplicate { .. } => {
                return;
            }
        };
        (self.families).record_result(family, &proposed.point, step, result);
    }

    /// Puts a candidate into the archive, if that was decided.
    fn insert_elite(
        &mut self,
        elite: Elite,
        decision: ArchiveDecision,
        updates: &mut Vec<SearchUpdate>,
    ) {
        let is_proven = match (decision, self.best_proven) {
            (ArchiveDecision::NotAdded { .. } | ArchiveDecision::Dismissed, _) => return,
            (_, None) => true,
            (ArchiveDecision::Improved { over }, Some((best, _))) if over == best => true,
            (_, Some((_, speedup))) => elite.speedup.ci95[0] > speedup.ci95[1],
        };
        let (step, speedup) = (elite.step, elite.speedup);
        if is_proven {
            self.best_proven = Some((step, speedup));
            // The step is not in the ledger yet.
            self.last_gain = self.folded() + 1;
        }
        self.archive.insert(elite);
        let fastest = self.archive.elites().first();
        if fastest.is_some_and(|fastest| fastest.step == step) {
            updates.push(SearchUpdate::Best { step, speedup });
        }
    }

    /// Continues past a stop that the journal has passed already: `asked` was planned from steps after it. The user has lowered
    /// a limit since, and what was found after it stays.
    pub(super) fn continue_past_stop(&mut self, asked: u64, updates: &mut Vec<SearchUpdate>) {
        while self.stopped.is_some() && asked >= self.in_flight.next_step() {
            let folded = self.folded();
            self.stopped = None;
            self.advance(updates);
            if self.folded() == folded {
                return;
            }
        }
    }
}

/// The compiled code of a kernel that passed. That of another is not known: an inspection may have found a fault that its fast build does
/// not have, and a repair may compile to the same fast build.
pub(super) fn passed_code(verdict: &VerdictSummary) -> Option<Digest> {
    verdict.code.filter(|_| verdict.status == Status::Passed)
}
