//! What people see of a run: progress lines, result tables, and descriptions of tasks and verdicts.
//!
//! Shows what the driver and the judge say. Decides nothing, and waits only for a reader at the end of a command, for a limited time
//! (`output_queue`).

mod activity;
mod admission;
mod baselines;
mod compiled;
mod continuation;
mod describe_task;
mod describe_verdict;
mod figure_columns;
mod figures;
mod headline;
mod kernel_tables;
mod live_block;
mod observer;
mod output_queue;
mod profiling;
mod progress;
mod progress_line;
mod progress_view;
mod results;
mod results_notes;
mod space_progress;
mod spinner;
mod streams;
mod task_results;
mod terminal_block;
mod text;
mod time_spent;
mod timings;

pub(crate) use activity::{Activity, Improvement};
pub(crate) use admission::describe_admission;
pub(crate) use baselines::describe_baselines;
pub(crate) use compiled::describe_compiled;
pub use continuation::Continuation;
pub(crate) use describe_task::{describe_task, task_json, task_table};
pub(crate) use describe_verdict::{describe_verdict, timing_note};
pub(crate) use figures::{AttemptFigures, AttemptResult, Attempts, TaskFigures};
pub(crate) use headline::{WhyUnconfirmed, note_of_best, over_strongest, suggested_seconds};
pub(crate) use live_block::{LiveTask, live_block, live_line};
pub use observer::{Observer, SilentObserver};
pub use progress::{
    BestCandidate, Comparison, EndOfWork, Progress, RunPhase, Standing, Unmeasured,
};
pub(crate) use progress_view::{ProgressFormat, ProgressView};
pub(crate) use results::{results_tables, stop_reason_text};
pub(crate) use space_progress::{SpaceProgress, describe_space, space_json};
pub(crate) use spinner::Spinner;
pub(crate) use streams::{
    StdoutEnd, be_quiet, finish_stdout, flush_stderr, is_quiet, log_to_stderr, print_to_stderr,
    problem_to_stderr,
};
pub use task_results::{RankedElite, StartingKernelResult, TaskResults, UnansweredSteps};
pub(crate) use terminal_block::{TerminalBlock, TerminalSize};
pub(crate) use text::{TERMINAL_WIDTH, message_for_stderr, pluralize, wrap, wrap_after_first};
pub use time_spent::{StageSeconds, TimeSpent};
pub(crate) use timings::describe_timings;
