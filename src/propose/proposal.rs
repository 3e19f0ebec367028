//! A new kernel made by one of kforge's own operators. Plain data; `child_check` and `autotune` make it.

/// A new kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proposal {
    /// The whole kernel file.
    pub source: String,
    /// What was changed, such as `split_accumulator sum x4 (line 31)`: shown in reports. The first word names the transformation, to
    /// which the search credits the result.
    pub detail: String,
}
