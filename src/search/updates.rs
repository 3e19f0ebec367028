//! What a search reports to the driver: updates after an event, duels that it needs, steps that are unfinished.
//!
//! Plain data; decides nothing.

use std::sync::Arc;

use super::archive::Cell;
use super::divergence::Divergence;
use super::ledger::StepOutcome;
use crate::event::{Proposed, StopReason};
use crate::verdict::{Speedup, Status, Verdict};

/// One effect of an event.
#[derive(Clone, Debug, PartialEq)]
pub enum SearchUpdate {
    /// A step was folded. `cell`: the cell of a candidate that passed and was not dismissed.
    Folded {
        step: u64,
        outcome: StepOutcome,
        cell: Option<Cell>,
    },
    /// A new elite is the fastest by its estimate.
    Best { step: u64, speedup: Speedup },
    /// The fold waits until these two kernels have been timed against each other.
    DuelWanted(DuelRequest),
    /// A verdict was a harness error: the step still waits for a verdict.
    HarnessError { step: u64 },
    /// A candidate was measured again at the end of the run. `searched`: the figure of the search.
    Confirmed {
        step: u64,
        passed: bool,
        searched: Option<Speedup>,
    },
    /// An elite was judged again after its step had been folded. `kept`: it is still an elite.
    Remeasured { step: u64, kept: bool },
    /// The search is over; `at` is the last step that counts.
    Stopped { why: StopReason, at: u64 },
    /// The journal has another brief for a step than this search decides. The recorded brief is used.
    Diverged(Box<Divergence>),
}

/// Two kernels that must be timed against each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DuelRequest {
    /// The challenger.
    pub step: u64,
    /// The incumbent: the elite of the cell.
    pub against: u64,
}

/// The second measurement of a candidate, with new seeds in fresh processes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Confirmation {
    pub step: u64,
    /// `None` if the candidate did not pass again.
    pub speedup: Option<Speedup>,
    pub verdict: Arc<Verdict>,
}

impl Confirmation {
    /// Whether the candidate was found faulty. A correct candidate that could not be measured precisely enough was not.
    pub(crate) fn refutes(&self) -> bool {
        let is_correct = matches!(self.verdict.status, Status::Passed | Status::Inconclusive);
        self.speedup.is_none() && !is_correct
    }
}

/// A step in flight that has no proposal or no verdict yet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct UnfinishedStep<'a> {
    pub step: u64,
    /// The proposal, if only the verdict is missing. `None`: the proposal must be made again.
    pub proposed: Option<&'a Proposed>,
}
