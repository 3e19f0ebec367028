//! Which step is folded next: in journal order, the steps that are complete wait in a queue.
//!
//! Reads the events of pending steps. `resolution` says whether they are enough; `fold` takes the steps.

use super::Search;
use super::order::FoldOrder;
use super::pending::PendingStep;
use crate::event::Proposed;

impl Search {
    /// In journal order, notes the step that had the source of this one first.
    pub(super) fn note_duplicate(&mut self, step: u64, proposed: &Proposed) {
        if self.order == FoldOrder::Step {
            return;
        }
        let has_source = |pending: &PendingStep| {
            let other = pending.proposed.as_ref();
            other.is_some_and(|other| other.kernel == proposed.kernel)
        };
        let mut others = self.pending.iter();
        // If several have it, the first is the one that is no duplicate.
        let earlier = others.find(|(other, pending)| {
            **other != step && pending.duplicate_of.is_none() && has_source(pending)
        });
        let earlier = earlier.map(|(other, _)| *other);
        if let Some(pending) = self.pending.get_mut(&step) {
            pending.duplicate_of = earlier;
        }
    }

    /// In journal order, queues a step for the fold once its events are complete.
    pub(super) fn queue_if_complete(&mut self, step: u64) {
        let is_waiting = self.order == FoldOrder::Journal && self.in_flight.get(step).is_some();
        if !is_waiting || self.resolve_step(step).is_none() {
            return;
        }
        if let Some(pending) = self.pending.get_mut(&step)
            && !pending.is_queued
        {
            pending.is_queued = true;
            self.complete.push_back(step);
        }
    }

    /// The step to fold next. It may be incomplete.
    pub(super) fn next_to_fold(&self) -> Option<u64> {
        match self.order {
            FoldOrder::Step => Some(self.folded() + 1),
            FoldOrder::Journal => self.complete.front().copied(),
        }
    }
}
