//! The steps whose kernels may become parents, and how one is drawn.
//!
//! All random numbers come from the stream that the caller passes.

use std::collections::HashMap;

use super::population::Population;
use super::settings::Strategy;
use super::view::SearchView;
use crate::base::RandomStream;

/// Number of the fastest elites among which a fast parent is drawn. With weights of 1 / rank² slower ones would hardly ever be drawn.
const MAX_EXPLOITED: usize = 64;

/// How often something is drawn at random before every parent is tried in turn.
pub(super) const MAX_DRAWS: usize = 8;

/// What the planner remembers of parents.
#[derive(Debug, Default)]
pub(super) struct ParentHistory {
    /// How many briefs each step was the first parent of.
    pub(super) uses: HashMap<u64, u64>,
    pub(super) population: Population,
}

/// The steps that may be parents. Never empty, because a search without a starting kernel plans no brief that needs a parent
/// until something has passed.
pub(super) enum ParentPool {
    /// The elites, fastest first.
    Elites(Vec<u64>),
    /// The parents of a strategy without cells.
    Population(Vec<u64>),
    /// Before anything has passed: the starting kernels that are not judged yet, or all of them if every one has failed.
    StartingKernels(Vec<u64>),
}

impl ParentPool {
    pub(super) fn from_view(view: &SearchView<'_>, history: &ParentHistory) -> Self {
        let strategy = view.settings.strategy;
        let parents = history.population.parents(strategy);
        if !parents.is_empty() {
            return Self::Population(parents);
        }
        if strategy == Strategy::MapElites && view.archive.filled_cells() > 0 {
            let elites = view.archive.elites().iter();
            return Self::Elites(elites.map(|elite| elite.step).collect());
        }
        let starts = 1..=view.starting_kernels.len() as u64;
        let not_judged: Vec<_> = starts
            .clone()
            .filter(|step| !view.ledger.contains(*step))
            .collect();
        Self::StartingKernels(if not_judged.is_empty() {
            starts.collect()
        } else {
            not_judged
        })
    }

    /// All steps of the pool.
    pub(super) fn steps(&self) -> &[u64] {
        let (Self::Elites(steps) | Self::Population(steps) | Self::StartingKernels(steps)) = self;
        steps
    }

    /// The steps that have passed. Empty if none has.
    pub(super) fn passed(&self) -> &[u64] {
        match self {
            Self::Elites(steps) | Self::Population(steps) => steps,
            Self::StartingKernels(_) => &[],
        }
    }

    /// Draws a parent for a step. Of the elites: with probability `search.exploration` one that was a parent of few briefs so far, by the
    /// weight 1 / (1 + briefs)², else one of the fastest by the weight 1 / rank². Near-copies may weigh less (`near_copies`). `turn`: see
    /// [`Population::draw`].
    pub(super) fn draw(
        &self,
        view: &SearchView<'_>,
        history: &ParentHistory,
        turn: u64,
        stream: &mut RandomStream,
    ) -> u64 {
        let steps = self.steps();
        let drawn = match self {
            Self::StartingKernels(_) => steps.get(stream.below(steps.len())).copied(),
            Self::Population(_) => {
                let strategy = view.settings.strategy;
                history.population.draw(strategy, steps, turn, stream)
            }
            Self::Elites(_) => {
                let square = |count: u64| 1.0 / ((count * count) as f64);
                let mut weights: Vec<f64> = if stream.uniform() < view.settings.exploration {
                    let uses = |step| history.uses.get(step).copied().unwrap_or(0);
                    steps.iter().map(|step| square(1 + uses(step))).collect()
                } else {
                    let ranks = 1..=steps.len().min(MAX_EXPLOITED) as u64;
                    ranks.map(square).collect()
                };
                let factors = view.near_copies.factors(steps);
                for (weight, factor) in weights.iter_mut().zip(factors) {
                    *weight *= factor;
                }
                let index = stream.weighted_index(&weights).unwrap_or(0);
                steps.get(index).copied()
            }
        };
        drawn.unwrap_or(1)
    }

    /// Draws a step that has passed, other than `parent`; `None` if there is none.
    pub(super) fn draw_other(
        &self,
        view: &SearchView<'_>,
        history: &ParentHistory,
        parent: u64,
        turn: u64,
        stream: &mut RandomStream,
    ) -> Option<u64> {
        let passed = self.passed();
        if passed.is_empty() {
            return None;
        }
        (0..MAX_DRAWS as u64)
            .map(|draw| self.draw(view, history, turn + draw, stream))
            .find(|other| *other != parent)
            .or_else(|| passed.iter().copied().find(|other| *other != parent))
    }
}
