//! Taking a task up: its journal folded into a search, and what was under way put back in its place.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use anyhow::Result;

use super::asking::{FeedbackLog, RecordedRequests};
use super::model_stats::ModelTally;
use super::sources::KernelSources;
use crate::base::Failure;
use crate::event::{Brief, Event, Stopped};
use crate::run::{self, Journal, TaskDirectory};
use crate::search::{Search, SearchUpdate};
use crate::task::Task;
use crate::verdict::Status;

/// A task as its journal left it.
pub(super) struct ReplayedTask {
    pub(super) journal: Journal,
    pub(super) search: Search,
    pub(super) sources: KernelSources,
    pub(super) next_step: u64,
    pub(super) open: BTreeMap<u64, Brief>,
    /// Proposed and not judged.
    pub(super) unjudged: Vec<u64>,
    /// Elites that were last judged before the last accepted change.
    pub(super) stale: Vec<u64>,
    pub(super) stopped: Option<Stopped>,
    /// What open steps have asked, and what they were told.
    pub(super) requests: BTreeMap<u64, RecordedRequests>,
    pub(super) feedback: FeedbackLog,
    pub(super) model_stats: ModelTally,
    /// Wall time of earlier processes.
    pub(super) time_spent: Duration,
}

/// What the run's own journal says about its past.
#[derive(Default)]
pub(super) struct EarlierSessions {
    /// When a process took this task up, in order.
    pub(super) started: Vec<String>,
    /// When a change was last accepted.
    pub(super) accepted: Option<String>,
}

/// Reads a task's journal from its beginning; creates it where there is none.
pub(super) fn replay(
    directory: &TaskDirectory,
    task: &Task,
    search: Search,
    past: &EarlierSessions,
) -> Result<ReplayedTask> {
    let path = directory.journal();
    let mut search = search;
    let mut sources = KernelSources::new(directory.clone());
    let mut clock = WorkTimeCounter::new(past);
    let mut asked = 0;
    let mut stopped = None;
    let mut judged_since = HashSet::new();
    let mut asked_of: BTreeMap<u64, RecordedRequests> = BTreeMap::new();
    let mut chronicle = FeedbackLog::default();
    let mut tally = ModelTally::default();
    let journal = Journal::open(&path, |head, event: Event| {
        clock.note_line(head.time);
        chronicle.note(&event, task);
        tally.count_event(&event);
        let since = past
            .accepted
            .as_deref()
            .is_none_or(|accepted| head.time >= accepted);
        match (&event, event.step()) {
            (Event::Sent(_) | Event::Replied(_), Some(step)) => {
                asked_of.entry(step).or_default().note(&event);
            }
            // It is over: nothing of it is asked again.
            (Event::Proposed(_) | Event::Failed(_), Some(step)) => {
                asked_of.remove(&step);
            }
            _ => {}
        }
        match &event {
            Event::Asked(brief) => asked = asked.max(brief.step),
            Event::Proposed(proposed) => sources.add(proposed.step, proposed.kernel),
            Event::Failed(failed) => {
                if let Some(kernel) = failed.kernel {
                    sources.add(failed.step, kernel);
                }
            }
            // A failure of the judge's is no measurement.
            Event::Judged(judged)
                if past.accepted.is_some()
                    && since
                    && judged.verdict.status != Status::HarnessError =>
            {
                judged_since.insert(judged.step);
            }
            // What was confirmed before is to be confirmed again.
            Event::Confirmed(_) if !since => return Ok(()),
            Event::Stopped(event) => stopped = Some(event.clone()),
            Event::Sent(_)
            | Event::Replied(_)
            | Event::Judged(_)
            | Event::Dueled(_)
            | Event::Confirmed(_) => {}
        }
        for change in search.tell(&event) {
            // After an accepted change the recorded questions hold; else they are those that this search asks.
            if let SearchUpdate::Diverged(divergence) = change
                && past.accepted.is_none()
            {
                return Err(Failure::usage(format!(
                    "{}:{}: {divergence}",
                    path.display(),
                    head.seq
                ))
                .hint("put kforge, the config and the journal back as they were")
                .into());
            }
        }
        Ok(())
    })?;
    let mut open = BTreeMap::new();
    let mut unjudged = Vec::new();
    let mut unanswered = BTreeSet::new();
    for unfinished in search.unfinished() {
        match unfinished.proposed {
            Some(proposed) => unjudged.push(proposed.step),
            None => {
                unanswered.insert(unfinished.step);
            }
        }
    }
    for step in unanswered {
        if let Some(brief) = search.ask(step) {
            open.insert(step, brief);
        }
    }
    let stale = match past.accepted {
        Some(_) => {
            let elites = search.archive().elites().iter().map(|elite| elite.step);
            elites.filter(|step| !judged_since.contains(step)).collect()
        }
        None => Vec::new(),
    };
    Ok(ReplayedTask {
        journal,
        search,
        sources,
        next_step: asked + 1,
        open,
        unjudged,
        stale,
        stopped,
        requests: asked_of,
        feedback: chronicle,
        model_stats: tally,
        time_spent: clock.spent(),
    })
}

/// Adds up the wall time of earlier processes: for each, from when it took the task up to its last line.
struct WorkTimeCounter<'a> {
    sessions: &'a [String],
    last: Option<String>,
    spent: u64,
}

impl<'a> WorkTimeCounter<'a> {
    fn new(past: &'a EarlierSessions) -> Self {
        Self {
            sessions: &past.started,
            last: None,
            spent: 0,
        }
    }

    fn note_line(&mut self, time: &str) {
        while let Some(next) = self.sessions.get(1)
            && time >= next.as_str()
        {
            self.close_session();
        }
        match &mut self.last {
            Some(last) => {
                last.clear();
                last.push_str(time);
            }
            None => self.last = Some(time.to_owned()),
        }
    }

    fn close_session(&mut self) {
        let Some((begun, rest)) = self.sessions.split_first() else {
            return;
        };
        self.sessions = rest;
        if let Some(last) = self.last.take()
            && let (Some(begun), Some(last)) =
                (run::parse_timestamp(begun), run::parse_timestamp(&last))
        {
            self.spent += last.saturating_sub(begun);
        }
    }

    fn spent(mut self) -> Duration {
        while !self.sessions.is_empty() {
            self.close_session();
        }
        Duration::from_millis(self.spent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_between_sessions_is_not_counted() {
        let time = |seconds: u64| run::timestamp(1_700_000_000_000 + seconds * 1000);
        let past = EarlierSessions {
            started: vec![time(0), time(100), time(150), time(200)],
            accepted: None,
        };
        let mut clock = WorkTimeCounter::new(&past);
        for seconds in [1, 10, 101, 107, 200, 203] {
            clock.note_line(&time(seconds));
        }
        assert_eq!(clock.spent(), Duration::from_secs(10 + 7 + 3));
        assert_eq!(WorkTimeCounter::new(&past).spent(), Duration::ZERO);
    }
}
