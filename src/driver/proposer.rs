//! What turns a brief into a kernel: kforge's own operators here; tests and benchmarks bring theirs.

use indexmap::IndexMap;

use crate::base::Digest;
use crate::event::{Brief, FailedReason};
use crate::kernel::Kernel;
use crate::task::Task;

/// Answers briefs. Pure: the same brief and parents give the same answer, so that an unanswered one can be asked again.
pub trait Proposer: Send + Sync {
    fn propose(
        &self,
        brief: &Brief,
        parents: &[Parent],
        task: &Task,
    ) -> anyhow::Result<BriefOutcome>;
}

/// What became of a brief.
#[derive(Clone, Debug)]
pub enum BriefOutcome {
    Candidate(Candidate),
    /// Nothing to change, with the reason.
    NoOp(String),
    /// A model was asked, and nothing came of it.
    Failed(FailedReason, String),
}

/// A kernel, and where it lies among its kind.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The whole file, its values written in force.
    pub source: String,
    /// What was done, for people and for credit.
    pub detail: String,
    /// The same for all that differ only in the values of their tunables.
    pub family: Digest,
    pub point: IndexMap<String, i64>,
    pub space: IndexMap<String, Vec<i64>>,
}

impl Candidate {
    /// A kernel file as a candidate. One whose header the judge will refuse is a candidate like any other: a family of its own,
    /// without tunables.
    pub(crate) fn from_source(source: String, detail: String, task: &Task) -> Self {
        match Kernel::parse(&source, &task.definition) {
            Ok(kernel) => Self {
                family: kernel.family(),
                point: kernel.point(),
                space: kernel.space(),
                source,
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

/// A kernel that a proposal is made from.
#[derive(Clone, Debug)]
pub struct Parent {
    pub step: u64,
    pub source: String,
}
