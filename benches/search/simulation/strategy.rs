//! A search strategy as the simulator sees it: ask and tell, as the driver uses it.

use indexmap::IndexMap;
use kforge::event::{Brief, Event, Proposed};
use kforge::search::{DuelRequest, KnownCode};

/// One candidate in the place of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Replacement {
    pub(crate) step: u64,
    pub(crate) over: u64,
}

/// Decides what is tried next.
pub(crate) trait Strategy {
    /// The brief of a step; `None` if it is not decided yet.
    fn ask(&mut self, step: u64) -> Option<Brief>;

    /// Returns the kernels of the archive that were replaced because another was measured to be faster.
    fn tell(&mut self, event: &Event) -> Vec<Replacement>;

    /// The kernel that it would report now.
    fn best(&self) -> Option<u64>;

    /// Whether it has ended by itself.
    fn is_over(&self) -> bool {
        false
    }

    /// The duel that it waits for.
    fn pending_duel(&self) -> Option<DuelRequest> {
        None
    }

    /// The speedup that the candidate of a step must be able to reach, with these features.
    fn bar(&self, _step: u64, _features: &IndexMap<String, f64>) -> Option<f64> {
        None
    }

    /// The points that a kernel gets besides its own before it is judged.
    fn points_to_try(&self, _proposed: &Proposed) -> Vec<IndexMap<String, i64>> {
        Vec::new()
    }

    /// Whether it compares the sources of kernels.
    fn compares_shingles(&self) -> bool {
        false
    }

    /// The kernel of which this one is a near-copy that is not judged.
    fn near_copy_of(&self, _proposed: &Proposed) -> Option<u64> {
        None
    }

    /// The compiled code that a candidate must not repeat.
    fn known_code(&self, _step: u64) -> Vec<KnownCode> {
        Vec::new()
    }
}
