//! The steps whose kernels may become parents, and how one is drawn.
//!
//! All random numbers come from the stream that the caller passes.

use super::view::SearchView;
use crate::base::RandomStream;

/// Number of the fastest elites among which a fast parent is drawn. With weights of 1 / rank² slower ones would hardly ever be drawn.
const MAX_EXPLOITED: usize = 64;

/// How often something is drawn at random before every parent is tried in turn.
pub(super) const MAX_DRAWS: usize = 8;

/// The steps that may be parents. Never empty, because a search without a starting kernel plans no brief that needs a parent
/// until something has passed.
pub(super) enum ParentPool {
    /// The elites, fastest first.
    Elites(Vec<u64>),
    /// Before anything has passed: the starting kernels that are not judged yet, or all of them if every one has failed.
    StartingKernels(Vec<u64>),
}

impl ParentPool {
    pub(super) fn from_view(view: &SearchView<'_>) -> Self {
        if view.archive.filled_cells() > 0 {
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
        let (Self::Elites(steps) | Self::StartingKernels(steps)) = self;
        steps
    }

    /// Draws a parent: with probability `search.exploration` evenly from all cells, else from the fastest elites in proportion to
    /// 1 / rank².
    pub(super) fn draw(&self, view: &SearchView<'_>, stream: &mut RandomStream) -> u64 {
        let steps = self.steps();
        let explore = matches!(self, Self::StartingKernels(_))
            || stream.uniform() < view.settings.exploration;
        let index = if explore {
            stream.below(steps.len())
        } else {
            let ranks = 1..=steps.len().min(MAX_EXPLOITED);
            let weights: Vec<_> = ranks.map(|rank| 1.0 / (rank * rank) as f64).collect();
            stream.weighted_index(&weights).unwrap_or(0)
        };
        steps.get(index).copied().unwrap_or(1)
    }

    /// Draws an elite other than `parent`; `None` if there is none.
    pub(super) fn draw_other(
        &self,
        view: &SearchView<'_>,
        parent: u64,
        stream: &mut RandomStream,
    ) -> Option<u64> {
        let Self::Elites(steps) = self else {
            return None;
        };
        (0..MAX_DRAWS)
            .map(|_| self.draw(view, stream))
            .find(|other| *other != parent)
            .or_else(|| steps.iter().copied().find(|other| *other != parent))
    }
}
