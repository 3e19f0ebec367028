//! The briefs of a task's open steps: those that have neither a candidate nor a failure yet.
//!
//! Decides which steps are ready for a proposer. Never makes a proposal, and writes nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::sources::KernelSources;
use crate::event::{Brief, Event};
use crate::search::Search;

/// Open steps, by whether work on them has started.
pub(super) struct OpenBriefs {
    /// The step to ask the search for next.
    next_step: u64,
    open: BTreeMap<u64, Brief>,
    /// The open steps on which neither a proposer nor a model works.
    waiting: BTreeSet<u64>,
}

impl OpenBriefs {
    /// `open`: the open steps of earlier processes. No work on them has started.
    pub(super) fn new(next_step: u64, open: BTreeMap<u64, Brief>) -> Self {
        Self {
            next_step,
            waiting: open.keys().copied().collect(),
            open,
        }
    }

    /// The last step whose brief was decided.
    pub(super) fn last_step(&self) -> u64 {
        self.next_step - 1
    }

    pub(super) fn get(&self, step: u64) -> Option<&Brief> {
        self.open.get(&step)
    }

    /// Takes every new brief that the search has decided. The steps are open from now on.
    pub(super) fn ask(&mut self, search: &Search) -> Vec<Event> {
        let mut asked = Vec::new();
        while let Some(brief) = search.ask(self.next_step) {
            self.waiting.insert(brief.step);
            self.open.insert(brief.step, brief.clone());
            asked.push(Event::Asked(brief));
            self.next_step += 1;
        }
        asked
    }

    /// Takes the waiting steps whose parents are known, in step order: those that ask a model, or those that do not.
    pub(super) fn take_ready(&mut self, asks_model: bool, sources: &KernelSources) -> Vec<Brief> {
        let is_ready = |step: &u64| {
            let brief = self.open.get(step)?;
            let is_ready =
                brief.operator.asks_model() == asks_model && !self.awaits_parents(brief, sources);
            is_ready.then(|| brief.clone())
        };
        let ready: Vec<Brief> = self.waiting.iter().filter_map(is_ready).collect();
        for brief in &ready {
            self.waiting.remove(&brief.step);
        }
        ready
    }

    /// Marks a step as started.
    pub(super) fn start(&mut self, step: u64) {
        self.waiting.remove(&step);
    }

    /// Ends a step: it has a candidate or has failed. `None` if it was not open.
    pub(super) fn close(&mut self, step: u64) -> Option<Brief> {
        self.waiting.remove(&step);
        self.open.remove(&step)
    }

    /// Whether a parent has no kernel yet because its own step is open, as starting kernels are at first.
    fn awaits_parents(&self, brief: &Brief, sources: &KernelSources) -> bool {
        let mut parents = brief.parents.iter();
        parents.any(|parent| !sources.has_kernel(*parent) && self.open.contains_key(parent))
    }
}
