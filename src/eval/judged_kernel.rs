//! A candidate in the middle of its judgement: compiled, with its cases.
//!
//! Plain data.

use super::case::Case;
use super::compiled_kernel::CompiledKernel;
use super::inspection::InspectionInput;

/// A candidate in the middle of its judgement.
pub(super) struct JudgedKernel<'c> {
    pub(super) compiled: &'c CompiledKernel,
    pub(super) cases: &'c [Case],
    /// Seed of the judgement.
    pub(super) seed: u64,
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
