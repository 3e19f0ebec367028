//! The events of steps that have not been folded.
//!
//! Plain data; the fold decides when a step is complete and what follows.

use super::archive::Cell;
use super::results::Figures;
use crate::event::{Brief, Dueled, Failed, Proposed, StopReason};
use crate::verdict::{Speedup, Status, VerdictSummary};

/// What the events say about one step so far.
#[derive(Debug, Default)]
pub(super) struct PendingStep {
    pub(super) asked: Option<Brief>,
    pub(super) proposed: Option<Proposed>,
    pub(super) failed: Option<Failed>,
    pub(super) judged: Option<CandidateResult>,
    pub(super) dueled: Vec<Dueled>,
    /// Only in journal order: the earlier step with the same source.
    pub(super) duplicate_of: Option<u64>,
    /// Only in journal order: it is complete and waits for its turn in the fold.
    pub(super) is_queued: bool,
    /// Device time of the judgement.
    pub(super) device_seconds: f64,
    /// What the requests of the step cost, in billionths of a dollar; 0 if no price is known.
    pub(super) nano_usd: u64,
}

/// The part of a verdict that the fold needs.
#[derive(Clone, Debug)]
pub(super) enum CandidateResult {
    Passed {
        speedup: Speedup,
        cell: Cell,
        figures: Figures,
        /// The target of the settings that it reaches.
        reached: Option<StopReason>,
    },
    /// It passed, but is surely slower than an incumbent, and its judgement ended early.
    Dismissed {
        speedup: Speedup,
    },
    NotPassed(Status),
}

/// The speedup of a verdict that passed, if it is usable: positive, finite, and inside its interval.
pub(super) fn valid_speedup(verdict: &VerdictSummary) -> Option<Speedup> {
    let speedup = verdict.passed_speedup()?;
    let [low, high] = speedup.ci95;
    (low > 0.0 && low <= speedup.geomean && speedup.geomean <= high && high.is_finite())
        .then_some(speedup)
}
