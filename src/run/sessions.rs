//! Which lines of a task's journal come before and after an event of the run's journal.
//!
//! Two journals have no common line numbers, and wall clocks step back. So `task_started` in the run's journal has the number of
//! lines that the task's journal had then. Only journals of older versions, without this number, are ordered by their times.

use crate::event::{Interrupted, RunEvent, TaskEnded};

/// What the run's journal says about the processes that worked on a task.
#[derive(Clone, Debug, Default)]
pub(crate) struct TaskSessions {
    /// In order.
    sessions: Vec<TaskSession>,
    last_change: Option<AcceptedChange>,
    /// The last of them after which figures cannot be compared with earlier ones.
    last_change_of_figures: Option<AcceptedChange>,
}

/// What a changed value of the record must start with for its figures to differ: another device, judge or task.
const CHANGES_FIGURES: [&str; 6] = [
    "device",
    "backend",
    "tasks",
    "config.backend",
    "config.profile",
    "config.eval",
];

/// A process that worked on the task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TaskSession {
    /// When it started to work on the task.
    pub(crate) time: String,
    /// Number of lines of the task's journal at that time. `None` in runs of older versions.
    lines: Option<u64>,
    /// When it ended its work on the task. `None` if it was killed.
    pub(crate) ended: Option<String>,
}

/// The last change that the user has accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct AcceptedChange {
    time: String,
    /// Number of sessions before it.
    sessions: usize,
}

impl TaskSessions {
    /// Applies the next line of the run's journal.
    pub(crate) fn apply(&mut self, task: &str, time: &str, event: &RunEvent) {
        match event {
            RunEvent::TaskStarted(started) if started.task == task => {
                self.sessions.push(TaskSession {
                    time: time.to_owned(),
                    lines: started.lines,
                    ended: None,
                });
            }
            RunEvent::TaskEnded(TaskEnded { task: ended, .. })
            | RunEvent::Interrupted(Interrupted { task: ended, .. })
                if ended == task =>
            {
                if let Some(last) = self.sessions.last_mut() {
                    last.ended = Some(time.to_owned());
                }
            }
            RunEvent::Accepted(accepted) => {
                let change = AcceptedChange {
                    time: time.to_owned(),
                    sessions: self.sessions.len(),
                };
                let mut changes = accepted.changes.iter();
                if changes.any(|change| changes_figures(&change.what)) {
                    self.last_change_of_figures = Some(change.clone());
                }
                self.last_change = Some(change);
            }
            _ => {}
        }
    }

    pub(crate) fn has_changed(&self) -> bool {
        self.last_change.is_some()
    }

    /// Whether a line of the task's journal was written after the last accepted change, or there is none.
    pub(crate) fn is_after_change(&self, line: u64, time: &str) -> bool {
        let change = self.last_change.as_ref();
        change.is_none_or(|change| self.is_after(change, line, time))
    }

    /// Whether a change was accepted after which figures cannot be compared with earlier ones.
    pub(crate) fn has_changed_figures(&self) -> bool {
        self.last_change_of_figures.is_some()
    }

    /// Whether a line of the task's journal was written after the last such change.
    pub(crate) fn is_after_change_of_figures(&self, line: u64, time: &str) -> bool {
        let change = self.last_change_of_figures.as_ref();
        change.is_some_and(|change| self.is_after(change, line, time))
    }

    fn is_after(&self, change: &AcceptedChange, line: u64, time: &str) -> bool {
        match self.sessions.get(change.sessions) {
            Some(first) => match first.lines {
                Some(lines) => line > lines,
                None => time >= change.time.as_str(),
            },
            None => false,
        }
    }

    pub(crate) fn sessions(&self) -> &[TaskSession] {
        &self.sessions
    }
}

impl TaskSession {
    /// Whether a line of the task's journal was written in this session or a later one.
    pub(crate) fn is_before(&self, line: u64, time: &str) -> bool {
        self.lines
            .map_or_else(|| time >= self.time.as_str(), |lines| line > lines)
    }
}

fn changes_figures(what: &str) -> bool {
    CHANGES_FIGURES.iter().any(|start| {
        what.strip_prefix(start)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Accepted, TaskStarted};

    fn started(task: &str, lines: Option<u64>) -> RunEvent {
        let task = task.to_owned();
        RunEvent::TaskStarted(TaskStarted { task, lines })
    }

    fn sessions(events: &[(&str, RunEvent)]) -> TaskSessions {
        let mut sessions = TaskSessions::default();
        for (time, event) in events {
            sessions.apply("softmax", time, event);
        }
        sessions
    }

    #[test]
    fn clock_that_steps_back_does_not_change_the_order() {
        let accepted = || RunEvent::Accepted(Accepted { changes: vec![] });
        let mut events = vec![
            ("2024-01-02", started("softmax", Some(0))),
            ("2024-01-02", started("rmsnorm", Some(0))),
            ("2024-01-01", accepted()),
        ];
        assert!(sessions(&events[..2]).is_after_change(1, "2024-01-02"));
        assert!(
            !sessions(&events).is_after_change(9, "2024-01-02"),
            "no session since"
        );
        events.push(("2023-12-31", started("rmsnorm", Some(1))));
        events.push(("2023-12-31", started("softmax", Some(9))));
        let changed = sessions(&events);
        assert!(changed.has_changed());
        assert!(!changed.is_after_change(9, "2024-01-02"));
        assert!(changed.is_after_change(10, "2023-12-31"));
    }

    #[test]
    fn sessions_of_older_versions_are_ordered_by_time() {
        let accepted = RunEvent::Accepted(Accepted { changes: vec![] });
        let changed = sessions(&[
            ("2024-01-01", started("softmax", None)),
            ("2024-01-03", accepted),
            ("2024-01-03", started("softmax", None)),
        ]);
        assert!(!changed.is_after_change(1, "2024-01-02"));
        assert!(changed.is_after_change(2, "2024-01-04"));
    }
}
