//! The outcomes of judging, in their order of precedence.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What became of a candidate. The order is that of precedence: of several findings, the least is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// kforge's own fault: judged again on resume, never told to a model.
    HarnessError,
    /// The header or the source was refused.
    Rejected,
    /// This backend cannot run it.
    Unsupported,
    CompileError,
    CompileTimeout,
    /// The launch was refused.
    LaunchError,
    /// Memory, output or threads.
    LimitExceeded,
    OutOfBounds,
    Misaligned,
    UninitializedRead,
    Race,
    /// Barrier, absent lane, deadlock.
    SyncError,
    UndefinedBehavior,
    /// Any other fault.
    Crashed,
    TimedOut,
    InputMutated,
    OutputUnwritten,
    /// The same inputs gave once a result inside the tolerance and once one outside.
    Nondeterministic,
    WrongOutput,
    /// Keeps state between launches.
    Stateful,
    /// Faster than the floor.
    Suspicious,
    /// Correct, but not precise within the budget.
    Inconclusive,
    Passed,
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The JSON spelling is the only spelling.
        self.serialize(formatter)
    }
}
