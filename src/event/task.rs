//! Events of a task's journal, except for the payloads of briefs (`brief`) and model requests (`requests`).
//!
//! Plain data. The journal folded through `Search::tell` is the state of a search.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::brief::{Brief, Operator};
use super::requests::{Replied, Sent};
use super::seconds::EvaluationSeconds;
use super::strongest::StrongestCompared;
use crate::base::{Digest, Shingles, exact};
use crate::verdict::{Duel, Status, Verdict, VerdictSummary};

/// One event of a task's journal. The variant's name in snake case is the line's `event`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The brief of a step was decided.
    Asked(Brief),
    /// A request was sent to a model for a step.
    Sent(Sent),
    /// A request ended, with a reply or without one.
    Replied(Replied),
    /// The step has a candidate; its source is durable in the step's folder.
    Proposed(Proposed),
    /// The step ended without a candidate.
    Failed(Failed),
    /// The candidate was judged.
    Judged(Judged),
    /// The candidate and the incumbent of its cell were timed against each other.
    Dueled(Dueled),
    /// A candidate was measured again with new seeds in fresh processes.
    Confirmed(Confirmed),
    /// The best kernel and the best starting kernel were timed against each other in fresh processes.
    Compared(Compared),
    /// The best kernel was timed in pairs with the strongest baselines that are known here.
    StrongestCompared(StrongestCompared),
    /// The search of this task stopped.
    Stopped(Stopped),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proposed {
    /// Written by the head of the journal line.
    #[serde(skip_serializing)]
    pub step: u64,
    /// Hash of `kernel.cu`: the source, with the values of its tunables written in.
    pub kernel: Digest,
    /// Hash of the normal form, which comments and white space do not change. Absent if the source has none, and in journals of earlier
    /// versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<Digest>,
    pub operator: Operator,
    pub parents: Vec<u64>,
    /// What the operator did, such as `unroll` or `ROWS=2`. Shown to people; operators are credited by it.
    pub detail: String,
    /// Hash of the source without the values of its tunables. Candidates of one family differ only in those values.
    pub family: Digest,
    /// The current value of each tunable.
    #[serde(default, with = "exact::integers")]
    pub point: IndexMap<String, i64>,
    /// The allowed values of each tunable.
    #[serde(default, with = "exact::integer_lists")]
    pub space: IndexMap<String, Vec<i64>>,
    /// Expressions over the tunables, none of which is 0 at a point worth trying. The sizes of the timed workloads are written in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<String>,
    /// Relative change of the run time that the model expects against the first parent: -0.2 for 20 % less time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<f64>,
    #[serde(default, skip_serializing_if = "EditCounts::is_empty")]
    pub edits: EditCounts,
    /// What it is compared by with other kernels. `None` where `search.near_copies` does not compare kernels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shingles: Option<Shingles>,
    /// Points of its tunables that were tried before it was judged (`search.tune_first`). It has the values of the fastest. `None` if none
    /// were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tried: Option<TriedPoints>,
}

/// Short trials of some points of one kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TriedPoints {
    /// In the order in which they were tried. The first is that of the proposal.
    pub points: Vec<TriedPoint>,
    /// What trying them took.
    pub seconds: EvaluationSeconds,
}

/// A short trial of one point: a quick check and a few samples on some of the timed workloads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TriedPoint {
    #[serde(with = "exact::integers")]
    pub point: IndexMap<String, i64>,
    /// The geometric mean of the times on these workloads. Comparable only with the other points of the same step. `None` if it did not
    /// pass.
    pub microseconds: Option<f64>,
    /// `passed`, or the fault that the trial found.
    pub status: Status,
}

impl TriedPoint {
    /// Its time, if that is a possible one.
    pub(crate) fn time(&self) -> Option<f64> {
        let passed = self.microseconds.filter(|_| self.status == Status::Passed);
        passed.filter(|time| time.is_finite() && *time > 0.0)
    }
}

impl TriedPoints {
    /// The fastest point; of equals, the first. `None` if none passed.
    pub fn fastest(&self) -> Option<&TriedPoint> {
        let passed = self.points.iter().filter(|tried| tried.time().is_some());
        let time = |tried: &TriedPoint| tried.time().unwrap_or(f64::INFINITY);
        passed.min_by(|one, other| time(one).total_cmp(&time(other)))
    }
}

/// Number of `str_replace` edits in all replies of a step, and how many needed help.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EditCounts {
    /// All edits.
    pub asked: u32,
    /// Edits that matched no place, or several.
    pub missed: u32,
    /// Edits that matched one place only after white space, quotes or line ends were ignored.
    pub repaired: u32,
}

impl EditCounts {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failed {
    /// Written by the head of the journal line.
    #[serde(skip_serializing)]
    pub step: u64,
    pub reason: FailedReason,
    /// `duplicate`: the step that has the same code. `near_copy`: the step whose code is nearly the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// `duplicate`: the hash of that step's source. Absent if the step had a candidate of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Digest>,
    /// `duplicate`: the hash of the compiled code, if the step had a candidate of its own and the compiler showed that it is the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Digest>,
    /// What finding this out took, where `code` is, or what trying its points took. `None` in journals of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<EvaluationSeconds>,
    #[serde(default, skip_serializing_if = "EditCounts::is_empty")]
    pub edits: EditCounts,
}

impl Failed {
    /// A step that ended without a candidate, for any reason except `duplicate`.
    pub(crate) fn new(step: u64, reason: FailedReason, detail: String) -> Self {
        Self {
            step,
            reason,
            of: None,
            detail: Some(detail),
            kernel: None,
            code: None,
            seconds: None,
            edits: EditCounts::default(),
        }
    }
}

/// Why a step ended without a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailedReason {
    /// A request was sent, and no usable reply came back.
    NoReply,
    /// The model refused to answer.
    Refused,
    /// The reply was cut off.
    Truncated,
    /// The reply contains no kernel.
    NoCode,
    /// An edit of the reply matched no place in the kernel, or several.
    EditMissed,
    /// Nothing was changed, or the operator found nothing to change.
    NoOp,
    /// The code equals that of an earlier candidate: the source apart from comments and white space, or what the compiler made of it.
    Duplicate,
    /// The kernel of a model is nearly that of a parent or an elite (`search.near_copies`).
    NearCopy,
    /// kforge could not judge the candidate and gave up. The step is closed so that the search can continue.
    HarnessError,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// Written by the head of the journal line.
    #[serde(skip_serializing)]
    pub step: u64,
    pub verdict: Verdict,
}

/// A `judged` event with the part of its verdict that a resume needs. The other parts make up most of a journal, so they are read
/// only where something asks for them.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct JudgedSummary {
    pub step: u64,
    pub verdict: VerdictSummary,
}

/// An event as a resume reads it.
#[derive(Clone, Debug, PartialEq)]
pub enum ReplayedEvent {
    Judged(Box<JudgedSummary>),
    /// Any other event, complete.
    Other(Box<Event>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dueled {
    /// Step of the challenger. Written by the head of the journal line.
    #[serde(skip_serializing)]
    pub step: u64,
    /// Step of the incumbent.
    pub against: u64,
    /// `None` if one of the two kernels did not pass this time.
    pub duel: Option<Duel>,
    /// What the duel took. `None` in journals of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<EvaluationSeconds>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Confirmed {
    /// Written by the head of the journal line.
    #[serde(skip_serializing)]
    pub step: u64,
    pub verdict: Verdict,
    /// What the confirmation took. `None` in journals of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<EvaluationSeconds>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// Step of the best kernel. Written by the head of the journal line.
    #[serde(skip_serializing)]
    pub step: u64,
    /// Step of the starting kernel.
    pub against: u64,
    /// Time of the starting kernel / time of the best kernel. `None` if there is no precise result, or one of the two failed.
    pub duel: Option<Duel>,
    /// What the comparison took. `None` in journals of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<EvaluationSeconds>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stopped {
    pub why: StopReason,
    /// How many steps count. After a stop by time or money: the last step that was planned.
    pub at: u64,
    /// `seconds`, `device_seconds`: the budget that was spent, in seconds. The search goes on only with a larger one. `None` for other
    /// reasons, and in journals of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<f64>,
}

/// Why a search stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// All requested steps were made.
    Steps,
    /// The wall-time budget is spent, except for the share of the confirmation.
    Seconds,
    /// The budget of device time is spent, except for the share of the confirmation.
    DeviceSeconds,
    /// The target speedup was reached.
    Target,
    /// One kernel has reached the target of every workload (`search.targets`).
    WorkloadTargets,
    /// The share of the roofline was reached (`search.target_roofline`).
    Roofline,
    /// No later kernel is likely to be measurably faster than the best (`search.stop_when_unlikely`).
    Unlikely,
    /// No improvement for `search.patience` steps.
    Patience,
    /// Nothing is left to try.
    Exhausted,
    /// The next request to a model could cost more than is left of the budget.
    Budget,
}

impl Event {
    /// Name of the event on the journal line.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Event::Asked(_) => "asked",
            Event::Sent(_) => "sent",
            Event::Replied(_) => "replied",
            Event::Proposed(_) => "proposed",
            Event::Failed(_) => "failed",
            Event::Judged(_) => "judged",
            Event::Dueled(_) => "dueled",
            Event::Confirmed(_) => "confirmed",
            Event::Compared(_) => "compared",
            Event::StrongestCompared(_) => "strongest_compared",
            Event::Stopped(_) => "stopped",
        }
    }

    /// Step that the event belongs to. `None` for `stopped`.
    pub fn step(&self) -> Option<u64> {
        match self {
            Event::Asked(event) => Some(event.step),
            Event::Sent(event) => Some(event.step),
            Event::Replied(event) => Some(event.step),
            Event::Proposed(event) => Some(event.step),
            Event::Failed(event) => Some(event.step),
            Event::Judged(event) => Some(event.step),
            Event::Dueled(event) => Some(event.step),
            Event::Confirmed(event) => Some(event.step),
            Event::Compared(event) => Some(event.step),
            Event::StrongestCompared(event) => Some(event.step),
            Event::Stopped(_) => None,
        }
    }
}
