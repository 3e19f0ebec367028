//! Judging in child processes of this same program: protocol, pool, deadlines.
//!
//! A worker may crash, hang or be killed without harm to the driver. Messages carry contents, never paths.

use std::future::Future;
use std::pin::Pin;

use crate::verdict::{Duel, Verdict};

mod pool;
mod protocol;
mod server;

pub use pool::Pool;
pub use server::serve;

/// One piece of work for an evaluator.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    pub step: u64,
    /// The text of the kernel file.
    pub source: String,
    pub kind: JobKind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum JobKind {
    Judge,
    /// Time against another kernel that passed.
    Duel {
        against: String,
    },
    /// Judge again, with new seeds, in a fresh process.
    Confirm,
}

/// What came of a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Verdict(Box<Verdict>),
    /// `None` where one of the two no longer passed.
    Duel(Option<Duel>),
}

/// The answer to come. Dropping it kills the work.
pub type Evaluating<'a> = Pin<Box<dyn Future<Output = anyhow::Result<Outcome>> + Send + 'a>>;

/// Whatever turns jobs into outcomes: the pool of worker processes, or a script in tests. `Err` is broken machinery.
pub trait Evaluator: Send + Sync {
    fn evaluate(&self, job: Job) -> Evaluating<'_>;
}
