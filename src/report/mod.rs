//! What people see of a run: progress lines, result tables, and descriptions of tasks and verdicts.
//!
//! Shows what the driver and the judge say. Decides nothing and waits for nothing.

mod admission;
mod compiled;
mod describe_task;
mod describe_verdict;
mod observer;
mod profiling;
mod progress;
mod progress_view;
mod results;
mod spinner;
mod text;

pub(crate) use admission::describe_admission;
pub(crate) use compiled::describe_compiled;
pub(crate) use describe_task::{describe_task, task_json, task_table};
pub(crate) use describe_verdict::{describe_verdict, timing_note};
pub use observer::{Observer, SilentObserver};
pub use progress::{BestCandidate, Progress};
pub(crate) use progress_view::{ProgressFormat, ProgressView};
pub(crate) use results::results_tables;
pub use results::{RankedElite, StartingKernelResult, TaskResults};
pub(crate) use spinner::Spinner;
pub(crate) use text::{pluralize, wrap};
