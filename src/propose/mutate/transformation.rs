//! What a transformation is, and one site in a kernel where it applies.
//!
//! Imports no transformation. A transformation only describes edits; `children` applies and checks them.

use super::subject::Subject;
use crate::propose::source_edits::SourceEdits;

/// One way to rewrite a kernel.
pub(crate) trait Transformation: Sync {
    /// The name in a candidate's lineage, such as `split_accumulator`.
    fn name(&self) -> &'static str;

    /// Every site where the transformation applies, with the edits that it makes there.
    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite>;

    /// Why a child may give another result than its parent, for reports: `rounds differently`. `None` if it gives the same, up
    /// to what a compiler may do with either.
    fn caveat(&self) -> Option<&'static str> {
        None
    }

    /// How early the children of this transformation are tried, relative to the others, before a search has evidence. All its sites
    /// share the weight. Transformations with the largest gains have a weight above 1.
    fn weight(&self) -> f64 {
        1.0
    }
}

/// One rewrite that a transformation offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RewriteSite {
    /// What is rewritten, for reports: `sum x4`.
    pub label: String,
    /// The line in the kernel file, counted from 1.
    pub line: usize,
    pub edits: SourceEdits,
}

impl RewriteSite {
    /// One site that makes the edits of all `sites`; `None` for fewer than two.
    pub(super) fn combined(sites: &[Self], label: String) -> Option<Self> {
        let (first, rest) = sites.split_first().filter(|(_, rest)| !rest.is_empty())?;
        let edits = rest.iter().fold(first.edits.clone(), |edits, site| {
            edits.merged_with(&site.edits)
        });
        Some(Self {
            label,
            line: first.line,
            edits,
        })
    }
}
