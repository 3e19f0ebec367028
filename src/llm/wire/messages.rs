//! Anthropic's Messages.
//!
//! `input_tokens` leaves the cached ones out, and what a stream says of its usage is the sum so far.

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use super::{EventEffect, FinishReason, PartialReply, WireError};
use crate::event::Usage;
use crate::llm::Request;

/// The most places at which the provider can be told to keep what stands before.
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

struct TextBlocks<'a>(&'a Request, bool);

impl Serialize for TextBlocks<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut breakpoints = 0;
        // A block without text is refused by the server.
        let parts = self.0.parts.iter().filter(|part| !part.text.is_empty());
        serializer.collect_seq(parts.map(|part| {
            // The first ones: what stands before them is the same for the most prompts.
            let marks = self.1 && part.cache_here && breakpoints < MAX_BREAKPOINTS;
            breakpoints += usize::from(marks);
            TextBlock {
                r#type: "text",
                text: &part.text,
                cache_control: marks.then_some(CacheControl {
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
        content: TextBlocks(request, caches),
    };
    map.serialize_entry("messages", &[message])
}

/// What the server has counted so far.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct MessagesUsage {
    input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    output_tokens: Option<u64>,
}

impl MessagesUsage {
    fn updated_with(self, later: Self) -> Self {
        Self {
            input_tokens: later.input_tokens.or(self.input_tokens),
            cache_creation_input_tokens: later
                .cache_creation_input_tokens
                .or(self.cache_creation_input_tokens),
            cache_read_input_tokens: later
                .cache_read_input_tokens
                .or(self.cache_read_input_tokens),
            output_tokens: later.output_tokens.or(self.output_tokens),
        }
    }

    fn usage(self) -> Option<Usage> {
        Some(Usage {
            input: self.input_tokens?,
            cached: self.cache_read_input_tokens.unwrap_or(0),
            cache_write: self.cache_creation_input_tokens.unwrap_or(0),
            output: self.output_tokens?,
            reasoning: 0,
        })
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
        other => FinishReason::Unexpected(format!("the reply ended for the reason `{other}`")),
    }
}

pub(super) fn apply_event(
    data: &str,
    gathered: &mut PartialReply,
) -> serde_json::Result<EventEffect> {
    let event: MessagesEvent = serde_json::from_str(data)?;
    match event.r#type.as_str() {
        "message_start" => {
            if let Some(start) = event.message {
                gathered.served_by = start.model;
                gathered.messages_usage = start.usage.unwrap_or_default();
            }
        }
        "content_block_start" => {
            if let Some(block) = event.content_block.filter(|block| block.r#type == "text") {
                gathered.text.push_str(&block.text);
            }
        }
        "content_block_delta" => {
            if let Some(delta) = event.delta.filter(|delta| delta.r#type == "text_delta") {
                gathered.text.push_str(&delta.text);
            }
        }
        "message_delta" => {
            // Until here the output is a first count and no usage.
            if let Some(usage) = event.usage {
                gathered.messages_usage = gathered.messages_usage.updated_with(usage);
                gathered.usage = gathered.messages_usage.usage();
            }
            if let Some(reason) = event.delta.and_then(|delta| delta.stop_reason) {
                gathered.finish_reason = Some(finish_reason_of(&reason));
            }
        }
        "message_stop" => return Ok(EventEffect::Finished),
        "error" => {
            return Ok(EventEffect::Failed(WireError::from_json(
                &event.error.unwrap_or_default(),
            )));
        }
        // `ping`, the ends of blocks, and what is to come: the protocol asks clients to pass it over.
        _ => {}
    }
    Ok(EventEffect::Continue)
}

pub(super) fn apply_whole(
    data: &[u8],
    gathered: &mut PartialReply,
) -> serde_json::Result<EventEffect> {
    let whole: MessagesReply = serde_json::from_slice(data)?;
    if whole.r#type.as_deref() == Some("error") || whole.error.is_some() {
        return Ok(EventEffect::Failed(WireError::from_json(
            &whole.error.unwrap_or_default(),
        )));
    }
    for block in whole.content.iter().filter(|block| block.r#type == "text") {
        gathered.text.push_str(&block.text);
    }
    gathered.served_by = whole.model;
    gathered.usage = whole.usage.and_then(MessagesUsage::usage);
    gathered.finish_reason = whole.stop_reason.as_deref().map(finish_reason_of);
    Ok(EventEffect::Finished)
}
