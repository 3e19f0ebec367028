//! OpenAI Responses.
//!
//! Cached tokens are part of the input's tokens, and reasoning is part of the output's.

use serde::Deserialize;
use serde::ser::SerializeMap;
use serde_json::{Value, json};

use super::count::deserialize_count;
use super::error::{WireError, is_error};
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

#[derive(Default, Deserialize)]
#[serde(default)]
struct ResponsesEvent {
    r#type: String,
    delta: Option<Value>,
    output_index: Option<u64>,
    response: Option<ResponsesReply>,
    code: Option<Value>,
    message: Option<String>,
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
    /// The arguments of a function call.
    #[serde(default)]
    arguments: Option<String>,
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
    #[serde(default, deserialize_with = "deserialize_count")]
    input_tokens: Option<u64>,
    #[serde(default, deserialize_with = "deserialize_count")]
    output_tokens: Option<u64>,
    #[serde(default)]
    input_tokens_details: Option<ResponsesUsageDetails>,
    #[serde(default)]
    output_tokens_details: Option<ResponsesUsageDetails>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ResponsesUsageDetails {
    #[serde(deserialize_with = "deserialize_count")]
    cached_tokens: Option<u64>,
    #[serde(deserialize_with = "deserialize_count")]
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
    let had_calls = !reply.tool_input.is_empty();
    let had_thoughts = !reply.reasoning.is_empty();
    let mut refusal = String::new();
    let items = whole.output.unwrap_or_default();
    reply.has_choice |= !items.is_empty();
    for (index, item) in (0..).zip(items) {
        if let Some(arguments) = item.arguments.filter(|_| !had_calls) {
            reply.add_tool_input(&arguments, index);
        }
        for content in item.content.into_iter().flatten() {
            match content.r#type.as_str() {
                "output_text" | "text" if !was_streamed => reply.text.push_str(&content.text),
                "reasoning_text" if !had_thoughts => reply.reasoning.push_str(&content.text),
                "refusal" => refusal.push_str(&content.refusal),
                _ => {}
            }
        }
    }
    let details = whole.incomplete_details;
    let reason = details.and_then(|details| details.reason);
    reply.finish(if refusal.is_empty() {
        finish_reason_of_status(whole.status.as_deref(), reason.as_deref())
    } else {
        FinishReason::Refused(refusal)
    });
    EventEffect::Finished
}

fn finish_reason_of_status(status: Option<&str>, reason: Option<&str>) -> FinishReason {
    match (status, reason) {
        (Some("completed"), _) | (None, None) => FinishReason::Complete,
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
    let value: Value = serde_json::from_str(data)?;
    let event = ResponsesEvent::deserialize(&value)?;
    let piece = event.delta.as_ref().and_then(Value::as_str);
    let piece = piece.unwrap_or_default();
    reply.has_choice |= !piece.is_empty();
    match event.r#type.as_str() {
        "response.output_text.delta" => reply.text.push_str(piece),
        "response.refusal.delta" => reply.add_refusal(piece),
        "response.reasoning_text.delta" | "response.reasoning_summary_text.delta" => {
            reply.reasoning.push_str(piece);
        }
        "response.function_call_arguments.delta" => {
            reply.add_tool_input(piece, event.output_index.unwrap_or(0));
        }
        "response.completed" | "response.incomplete" | "response.failed" => {
            return Ok(match event.response {
                Some(response) => apply_reply(response, reply),
                None => EventEffect::Failed(WireError::from_message(format!(
                    "`{}` without a response",
                    event.r#type
                ))),
            });
        }
        "error" => {
            let error = event.error.filter(|error| !error.is_null());
            let error = error.unwrap_or_else(
                || json!({"code": event.code, "message": event.message.unwrap_or_default()}),
            );
            return Ok(EventEffect::Failed(WireError::from_json(&error)));
        }
        // A proxy may send an error of another protocol.
        "" if value.as_object().is_some_and(is_error) => {
            return Ok(EventEffect::Failed(WireError::from_json(&value)));
        }
        _ => {}
    }
    Ok(EventEffect::Continue)
}

pub(super) fn apply_whole(
    data: &[u8],
    reply: &mut PartialReply,
) -> serde_json::Result<EventEffect> {
    let value: Value = serde_json::from_slice(data)?;
    let is_reply = value.get("output").is_some() || value.get("status").is_some();
    let has_error = value.get("error").is_some_and(|error| !error.is_null());
    if has_error || !is_reply {
        return Ok(EventEffect::Failed(WireError::from_json(&value)));
    }
    Ok(apply_reply(ResponsesReply::deserialize(&value)?, reply))
}
