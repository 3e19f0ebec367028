//! The parts of a task that exchanges with models read and use.

use std::sync::Arc;

use crate::driver::briefs::OpenBriefs;
use crate::driver::journal_writer::JournalWriter;
use crate::driver::running::RunningWork;
use crate::driver::sources::KernelSources;
use crate::search::Search;
use crate::task::Task;

/// Borrowed for one call.
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
