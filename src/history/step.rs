//! What a history keeps of one step. Plain data, small: a run may have 100,000 of them.

use crate::base::Digest;
use crate::event::{FailedReason, Operator};
use crate::verdict::{Speedup, Status};

/// How a step ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// It has no result yet.
    #[default]
    Open,
    /// Correct, and timed to the end.
    Passed,
    /// Correct, and surely slower than what the search has.
    Dismissed,
    /// Judged, and not passed.
    NotPassed(Status),
    /// It has no candidate.
    Failed(FailedReason),
}

impl Outcome {
    /// One word, as in the journal.
    pub(crate) fn name(self) -> String {
        match self {
            Outcome::Open => "open".to_owned(),
            Outcome::Passed => "passed".to_owned(),
            Outcome::Dismissed => "dismissed".to_owned(),
            Outcome::NotPassed(status) => status.to_string(),
            Outcome::Failed(reason) => serde_json::to_value(reason)
                .ok()
                .and_then(|name| name.as_str().map(str::to_owned))
                .unwrap_or_default(),
        }
    }

    /// Whether the step has a candidate that was found wrong, or has no candidate. Noise is no failure.
    pub(crate) fn is_failure(self) -> bool {
        match self {
            Outcome::Open | Outcome::Passed | Outcome::Dismissed => false,
            Outcome::NotPassed(status) => status != Status::Inconclusive,
            Outcome::Failed(_) => !self.is_repeat(),
        }
    }

    /// Whether the step made a kernel again that the task has judged before, or one that is nearly the same.
    pub(crate) fn is_repeat(self) -> bool {
        matches!(
            self,
            Outcome::Failed(FailedReason::Duplicate | FailedReason::NearCopy)
        )
    }

    pub(crate) fn is_judged(self) -> bool {
        matches!(
            self,
            Outcome::Passed | Outcome::Dismissed | Outcome::NotPassed(_)
        )
    }
}

/// One step.
#[derive(Clone, Debug, Default)]
pub(crate) struct StepHistory {
    pub(crate) step: u64,
    /// `None` if the journal names the step and has no brief of it.
    pub(crate) operator: Option<Operator>,
    pub(crate) parents: Box<[u64]>,
    /// What the operator did.
    pub(crate) detail: Box<str>,
    /// The number of its island, from 1.
    pub(crate) island: Option<u32>,
    /// Indices into `TaskHistory::names`.
    pub(crate) model: Option<u32>,
    pub(crate) card: Option<u32>,
    pub(crate) prompts: Option<u32>,
    pub(crate) kernel: Option<Digest>,
    pub(crate) outcome: Outcome,
    /// Why it did not pass, or has no candidate; untrusted text.
    pub(crate) reason: Option<Box<str>>,
    /// The step that a duplicate repeats.
    pub(crate) duplicate_of: Option<u64>,
    /// The figure of the search: provisional.
    pub(crate) speedup: Option<Speedup>,
    /// The same on each workload, in the order of `TaskHistory::workloads`; `NaN` where there is none.
    pub(crate) on_workloads: Box<[f32]>,
    /// Change of the run time that the model expected, relative to the first parent.
    pub(crate) expected: Option<f32>,
    /// Whether it entered the archive.
    pub(crate) added: bool,
    /// When its last event was written, in seconds of work since the start of the task.
    pub(crate) at_seconds: f64,
    /// What the task had spent on models then, in billionths of a dollar. `None` if a price is unknown.
    pub(crate) spent_nano_usd: Option<u64>,
    /// Requests to models.
    pub(crate) requests: u32,
    pub(crate) tokens: u64,
    pub(crate) nano_usd: u64,
    /// What judging took.
    pub(crate) judge_seconds: f32,
}

impl StepHistory {
    /// Whether the step counts for the share of valid steps: it cost an evaluation or a reply. What has no result yet, noise, and
    /// faults of kforge say nothing about the candidate.
    pub(crate) fn counts_for_validity(&self) -> bool {
        match self.outcome {
            Outcome::Open
            | Outcome::NotPassed(Status::Inconclusive | Status::HarnessError)
            | Outcome::Failed(FailedReason::HarnessError) => false,
            Outcome::Passed | Outcome::Dismissed | Outcome::NotPassed(_) => true,
            Outcome::Failed(_) => self.operator.is_some_and(Operator::asks_model),
        }
    }
}
