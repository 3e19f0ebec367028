//! What the judge is asked to judge.
//!
//! Plain data. `judge` does the work.

use super::hidden::Coverage;
use crate::search::Incumbents;

/// A kernel to judge, and what may end its judgement early.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JudgeRequest<'r> {
    /// For the verdict.
    pub(crate) name: &'r str,
    /// Text of the kernel file.
    pub(crate) source: &'r str,
    /// Repeats an earlier judgement; `None`: a new seed is drawn once the candidate is fixed.
    pub(crate) seed: Option<u64>,
    /// Whether to check a part of the hidden cases or all.
    pub(crate) coverage: Coverage,
    /// What the kernel must beat; `None`: it is judged completely.
    pub(crate) incumbents: Option<&'r Incumbents>,
}

impl<'r> JudgeRequest<'r> {
    /// A complete judgement with a new seed, on a part of the hidden cases.
    pub(crate) fn new(name: &'r str, source: &'r str) -> Self {
        Self {
            name,
            source,
            seed: None,
            coverage: Coverage::Part,
            incumbents: None,
        }
    }
}
