//! The search: asks questions, is told what became of them, and keeps the best kernel of each kind.
//!
//! A pure state machine: no file, clock, socket, thread or stored generator. A live run and a resume tell it the same events.
//!
//! **The fold.** Events may be told in any order; steps are folded strictly in theirs, each once all that it needs is there.
//! When the fold has passed step m, the brief of step m + window is decided from exactly that state and handed out by `ask`; the
//! briefs of steps 1 to window are decided at the start. So the state after n steps depends on settings, seed, starting kernels
//! and what the events say, never on when they came.
//!
//! **What a step needs**: a `failed`, or a `proposed` and a `judged`, or only a `proposed` with the source of an earlier step,
//! which makes it a duplicate whatever else is said of it. A `failed: duplicate` of a *later* step takes over that step's
//! verdict, and the later one becomes the duplicate. A `judged: harness_error` is no result: the fold waits for another
//! `judged`, or for a `failed: harness_error` that closes the step for good.
//!
//! **Duels.** A candidate whose interval overlaps that of its cell's elite, but whose estimate is better, stops the fold until a
//! `dueled` event tells the two apart.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::base::Digest;
use crate::event::{Brief, Event, Proposed, StopReason};
use crate::verdict::{Speedup, Status, Verdict};

mod archive;
mod divergence;
mod families;
mod fold;
mod ledger;
mod model_brief;
mod planner;
mod settings;
#[cfg(test)]
mod tests;

pub(crate) use archive::{Archive, Cell, Elite};
pub(crate) use divergence::Divergence;
pub(crate) use ledger::{OperatorCounts, SearchCounts, StepOutcome, StepRecord};
pub(crate) use model_brief::ModelPool;
pub use settings::{FEATURES, OperatorWeights, SearchMode, SearchSettings};

use families::Families;
use fold::PendingStep;
use ledger::Ledger;
use planner::{PlannedBrief, Planner, SearchView};

/// What `tell` brought about, for reporters and for the driver.
#[derive(Clone, Debug, PartialEq)]
pub enum SearchUpdate {
    /// The fold passed a step. `cell`: where a candidate that passed belongs.
    Folded {
        step: u64,
        outcome: StepOutcome,
        cell: Option<Cell>,
    },
    /// Another elite is now the fastest by its estimate.
    Best { step: u64, speedup: Speedup },
    /// The fold waits until these two have been timed against each other.
    DuelWanted(DuelRequest),
    /// A `judged` event told of kforge's own fault: the step still waits for a verdict.
    HarnessError { step: u64 },
    /// A candidate was measured again at the end.
    Confirmed { step: u64, passed: bool },
    /// An elite was judged again after its step had been folded; `kept`: it is still one.
    Remeasured { step: u64, kept: bool },
    /// The search is over; `at` is the last step that counts.
    Stopped { why: StopReason, at: u64 },
    /// A step was asked otherwise than this search would ask it. The recorded question is taken as the one that was asked.
    Diverged(Box<Divergence>),
}

/// Who must be timed against whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DuelRequest {
    /// The challenger.
    pub step: u64,
    /// The elite that holds the cell.
    pub against: u64,
}

/// A second measurement of a candidate, with new seeds in fresh processes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Confirmation {
    pub step: u64,
    /// `None` where the candidate did not pass again.
    pub speedup: Option<Speedup>,
    pub verdict: Arc<Verdict>,
}

impl Confirmation {
    /// Whether the candidate was found at fault. One that was correct and could not be measured well enough was not.
    pub(crate) fn refutes(&self) -> bool {
        let is_correct = matches!(self.verdict.status, Status::Passed | Status::Inconclusive);
        self.speedup.is_none() && !is_correct
    }
}

/// A step under way that has been asked, and not yet answered or judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct UnfinishedStep<'a> {
    pub step: u64,
    /// The answer, where only the verdict is missing; else the brief is to be asked again.
    pub proposed: Option<&'a Proposed>,
}

/// The state of one task's search.
#[derive(Debug)]
pub struct Search {
    settings: SearchSettings,
    seed: u64,
    window: u64,
    steps: u64,
    starting_kernels: Vec<String>,
    model_pool: ModelPool,

    archive: Archive,
    ledger: Ledger,
    families: Families,
    planner: Planner,
    /// Briefs of the steps behind the fold, in order.
    planned: VecDeque<PlannedBrief>,
    /// What was told of steps that the fold has not passed.
    pending: BTreeMap<u64, PendingStep>,
    pending_duel: Option<DuelRequest>,
    /// Why the fold ended, unless only the planned steps are over.
    stopped: Option<StopReason>,
    /// The fastest kernel that was faster beyond doubt than the one before it.
    best_proven: Option<(u64, Speedup)>,
    /// How many of the last steps were barren.
    exhausted_in_a_row: u64,
    confirmations: BTreeMap<u64, Confirmation>,
    /// Steps whose source lies in the folder of a later step, which had proposed it first.
    source_steps: BTreeMap<u64, u64>,
}

impl Search {
    /// `window`: how many steps may be under way. `steps`: how many are planned. `starts`: file names of the starting kernels.
    /// The settings must have passed `Settings::check`.
    pub fn new(
        settings: &SearchSettings,
        seed: u64,
        window: u64,
        steps: u64,
        starts: &[String],
    ) -> Self {
        Self::with_models(settings, seed, window, steps, starts, ModelPool::default())
    }

    /// The same with models to ask. Without them a search has kforge's own operators alone.
    pub(crate) fn with_models(
        settings: &SearchSettings,
        seed: u64,
        window: u64,
        steps: u64,
        starts: &[String],
        askable: ModelPool,
    ) -> Self {
        let can_start = !starts.is_empty() || !askable.models.is_empty();
        let mut search = Self {
            settings: settings.clone(),
            seed,
            window: window.max(1),
            steps,
            starting_kernels: starts.to_vec(),
            archive: Archive::new(&settings.features),
            ledger: Ledger::default(),
            families: Families::default(),
            planner: Planner::default(),
            planned: VecDeque::new(),
            pending: BTreeMap::new(),
            pending_duel: None,
            model_pool: askable,
            stopped: (!can_start).then_some(StopReason::Exhausted),
            best_proven: None,
            exhausted_in_a_row: 0,
            confirmations: BTreeMap::new(),
            source_steps: BTreeMap::new(),
        };
        if can_start {
            for step in 1..=search.window {
                search.plan_step(step, &mut Vec::new());
            }
        }
        search
    }

    /// The brief of a step, once the fold has come near enough; `None` before that, for steps that the fold has passed, and when
    /// the search is over.
    pub(crate) fn ask(&self, step: u64) -> Option<Brief> {
        let offset = step.checked_sub(self.folded() + 1)?;
        if step > self.steps || self.stopped.is_some() {
            return None;
        }
        self.planned
            .get(usize::try_from(offset).ok()?)
            .map(|plan| plan.brief.clone())
    }

    /// The only way in. Steps that the fold has passed change no more, except that an elite may be judged again.
    ///
    /// `stopped` events are for readers of the journal: why and where a search ends is decided here, and a stop for want of time
    /// is the driver's own, which a later run goes on past.
    pub fn tell(&mut self, event: &Event) -> Vec<SearchUpdate> {
        let mut changes = Vec::new();
        if let Event::Confirmed(confirmed) = event {
            self.record_confirmation(confirmed, &mut changes);
            return changes;
        }
        let Some(step) = event.step() else {
            return changes;
        };
        if step <= self.folded() {
            if let Event::Judged(judged) = event {
                self.remeasure_elite(step, &judged.verdict, &mut changes);
            }
            return changes;
        }
        self.store_event(step, event, &mut changes);
        self.advance(&mut changes);
        changes
    }

    /// The two that must be timed against each other before the fold can go on.
    pub(crate) fn pending_duel(&self) -> Option<DuelRequest> {
        self.pending_duel
    }

    /// Why the search is over, if it is; it ends right behind step `folded`.
    pub(crate) fn stop_reason(&self) -> Option<StopReason> {
        self.stopped
            .or((self.folded() >= self.steps).then_some(StopReason::Steps))
    }

    /// Changes how many steps are planned. The questions are those of a search that had so many from the start.
    pub(crate) fn set_steps(&mut self, steps: u64) -> Vec<SearchUpdate> {
        self.steps = steps;
        let mut changes = Vec::new();
        self.advance(&mut changes);
        changes
    }

    /// The last step that the fold has passed.
    pub fn folded(&self) -> u64 {
        self.ledger.last()
    }

    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    pub(crate) fn window(&self) -> u64 {
        self.window
    }

    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    pub fn counts(&self) -> &SearchCounts {
        &self.ledger.counts
    }

    /// What became of a step that the fold has passed.
    pub(crate) fn record(&self, step: u64) -> Option<&StepRecord> {
        self.ledger.get(step)
    }

    /// The step in whose folder the source of `step` lies: its own, but for a step that took over the verdict of a later one.
    pub(crate) fn source_step(&self, step: u64) -> u64 {
        self.source_steps.get(&step).copied().unwrap_or(step)
    }

    /// The step that has this source, whether the fold has passed it or not: a proposal with it is a duplicate.
    pub(crate) fn step_of_kernel(&self, kernel: &Digest) -> Option<u64> {
        let held = || {
            self.pending.iter().find(|(_, held)| {
                held.proposed
                    .as_ref()
                    .is_some_and(|proposed| proposed.kernel == *kernel)
            })
        };
        self.ledger
            .step_of_kernel(kernel)
            .or_else(|| held().map(|(step, _)| *step))
    }

    /// Steps that were asked and still lack an answer or a verdict: what a resumed run takes up again, in order.
    pub(crate) fn unfinished(&self) -> impl Iterator<Item = UnfinishedStep<'_>> {
        self.pending.iter().filter_map(|(step, held)| {
            let proposed = held.proposed.as_ref();
            let known = proposed
                .is_some_and(|proposed| self.ledger.step_of_kernel(&proposed.kernel).is_some());
            (held.failed.is_none() && held.judged.is_none() && !known).then_some(UnfinishedStep {
                step: *step,
                proposed,
            })
        })
    }

    /// The fastest elite by its estimate, leaving out those that were refuted.
    pub(crate) fn best(&self) -> Option<&Elite> {
        self.archive
            .elites()
            .iter()
            .find(|elite| !self.is_refuted(elite.step))
    }

    /// The fastest kernel by its confirmed measurement: the one to report.
    pub(crate) fn best_confirmed(&self) -> Option<&Confirmation> {
        let speed = |confirmation: &Confirmation| {
            confirmation
                .speedup
                .map_or(f64::NEG_INFINITY, |speedup| speedup.geomean)
        };
        // Of equals the first: `max_by` would take the last.
        let passed = self
            .confirmations
            .values()
            .rev()
            .filter(|confirmation| confirmation.speedup.is_some());
        passed.max_by(|one, other| speed(one).total_cmp(&speed(other)))
    }

    pub(crate) fn confirmation(&self, step: u64) -> Option<&Confirmation> {
        self.confirmations.get(&step)
    }

    /// The elites still to be confirmed, fastest first: as many as it takes for `search.confirm` of them to pass. Ask again when
    /// those have been told; a `harness_error` is no answer, so do not wait for an empty list after one.
    pub(crate) fn steps_to_confirm(&self) -> Vec<u64> {
        let mut wanted = self.settings.confirm as usize;
        let mut steps = Vec::new();
        for elite in self.archive.elites() {
            if wanted == 0 {
                break;
            }
            match self.confirmations.get(&elite.step) {
                Some(confirmation) if confirmation.speedup.is_none() => {}
                Some(_) => wanted -= 1,
                None => {
                    steps.push(elite.step);
                    wanted -= 1;
                }
            }
        }
        steps
    }

    fn is_refuted(&self, step: u64) -> bool {
        self.confirmations
            .get(&step)
            .is_some_and(Confirmation::refutes)
    }

    /// Confirmations bear on what is reported, never on what is asked: a run that goes on after its end asks what it would have.
    fn record_confirmation(
        &mut self,
        confirmed: &crate::event::Confirmed,
        changes: &mut Vec<SearchUpdate>,
    ) {
        let (step, verdict) = (confirmed.step, &confirmed.verdict);
        if verdict.status == Status::HarnessError {
            changes.push(SearchUpdate::HarnessError { step });
            return;
        }
        let speedup = fold::valid_speedup(verdict);
        self.confirmations.insert(
            step,
            Confirmation {
                step,
                speedup,
                verdict: Arc::new(verdict.clone()),
            },
        );
        changes.push(SearchUpdate::Confirmed {
            step,
            passed: speedup.is_some(),
        });
    }

    /// Decides upon the brief of a step, and compares it with what was told of it.
    fn plan_step(&mut self, step: u64, changes: &mut Vec<SearchUpdate>) {
        let view = SearchView {
            settings: &self.settings,
            seed: self.seed,
            starting_kernels: &self.starting_kernels,
            archive: &self.archive,
            ledger: &self.ledger,
            families: &self.families,
            model_pool: &self.model_pool,
        };
        let plan = self.planner.decide_brief(&view, step);
        self.planner
            .record_brief(&plan.brief, &self.ledger, &mut self.families);
        self.planned.push_back(plan);
        self.check_recorded_brief(step, changes);
    }

    /// Compares the brief of a step with the recorded one, which counts: the answer that is recorded was given to it.
    fn check_recorded_brief(&mut self, step: u64, changes: &mut Vec<SearchUpdate>) {
        let Some(offset) = step
            .checked_sub(self.folded() + 1)
            .and_then(|offset| usize::try_from(offset).ok())
        else {
            return;
        };
        let Some(plan) = self.planned.get_mut(offset) else {
            return;
        };
        let Some(told) = self.pending.get(&step).and_then(|held| held.asked.as_ref()) else {
            return;
        };
        if *told != plan.brief {
            let planned = std::mem::replace(&mut plan.brief, told.clone());
            self.planner
                .record_brief(told, &self.ledger, &mut self.families);
            changes.push(SearchUpdate::Diverged(Box::new(Divergence {
                planned,
                recorded: told.clone(),
            })));
        }
    }
}
