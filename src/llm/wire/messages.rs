//! Anthropic Messages.
//!
//! `input_tokens` excludes cached tokens. The usage in a stream is cumulative.

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use super::count::deserialize_count;
use super::error::{WireError, is_error};
use super::partial_reply::{
    EventEffect, FinishReason, PartialReply, RunningUsage, finish_reason_of,
};
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
    #[serde(deserialize_with = "deserialize_count")]
    input_tokens: Option<u64>,
    #[serde(deserialize_with = "deserialize_count")]
    cache_creation_input_tokens: Option<u64>,
    #[serde(deserialize_with = "deserialize_count")]
    cache_read_input_tokens: Option<u64>,
    #[serde(deserialize_with = "deserialize_count")]
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

#[derive(Default, Deserialize)]
#[serde(default)]
struct MessagesEvent {
    r#type: String,
    message: Option<MessageStart>,
    index: Option<u64>,
    content_block: Option<MessagesContent>,
    delta: Option<MessagesDelta>,
    usage: Option<MessagesUsage>,
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
    thinking: String,
    partial_json: String,
    stop_reason: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MessagesContent {
    r#type: String,
    text: String,
    thinking: String,
    /// The arguments of a tool call.
    input: Option<Value>,
}

#[derive(Deserialize)]
struct MessagesReply {
    content: Vec<MessagesContent>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    stop_reason: Option<String>,
    #[serde(default)]
    usage: Option<MessagesUsage>,
}

fn stop_reason_of(reason: &str) -> FinishReason {
    match finish_reason_of(reason) {
        FinishReason::Refused(_) => FinishReason::Refused("the model refused".to_owned()),
        FinishReason::Unexpected(_) => {
            FinishReason::Unexpected(format!("the reply ended with stop reason `{reason}`"))
        }
        reason => reason,
    }
}

pub(super) fn apply_event(data: &str, reply: &mut PartialReply) -> serde_json::Result<EventEffect> {
    let value: Value = serde_json::from_str(data)?;
    let event = MessagesEvent::deserialize(&value)?;
    match event.r#type.as_str() {
        "message_start" => {
            if let Some(start) = event.message {
                reply.served_by = start.model;
                reply.running_usage = start.usage.unwrap_or_default().into();
            }
        }
        "content_block_start" => {
            if let Some(block) = event.content_block {
                reply.has_choice = true;
                apply_block(&block, event.index.unwrap_or(0), true, reply);
            }
        }
        "content_block_delta" => {
            reply.has_choice = true;
            if let Some(delta) = event.delta {
                match delta.r#type.as_str() {
                    "text_delta" => reply.text.push_str(&delta.text),
                    "thinking_delta" => reply.reasoning.push_str(&delta.thinking),
                    "input_json_delta" => {
                        reply.add_tool_input(&delta.partial_json, event.index.unwrap_or(0));
                    }
                    _ => {}
                }
            }
        }
        "message_delta" => {
            // Before this event the output count is provisional.
            if let Some(usage) = event.usage {
                reply.running_usage = reply.running_usage.updated_with(usage.into());
                reply.usage = reply.running_usage.usage();
            }
            if let Some(reason) = event.delta.and_then(|delta| delta.stop_reason) {
                reply.finish_reason = Some(stop_reason_of(&reason));
            }
        }
        "message_stop" => return Ok(EventEffect::Finished),
        // A proxy may send an error of another protocol.
        "error" | "" if value.as_object().is_some_and(is_error) || event.r#type == "error" => {
            return Ok(EventEffect::Failed(WireError::from_json(&value)));
        }
        // `ping`, ends of blocks, and future events: the protocol asks clients to ignore unknown ones.
        _ => {}
    }
    Ok(EventEffect::Continue)
}

/// Applies a block of content. The arguments of a tool call that are streamed come in deltas.
fn apply_block(block: &MessagesContent, index: u64, is_streamed: bool, reply: &mut PartialReply) {
    match block.r#type.as_str() {
        "text" => reply.text.push_str(&block.text),
        "thinking" => reply.reasoning.push_str(&block.thinking),
        "tool_use" if !is_streamed => {
            if let Some(input) = &block.input {
                reply.add_tool_input(&input.to_string(), index);
            }
        }
        _ => {}
    }
}

pub(super) fn apply_whole(
    data: &[u8],
    reply: &mut PartialReply,
) -> serde_json::Result<EventEffect> {
    let value: Value = serde_json::from_slice(data)?;
    let object = value.as_object();
    let has_content = object.is_some_and(|object| object.contains_key("content"));
    if !has_content {
        return Ok(EventEffect::Failed(WireError::from_json(&value)));
    }
    let whole = MessagesReply::deserialize(&value)?;
    reply.has_choice = true;
    for (index, block) in (0..).zip(&whole.content) {
        apply_block(block, index, false, reply);
    }
    reply.served_by = whole.model;
    reply.usage = (whole.usage).and_then(|usage| RunningUsage::from(usage).usage());
    reply.finish_reason = whole.stop_reason.as_deref().map(stop_reason_of);
    Ok(EventEffect::Finished)
}
