//! What the stages of a judgement share: the compiled candidate, its cases, and the seed.
//!
//! Plain data: it stays the same from the first stage to the last.

use super::case::Case;
use super::compiled_kernel::CompiledKernel;
use super::inspection::InspectionInput;

/// A candidate in the middle of its judgement.
pub(super) struct JudgedKernel<'c> {
    pub(super) compiled: &'c CompiledKernel,
    pub(super) cases: &'c [Case],
    /// Seed of the judgement.
    pub(super) seed: u64,
    /// Whether the judgement includes inspection. Another process of the same confirmation may have done it.
    pub(super) is_inspected: bool,
}

impl JudgedKernel<'_> {
    pub(super) fn inspection(&self, is_correct: bool) -> InspectionInput<'_> {
        InspectionInput {
            kernel: &self.compiled.kernel,
            cases: self.cases,
            seed: self.seed,
            is_correct,
        }
    }
}
