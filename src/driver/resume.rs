//! Taking a task up: its journal folded into a search, and what was under way put back in its place.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use anyhow::Result;

use super::asking::{Chronicle, Past};
use super::sources::Sources;
use super::tally::Tally;
use crate::base::Failure;
use crate::event::{Brief, Event, Stopped};
use crate::run::{self, Journal, TaskDirectory};
use crate::search::{Change, Search};
use crate::task::Task;
use crate::verdict::Status;

/// A task as its journal left it.
pub(super) struct Replayed {
    pub(super) journal: Journal,
    pub(super) search: Search,
    pub(super) sources: Sources,
    pub(super) next: u64,
    pub(super) open: BTreeMap<u64, Brief>,
    /// Proposed and not judged.
    pub(super) unjudged: Vec<u64>,
    /// Elites that were last judged before the last accepted change.
    pub(super) stale: Vec<u64>,
    pub(super) stopped: Option<Stopped>,
    /// What open steps have asked, and what they were told.
    pub(super) asked: BTreeMap<u64, Past>,
    pub(super) chronicle: Chronicle,
    pub(super) tally: Tally,
    /// Wall time of earlier processes.
    pub(super) spent: Duration,
}

/// What the run's own journal says about its past.
#[derive(Default)]
pub(super) struct Sessions {
    /// When a process took this task up, in order.
    pub(super) sessions: Vec<String>,
    /// When a change was last accepted.
    pub(super) accepted: Option<String>,
}

/// Reads a task's journal from its beginning; creates it where there is none.
pub(super) fn replay(
    directory: &TaskDirectory,
    task: &Task,
    search: Search,
    past: &Sessions,
) -> Result<Replayed> {
    let path = directory.journal();
    let mut search = search;
    let mut sources = Sources::new(directory.clone());
    let mut clock = Clock::new(past);
    let mut asked = 0;
    let mut stopped = None;
    let mut judged_since = HashSet::new();
    let mut asked_of: BTreeMap<u64, Past> = BTreeMap::new();
    let mut chronicle = Chronicle::default();
    let mut tally = Tally::default();
    let journal = Journal::open(&path, |head, event: Event| {
        clock.note(head.time);
        chronicle.note(&event, task);
        tally.note(&event);
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
            Event::Proposed(proposed) => sources.note(proposed.step, proposed.kernel),
            Event::Failed(failed) => {
                if let Some(kernel) = failed.kernel {
                    sources.note(failed.step, kernel);
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
            if let Change::Diverged(divergence) = change
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
    Ok(Replayed {
        journal,
        search,
        sources,
        next: asked + 1,
        open,
        unjudged,
        stale,
        stopped,
        asked: asked_of,
        chronicle,
        tally,
        spent: clock.spent(),
    })
}

/// Adds up the wall time of earlier processes: for each, from when it took the task up to its last line.
struct Clock<'a> {
    sessions: &'a [String],
    last: Option<String>,
    spent: u64,
}

impl<'a> Clock<'a> {
    fn new(past: &'a Sessions) -> Self {
        Self {
            sessions: &past.sessions,
            last: None,
            spent: 0,
        }
    }

    fn note(&mut self, time: &str) {
        while let Some(next) = self.sessions.get(1)
            && time >= next.as_str()
        {
            self.close();
        }
        match &mut self.last {
            Some(last) => {
                last.clear();
                last.push_str(time);
            }
            None => self.last = Some(time.to_owned()),
        }
    }

    fn close(&mut self) {
        let Some((begun, rest)) = self.sessions.split_first() else {
            return;
        };
        self.sessions = rest;
        if let Some(last) = self.last.take()
            && let (Some(begun), Some(last)) = (run::milliseconds(begun), run::milliseconds(&last))
        {
            self.spent += last.saturating_sub(begun);
        }
    }

    fn spent(mut self) -> Duration {
        while !self.sessions.is_empty() {
            self.close();
        }
        Duration::from_millis(self.spent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_time_at_work_is_counted() {
        let time = |seconds: u64| run::timestamp(1_700_000_000_000 + seconds * 1000);
        let past = Sessions {
            sessions: vec![time(0), time(100), time(150), time(200)],
            accepted: None,
        };
        let mut clock = Clock::new(&past);
        for seconds in [1, 10, 101, 107, 200, 203] {
            clock.note(&time(seconds));
        }
        assert_eq!(clock.spent(), Duration::from_secs(10 + 7 + 3));
        assert_eq!(Clock::new(&past).spent(), Duration::ZERO);
    }
}
