//! A reply while it arrives.

use super::error::WireError;
use crate::event::Usage;

/// What has arrived of a reply so far.
#[derive(Debug, Default)]
pub(in crate::llm) struct PartialReply {
    pub text: String,
    /// The model's thoughts, as far as the server shows them. Some servers put the whole reply here.
    pub reasoning: String,
    /// The arguments of tool calls, each in a fenced block. kforge offers no tools, but some models call one to reply.
    pub tool_input: String,
    /// A choice, a message or an output has arrived: the model has worked.
    pub has_choice: bool,
    pub usage: Option<Usage>,
    /// `None` until the model has stopped.
    pub finish_reason: Option<FinishReason>,
    /// The model that replied, as the server names it.
    pub served_by: Option<String>,
    /// The index of the tool call whose block is open.
    tool_call: Option<u64>,
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
    /// The model calls a tool.
    ToolCall,
    /// An unknown reason, described.
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

/// The finish reason that a server names, in any spelling.
pub(super) fn finish_reason_of(name: &str) -> FinishReason {
    let lower = name.trim().to_lowercase().replace(['-', ' '], "_");
    // Google's enumerations: `FinishReason.MAX_TOKENS`, `FINISH_REASON_STOP`.
    let last = lower.rsplit('.').next().unwrap_or_default();
    let plain = last.strip_prefix("finish_reason_").unwrap_or(last);
    match plain {
        "stop" | "stopped" | "end_turn" | "stop_sequence" | "eos" | "eos_token" | "end"
        | "complete" | "completed" | "finish" | "finished" | "done" | "normal" => {
            FinishReason::Complete
        }
        "length"
        | "max_tokens"
        | "max_length"
        | "max_output_tokens"
        | "max_completion_tokens"
        | "max_new_tokens"
        | "token_limit"
        | "model_length"
        | "context_length"
        | "context_window_exceeded"
        | "model_context_window_exceeded" => FinishReason::Truncated,
        "content_filter"
        | "content_filtered"
        | "safety"
        | "refusal"
        | "recitation"
        | "blocklist"
        | "prohibited_content"
        | "spii"
        | "sensitive"
        | "guardrail_intervened" => {
            FinishReason::Refused(format!("the reply ended with finish reason `{name}`"))
        }
        "tool_calls" | "tool_call" | "tool_use" | "function_call" => FinishReason::ToolCall,
        _ => FinishReason::Unexpected(format!("the reply ended with finish reason `{name}`")),
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

    /// Adds a piece of the arguments of the tool call with this index.
    pub(super) fn add_tool_input(&mut self, piece: &str, index: u64) {
        if piece.is_empty() {
            return;
        }
        if self.tool_call != Some(index) {
            self.end_tool_input();
            self.tool_input.push_str("```json\n");
            self.tool_call = Some(index);
        }
        self.tool_input.push_str(piece);
    }

    /// Closes the block of the last tool call.
    pub(in crate::llm) fn end_tool_input(&mut self) {
        if self.tool_call.take().is_some() {
            self.tool_input.push_str("\n```\n\n");
        }
    }

    /// Whether the model has produced anything.
    pub(in crate::llm) fn has_output(&self) -> bool {
        [&self.text, &self.reasoning, &self.tool_input]
            .iter()
            .any(|text| !text.trim().is_empty())
            || self
                .finish_reason
                .as_ref()
                .is_some_and(|reason| !matches!(reason, FinishReason::Unexpected(_)))
    }

    /// Sets the finish reason, unless a refusal has arrived.
    pub(super) fn finish(&mut self, reason: FinishReason) {
        if !matches!(self.finish_reason, Some(FinishReason::Refused(_))) {
            self.finish_reason = Some(reason);
        }
    }
}
