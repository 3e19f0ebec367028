//! How long earlier processes worked on a task, from the times on the lines of its journal.
//!
//! `resume` counts while it replays a journal; `worked_time` and `device_time` read only what they need. Wall clocks step back: such a
//! step counts as no time.

use std::time::Duration;

use anyhow::Result;

use super::task_time::EarlierTime;
use super::time_tally::TimeTally;
use crate::event::{Event, ReplayedEvent, RunEvent};
use crate::run::{self, Journal, ParseLine, RunDirectory, RunRecord, TaskSession, TaskSessions};

/// Adds up the wall time of earlier processes: for each, from the start of its work on the task to the end, or to its last line if it
/// was killed.
///
/// The time of the search is a part of it: it ends at `stopped`, because confirmations follow, and goes on where the next step is
/// planned. `budget.seconds` limits the whole time, and the search gets all but the share of the confirmation.
pub(super) struct WorkTimeCounter<'e> {
    /// The current session and the later ones.
    sessions: &'e [TaskSession],
    /// Time of the current session's start or last line.
    last: Option<u64>,
    /// Time of the search at the current session's start or last line: the lines after the search had stopped are left out.
    last_searched: Option<u64>,
    has_stopped: bool,
    milliseconds: u64,
    searched_milliseconds: u64,
    /// Time of the current session.
    in_session: u64,
}

/// What a line says about the time of the search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineKind {
    /// A step was planned, so the search is not over.
    Asked,
    Stopped,
    Other,
}

impl LineKind {
    pub(super) fn of(event: &ReplayedEvent) -> Self {
        match event {
            ReplayedEvent::Judged(_) => Self::Other,
            ReplayedEvent::Other(event) => match **event {
                Event::Asked(_) => Self::Asked,
                Event::Stopped(_) => Self::Stopped,
                _ => Self::Other,
            },
        }
    }
}

impl ParseLine for LineKind {
    fn parse(name: &str, _line: &str) -> Option<serde_json::Result<Self>> {
        Some(Ok(match name {
            "asked" => Self::Asked,
            "stopped" => Self::Stopped,
            _ => Self::Other,
        }))
    }
}

impl<'e> WorkTimeCounter<'e> {
    pub(super) fn new(earlier: &'e TaskSessions) -> Self {
        let sessions = earlier.sessions();
        let start = sessions
            .first()
            .and_then(|first| run::parse_timestamp(&first.time));
        Self {
            sessions,
            last: start,
            last_searched: start,
            has_stopped: false,
            milliseconds: 0,
            searched_milliseconds: 0,
            in_session: 0,
        }
    }

    pub(super) fn note_line(&mut self, line: u64, time: &str, kind: LineKind) {
        while let Some(next) = self.sessions.get(1)
            && next.is_before(line, time)
        {
            self.next_session();
        }
        if kind == LineKind::Asked {
            self.has_stopped = false;
        }
        self.add_until(run::parse_timestamp(time));
        if kind == LineKind::Stopped {
            self.has_stopped = true;
        }
    }

    /// Adds the time from the last moment of the session to this one.
    fn add_until(&mut self, time: Option<u64>) {
        let since = |last: Option<u64>| match (last, time) {
            (Some(last), Some(time)) => time.saturating_sub(last),
            _ => 0,
        };
        self.milliseconds += since(self.last);
        self.in_session += since(self.last);
        self.last = time.or(self.last);
        if !self.has_stopped {
            self.searched_milliseconds += since(self.last_searched);
            self.last_searched = time.or(self.last_searched);
        }
    }

    /// Adds the rest of the session, and starts the next one.
    fn next_session(&mut self) {
        let Some((session, later)) = self.sessions.split_first() else {
            return;
        };
        // The end and the start are lines of the run's journal. The clock may have stepped since the last line of the task's.
        let ended = session.ended.as_deref().and_then(run::parse_timestamp);
        if let Some((started, ended)) = run::parse_timestamp(&session.time).zip(ended) {
            let rest = ended
                .saturating_sub(started)
                .saturating_sub(self.in_session);
            self.milliseconds += rest;
            if !self.has_stopped {
                self.searched_milliseconds += rest;
            }
        }
        self.in_session = 0;
        self.sessions = later;
        if let Some(next) = later.first() {
            self.last = run::parse_timestamp(&next.time);
            self.last_searched = self.last;
        }
    }

    /// The time of all sessions, those without a line included.
    pub(super) fn finish(mut self) -> EarlierTime {
        while !self.sessions.is_empty() {
            self.next_session();
        }
        EarlierTime {
            worked: Duration::from_millis(self.milliseconds),
            searched: Duration::from_millis(self.searched_milliseconds),
        }
    }
}

/// The longest time that was worked on a task of a run. Takes no lock: a line that is being written is skipped.
///
/// # Errors
/// If a journal cannot be read.
pub fn worked_time(directory: &RunDirectory, record: &RunRecord) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    for task in record.tasks.keys() {
        let journal = directory.task_for_reading(task)?.journal();
        if !journal.exists() || !directory.journal().exists() {
            continue;
        }
        let mut sessions = TaskSessions::default();
        Journal::read(&directory.journal(), |head, event: RunEvent| {
            sessions.apply(task, head.time, &event);
            Ok(())
        })?;
        let mut counter = WorkTimeCounter::new(&sessions);
        Journal::read(&journal, |head, kind: LineKind| {
            counter.note_line(head.seq, head.time, kind);
            Ok(())
        })?;
        longest = longest.max(counter.finish().worked);
    }
    Ok(longest)
}

/// The most device time that a task of a run has taken. Takes no lock: a line that is being written is skipped.
///
/// # Errors
/// If a journal cannot be read.
pub fn device_time(directory: &RunDirectory, record: &RunRecord) -> Result<Duration> {
    let mut most = Duration::ZERO;
    for task in record.tasks.keys() {
        let journal = directory.task_for_reading(task)?.journal();
        if !journal.exists() {
            continue;
        }
        let mut tally = TimeTally::default();
        Journal::read(&journal, |_, event: ReplayedEvent| {
            tally.count_replayed(&event);
            Ok(())
        })?;
        most = most.max(tally.device());
    }
    Ok(most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Interrupted, TaskStarted};

    /// The time of a moment, in seconds.
    fn time(seconds: u64) -> String {
        run::timestamp(1_700_000_000_000 + seconds * 1000)
    }

    /// Sessions that started at these times, with these numbers of lines before them.
    fn sessions(started: &[(u64, Option<u64>)]) -> TaskSessions {
        let mut sessions = TaskSessions::default();
        for (seconds, lines) in started {
            let event = RunEvent::TaskStarted(TaskStarted {
                task: "softmax".to_owned(),
                lines: *lines,
            });
            sessions.apply("softmax", &time(*seconds), &event);
        }
        sessions
    }

    fn total(earlier: &TaskSessions, lines: &[u64]) -> Duration {
        let mut counter = WorkTimeCounter::new(earlier);
        for (line, seconds) in (1..).zip(lines) {
            counter.note_line(line, &time(*seconds), LineKind::Other);
        }
        let EarlierTime { worked, searched } = counter.finish();
        assert_eq!(worked, searched);
        worked
    }

    #[test]
    fn time_between_sessions_is_not_counted() {
        let lines = [1, 10, 101, 107, 200, 203];
        let by_time = sessions(&[(0, None), (100, None), (150, None), (200, None)]);
        let by_line = sessions(&[(0, Some(0)), (100, Some(2)), (150, Some(4)), (200, Some(4))]);
        for earlier in [by_time, by_line] {
            assert_eq!(total(&earlier, &lines), Duration::from_secs(10 + 7 + 3));
            assert_eq!(total(&earlier, &[]), Duration::ZERO);
        }
    }

    #[test]
    fn clock_that_steps_back_loses_only_the_step() {
        // The clock steps back by 1,000 s within the first session and again between the two.
        let earlier = sessions(&[(2000, Some(0)), (50, Some(3))]);
        let lines = [2010, 1010, 1020, 60, 65];
        assert_eq!(total(&earlier, &lines), Duration::from_secs(10 + 10 + 15));
    }

    #[test]
    fn a_session_lasts_until_its_end_is_recorded() {
        // The second session has no line: it cancelled its only confirmation. The third was killed.
        let mut earlier = sessions(&[(0, Some(0)), (100, Some(2))]);
        let ended = |seconds| {
            (
                time(seconds),
                Interrupted {
                    task: name(),
                    awaits_replies: false,
                },
            )
        };
        for (time, event) in [ended(30), ended(107)] {
            earlier.apply("softmax", &time, &RunEvent::Interrupted(event));
        }
        // Both ends belong to the last session that had started, so the first has none.
        assert_eq!(total(&earlier, &[5, 20]), Duration::from_secs(20 + 7));

        let mut earlier = sessions(&[(0, Some(0))]);
        let (at, event) = ended(30);
        earlier.apply("softmax", &at, &RunEvent::Interrupted(event));
        let later = RunEvent::TaskStarted(TaskStarted {
            task: name(),
            lines: Some(2),
        });
        earlier.apply("softmax", &time(100), &later);
        assert_eq!(total(&earlier, &[5, 20, 104]), Duration::from_secs(30 + 4));
    }

    fn name() -> String {
        "softmax".to_owned()
    }

    #[test]
    fn confirmation_is_not_time_of_the_search() {
        use LineKind::{Asked, Other, Stopped};
        let earlier = sessions(&[(0, Some(0)), (100, Some(4)), (200, Some(5))]);
        let mut counter = WorkTimeCounter::new(&earlier);
        let lines = [
            (10, Asked),
            (30, Stopped),
            // Confirmations, the second of them in another process.
            (45, Other),
            (50, Other),
            (120, Other),
            // The third process judges what was in flight, and continues the search.
            (210, Other),
            (215, Asked),
            (220, Other),
        ];
        for (line, (seconds, kind)) in (1..).zip(lines) {
            counter.note_line(line, &time(seconds), kind);
        }
        let EarlierTime { worked, searched } = counter.finish();
        assert_eq!(searched, Duration::from_secs(30 + 20));
        assert_eq!(worked, Duration::from_secs(50 + 20 + 20));
    }
}
