//! The steps in flight: decided and not folded yet.
//!
//! Keeps their briefs and counts those that ask a model. `window` decides how many there may be.

use std::collections::BTreeMap;

use super::planner::PlannedBrief;
use crate::event::Brief;

/// The steps in flight, by step.
#[derive(Debug, Default)]
pub(super) struct StepsInFlight {
    planned: BTreeMap<u64, PlannedBrief>,
    /// The last step that was decided.
    last: u64,
    /// How many of them ask a model.
    asking_models: u64,
}

impl StepsInFlight {
    pub(super) fn len(&self) -> u64 {
        self.planned.len() as u64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.planned.is_empty()
    }

    pub(super) fn asking_models(&self) -> u64 {
        self.asking_models
    }

    /// The step to decide next.
    pub(super) fn next_step(&self) -> u64 {
        self.last + 1
    }

    pub(super) fn get(&self, step: u64) -> Option<&PlannedBrief> {
        self.planned.get(&step)
    }

    /// Adds the next step.
    pub(super) fn add(&mut self, planned: PlannedBrief) {
        self.last = planned.brief.step;
        self.asking_models += u64::from(planned.brief.operator.asks_model());
        self.planned.insert(self.last, planned);
    }

    /// Replaces the brief of a step in flight. Returns the former one.
    pub(super) fn replace_brief(&mut self, brief: Brief) -> Option<Brief> {
        let planned = self.planned.get_mut(&brief.step)?;
        self.asking_models += u64::from(brief.operator.asks_model());
        let former = std::mem::replace(&mut planned.brief, brief);
        self.asking_models -= u64::from(former.operator.asks_model());
        Some(former)
    }

    pub(super) fn remove(&mut self, step: u64) -> Option<PlannedBrief> {
        let planned = self.planned.remove(&step)?;
        self.asking_models -= u64::from(planned.brief.operator.asks_model());
        Some(planned)
    }
}
