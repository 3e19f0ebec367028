//! Near-copies: kernels whose shingles are nearly those of another one (`search.near_copies`).
//!
//! Knows shingles only, never a source, and no figure. Does nothing unless the setting asks for it.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::base::Shingles;

/// What happens to near-copies (`search::near_copies`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NearCopySettings {
    pub action: NearCopyAction,
    /// The least share of shingles that a near-copy has in common with the other kernel. Above 0 and up to 1.
    pub similarity: f64,
}

/// What happens to a near-copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NearCopyAction {
    /// It is a kernel like any other.
    #[default]
    Keep,
    /// `map_elites`: of the elites that are near-copies, the fastest is drawn as a parent as often as without the setting, the next one a
    /// quarter as often, and so on by 1 / rank².
    DownWeight,
    /// A kernel of a model that is a near-copy of a parent or an elite is not judged. The own operators make near-copies on purpose.
    Refuse,
}

impl Default for NearCopySettings {
    fn default() -> Self {
        Self {
            action: NearCopyAction::Keep,
            similarity: 0.97,
        }
    }
}

impl NearCopySettings {
    /// Whether kernels are compared.
    pub(crate) fn are_on(self) -> bool {
        self.action != NearCopyAction::Keep
    }
}

/// The shingles of the kernels that a later one is compared with.
#[derive(Debug, Default)]
pub(super) struct NearCopies {
    /// `refuse`: of all kernels that passed and were judged completely, by step. `down_weight`: of the first kernel of each group.
    shingles: BTreeMap<u64, Shingles>,
    /// `down_weight`: for each kernel that entered the archive, the first kernel of its group. It is a near-copy of that one.
    groups: HashMap<u64, u64>,
}

impl NearCopies {
    /// Notes a kernel that passed and was judged completely. `was_added`: it has entered the archive.
    pub(super) fn note(
        &mut self,
        settings: NearCopySettings,
        step: u64,
        shingles: &Shingles,
        was_added: bool,
    ) {
        match settings.action {
            NearCopyAction::Keep => {}
            NearCopyAction::Refuse => {
                self.shingles.insert(step, shingles.clone());
            }
            NearCopyAction::DownWeight if was_added => {
                let mut firsts = self.shingles.iter();
                let first = firsts
                    .find(|(_, first)| first.similarity(shingles) >= settings.similarity)
                    .map(|(first, _)| *first);
                if first.is_none() {
                    self.shingles.insert(step, shingles.clone());
                }
                self.groups.insert(step, first.unwrap_or(step));
            }
            NearCopyAction::DownWeight => {}
        }
    }

    /// How alike a step's kernel and another are; `None` if its shingles are not known.
    pub(super) fn similarity(&self, step: u64, other: &Shingles) -> Option<f64> {
        Some(self.shingles.get(&step)?.similarity(other))
    }

    /// The factor of each parent's weight. `steps`: the parents, fastest first. Empty if no kernel has a group.
    pub(super) fn factors(&self, steps: &[u64]) -> Vec<f64> {
        if self.groups.is_empty() {
            return Vec::new();
        }
        let mut faster: HashMap<u64, u64> = HashMap::new();
        let factor = |step: &u64| {
            let rank = faster.entry(self.group(*step)).or_default();
            *rank += 1;
            1.0 / ((*rank * *rank) as f64)
        };
        steps.iter().map(factor).collect()
    }

    /// The first kernel of the group. A kernel without one is compared with none.
    fn group(&self, step: u64) -> u64 {
        self.groups.get(&step).copied().unwrap_or(step)
    }
}
