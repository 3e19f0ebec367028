//! The window: how many steps may be in flight, and when the brief of the next one is decided.
//!
//! `planner` decides what a brief says. Called by the fold only, so the moment of each decision follows from the order of the fold.

use super::Search;
use super::divergence::Divergence;
use super::order::FoldOrder;
use super::planner::PlannedBrief;
use super::settings::SearchMode;
use super::updates::SearchUpdate;
use super::view::{ModelPool, SearchView};
use crate::event::StopReason;

impl Search {
    /// Decides the briefs that need no result. Without a starting kernel and without models there are none.
    pub(super) fn plan_first_steps(&mut self) {
        if self.starting_kernels.is_empty() && self.model_pool.models.is_empty() {
            self.stopped = Some(StopReason::Exhausted);
            return;
        }
        self.plan_steps(&mut Vec::new());
    }

    /// Decides briefs until the window is full, or nothing can be decided before another step is folded.
    pub(super) fn plan_steps(&mut self, updates: &mut Vec<SearchUpdate>) {
        while self.in_flight.len() < self.window && self.plan_step(updates) {}
    }

    /// Decides the brief of the next step, and compares it with the recorded one. Returns whether it could be decided. It is not if
    /// - it asks a model while a starting kernel is not folded: the model would be asked about kernels without a verdict;
    /// - models have their part of the window, and kforge's own operators have nothing left to try.
    fn plan_step(&mut self, updates: &mut Vec<SearchUpdate>) -> bool {
        let step = self.in_flight.next_step();
        let Some(planned) = self.decide_brief(step) else {
            return false;
        };
        if planned.brief.operator.asks_model() && !self.are_starts_folded() {
            return false;
        }
        // A step in flight may still bring a parent. Without one the search ends.
        if planned.exhausted && self.order == FoldOrder::Journal {
            return false;
        }
        self.planner
            .record_brief(&planned.brief, &self.ledger, &mut self.families);
        self.in_flight.add(planned);
        self.check_recorded_brief(step, updates);
        true
    }

    /// The brief of the next step. `None` if nothing can be a parent, and no model may be asked. With islands, the first that has something
    /// left to try takes the step.
    fn decide_brief(&self, step: u64) -> Option<PlannedBrief> {
        let may_ask_model = self.in_flight.asking_models() < self.max_steps_with_models();
        let no_models = ModelPool::default();
        let mut last = None;
        for island in self.islands.turns(step) {
            let island = island.filter(|_| self.starting_kernel(step).is_none());
            let own = island.and_then(|number| self.islands.get(number));
            let archive = own.map_or(&self.archive, |island| &island.archive);
            let has_parent = !self.starting_kernels.is_empty() || archive.filled_cells() > 0;
            if !may_ask_model && !has_parent {
                continue;
            }
            let view = SearchView {
                settings: &self.settings,
                seed: self.seed,
                starting_kernels: &self.starting_kernels,
                archive,
                island,
                ledger: &self.ledger,
                families: &self.families,
                near_copies: &self.near_copies,
                model_pool: if may_ask_model {
                    &self.model_pool
                } else {
                    &no_models
                },
            };
            let planned = self.planner.decide_brief(&view, step);
            let is_exhausted = planned.exhausted;
            last = Some(planned);
            if !is_exhausted {
                break;
            }
        }
        last
    }

    /// How many steps in flight may ask a model. In journal order half of the window is left for kforge's own operators, if they are
    /// used: a model may take many minutes, and the device needs work meanwhile.
    fn max_steps_with_models(&self) -> u64 {
        let has_own_operators = self.settings.mode == SearchMode::Evolve
            && self.settings.operators.uses_own_operators();
        match self.order {
            FoldOrder::Journal if has_own_operators => (self.window / 2).max(1),
            FoldOrder::Journal | FoldOrder::Step => self.window,
        }
    }

    /// Whether all starting kernels are folded.
    pub(super) fn are_starts_folded(&self) -> bool {
        (1..=self.starting_kernel_count()).all(|step| self.ledger.contains(step))
    }

    /// Compares the planned brief of a step with the one in the journal. The recorded brief wins: the recorded proposal was made
    /// for it.
    pub(super) fn check_recorded_brief(&mut self, step: u64, updates: &mut Vec<SearchUpdate>) {
        let Some(planned) = self.in_flight.get(step) else {
            return;
        };
        let pending = self.pending.get(&step);
        let Some(recorded) = pending.and_then(|pending| pending.asked.as_ref()) else {
            return;
        };
        if planned.brief == *recorded {
            return;
        }
        let is_earlier_form = planned.is_earlier_form(recorded);
        let planned = self.in_flight.replace_brief(recorded.clone());
        if is_earlier_form {
            return;
        }
        self.planner
            .record_brief(recorded, &self.ledger, &mut self.families);
        updates.push(SearchUpdate::Diverged(Box::new(Divergence {
            planned,
            recorded: recorded.clone(),
        })));
    }

    /// Adopts a recorded brief that this search would not decide yet. Only in journal order: there a brief is recorded after everything
    /// that it depends on.
    pub(super) fn adopt_recorded_brief(&mut self, step: u64, updates: &mut Vec<SearchUpdate>) {
        if self.order == FoldOrder::Step || step != self.in_flight.next_step() {
            return;
        }
        let pending = self.pending.get(&step);
        let Some(recorded) = pending.and_then(|pending| pending.asked.clone()) else {
            return;
        };
        self.planner
            .record_brief(&recorded, &self.ledger, &mut self.families);
        let adopted = PlannedBrief::useful(recorded.clone(), recorded.seed);
        self.in_flight.add(adopted);
        updates.push(SearchUpdate::Diverged(Box::new(Divergence {
            planned: None,
            recorded,
        })));
    }
}
