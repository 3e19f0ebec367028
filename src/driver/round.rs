//! The result of one round: events to record, and what to do once they are durable.

use crate::event::Event;

/// Collected while results are settled. The events are recorded together, then the follow-ups are done.
#[derive(Default)]
pub(super) struct Round {
    pub(super) events: Vec<Event>,
    pub(super) follow_ups: Vec<FollowUp>,
}

/// What to do for a step once the events of the round are durable.
#[derive(Clone, Copy, Debug)]
pub(super) enum FollowUp {
    /// Send the request whose prompt is on disk.
    Send(u64),
    /// Parse the replies, the last of which is on disk.
    Parse(u64),
}
