//! What a run's directory says of questions, replies and money.

use std::collections::BTreeMap;
use std::path::Path;

use kforge::base::Digest;
use kforge::event::{Cost, Event, Failed, Replied, Sent};
use kforge::run::{Journal, RunDirectory};

/// The task of all runs here.
pub(crate) const TASK: &str = "softmax";

/// The events of the task, in the journal's order. Nothing else may be working there.
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

/// Questions and replies of a run.
#[derive(Debug, Default)]
pub(crate) struct RequestLog {
    pub(crate) sent: Vec<Sent>,
    pub(crate) replied: Vec<Replied>,
    pub(crate) failed: Vec<Failed>,
    pub(crate) proposed: Vec<u64>,
    /// The most questions that were under way at once.
    pub(crate) max_in_flight: usize,
}

impl RequestLog {
    pub(crate) fn read(directory: &Path) -> Self {
        let mut asked = Self::default();
        for event in events(directory) {
            match event {
                Event::Sent(sent) => {
                    let answered = asked.replied.iter().any(|replied| {
                        (replied.step, replied.ask) == (sent.step, sent.ask)
                            && ends_request(replied)
                    });
                    assert!(
                        !answered,
                        "step {} ask {} was asked again although its reply is there",
                        sent.step, sent.ask
                    );
                    asked.sent.push(sent);
                    let under_way = asked.sent.len() - asked.replied.len();
                    asked.max_in_flight = asked.max_in_flight.max(under_way);
                }
                Event::Replied(replied) => asked.replied.push(replied),
                Event::Failed(failed) => asked.failed.push(failed),
                Event::Proposed(proposed) => asked.proposed.push(proposed.step),
                _ => {}
            }
        }
        asked
    }

    /// Questions that were sent, less one for each that ended, by prompt.
    pub(crate) fn without_reply(&self) -> u64 {
        (self.sent.len() - self.replied.len()) as u64
    }

    /// What the journal says was spent: replies at their cost, and every question without a reply at its worst.
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

    /// Every reply that the journal names is there as it was.
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

/// Whether a reply is one after which the question is not asked again.
pub(crate) fn ends_request(replied: &Replied) -> bool {
    use kforge::event::ReplyOutcome::{Fatal, TurnedAway};
    !matches!(replied.outcome, TurnedAway | Fatal)
}

/// The last `summary.json`.
pub(crate) fn summary(directory: &Path) -> serde_json::Value {
    let text = std::fs::read(directory.join("summary.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}
