//! Two kernels of a task measured on this machine: both confirmed, and timed against each other in pairs.
//!
//! Measures only: what the figures mean is the caller's. Reads and writes no file.

use std::sync::Arc;

use anyhow::Result;

use super::promote::{judge, run_duel};
use crate::verdict::{Duel, Verdict};
use crate::worker::{Evaluator, JobKind};

/// Two kernels on the same machine.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SideBySide {
    /// The confirmation of each.
    pub verdicts: [Verdict; 2],
    /// Time of the first / time of the second. `None` if one did not pass, or the times varied too much.
    pub duel: Option<Duel>,
}

/// Checks and times both kernels with new seeds in fresh processes, and times them against each other in fresh processes if both pass.
///
/// # Errors
/// Broken machinery only: a kernel that fails is a result.
pub(crate) async fn side_by_side(
    evaluator: &dyn Evaluator,
    kernels: [&str; 2],
) -> Result<SideBySide> {
    let [first, second]: [Arc<str>; 2] = kernels.map(Arc::from);
    let verdicts = [
        judge(evaluator, &first, JobKind::Confirm).await?,
        judge(evaluator, &second, JobKind::Confirm).await?,
    ];
    let duel = match verdicts.iter().all(Verdict::passed) {
        true => run_duel(evaluator, &second, &first).await?,
        false => None,
    };
    Ok(SideBySide { verdicts, duel })
}
