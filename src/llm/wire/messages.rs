//! Anthropic Messages.
//!
//! `input_tokens` excludes cached tokens. The usage in a stream is cumulative.

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use super::error::WireError;
use super::partial_reply::{EventEffect, FinishReason, PartialReply, RunningUsage};
use crate::llm::Request;

/// The protocol allows at most this many cache breakpoints in a request.
const MAX_BREAKPOINTS: usize = 4;

#[derive(Serialize)]
struct TextBlock<'a> {
    r#type: &'static str,
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<CacheControl>,
}

#[derive(Serialize)]
struct CacheControl {
    r#type: &'static str,
}

#[derive(Serialize)]
struct UserMessage<'a> {
    role: &'static str,
    content: TextBlocks<'a>,
}

struct TextBlocks<'a> {
    request: &'a Request,
    caches: bool,
}

impl Serialize for TextBlocks<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut breakpoints = 0;
        // The server rejects a block without text.
        let parts = self.request.parts.iter();
        let parts = parts.filter(|part| !part.text.is_empty());
        serializer.collect_seq(parts.map(|part| {
            // The first breakpoints: the most prompts share what precedes them.
            let is_breakpoint = self.caches && part.cache_here && breakpoints < MAX_BREAKPOINTS;
            breakpoints += usize::from(is_breakpoint);
            TextBlock {
                r#type: "text",
                text: &part.text,
                cache_control: is_breakpoint.then_some(CacheControl {
                    r#type: "ephemeral",
                }),
            }
        }))
    }
}

pub(super) fn write_texts<M: SerializeMap>(
    map: &mut M,
    request: &Request,
    caches: bool,
) -> Result<(), M::Error> {
    if !request.system.is_empty() {
        map.serialize_entry("system", &request.system)?;
    }
    let message = UserMessage {
        role: "user",
        content: TextBlocks { request, caches },
    };
    map.serialize_entry("messages", &[message])
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct MessagesUsage {
    input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    output_tokens: Option<u64>,
}

impl From<MessagesUsage> for RunningUsage {
    fn from(usage: MessagesUsage) -> Self {
        Self {
            input: usage.input_tokens,
            cached: usage.cache_read_input_tokens,
            cache_write: usage.cache_creation_input_tokens,
            output: usage.output_tokens,
        }
    }
}

#[derive(Deserialize)]
struct MessagesEvent {
    r#type: String,
    #[serde(default)]
    message: Option<MessageStart>,
    #[serde(default)]
    content_block: Option<MessagesContent>,
    #[serde(default)]
    delta: Option<MessagesDelta>,
    #[serde(default)]
    usage: Option<MessagesUsage>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct MessageStart {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    usage: Option<MessagesUsage>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MessagesDelta {
    r#type: String,
    text: String,
    stop_reason: Option<String>,
}

#[derive(Deserialize)]
struct MessagesContent {
    r#type: String,
    #[serde(default)]
    text: String,
}

#[derive(Deserialize)]
struct MessagesReply {
    #[serde(default)]
    r#type: Option<String>,
    #[serde(default)]
    content: Vec<MessagesContent>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    stop_reason: Option<String>,
    #[serde(default)]
    usage: Option<MessagesUsage>,
    #[serde(default)]
    error: Option<Value>,
}

fn finish_reason_of(reason: &str) -> FinishReason {
    match reason {
        "end_turn" | "stop_sequence" => FinishReason::Complete,
        "max_tokens" | "model_context_window_exceeded" => FinishReason::Truncated,
        "refusal" => FinishReason::Refused("the model refused".to_owned()),
        other => FinishReason::Unexpected(format!("the reply ended with stop reason `{other}`")),
    }
}

pub(super) fn apply_event(data: &str, reply: &mut PartialReply) -> serde_json::Result<EventEffect> {
    let event: MessagesEvent = serde_json::from_str(data)?;
    match event.r#type.as_str() {
        "message_start" => {
            if let Some(start) = event.message {
                reply.served_by = start.model;
                reply.running_usage = start.usage.unwrap_or_default().into();
            }
        }
        "content_block_start" => {
            if let Some(block) = event.content_block.filter(|block| block.r#type == "text") {
                reply.text.push_str(&block.text);
            }
        }
        "content_block_delta" => {
            if let Some(delta) = event.delta.filter(|delta| delta.r#type == "text_delta") {
                reply.text.push_str(&delta.text);
            }
        }
        "message_delta" => {
            // Before this event the output count is provisional.
            if let Some(usage) = event.usage {
                reply.running_usage = reply.running_usage.updated_with(usage.into());
                reply.usage = reply.running_usage.usage();
            }
            if let Some(reason) = event.delta.and_then(|delta| delta.stop_reason) {
                reply.finish_reason = Some(finish_reason_of(&reason));
            }
        }
        "message_stop" => return Ok(EventEffect::Finished),
        "error" => {
            let error = event.error.unwrap_or_default();
            return Ok(EventEffect::Failed(WireError::from_json(&error)));
        }
        // `ping`, ends of blocks, and future events: the protocol asks clients to ignore unknown ones.
        _ => {}
    }
    Ok(EventEffect::Continue)
}

pub(super) fn apply_whole(
    data: &[u8],
    reply: &mut PartialReply,
) -> serde_json::Result<EventEffect> {
    let whole: MessagesReply = serde_json::from_slice(data)?;
    if whole.r#type.as_deref() == Some("error") || whole.error.is_some() {
        let error = whole.error.unwrap_or_default();
        return Ok(EventEffect::Failed(WireError::from_json(&error)));
    }
    for block in whole.content.iter().filter(|block| block.r#type == "text") {
        reply.text.push_str(&block.text);
    }
    reply.served_by = whole.model;
    reply.usage = (whole.usage).and_then(|usage| RunningUsage::from(usage).usage());
    reply.finish_reason = whole.stop_reason.as_deref().map(finish_reason_of);
    Ok(EventEffect::Finished)
}
