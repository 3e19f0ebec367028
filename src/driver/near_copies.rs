//! Proposals that are nearly another kernel (`search.near_copies`): what they are compared by, and how one is refused.
//!
//! The search decides what a near-copy is. This only makes the event, and what the search compares.

use super::task_state::TaskState;
use crate::base::Shingles;
use crate::event::{Event, Failed, FailedReason, Proposed};
use crate::kernel::Kernel;

impl TaskState<'_> {
    /// The event of a proposal that is not judged, because it is nearly another kernel. A duplicate is none.
    pub(super) fn near_copy(&self, proposed: &Proposed) -> Option<Event> {
        let of = self.search.near_copy_of(proposed)?;
        if self.same_kernel(proposed).is_some() {
            return None;
        }
        Some(Event::Failed(Failed {
            of: Some(of),
            edits: proposed.edits,
            ..Failed::new(
                proposed.step,
                FailedReason::NearCopy,
                proposed.detail.clone(),
            )
        }))
    }

    /// What a kernel is compared by with others, if the search compares kernels. A kernel file that cannot be read is compared with none.
    pub(super) fn shingles_of(&self, source: &str) -> Option<Shingles> {
        if !self.search.compares_shingles() {
            return None;
        }
        let kernel = Kernel::parse(source, &self.task.definition).ok()?;
        Some(kernel.shingles())
    }
}
