//! The vocabulary of the journals: one type per event (`docs/run-directory.md`).
//!
//! Plain data. `run::journal` reads and writes the lines, `search` folds them, `driver` creates them.
//! Field and variant names are the on-disk format: never change a wire name.

mod brief;
mod check;
mod requests;
mod run;
mod seconds;
mod strongest;
mod task;

pub use brief::{Brief, ContextKernels, ModelBrief, Operator, TransformationWeights};
pub use requests::{Cost, Replied, ReplyOutcome, Sent, Usage};
pub use run::{
    Accepted, BestOfTask, Interrupted, RecordChange, RunEvent, SelfTested, Session, TaskEnded,
    TaskStarted, TasksLeftOut, WorkerFailed,
};
pub use seconds::EvaluationSeconds;
pub use strongest::StrongestCompared;
pub(crate) use strongest::{DerivedBaselines, strongest_known};
pub use task::{
    Compared, Confirmed, Dueled, EditCounts, Event, Failed, FailedReason, Judged, JudgedSummary,
    Proposed, ReplayedEvent, StopReason, Stopped, TriedPoint, TriedPoints,
};

/// Version of the journal format.
pub(crate) const SCHEMA: u32 = 1;
