//! What the planner may read: the settings and the state of the fold, and nothing else.
//!
//! Plain data, borrowed for one decision. Keeping it in one place makes every brief a function of the fold.

use super::archive::Archive;
use super::families::Families;
use super::ledger::Ledger;
use super::near_copies::NearCopies;
use super::settings::SearchSettings;

/// The models that a search may choose from, and the strategy cards that it may give them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelPool {
    /// Name and weight.
    pub models: Vec<(String, f64)>,
    /// Names of strategy cards.
    pub cards: Vec<String>,
}

/// Everything that a decision about a brief may depend on, besides the planner's own history.
pub(super) struct SearchView<'a> {
    pub(super) settings: &'a SearchSettings,
    pub(super) seed: u64,
    pub(super) starting_kernels: &'a [String],
    /// The elites that may be parents and context: of the whole search, or of the island.
    pub(super) archive: &'a Archive,
    /// The number of the island that the brief is for. `None`: the search has no islands, or a starting kernel is next.
    pub(super) island: Option<u32>,
    pub(super) ledger: &'a Ledger,
    pub(super) families: &'a Families,
    pub(super) near_copies: &'a NearCopies,
    pub(super) model_pool: &'a ModelPool,
}
