//! The way of one step that asks a model: rendered, sent, replied, read; as far as the journal and the loop know it.

use std::sync::Arc;

use super::author::{Author, Earlier, Prepared};
use crate::base::Failure;
use crate::event::{Cost, Event, ReplyOutcome, Sent};
use crate::llm::Budget;

/// Whom the loop asks, and within which limits.
pub(in crate::driver) struct Asking<'a> {
    pub(in crate::driver) author: Arc<dyn Author>,
    pub(in crate::driver) budget: &'a mut Budget,
    /// Questions under way at once, those to the patient aside.
    pub(in crate::driver) at_once: usize,
    /// Steps in a row whose replies never came.
    pub(in crate::driver) unanswered: u32,
    /// Why nobody is asked any more.
    pub(in crate::driver) gave_up: Option<Failure>,
}

/// A step that is asking.
pub(in crate::driver) struct Exchange {
    pub(in crate::driver) stage: Stage,
    /// The replies so far: the next question is number `earlier.len() + 1`.
    pub(in crate::driver) earlier: Vec<Earlier>,
    /// What was made ready to be sent, or sent.
    pub(in crate::driver) prepared: Option<Arc<Prepared>>,
    /// What is set aside for the question under way.
    pub(in crate::driver) reserved: Cost,
    /// The question that an earlier process has put where somebody replies in his own time.
    pub(in crate::driver) sent: Option<Sent>,
}

/// How far a step has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::driver) enum Stage {
    /// To be rendered.
    Open,
    /// On a thread that renders.
    Rendering,
    /// Rendered, and more than is left while others are under way.
    Dear,
    /// On its way, or on the way back.
    Sending,
    /// Nobody has replied yet, and nobody waits for it.
    Pending,
    /// The last reply is to be read.
    Replied,
    /// On a thread that reads.
    Reading,
}

impl Exchange {
    pub(in crate::driver) fn new() -> Self {
        Self {
            stage: Stage::Open,
            earlier: Vec::new(),
            prepared: None,
            reserved: Cost::default(),
            sent: None,
        }
    }

    /// The number of the question that is being asked, or will be.
    pub(in crate::driver) fn ask(&self) -> u32 {
        u32::try_from(self.earlier.len() + 1).unwrap_or(u32::MAX)
    }
}

/// What the journal says of a step that asks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::driver) struct Past {
    /// The last question without a reply.
    pub(in crate::driver) sent: Option<Sent>,
    /// The replies that count: number of the question, outcome, hash of the text.
    pub(in crate::driver) replies: Vec<(u32, ReplyOutcome, Option<crate::base::Digest>)>,
}

impl Past {
    /// Takes note of an event of this step.
    pub(in crate::driver) fn note(&mut self, event: &Event) {
        match event {
            Event::Sent(sent) => self.sent = Some(sent.clone()),
            Event::Replied(replied) => {
                self.sent = None;
                // Whoever was turned away or could not ask has no reply, and asks again.
                if !matches!(
                    replied.outcome,
                    ReplyOutcome::TurnedAway | ReplyOutcome::Fatal
                ) {
                    let reply = (replied.ask, replied.outcome, replied.response);
                    self.replies.push(reply);
                }
            }
            _ => {}
        }
    }
}
