//! OpenAI Chat Completions, and the variations of compatible servers.
//!
//! Cached tokens are part of the prompt's tokens. Some servers leave reasoning out of the completion's tokens and count it only in
//! the total: the larger number is what they bill.

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::WireError;
use super::joined_parts::JoinedParts;
use super::partial_reply::{EventEffect, FinishReason, PartialReply};
use crate::event::Usage;
use crate::llm::Request;

#[derive(Serialize)]
struct ChatMessage<T> {
    role: &'static str,
    content: T,
}

pub(super) fn write_texts<M: SerializeMap>(map: &mut M, request: &Request) -> Result<(), M::Error> {
    let user = ChatMessage {
        role: "user",
        content: JoinedParts(&request.parts),
    };
    if request.system.is_empty() {
        return map.serialize_entry("messages", &[user]);
    }
    let system = ChatMessage {
        role: "system",
        content: request.system.as_str(),
    };
    map.serialize_entry("messages", &(system, user))
}

#[derive(Deserialize)]
struct ChatChunk {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    choices: Option<Vec<ChatChoice>>,
    #[serde(default)]
    usage: Option<ChatUsage>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct ChatChoice {
    #[serde(default)]
    delta: Option<ChatDelta>,
    #[serde(default)]
    message: Option<ChatDelta>,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct ChatDelta {
    #[serde(default)]
    content: Option<ChatContent>,
    #[serde(default)]
    refusal: Option<String>,
}

/// A text, or a list of texts.
#[derive(Deserialize)]
#[serde(untagged)]
enum ChatContent {
    Text(String),
    Parts(Vec<TextPart>),
}

#[derive(Deserialize)]
struct TextPart {
    #[serde(default)]
    text: String,
}

#[derive(Deserialize)]
struct ChatUsage {
    #[serde(default)]
    prompt_tokens: Option<u64>,
    #[serde(default)]
    completion_tokens: Option<u64>,
    #[serde(default)]
    total_tokens: Option<u64>,
    #[serde(default)]
    prompt_tokens_details: Option<ChatUsageDetails>,
    #[serde(default)]
    completion_tokens_details: Option<ChatUsageDetails>,
    /// DeepSeek's name for cached tokens.
    #[serde(default)]
    prompt_cache_hit_tokens: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ChatUsageDetails {
    cached_tokens: Option<u64>,
    cache_write_tokens: Option<u64>,
    reasoning_tokens: Option<u64>,
}

impl ChatUsage {
    fn usage(self) -> Option<Usage> {
        let (prompt, completion) = (self.prompt_tokens?, self.completion_tokens?);
        let read = self.prompt_tokens_details.unwrap_or_default();
        let made = self.completion_tokens_details.unwrap_or_default();
        let cached = read
            .cached_tokens
            .or(self.prompt_cache_hit_tokens)
            .unwrap_or(0)
            .min(prompt);
        let cache_write = read.cache_write_tokens.unwrap_or(0).min(prompt - cached);
        let rest = self.total_tokens.unwrap_or(0).saturating_sub(prompt);
        let output = completion.max(rest);
        Some(Usage {
            input: prompt - cached - cache_write,
            cached,
            cache_write,
            output,
            reasoning: made
                .reasoning_tokens
                .unwrap_or(output - completion)
                .min(output),
        })
    }
}

fn finish_reason_of(reason: &str) -> FinishReason {
    match reason.to_lowercase().as_str() {
        "stop" | "end_turn" | "stop_sequence" | "eos" | "eos_token" => FinishReason::Complete,
        "length" | "max_tokens" | "model_length" => FinishReason::Truncated,
        "content_filter" | "safety" | "refusal" => {
            FinishReason::Refused(format!("the reply ended with finish reason `{reason}`"))
        }
        _ => FinishReason::Unexpected(format!("the reply ended with finish reason `{reason}`")),
    }
}

fn apply_chunk(chunk: ChatChunk, reply: &mut PartialReply) -> EventEffect {
    if let Some(error) = chunk.error.filter(|error| !error.is_null()) {
        return EventEffect::Failed(WireError::from_json(&error));
    }
    if chunk.model.is_some() && reply.served_by.is_none() {
        reply.served_by = chunk.model;
    }
    if let Some(usage) = chunk.usage.and_then(ChatUsage::usage) {
        reply.usage = Some(usage);
    }
    // The request asks for one choice.
    let Some(choice) = chunk.choices.and_then(|choices| choices.into_iter().next()) else {
        return EventEffect::Continue;
    };
    if let Some(reason) = choice.finish_reason.filter(|reason| !reason.is_empty()) {
        reply.finish(finish_reason_of(&reason));
    }
    if let Some(delta) = choice.delta.or(choice.message) {
        match delta.content {
            Some(ChatContent::Text(text)) => reply.text.push_str(&text),
            Some(ChatContent::Parts(parts)) => parts
                .iter()
                .for_each(|part| reply.text.push_str(&part.text)),
            None => {}
        }
        if let Some(refusal) = delta.refusal.filter(|refusal| !refusal.is_empty()) {
            reply.add_refusal(&refusal);
        }
    }
    EventEffect::Continue
}

pub(super) fn apply_event(data: &str, reply: &mut PartialReply) -> serde_json::Result<EventEffect> {
    if data.trim() == "[DONE]" {
        return Ok(EventEffect::Finished);
    }
    Ok(apply_chunk(serde_json::from_str(data)?, reply))
}

pub(super) fn apply_whole(
    data: &[u8],
    reply: &mut PartialReply,
) -> serde_json::Result<EventEffect> {
    Ok(match apply_chunk(serde_json::from_slice(data)?, reply) {
        EventEffect::Continue => EventEffect::Finished,
        effect => effect,
    })
}
