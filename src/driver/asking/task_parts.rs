//! The parts of a task's state that exchanges with models need.
//!
//! Plain references, so that `advance` and `replies` do not depend on the whole `TaskState`.

use std::sync::Arc;

use crate::driver::briefs::OpenBriefs;
use crate::driver::journal_writer::JournalWriter;
use crate::driver::running::RunningWork;
use crate::driver::sources::KernelSources;
use crate::search::Search;
use crate::task::Task;

/// What feedback on earlier steps is made from.
pub(super) struct JudgedSteps<'p> {
    pub(super) task: &'p Task,
    pub(super) search: &'p Search,
    /// Reads verdicts and failures again.
    pub(super) writer: &'p JournalWriter,
}

/// References to the parts, borrowed for one call.
pub(in crate::driver) struct TaskParts<'p> {
    pub(in crate::driver) task: &'p Arc<Task>,
    pub(in crate::driver) search: &'p Search,
    pub(in crate::driver) sources: &'p mut KernelSources,
    pub(in crate::driver) briefs: &'p mut OpenBriefs,
    pub(in crate::driver) writer: &'p mut JournalWriter,
    pub(in crate::driver) running: &'p mut RunningWork,
    /// The search has stopped, so no more requests are sent.
    pub(in crate::driver) is_stopped: bool,
}

impl TaskParts<'_> {
    pub(super) fn judged_steps(&self) -> JudgedSteps<'_> {
        JudgedSteps {
            task: self.task,
            search: self.search,
            writer: self.writer,
        }
    }
}
