//! The statuses of a verdict, in order of precedence.
//!
//! The names are part of the journal's format and never change.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The result of judging a candidate. The order is the precedence: of several findings, the smallest one is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// kforge's own fault: the kernel is judged again on resume. Never shown to a model.
    HarnessError,
    /// The header or the source is invalid.
    Rejected,
    /// This backend cannot run the kernel.
    Unsupported,
    CompileError,
    CompileTimeout,
    /// The device refused the launch.
    LaunchError,
    /// The kernel exceeds a limit on memory, output or threads.
    LimitExceeded,
    OutOfBounds,
    Misaligned,
    UninitializedRead,
    Race,
    /// Wrong use of a barrier, a missing lane, or a deadlock.
    SyncError,
    UndefinedBehavior,
    /// Any other fault of the running kernel.
    Crashed,
    TimedOut,
    InputMutated,
    OutputUnwritten,
    /// The same inputs gave one result inside the tolerance and one outside.
    Nondeterministic,
    WrongOutput,
    /// The kernel keeps state between launches.
    Stateful,
    /// Faster than the hardware allows (the floor).
    Suspicious,
    /// Correct, but the speedup could not be measured precisely enough within the budget.
    Inconclusive,
    Passed,
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Status names are spelled the same everywhere: as in JSON.
        self.serialize(formatter)
    }
}
