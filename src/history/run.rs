//! The history of a run: its record, its own journal, and its tasks.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::reader;
use super::task::TaskHistory;
use crate::event::{RunEvent, Session};
use crate::run::{Journal, ParseLine, RunDirectory, RunRecord, TaskSessions, host_name};

/// Whether a run works, and how its last process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunState {
    /// Every task has ended.
    Finished,
    Interrupted,
    /// A task could not go on.
    Failed,
    /// A process of this machine works on it.
    Working,
    /// The last process was killed, or works on another machine.
    Open,
}

impl RunState {
    pub(crate) fn name(self) -> &'static str {
        match self {
            RunState::Finished => "finished",
            RunState::Interrupted => "interrupted",
            RunState::Failed => "failed",
            RunState::Working => "working",
            RunState::Open => "not finished",
        }
    }
}

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

/// A line of a run's journal. Events of later versions are skipped.
struct RunLine(Option<RunEvent>);

impl ParseLine for RunLine {
    fn parse(name: &str, line: &str) -> Option<serde_json::Result<Self>> {
        match RunEvent::parse(name, line) {
            Some(event) => Some(event.map(|event| Self(Some(event)))),
            None => Some(Ok(Self(None))),
        }
    }
}

/// What the run's own journal says.
#[derive(Default)]
struct RunLog {
    sessions: Vec<Session>,
    started: String,
    last_event: String,
    /// For each task of the record: its sessions, and its last end: `None` while open, else whether it failed or was interrupted.
    tasks: Vec<TaskLog>,
    failures: Vec<String>,
}

#[derive(Default)]
struct TaskLog {
    sessions: TaskSessions,
    /// Numbers of lines of the task's journal at the starts of its sessions.
    starts: Vec<u64>,
    self_tests: Vec<crate::verdict::SelfTest>,
    state: Option<RunState>,
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
        let mut log = RunLog::default();
        log.tasks.resize_with(names.len(), TaskLog::default);
        if folder.journal().is_file() {
            let read = Journal::read(&folder.journal(), |head, line: RunLine| {
                log.apply(&names, head.time, line.0);
                Ok(())
            });
            damage.extend(read.err().map(|error| format!("{error:#}")));
        }
        let mut state = RunState::Finished;
        let mut tasks = Vec::new();
        for (name, task_log) in names.iter().zip(log.tasks) {
            let ended = task_log.state.unwrap_or(RunState::Open);
            if state == RunState::Finished || ended == RunState::Open {
                state = ended;
            }
            let baseline = record.tasks.get(name).map(|task| task.baseline);
            let parts = reader::TaskParts {
                folder: folder.task_for_reading(name)?,
                axes: archive_axes(&record),
                order: record.order,
                baseline,
                sessions: &task_log.sessions,
                starts: &task_log.starts,
            };
            let mut task = reader::read_task(name, parts);
            task.self_tests = task_log.self_tests;
            damage.extend(task.damage.clone());
            if task.last_event > log.last_event {
                log.last_event.clone_from(&task.last_event);
            }
            tasks.push(task);
        }
        if state == RunState::Open && is_worked_on(&folder, &log.sessions) {
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

impl RunLog {
    fn apply(&mut self, names: &[String], time: &str, event: Option<RunEvent>) {
        if self.started.is_empty() {
            time.clone_into(&mut self.started);
        }
        time.clone_into(&mut self.last_event);
        let Some(event) = event else { return };
        for (name, task) in names.iter().zip(&mut self.tasks) {
            task.sessions.apply(name, time, &event);
            task.apply(name, &event);
        }
        match event {
            RunEvent::Created(session) | RunEvent::Resumed(session) => self.sessions.push(session),
            RunEvent::TaskEnded(ended) => {
                if let Some(failure) = ended.failure {
                    self.failures.push(format!("{}: {failure}", ended.task));
                }
            }
            RunEvent::WorkerFailed(failed) => {
                let text = format!(
                    "{}: no worker for {}: {}",
                    failed.task, failed.device, failed.error
                );
                self.failures.push(text);
            }
            _ => {}
        }
    }
}

impl TaskLog {
    fn apply(&mut self, name: &str, event: &RunEvent) {
        match event {
            RunEvent::TaskStarted(started) if started.task == name => {
                self.starts.extend(started.lines);
                self.state = Some(RunState::Open);
            }
            RunEvent::TaskEnded(ended) if ended.task == name => {
                let failed = ended.why.is_none() && ended.failure.is_some();
                self.state = Some(if failed {
                    RunState::Failed
                } else {
                    RunState::Finished
                });
            }
            RunEvent::Interrupted(interrupted) if interrupted.task == name => {
                self.state = Some(RunState::Interrupted);
            }
            RunEvent::SelfTested(tested) if tested.task == name => {
                self.self_tests.clone_from(&tested.workloads);
            }
            _ => {}
        }
    }
}

/// Whether the process that the lock names still runs on this machine. Takes no lock: that could refuse a run that starts now.
fn is_worked_on(folder: &RunDirectory, sessions: &[Session]) -> bool {
    let is_here = sessions
        .last()
        .is_some_and(|session| session.host == host_name());
    let process = std::fs::read_to_string(folder.lock()).ok();
    let process = process.and_then(|text| text.trim().parse::<u32>().ok());
    let process = process.filter(|process| is_here && *process != std::process::id());
    let name =
        process.and_then(|process| std::fs::read_to_string(format!("/proc/{process}/comm")).ok());
    name.is_some_and(|name| name.trim() == "kforge")
}

/// The axes of the archive, from the recorded config. Empty if it has none.
fn archive_axes(record: &RunRecord) -> indexmap::IndexMap<String, Vec<f64>> {
    let features = record
        .config
        .get("search")
        .and_then(|search| search.get("features"));
    features
        .and_then(|features| serde_json::from_value(features.clone()).ok())
        .unwrap_or_default()
}
