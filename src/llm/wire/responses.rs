//! OpenAI Responses.
//!
//! Cached tokens are part of the input's tokens, and reasoning is part of the output's.

use serde::Deserialize;
use serde::ser::SerializeMap;
use serde_json::{Value, json};

use super::error::WireError;
use super::joined_parts::JoinedParts;
use super::partial_reply::{EventEffect, FinishReason, PartialReply};
use crate::event::Usage;
use crate::llm::Request;

pub(super) fn write_texts<M: SerializeMap>(map: &mut M, request: &Request) -> Result<(), M::Error> {
    if !request.system.is_empty() {
        map.serialize_entry("instructions", &request.system)?;
    }
    map.serialize_entry("input", &JoinedParts(&request.parts))
}

#[derive(Deserialize)]
struct ResponsesEvent {
    r#type: String,
    #[serde(default)]
    delta: Option<Value>,
    #[serde(default)]
    response: Option<ResponsesReply>,
    #[serde(default)]
    code: Option<Value>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct ResponsesReply {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    output: Option<Vec<OutputItem>>,
    #[serde(default)]
    incomplete_details: Option<IncompleteDetails>,
    #[serde(default)]
    usage: Option<ResponsesUsage>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct OutputItem {
    #[serde(default)]
    content: Option<Vec<OutputContent>>,
}

#[derive(Deserialize)]
struct OutputContent {
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    text: String,
    #[serde(default)]
    refusal: String,
}

#[derive(Deserialize)]
struct IncompleteDetails {
    #[serde(default)]
    reason: Option<String>,
}

#[derive(Deserialize)]
struct ResponsesUsage {
    #[serde(default)]
    input_tokens: Option<u64>,
    #[serde(default)]
    output_tokens: Option<u64>,
    #[serde(default)]
    input_tokens_details: Option<ResponsesUsageDetails>,
    #[serde(default)]
    output_tokens_details: Option<ResponsesUsageDetails>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ResponsesUsageDetails {
    cached_tokens: Option<u64>,
    reasoning_tokens: Option<u64>,
}

impl ResponsesUsage {
    fn usage(self) -> Option<Usage> {
        let (input, output) = (self.input_tokens?, self.output_tokens?);
        let read = self.input_tokens_details.unwrap_or_default();
        let made = self.output_tokens_details.unwrap_or_default();
        let cached = read.cached_tokens.unwrap_or(0).min(input);
        Some(Usage {
            input: input - cached,
            cached,
            cache_write: 0,
            output,
            reasoning: made.reasoning_tokens.unwrap_or(0).min(output),
        })
    }
}

/// Applies the response object, which comes at the end. Its text is used only if none was streamed.
fn apply_reply(whole: ResponsesReply, reply: &mut PartialReply) -> EventEffect {
    if let Some(error) = whole.error.filter(|error| !error.is_null()) {
        return EventEffect::Failed(WireError::from_json(&error));
    }
    reply.served_by = whole.model.or(reply.served_by.take());
    reply.usage = whole.usage.and_then(ResponsesUsage::usage).or(reply.usage);
    let was_streamed = !reply.text.is_empty();
    let mut refusal = String::new();
    let items = whole.output.unwrap_or_default();
    for content in items.into_iter().filter_map(|item| item.content).flatten() {
        match content.r#type.as_str() {
            "output_text" if !was_streamed => reply.text.push_str(&content.text),
            "refusal" => refusal.push_str(&content.refusal),
            _ => {}
        }
    }
    let details = whole.incomplete_details;
    let reason = details.and_then(|details| details.reason);
    reply.finish(if refusal.is_empty() {
        finish_reason_of(whole.status.as_deref(), reason.as_deref())
    } else {
        FinishReason::Refused(refusal)
    });
    EventEffect::Finished
}

fn finish_reason_of(status: Option<&str>, reason: Option<&str>) -> FinishReason {
    match (status, reason) {
        (Some("completed"), _) => FinishReason::Complete,
        // An incomplete reply without a reason is cut off as well.
        (Some("incomplete"), None | Some("max_output_tokens" | "max_tokens")) => {
            FinishReason::Truncated
        }
        (Some("incomplete"), Some("content_filter")) => {
            FinishReason::Refused("the reply ended with reason `content_filter`".to_owned())
        }
        (status, reason) => FinishReason::Unexpected(format!(
            "the reply ended with status `{}`{}",
            status.unwrap_or("none"),
            reason.map_or(String::new(), |reason| format!(" and reason `{reason}`"))
        )),
    }
}

pub(super) fn apply_event(data: &str, reply: &mut PartialReply) -> serde_json::Result<EventEffect> {
    if data.trim() == "[DONE]" {
        return Ok(EventEffect::Finished);
    }
    let event: ResponsesEvent = serde_json::from_str(data)?;
    let piece = event.delta.as_ref().and_then(Value::as_str);
    let piece = piece.unwrap_or_default();
    match event.r#type.as_str() {
        "response.output_text.delta" => reply.text.push_str(piece),
        "response.refusal.delta" => reply.add_refusal(piece),
        "response.completed" | "response.incomplete" | "response.failed" => {
            return Ok(match event.response {
                Some(response) => apply_reply(response, reply),
                None => EventEffect::Failed(WireError {
                    kind: String::new(),
                    message: format!("`{}` without a response", event.r#type),
                }),
            });
        }
        "error" => {
            let error = event.error.filter(|error| !error.is_null());
            let error = error.unwrap_or_else(
                || json!({"code": event.code, "message": event.message.unwrap_or_default()}),
            );
            return Ok(EventEffect::Failed(WireError::from_json(&error)));
        }
        _ => {}
    }
    Ok(EventEffect::Continue)
}

pub(super) fn apply_whole(
    data: &[u8],
    reply: &mut PartialReply,
) -> serde_json::Result<EventEffect> {
    Ok(apply_reply(serde_json::from_slice(data)?, reply))
}
