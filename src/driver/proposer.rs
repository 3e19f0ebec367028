//! The interface between the driver and code that makes proposals without a model.
//!
//! `operators` implements it for real runs; tests and benchmarks implement their own. Proposals of models go through
//! `asking::backend` instead.

use crate::event::Brief;
use crate::propose::{BriefOutcome, Parent};
use crate::task::Task;

/// Makes proposals from briefs.
pub trait Proposer: Send + Sync {
    /// Makes the proposal for a brief. `parents`: the kernels that the brief names, with their sources.
    ///
    /// Pure: the same brief and parents always give the same result. So a resumed run makes a lost proposal again.
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
