//! OpenAI's Responses.
//!
//! Cached tokens are a part of the input's, reasoning is a part of the output.

use serde::Deserialize;
use serde::ser::SerializeMap;
use serde_json::Value;

use super::{EventEffect, FinishReason, JoinedParts, PartialReply, WireError};
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

/// The response object at its end. Its text counts where no piece of it came before.
fn apply_reply(whole: ResponsesReply, gathered: &mut PartialReply) -> EventEffect {
    if let Some(error) = whole.error.filter(|error| !error.is_null()) {
        return EventEffect::Failed(WireError::from_json(&error));
    }
    gathered.served_by = whole.model.or(gathered.served_by.take());
    gathered.usage = whole
        .usage
        .and_then(ResponsesUsage::usage)
        .or(gathered.usage);
    let had_text = !gathered.text.is_empty();
    let mut refusal = String::new();
    let items = whole.output.unwrap_or_default();
    for content in items.into_iter().filter_map(|item| item.content).flatten() {
        match content.r#type.as_str() {
            "output_text" if !had_text => gathered.text.push_str(&content.text),
            "refusal" => refusal.push_str(&content.refusal),
            _ => {}
        }
    }
    let reason = whole.incomplete_details.and_then(|details| details.reason);
    let end = match (whole.status.as_deref(), reason.as_deref()) {
        _ if !refusal.is_empty() => FinishReason::Refused(refusal),
        (Some("completed"), _) => FinishReason::Complete,
        // Where no reason is given it is not whole all the same.
        (Some("incomplete"), None | Some("max_output_tokens" | "max_tokens")) => {
            FinishReason::Truncated
        }
        (Some("incomplete"), Some("content_filter")) => {
            FinishReason::Refused("the reply ended for the reason `content_filter`".to_owned())
        }
        (status, reason) => FinishReason::Unexpected(format!(
            "the reply ended with the status `{}`{}",
            status.unwrap_or("none"),
            reason.map_or(String::new(), |reason| format!(
                " for the reason `{reason}`"
            ))
        )),
    };
    // A refusal that came in pieces stands.
    if !matches!(gathered.finish_reason, Some(FinishReason::Refused(_))) {
        gathered.finish_reason = Some(end);
    }
    EventEffect::Finished
}

pub(super) fn apply_event(
    data: &str,
    gathered: &mut PartialReply,
) -> serde_json::Result<EventEffect> {
    if data.trim() == "[DONE]" {
        return Ok(EventEffect::Finished);
    }
    let event: ResponsesEvent = serde_json::from_str(data)?;
    let piece = event.delta.as_ref().and_then(Value::as_str);
    match event.r#type.as_str() {
        "response.output_text.delta" => gathered.text.push_str(piece.unwrap_or_default()),
        "response.refusal.delta" => {
            let piece = piece.unwrap_or_default();
            match &mut gathered.finish_reason {
                Some(FinishReason::Refused(words)) => words.push_str(piece),
                end => *end = Some(FinishReason::Refused(piece.to_owned())),
            }
        }
        "response.completed" | "response.incomplete" | "response.failed" => {
            return Ok(match event.response {
                Some(response) => apply_reply(response, gathered),
                None => EventEffect::Failed(WireError {
                    kind: String::new(),
                    message: format!("`{}` without a response", event.r#type),
                }),
            });
        }
        "error" => {
            let trouble = match event.error.filter(|error| !error.is_null()) {
                Some(error) => WireError::from_json(&error),
                None => WireError::from_json(&serde_json::json!({
                    "code": event.code,
                    "message": event.message.unwrap_or_default(),
                })),
            };
            return Ok(EventEffect::Failed(trouble));
        }
        _ => {}
    }
    Ok(EventEffect::Continue)
}

pub(super) fn apply_whole(
    data: &[u8],
    gathered: &mut PartialReply,
) -> serde_json::Result<EventEffect> {
    Ok(apply_reply(serde_json::from_slice(data)?, gathered))
}
