//! What a run's own journal says: sessions, the state of each task, failures.

use crate::event::{BestOfTask, RunEvent, Session};
use crate::run::{ParseLine, RunDirectory, TaskSessions};

/// Whether a run works, and how its last process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunState {
    /// Every task has ended.
    Finished,
    Interrupted,
    /// Replies of a mailbox are missing, and nothing else was left to do.
    AwaitingReplies,
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
            RunState::AwaitingReplies => "waiting for replies",
            RunState::Failed => "failed",
            RunState::Working => "working",
            RunState::Open => "not finished",
        }
    }
}

/// A line of a run's journal. Events of later versions are skipped.
pub(super) struct RunLine(pub(super) Option<RunEvent>);

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
pub(super) struct RunLog {
    pub(super) sessions: Vec<Session>,
    pub(super) started: String,
    pub(super) last_event: String,
    /// In the order of the record.
    pub(super) tasks: Vec<TaskLog>,
    pub(super) failures: Vec<String>,
    /// How often the user has accepted changes.
    pub(super) accepted: usize,
}

/// What it says of a task.
#[derive(Default)]
pub(super) struct TaskLog {
    pub(super) sessions: TaskSessions,
    /// Numbers of lines of the task's journal at the starts of its sessions.
    pub(super) starts: Vec<u64>,
    pub(super) self_tests: Vec<crate::verdict::SelfTest>,
    /// `None` before it was started.
    pub(super) state: Option<RunState>,
    /// How many steps it had when a process last ended its work on it.
    pub(super) steps: u64,
    /// What the last process that ended its work on the task reported.
    pub(super) best: Option<BestOfTask>,
}

impl RunLog {
    /// `tasks`: how many tasks the record has.
    pub(super) fn new(tasks: usize) -> Self {
        let mut log = Self::default();
        log.tasks.resize_with(tasks, TaskLog::default);
        log
    }

    /// The state of the run by its journal, which does not know whether a process works on it.
    pub(super) fn state(&self) -> RunState {
        let mut state = RunState::Finished;
        for task in &self.tasks {
            match task.state {
                // After an interrupted task none is started. One that awaits replies does not stop the others.
                None if state == RunState::Interrupted => {}
                Some(RunState::Interrupted) if state == RunState::AwaitingReplies => {
                    state = RunState::Interrupted;
                }
                None | Some(RunState::Open) => state = RunState::Open,
                Some(ended) if state == RunState::Finished => state = ended,
                Some(_) => {}
            }
        }
        state
    }

    pub(super) fn apply(&mut self, names: &[String], time: &str, event: Option<RunEvent>) {
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
            RunEvent::Accepted(_) => self.accepted += 1,
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
                self.best.clone_from(&ended.best);
                self.steps = ended.steps;
                let failed = ended.why.is_none() && ended.failure.is_some();
                self.state = Some(if failed {
                    RunState::Failed
                } else {
                    RunState::Finished
                });
            }
            RunEvent::Interrupted(interrupted) if interrupted.task == name => {
                self.state = Some(if interrupted.awaits_replies {
                    RunState::AwaitingReplies
                } else {
                    RunState::Interrupted
                });
            }
            RunEvent::SelfTested(tested) if tested.task == name => {
                self.self_tests.clone_from(&tested.workloads);
            }
            _ => {}
        }
    }
}

/// Whether the process that the lock names runs on this machine. Takes no lock: that could refuse a run that starts now.
pub(super) fn is_worked_on(folder: &RunDirectory) -> bool {
    let process = std::fs::read_to_string(folder.lock()).ok();
    let process = process.and_then(|text| text.trim().parse::<u32>().ok());
    let process = process.filter(|process| *process != std::process::id());
    let name =
        process.and_then(|process| std::fs::read_to_string(format!("/proc/{process}/comm")).ok());
    // A number may belong to another program by now. This program may have another name.
    let own_name = std::fs::read_to_string("/proc/self/comm").unwrap_or_default();
    name.is_some_and(|name| name.trim() == "kforge" || name == own_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupted_run_is_not_called_waiting_because_of_an_earlier_task() {
        let state = |states: &[Option<RunState>]| {
            let mut log = RunLog::new(states.len());
            for (task, state) in log.tasks.iter_mut().zip(states) {
                task.state = *state;
            }
            log.state()
        };
        let (waits, stopped) = (Some(RunState::AwaitingReplies), Some(RunState::Interrupted));
        assert_eq!(
            state(&[waits, Some(RunState::Finished)]),
            RunState::AwaitingReplies
        );
        assert_eq!(state(&[waits, stopped]), RunState::Interrupted);
        assert_eq!(state(&[waits, stopped, None]), RunState::Interrupted);
        assert_eq!(state(&[waits, None]), RunState::Open);
        assert_eq!(
            state(&[Some(RunState::Finished), waits]),
            RunState::AwaitingReplies
        );
    }
}
