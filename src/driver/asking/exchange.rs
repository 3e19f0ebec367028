//! The way of one step that asks a model: rendered, sent, replied, read; as far as the journal and the loop know it.

use std::sync::Arc;

use super::backend::{EarlierReply, ModelBackend, PreparedRequest};
use crate::base::Failure;
use crate::event::{Cost, Event, ReplyOutcome, Sent};
use crate::llm::Budget;

/// Whom the loop asks, and within which limits.
pub(in crate::driver) struct ModelRequests<'a> {
    pub(in crate::driver) backend: Arc<dyn ModelBackend>,
    pub(in crate::driver) budget: &'a mut Budget,
    /// Questions under way at once, those to the patient aside.
    pub(in crate::driver) concurrency: usize,
    /// Steps in a row whose replies never came.
    pub(in crate::driver) unanswered_in_a_row: u32,
    /// Why nobody is asked any more.
    pub(in crate::driver) fatal: Option<Failure>,
}

/// A step that is asking.
pub(in crate::driver) struct Exchange {
    pub(in crate::driver) stage: ExchangeStage,
    /// The replies so far: the next question is number `earlier.len() + 1`.
    pub(in crate::driver) earlier_replies: Vec<EarlierReply>,
    /// What was made ready to be sent, or sent.
    pub(in crate::driver) prepared: Option<Arc<PreparedRequest>>,
    /// What is set aside for the question under way.
    pub(in crate::driver) reserved: Cost,
    /// The question that an earlier process has put where somebody replies in his own time.
    pub(in crate::driver) sent: Option<Sent>,
}

/// How far a step has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::driver) enum ExchangeStage {
    /// To be rendered.
    ToRender,
    /// On a thread that renders.
    Rendering,
    /// Rendered, and more than is left while others are under way.
    AwaitingBudget,
    /// On its way, or on the way back.
    Sending,
    /// Nobody has replied yet, and nobody waits for it.
    AwaitingMailbox,
    /// The last reply is to be read.
    Replied,
    /// On a thread that reads.
    Parsing,
}

impl Exchange {
    pub(in crate::driver) fn new() -> Self {
        Self {
            stage: ExchangeStage::ToRender,
            earlier_replies: Vec::new(),
            prepared: None,
            reserved: Cost::default(),
            sent: None,
        }
    }

    /// The number of the question that is being asked, or will be.
    pub(in crate::driver) fn ask(&self) -> u32 {
        u32::try_from(self.earlier_replies.len() + 1).unwrap_or(u32::MAX)
    }
}

/// What the journal says of a step that asks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::driver) struct RecordedRequests {
    /// The last question without a reply.
    pub(in crate::driver) sent: Option<Sent>,
    /// The replies that count: number of the question, outcome, hash of the text.
    pub(in crate::driver) replies: Vec<(u32, ReplyOutcome, Option<crate::base::Digest>)>,
}

impl RecordedRequests {
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
