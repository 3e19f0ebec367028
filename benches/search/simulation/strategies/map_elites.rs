//! kforge's own search: `kforge::search::Search`, asked and told as the driver does it.

use std::cell::RefCell;

use indexmap::IndexMap;
use kforge::event::{Brief, Event, Proposed};
use kforge::search::{
    ArchiveDecision, DuelRequest, Incumbents, KnownCode, ModelPool, Search, SearchSettings,
    SearchUpdate, StepOutcome,
};

use super::super::strategy::{Replacement, Strategy};
use super::history::Setup;

/// More than any simulated search takes.
const MAX_STEPS: u64 = 10_000_000;

/// kforge's search with some settings.
pub(crate) struct MapElites {
    search: Search,
    racing: bool,
    /// Each has incumbents of its own.
    has_islands: bool,
    knows_code: bool,
    /// Made at the first use after an event. Many kernels may be judged before the next one.
    incumbents: RefCell<Option<Option<Incumbents>>>,
}

impl MapElites {
    /// `racing`: judgements may end early, as with `eval.racing`.
    pub(crate) fn new(settings: &SearchSettings, setup: &Setup, racing: bool) -> Self {
        let starts: Vec<String> = (0..setup.starts)
            .map(|start| format!("{start}.cu"))
            .collect();
        let window = settings.window.unwrap_or(setup.window);
        let search = Search::new(settings, setup.seed, window, MAX_STEPS, &starts);
        let models = setup.models.iter();
        let pool = ModelPool {
            models: models.map(|name| ((*name).to_owned(), 1.0)).collect(),
            cards: Vec::new(),
        };
        Self {
            search: search.with_models(pool),
            racing,
            has_islands: settings.islands.count > 1,
            knows_code: true,
            incumbents: RefCell::new(None),
        }
    }
}

impl MapElites {
    /// The same search, in which a kernel is judged even if it compiles to the code of a parent or an elite.
    #[must_use]
    pub(crate) fn without_known_code(self) -> Self {
        Self {
            knows_code: false,
            ..self
        }
    }
}

impl Strategy for MapElites {
    fn ask(&mut self, step: u64) -> Option<Brief> {
        self.search.ask(step)
    }

    fn tell(&mut self, event: &Event) -> Vec<Replacement> {
        self.incumbents.replace(None);
        let updates = self.search.tell(event);
        let replaced = updates.iter().filter_map(|update| match update {
            SearchUpdate::Folded {
                step,
                outcome:
                    StepOutcome::Passed {
                        insert: ArchiveDecision::Improved { over },
                        ..
                    },
                ..
            } => Some(Replacement {
                step: *step,
                over: *over,
            }),
            _ => None,
        });
        replaced.collect()
    }

    fn best(&self) -> Option<u64> {
        Some(self.search.archive().elites().first()?.step)
    }

    fn is_over(&self) -> bool {
        self.search.stop_reason().is_some()
    }

    fn pending_duel(&self) -> Option<DuelRequest> {
        self.search.pending_duel()
    }

    fn bar(&self, step: u64, features: &IndexMap<String, f64>) -> Option<f64> {
        if !self.racing {
            return None;
        }
        if self.has_islands {
            return self.search.incumbents_of(step)?.bar(features);
        }
        let mut incumbents = self.incumbents.borrow_mut();
        let incumbents = incumbents.get_or_insert_with(|| self.search.incumbents());
        incumbents.as_ref()?.bar(features)
    }

    fn points_to_try(&self, proposed: &Proposed) -> Vec<IndexMap<String, i64>> {
        self.search.points_to_try(proposed)
    }

    fn compares_shingles(&self) -> bool {
        self.search.compares_shingles()
    }

    fn near_copy_of(&self, proposed: &Proposed) -> Option<u64> {
        self.search.near_copy_of(proposed)
    }

    fn known_code(&self, step: u64) -> Vec<KnownCode> {
        if self.knows_code {
            self.search.code_to_avoid(step)
        } else {
            Vec::new()
        }
    }
}
