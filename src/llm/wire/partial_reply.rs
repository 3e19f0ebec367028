//! A reply while it arrives.

use super::error::WireError;
use crate::event::Usage;

/// What has arrived of a reply so far.
#[derive(Debug, Default)]
pub(in crate::llm) struct PartialReply {
    pub text: String,
    pub usage: Option<Usage>,
    /// `None` until the model has stopped.
    pub finish_reason: Option<FinishReason>,
    /// The model that replied, as the server names it.
    pub served_by: Option<String>,
    /// Anthropic reports its usage in several events.
    pub(super) running_usage: RunningUsage,
}

/// Why a model stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::llm) enum FinishReason {
    Complete,
    Truncated,
    /// With the refusal's text.
    Refused(String),
    /// A reason that does not occur when only text is requested, described.
    Unexpected(String),
}

/// What an event of a stream means for its reader.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::llm) enum EventEffect {
    Continue,
    /// This was the protocol's last event.
    Finished,
    /// The server reported an error.
    Failed(WireError),
}

/// Token counts that arrive one after another. A later count replaces an earlier one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RunningUsage {
    pub input: Option<u64>,
    pub cached: Option<u64>,
    pub cache_write: Option<u64>,
    pub output: Option<u64>,
}

impl RunningUsage {
    pub(super) fn updated_with(self, later: Self) -> Self {
        Self {
            input: later.input.or(self.input),
            cached: later.cached.or(self.cached),
            cache_write: later.cache_write.or(self.cache_write),
            output: later.output.or(self.output),
        }
    }

    /// `None` until both input and output are known.
    pub(super) fn usage(self) -> Option<Usage> {
        Some(Usage {
            input: self.input?,
            cached: self.cached.unwrap_or(0),
            cache_write: self.cache_write.unwrap_or(0),
            output: self.output?,
            reasoning: 0,
        })
    }
}

impl PartialReply {
    /// Adds a piece of a refusal. A refusal replaces any other finish reason.
    pub(super) fn add_refusal(&mut self, piece: &str) {
        match &mut self.finish_reason {
            Some(FinishReason::Refused(text)) => text.push_str(piece),
            reason => *reason = Some(FinishReason::Refused(piece.to_owned())),
        }
    }

    /// Sets the finish reason, unless a refusal has arrived.
    pub(super) fn finish(&mut self, reason: FinishReason) {
        if !matches!(self.finish_reason, Some(FinishReason::Refused(_))) {
            self.finish_reason = Some(reason);
        }
    }
}
