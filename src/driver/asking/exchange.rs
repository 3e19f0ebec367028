//! The stage of a step that asks a model, live and as the journal describes it after a kill.
//!
//! Plain data. `requests`, `advance` and `replies` move exchanges on.

use std::sync::Arc;

use super::backend::{EarlierReply, PreparedRequest};
use crate::base::Digest;
use crate::event::{Cost, Event, ReplyOutcome, Sent};

/// A step that asks a model.
pub(super) struct Exchange {
    pub(super) stage: ExchangeStage,
    /// Whether the model is a mailbox.
    pub(super) is_mailbox: bool,
    /// The replies so far.
    pub(super) earlier_replies: Vec<EarlierReply>,
    /// The request that was rendered or sent.
    pub(super) request: Option<Arc<PreparedRequest>>,
    /// Worst-case cost that is set aside for the request in progress.
    pub(super) reserved: Cost,
    /// The request that an earlier process has put into a mailbox.
    pub(super) in_mailbox: Option<Sent>,
}

/// What happens next to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExchangeStage {
    /// Its next prompt must be rendered.
    ToRender,
    /// A thread renders the prompt.
    Rendering,
    /// The prompt is rendered, but its worst case does not fit into the budget while other requests hold reservations.
    AwaitingBudget,
    /// The request is in progress.
    Sending,
    /// The mailbox has no reply yet, and this process does not wait for it.
    AwaitingMailbox,
    /// The last reply must be parsed.
    Replied,
    /// A thread parses the replies.
    Parsing,
}

impl Exchange {
    pub(super) fn new(is_mailbox: bool) -> Self {
        Self {
            stage: ExchangeStage::ToRender,
            is_mailbox,
            earlier_replies: Vec::new(),
            request: None,
            reserved: Cost::default(),
            in_mailbox: None,
        }
    }

    /// Number of the current or next request within the step, from 1.
    pub(super) fn ask(&self) -> u32 {
        u32::try_from(self.earlier_replies.len() + 1).unwrap_or(u32::MAX)
    }
}

/// The requests of an open step, as the journal describes them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::driver) struct RecordedRequests {
    /// The last request, if it has no reply.
    pub(super) sent: Option<Sent>,
    /// The replies that count.
    pub(super) replies: Vec<RecordedReply>,
}

/// A reply that is on disk.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RecordedReply {
    /// Number of the request within the step, from 1.
    pub(super) ask: u32,
    pub(super) outcome: ReplyOutcome,
    /// Hash of the text. `None` if there is no text.
    pub(super) response: Option<Digest>,
    /// What went wrong, in the server's words.
    pub(super) detail: Option<String>,
}

impl RecordedRequests {
    /// Adds an event of the step.
    pub(in crate::driver) fn note(&mut self, event: &Event) {
        match event {
            Event::Sent(sent) => self.sent = Some(sent.clone()),
            Event::Replied(replied) => {
                self.sent = None;
                // A request that was turned away or could not be sent has no reply. It is sent again.
                if !gave_no_reply(replied.outcome) {
                    self.replies.push(RecordedReply {
                        ask: replied.ask,
                        outcome: replied.outcome,
                        response: replied.response,
                        detail: replied.detail.clone(),
                    });
                }
            }
            _ => {}
        }
    }
}

/// Whether the provider did not accept the request, so that the step has no reply to parse.
pub(super) fn gave_no_reply(outcome: ReplyOutcome) -> bool {
    matches!(outcome, ReplyOutcome::TurnedAway | ReplyOutcome::Fatal)
}
