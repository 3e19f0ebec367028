//! Replays the journal of a task: folds its events into a search and collects what the last process left open.
//!
//! Opens the journal and drops a torn last line; writes nothing else. Starts no work.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use anyhow::Result;

use super::asking::{FeedbackLog, RecordedRequests};
use super::model_stats::ModelTally;
use super::sources::KernelSources;
use super::step_lines::StepLines;
use crate::base::Failure;
use crate::event::{Brief, Event, JudgedSummary, ReplayedEvent, Stopped};
use crate::run::{self, Journal, LineHead, TaskDirectory};
use crate::search::{Search, SearchUpdate};
use crate::verdict::Status;

/// A task as its journal describes it.
pub(super) struct ReplayedTask {
    pub(super) journal: Journal,
    pub(super) lines: StepLines,
    pub(super) search: Search,
    pub(super) sources: KernelSources,
    pub(super) next_step: u64,
    /// Steps without a candidate or a failure.
    pub(super) open: BTreeMap<u64, Brief>,
    /// Steps with a candidate and without a verdict.
    pub(super) unjudged: Vec<u64>,
    /// Elites that were not judged again since the last accepted change.
    pub(super) stale: Vec<u64>,
    pub(super) stopped: Option<Stopped>,
    /// Requests and replies of open steps.
    pub(super) requests: BTreeMap<u64, RecordedRequests>,
    pub(super) feedback: FeedbackLog,
    pub(super) model_tally: ModelTally,
    /// Wall time of earlier processes.
    pub(super) time_spent: Duration,
}

/// What the run's journal says about earlier processes.
#[derive(Default)]
pub(super) struct EarlierSessions {
    /// When each process started to work on the task, in order.
    pub(super) started: Vec<String>,
    /// When a change was last accepted.
    pub(super) last_accepted: Option<String>,
}

/// Replays a task's journal, or creates it. `search`: the search before its first step.
///
/// # Errors
/// A damaged journal; or a recorded brief that `search` decides differently, unless a change was accepted.
pub(super) fn replay(
    directory: &TaskDirectory,
    search: Search,
    earlier: &EarlierSessions,
) -> Result<ReplayedTask> {
    let path = directory.journal();
    let mut replay = Replay::new(directory, search, earlier);
    let journal = Journal::open(&path, |head, event: ReplayedEvent| {
        let divergence = replay.apply(head, &event);
        divergence.map_err(|text| {
            Failure::usage(format!("{}:{}: {text}", path.display(), head.seq))
                .hint("restore the kforge version, the config and the journal that the run used")
                .into()
        })
    })?;
    Ok(replay.finish(journal))
}

/// The state of a replay between two lines.
struct Replay<'e> {
    earlier: &'e EarlierSessions,
    work_time: WorkTimeCounter<'e>,
    lines: StepLines,
    search: Search,
    sources: KernelSources,
    last_asked: u64,
    stopped: Option<Stopped>,
    /// Steps that were judged after the last accepted change.
    judged_since_change: HashSet<u64>,
    requests: BTreeMap<u64, RecordedRequests>,
    feedback: FeedbackLog,
    model_tally: ModelTally,
}

impl<'e> Replay<'e> {
    fn new(directory: &TaskDirectory, search: Search, earlier: &'e EarlierSessions) -> Self {
        Self {
            earlier,
            work_time: WorkTimeCounter::new(earlier),
            lines: StepLines::default(),
            search,
            sources: KernelSources::new(directory.clone()),
            last_asked: 0,
            stopped: None,
            judged_since_change: HashSet::new(),
            requests: BTreeMap::new(),
            feedback: FeedbackLog::default(),
            model_tally: ModelTally::default(),
        }
    }

    /// Applies one line. The error is the text of a divergence.
    fn apply(&mut self, head: &LineHead<'_>, event: &ReplayedEvent) -> Result<(), String> {
        self.work_time.note_line(head.time);
        self.lines.note_replayed(event, head.span);
        let last_accepted = self.earlier.last_accepted.as_deref();
        let is_after_change = last_accepted.is_none_or(|accepted| head.time >= accepted);
        let updates = match event {
            ReplayedEvent::Judged(judged) => {
                // A harness error is not a measurement.
                let is_measured = judged.verdict.status != Status::HarnessError;
                if is_measured && last_accepted.is_some() && is_after_change {
                    self.judged_since_change.insert(judged.step);
                }
                self.apply_judged(judged)
            }
            // Confirmations from before the change no longer count.
            ReplayedEvent::Other(Event::Confirmed(_)) if !is_after_change => return Ok(()),
            ReplayedEvent::Other(event) => self.apply_other(event),
        };
        for update in updates {
            // After an accepted change the recorded briefs hold. Otherwise this search must decide the same ones.
            if let SearchUpdate::Diverged(divergence) = update
                && last_accepted.is_none()
            {
                return Err(divergence.to_string());
            }
        }
        Ok(())
    }

    fn apply_judged(&mut self, judged: &JudgedSummary) -> Vec<SearchUpdate> {
        let JudgedSummary { step, verdict } = judged;
        self.model_tally.count_verdict(*step, verdict);
        self.search.tell_judged(*step, verdict)
    }

    fn apply_other(&mut self, event: &Event) -> Vec<SearchUpdate> {
        self.feedback.note(event);
        self.model_tally.count_event(event);
        match event {
            Event::Asked(brief) => self.last_asked = self.last_asked.max(brief.step),
            Event::Sent(sent) => self.requests.entry(sent.step).or_default().note(event),
            Event::Replied(replied) => self.requests.entry(replied.step).or_default().note(event),
            Event::Proposed(proposed) => {
                self.requests.remove(&proposed.step);
                self.sources.add(proposed.step, proposed.kernel);
            }
            Event::Failed(failed) => {
                self.requests.remove(&failed.step);
                if let Some(kernel) = failed.kernel {
                    self.sources.add(failed.step, kernel);
                }
            }
            Event::Stopped(stopped) => self.stopped = Some(stopped.clone()),
            Event::Judged(_) | Event::Dueled(_) | Event::Confirmed(_) => {}
        }
        self.search.tell(event)
    }

    fn finish(self, journal: Journal) -> ReplayedTask {
        let search = self.search;
        let mut unjudged = Vec::new();
        let mut open = BTreeMap::new();
        for unfinished in search.unfinished() {
            if unfinished.proposed.is_some() {
                unjudged.push(unfinished.step);
            } else if let Some(brief) = search.ask(unfinished.step) {
                open.insert(unfinished.step, brief);
            }
        }
        let stale = match self.earlier.last_accepted {
            Some(_) => {
                let elites = search.archive().elites().iter().map(|elite| elite.step);
                elites
                    .filter(|step| !self.judged_since_change.contains(step))
                    .collect()
            }
            None => Vec::new(),
        };
        ReplayedTask {
            journal,
            lines: self.lines,
            sources: self.sources,
            next_step: self.last_asked + 1,
            open,
            unjudged,
            stale,
            stopped: self.stopped,
            requests: self.requests,
            feedback: self.feedback,
            model_tally: self.model_tally,
            time_spent: self.work_time.total(),
            search,
        }
    }
}

/// Adds up the wall time of earlier processes: for each, from the start of its work on the task to its last line.
struct WorkTimeCounter<'e> {
    /// Start times of the current process and the later ones.
    sessions: &'e [String],
    /// Time of the current process's last line.
    last_line: Option<String>,
    milliseconds: u64,
}

impl<'e> WorkTimeCounter<'e> {
    fn new(earlier: &'e EarlierSessions) -> Self {
        Self {
            sessions: &earlier.started,
            last_line: None,
            milliseconds: 0,
        }
    }

    fn note_line(&mut self, time: &str) {
        while let Some(next) = self.sessions.get(1)
            && time >= next.as_str()
        {
            self.close_session();
        }
        match &mut self.last_line {
            Some(last) => {
                last.clear();
                last.push_str(time);
            }
            None => self.last_line = Some(time.to_owned()),
        }
    }

    fn close_session(&mut self) {
        let Some((started, rest)) = self.sessions.split_first() else {
            return;
        };
        self.sessions = rest;
        if let Some(last) = self.last_line.take()
            && let (Some(started), Some(last)) =
                (run::parse_timestamp(started), run::parse_timestamp(&last))
        {
            self.milliseconds += last.saturating_sub(started);
        }
    }

    fn total(mut self) -> Duration {
        while !self.sessions.is_empty() {
            self.close_session();
        }
        Duration::from_millis(self.milliseconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_between_sessions_is_not_counted() {
        let time = |seconds: u64| run::timestamp(1_700_000_000_000 + seconds * 1000);
        let earlier = EarlierSessions {
            started: vec![time(0), time(100), time(150), time(200)],
            last_accepted: None,
        };
        let mut counter = WorkTimeCounter::new(&earlier);
        for seconds in [1, 10, 101, 107, 200, 203] {
            counter.note_line(&time(seconds));
        }
        assert_eq!(counter.total(), Duration::from_secs(10 + 7 + 3));
        assert_eq!(WorkTimeCounter::new(&earlier).total(), Duration::ZERO);
    }
}
