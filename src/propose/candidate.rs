//! The result of a brief: a candidate, or why there is none; and the parents that it is made from.
//!
//! Plain data. Parses a kernel file to describe it; never judges it.

use std::sync::Arc;

use indexmap::IndexMap;

use crate::base::Digest;
use crate::event::FailedReason;
use crate::kernel::Kernel;
use crate::task::Task;

/// A kernel that a proposal is made from.
#[derive(Clone, Debug)]
pub struct Parent {
    pub step: u64,
    pub source: Arc<str>,
}

/// The result of a brief.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BriefOutcome {
    Candidate(Candidate),
    /// There is no candidate, because nothing was changed. The text is the reason.
    NoOp(String),
    /// The model's replies gave no candidate. The text has the details of the reason.
    Failed(FailedReason, String),
}

/// A new kernel, with its family and its tunables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The whole kernel file, with the values of its tunables written in.
    pub source: String,
    /// What was done, for people and for the credit of operators: `split_accumulator sum x4 (line 31)`.
    pub detail: String,
    /// Hash of the source without the values of its tunables.
    pub family: Digest,
    /// The current value of each tunable.
    pub point: IndexMap<String, i64>,
    /// The allowed values of each tunable.
    pub space: IndexMap<String, Vec<i64>>,
}

impl Candidate {
    /// Describes a kernel file. A file with an invalid header is a candidate too: the judge will reject it. It gets
    /// its own family and no tunables.
    pub(crate) fn from_source(source: String, detail: String, task: &Task) -> Self {
        match Kernel::parse(&source, &task.definition) {
            Ok(kernel) => Self {
                family: kernel.family(),
                point: kernel.point(),
                space: kernel.space(),
                source: kernel.text,
                detail,
            },
            Err(_) => Self {
                family: Digest::of(&source),
                point: IndexMap::new(),
                space: IndexMap::new(),
                source,
                detail,
            },
        }
    }
}
