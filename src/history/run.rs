//! The history of a run: its record, its own journal, and its tasks.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::reader;
use super::run_log::{RunLine, RunLog, RunState, is_worked_on};
use super::task::TaskHistory;
use crate::event::Session;
use crate::run::{Journal, RunDirectory, RunRecord, host_name};

/// What a run did.
#[derive(Debug)]
pub(crate) struct RunHistory {
    pub(crate) directory: PathBuf,
    pub(crate) record: RunRecord,
    pub(crate) state: RunState,
    /// The processes that worked on the run.
    pub(crate) sessions: Vec<Session>,
    /// When the run was created and when its last event was written, as RFC 3339. Empty if nothing was written.
    pub(crate) started: String,
    pub(crate) last_event: String,
    pub(crate) tasks: Vec<TaskHistory>,
    /// What could not be read: each names its file and line.
    pub(crate) damage: Vec<String>,
    /// What could not be judged by which task, such as a failed oracle.
    pub(crate) failures: Vec<String>,
}

impl RunHistory {
    /// Reads a run.
    ///
    /// # Errors
    /// If the directory is no run directory, or was written by a newer kforge. Damage of a journal is part of the history.
    pub(crate) fn read(directory: &Path) -> Result<Self> {
        let folder = RunDirectory::new(directory);
        let record = RunRecord::read(&folder)?;
        let mut damage = Vec::new();
        let names: Vec<_> = record.tasks.keys().cloned().collect();
        let mut log = RunLog::new(names.len());
        if folder.journal().is_file() {
            let read = Journal::read(&folder.journal(), |head, line: RunLine| {
                log.apply(&names, head.time, line.0);
                Ok(())
            });
            damage.extend(read.err().map(|error| format!("{error:#}")));
        }
        let mut state = log.state();
        let mut tasks = Vec::new();
        for (name, task_log) in names.iter().zip(log.tasks) {
            let baseline = record.tasks.get(name).map(|task| task.baseline);
            let parts = reader::TaskParts {
                folder: folder.task_for_reading(name)?,
                axes: archive_axes(&record),
                order: record.order,
                baseline,
            };
            let mut task = reader::read_task(name, parts, &task_log);
            task.self_tests = task_log.self_tests;
            damage.extend(task.damage.clone());
            if task.last_event > log.last_event {
                log.last_event.clone_from(&task.last_event);
            }
            tasks.push(task);
        }
        let is_here = log
            .sessions
            .last()
            .is_some_and(|session| session.host == host_name());
        if state == RunState::Open && is_here && is_worked_on(&folder) {
            state = RunState::Working;
        }
        Ok(Self {
            directory: directory.to_owned(),
            record,
            state,
            sessions: log.sessions,
            started: log.started,
            last_event: log.last_event,
            tasks,
            damage,
            failures: log.failures,
        })
    }

    /// What the run has spent on models: tokens, and dollars if every price is known.
    pub(crate) fn spent(&self) -> (u64, Option<f64>) {
        let tokens = self.tasks.iter().map(|task| task.tokens).sum();
        let dollars = self.tasks.iter().map(TaskHistory::dollars).sum();
        (tokens, dollars)
    }
}

/// The axes of the archive, from the recorded config. Empty if it has none.
pub(super) fn archive_axes(record: &RunRecord) -> indexmap::IndexMap<String, Vec<f64>> {
    let features = record
        .config
        .get("search")
        .and_then(|search| search.get("features"));
    features
        .and_then(|features| serde_json::from_value(features.clone()).ok())
        .unwrap_or_default()
}
