//! The interface of what makes proposals without a model. `operators` implements it; tests and benchmarks bring their own.

use crate::event::Brief;
use crate::propose::{BriefOutcome, Parent};
use crate::task::Task;

/// Makes proposals from briefs.
pub trait Proposer: Send + Sync {
    /// Pure: the same brief and parents always give the same result, so a proposal that was lost in a kill can be made again.
    ///
    /// # Errors
    /// Broken machinery only. A brief without a candidate is `BriefOutcome::NoOp`.
    fn propose(
        &self,
        brief: &Brief,
        parents: &[Parent],
        task: &Task,
    ) -> anyhow::Result<BriefOutcome>;
}
