//! Proposals that wait until their points were tried.
//!
//! Holds them; `trials` decides what happens to them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::Digest;
use crate::event::Proposed;

/// A kernel that may become the candidate of its step.
pub(super) struct Proposal {
    /// Its event, if it becomes the candidate as it is.
    pub(super) proposed: Proposed,
    pub(super) source: Arc<str>,
}

/// Proposals that wait for their trials.
#[derive(Default)]
pub(super) struct Untried {
    pub(super) waiting: BTreeMap<u64, Proposal>,
    pub(super) trying: Option<Trying>,
    /// The machinery has failed: this process tries no more.
    pub(super) is_broken: bool,
}

/// A proposal whose points are tried now, and the sources of all of them. The first is its own.
pub(super) struct Trying {
    pub(super) proposal: Proposal,
    pub(super) sources: Vec<Arc<str>>,
}

impl Untried {
    /// Whether another proposal of the family waits. Its trials decide what else is worth trying.
    pub(super) fn has_family(&self, family: Digest) -> bool {
        let trying = self.trying.iter().map(|trying| &trying.proposal);
        let mut all = self.waiting.values().chain(trying);
        all.any(|other| other.proposed.family == family)
    }
}
