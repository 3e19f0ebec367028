//! The archive of a task, filled again from the figures of its steps.
//!
//! Uses the rules of `search::Archive`. Decides nothing that a run could see.

use std::collections::HashMap;

use indexmap::IndexMap;

use crate::search::{Archive, ChallengeOutcome, Elite};
use crate::verdict::{DuelOutcome, Speedup};

/// The grid of a task: its axes and its elites.
#[derive(Clone, Debug)]
pub(crate) struct ArchiveGrid {
    archive: Archive,
    /// The features of each step that may enter, in the order of the axes; `NaN` where the judge has no number.
    features: HashMap<u64, Box<[f64]>>,
}

impl ArchiveGrid {
    /// `axes`: each feature with the edges of its bins.
    pub(super) fn new(axes: &IndexMap<String, Vec<f64>>) -> Self {
        Self {
            archive: Archive::new(axes),
            features: HashMap::new(),
        }
    }

    /// Removes all elites. What is noted stays.
    pub(super) fn clear(&mut self) {
        self.archive = self.archive.emptied();
    }

    /// How many cells there are for candidates with a number on each axis.
    pub(crate) fn cell_count(&self) -> usize {
        self.archive.cell_count()
    }

    /// Notes the features of a candidate that passed. Only the archive's axes are kept.
    pub(super) fn note(&mut self, step: u64, features: &IndexMap<String, f64>) {
        let axes = self.archive.axes().iter();
        let kept = axes.map(|axis| features.get(&axis.feature).copied().unwrap_or(f64::NAN));
        self.features.insert(step, kept.collect());
    }

    /// Offers a candidate to its cell. `duel`: the result of a duel with the elite of another step. Returns whether it entered.
    pub(super) fn offer(
        &mut self,
        step: u64,
        speedup: Speedup,
        duel: impl Fn(u64) -> Option<DuelOutcome>,
    ) -> bool {
        let Some(features) = self.features.get(&step) else {
            return false;
        };
        let named = self.axes().map(str::to_owned);
        let named = named.zip(features.iter().copied());
        let cell = self.archive.cell_of(&named.collect(), &speedup);
        let enters = match self.archive.challenge(&cell, &speedup) {
            ChallengeOutcome::EmptyCell | ChallengeOutcome::ClearlyFaster(_) => true,
            ChallengeOutcome::NeedsDuel(against) => duel(against) == Some(DuelOutcome::Faster),
            ChallengeOutcome::NotFaster(_) => false,
        };
        if enters {
            self.archive.insert(Elite {
                step,
                cell,
                speedup,
            });
        }
        enters
    }

    /// The elites, fastest first by their provisional figures.
    pub(crate) fn elites(&self) -> &[Elite] {
        self.archive.elites()
    }

    /// The names of the axes.
    pub(crate) fn axes(&self) -> impl Iterator<Item = &str> {
        self.archive.axes().iter().map(|axis| axis.feature.as_str())
    }

    /// A bin of an axis as text.
    pub(crate) fn label(&self, axis: usize, bin: u16) -> String {
        let axis = self.archive.axes().get(axis);
        axis.map_or_else(String::new, |axis| axis.label(bin))
    }

    /// A cell as text.
    pub(crate) fn describe(&self, elite: &Elite) -> String {
        self.archive.describe_cell(&elite.cell)
    }
}
