//! A new kernel made by one of kforge's own operators.

/// A new kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proposal {
    /// The whole kernel file.
    pub source: String,
    /// What was changed, such as `split_accumulator sum x4 (line 31)`: shown in reports. Its first word credits the
    /// transformation.
    pub detail: String,
}
