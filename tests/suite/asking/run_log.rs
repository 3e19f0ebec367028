//! Requests, replies and costs, read from a run directory.

use std::collections::BTreeMap;
use std::path::Path;

use kforge::base::Digest;
use kforge::event::{Cost, Event, Failed, Replied, Sent};
use kforge::run::{Journal, RunDirectory};

/// The task of all runs here.
pub(crate) const TASK: &str = "softmax";

/// The task's events in the journal's order. No other process may be using the directory.
pub(crate) fn events(directory: &Path) -> Vec<Event> {
    let path = RunDirectory::new(directory)
        .task_for_reading(TASK)
        .unwrap()
        .journal();
    let mut events = Vec::new();
    if path.exists() {
        Journal::open(&path, |_, event: Event| {
            events.push(event);
            Ok(())
        })
        .unwrap();
    }
    events
}

/// The requests and replies of a run.
#[derive(Debug, Default)]
pub(crate) struct RequestLog {
    pub(crate) sent: Vec<Sent>,
    pub(crate) replied: Vec<Replied>,
    pub(crate) failed: Vec<Failed>,
    pub(crate) proposed: Vec<u64>,
    /// The most requests that were in flight at once.
    pub(crate) max_in_flight: usize,
}

impl RequestLog {
    pub(crate) fn read(directory: &Path) -> Self {
        let mut log = Self::default();
        for event in events(directory) {
            match event {
                Event::Sent(sent) => {
                    let has_reply = log.replied.iter().any(|replied| {
                        (replied.step, replied.ask) == (sent.step, sent.ask)
                            && ends_request(replied)
                    });
                    assert!(
                        !has_reply,
                        "step {}, ask {} was sent again although it has a reply",
                        sent.step, sent.ask
                    );
                    log.sent.push(sent);
                    let in_flight = log.sent.len() - log.replied.len();
                    log.max_in_flight = log.max_in_flight.max(in_flight);
                }
                Event::Replied(replied) => log.replied.push(replied),
                Event::Failed(failed) => log.failed.push(failed),
                Event::Proposed(proposed) => log.proposed.push(proposed.step),
                _ => {}
            }
        }
        log
    }

    /// The number of requests without a reply.
    pub(crate) fn without_reply(&self) -> u64 {
        (self.sent.len() - self.replied.len()) as u64
    }

    /// What was spent: the cost of every reply, and the worst case of every request without one.
    pub(crate) fn spent(&self) -> Cost {
        let mut open: BTreeMap<(u64, u32), Vec<Cost>> = BTreeMap::new();
        let mut sum = Cost::default();
        let mut add = |cost: &Cost| {
            sum.tokens += cost.tokens;
            if let Some(nano) = cost.nano_usd {
                sum.nano_usd = Some(sum.nano_usd.unwrap_or(0) + nano);
            }
        };
        for sent in &self.sent {
            let key = (sent.step, sent.ask);
            open.entry(key).or_default().push(sent.reserved);
        }
        for replied in &self.replied {
            add(&replied.cost);
            open.get_mut(&(replied.step, replied.ask))
                .unwrap()
                .pop()
                .unwrap();
        }
        open.values().flatten().for_each(add);
        sum
    }

    /// Every prompt and reply of the journal has a file with the recorded hash.
    pub(crate) fn assert_files_match_journal(&self, directory: &Path) {
        let task = RunDirectory::new(directory).task_for_reading(TASK).unwrap();
        let mut last = BTreeMap::new();
        for replied in &self.replied {
            last.insert((replied.step, replied.ask), replied);
        }
        for ((step, ask), replied) in last {
            let path = task.response(step, ask);
            match replied.response {
                Some(digest) => {
                    let text = std::fs::read_to_string(&path).unwrap();
                    assert_eq!(Digest::of(&text), digest, "{}", path.display());
                }
                None => assert_ne!(replied.outcome, kforge::event::ReplyOutcome::Complete),
            }
        }
        for sent in &self.sent {
            let path = task.prompt(sent.step, sent.ask);
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(Digest::of(&text), sent.prompt, "{}", path.display());
        }
    }
}

/// Whether the request is not sent again after this reply.
pub(crate) fn ends_request(replied: &Replied) -> bool {
    use kforge::event::ReplyOutcome::{Fatal, TurnedAway};
    !matches!(replied.outcome, TurnedAway | Fatal)
}

/// The current `summary.json`.
pub(crate) fn summary(directory: &Path) -> serde_json::Value {
    let text = std::fs::read(directory.join("summary.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}
