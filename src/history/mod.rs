//! What a run did, read from its directory alone: steps, figures, archive, costs, sessions.
//!
//! Reads journals line by line and keeps a small record of each step, so that a run of 100,000 steps fits into memory. Another process
//! may be working on the run: nothing is locked or changed, and an incomplete last line is skipped. A damaged line ends what is read of
//! its journal; it is reported, and everything before it is shown. Knows no form of output: `page` does.

mod archive;
mod comparison;
mod correlation;
mod follow;
mod holm;
mod line;
mod quantity;
mod reader;
mod run;
mod run_log;
mod step;
mod tail;
mod tally;
mod task;

pub(crate) use comparison::{Difference, LEVEL, Method, compare};
pub(crate) use correlation::{Correlation, correlate};
pub(crate) use follow::{RunFollower, RunProcess};
pub(crate) use quantity::STEP_QUANTITIES;
pub(crate) use run::RunHistory;
pub(crate) use run_log::RunState;
pub(crate) use step::{Outcome, StepHistory};
pub(crate) use tally::{Tallies, Tally};
pub(crate) use task::{Confirmation, TaskHistory};
