//! OpenAI Chat Completions, and the variations of compatible servers.
//!
//! Replies are read field by field: a field of another type than OpenAI's is ignored, so that it cannot discard the reply's text.
//! Cached tokens are part of the prompt's tokens. Some servers leave reasoning out of the completion's tokens and count it only in
//! the total: the larger number is what they bill.

use serde::Serialize;
use serde::ser::SerializeMap;
use serde_json::Value;

use super::count::count_of;
use super::error::{WireError, is_error};
use super::joined_parts::JoinedParts;
use super::partial_reply::{EventEffect, FinishReason, PartialReply, finish_reason_of};
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

/// Token counts. Every server has its own notation.
fn usage_of(usage: &Value) -> Option<Usage> {
    let count = |path: &str| usage.pointer(path).and_then(count_of);
    let prompt = count("/prompt_tokens").or_else(|| count("/input_tokens"))?;
    let completion = count("/completion_tokens").or_else(|| count("/output_tokens"))?;
    // `prompt_cache_hit_tokens` is DeepSeek's name.
    let cached = count("/prompt_tokens_details/cached_tokens")
        .or_else(|| count("/prompt_cache_hit_tokens"))
        .unwrap_or(0)
        .min(prompt);
    let cache_write = count("/prompt_tokens_details/cache_write_tokens")
        .unwrap_or(0)
        .min(prompt - cached);
    let rest = count("/total_tokens").unwrap_or(0).saturating_sub(prompt);
    let output = completion.max(rest);
    Some(Usage {
        input: prompt - cached - cache_write,
        cached,
        cache_write,
        output,
        reasoning: count("/completion_tokens_details/reasoning_tokens")
            .unwrap_or(output - completion)
            .min(output),
    })
}

/// Applies a chunk of a stream, or a whole reply: both have the same fields.
fn apply_chunk(chunk: &Value, reply: &mut PartialReply) -> EventEffect {
    let Some(fields) = chunk.as_object() else {
        return EventEffect::Failed(WireError::from_json(chunk));
    };
    let choices = fields.get("choices").and_then(Value::as_array);
    // The request asks for one choice.
    let choice = choices.and_then(|choices| choices.first());
    if let Some(name) = fields.get("model").and_then(Value::as_str)
        && reply.served_by.is_none()
    {
        reply.served_by = Some(name.to_owned());
    }
    if let Some(usage) = fields.get("usage").and_then(usage_of) {
        reply.usage = Some(usage);
    }
    if let Some(choice) = choice {
        apply_choice(choice, reply);
    }
    // A router may put the error next to what it has of the reply, or into the choice.
    let in_choice = choice.and_then(|choice| choice.get("error"));
    if let Some(error) = in_choice.filter(|error| is_set(error)) {
        return EventEffect::Failed(WireError::from_json(error));
    }
    let has_error = fields.get("error").is_some_and(is_set);
    if has_error || choices.is_none() && !fields.contains_key("usage") && is_error(fields) {
        return EventEffect::Failed(WireError::from_json(chunk));
    }
    EventEffect::Continue
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    }
}

fn apply_choice(choice: &Value, reply: &mut PartialReply) {
    reply.has_choice = true;
    let delta = [choice.get("delta"), choice.get("message")];
    for delta in delta.into_iter().flatten() {
        apply_delta(delta, reply);
    }
    // Servers that speak the older completions protocol.
    if let Some(text) = choice.get("text").and_then(Value::as_str) {
        reply.text.push_str(text);
    }
    let reason = choice.get("finish_reason").and_then(Value::as_str);
    if let Some(reason) = reason.filter(|reason| !reason.is_empty()) {
        reply.finish(finish_reason_of(reason));
    } else if choice.get("message").is_some_and(Value::is_object) {
        // A whole message, though in a stream.
        reply.finish(FinishReason::Complete);
    }
}

fn apply_delta(delta: &Value, reply: &mut PartialReply) {
    if let Some(content) = delta.get("content") {
        apply_content(content, reply);
    }
    // Each server has one of these names; OpenRouter may send two with the same text.
    let thoughts = ["reasoning_content", "reasoning", "thinking"];
    let thoughts = thoughts
        .into_iter()
        .find_map(|name| delta.get(name)?.as_str());
    reply.reasoning.push_str(thoughts.unwrap_or_default());
    if let Some(refusal) = delta.get("refusal").and_then(Value::as_str)
        && !refusal.is_empty()
    {
        reply.add_refusal(refusal);
    }
    let calls = delta.get("tool_calls").and_then(Value::as_array);
    for (position, call) in (0..).zip(calls.into_iter().flatten()) {
        let index = call.get("index").and_then(Value::as_u64);
        let function = call.get("function").unwrap_or(call);
        apply_tool_call(function, index.unwrap_or(position), reply);
    }
    if let Some(function) = delta.get("function_call") {
        apply_tool_call(function, 0, reply);
    }
}

fn apply_tool_call(function: &Value, index: u64, reply: &mut PartialReply) {
    match function.get("arguments") {
        Some(Value::String(text)) => reply.add_tool_input(text, index),
        Some(arguments @ Value::Object(_)) => reply.add_tool_input(&arguments.to_string(), index),
        _ => {}
    }
}

/// A text, or a list of parts: texts, and thoughts apart from them.
fn apply_content(content: &Value, reply: &mut PartialReply) {
    match content {
        Value::String(text) => reply.text.push_str(text),
        Value::Array(parts) => parts.iter().for_each(|part| apply_content(part, reply)),
        Value::Object(part) => {
            let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
            if matches!(kind, "thinking" | "reasoning") {
                let mut thoughts = PartialReply::default();
                for name in ["thinking", "reasoning", "text"] {
                    part.get(name)
                        .into_iter()
                        .for_each(|value| apply_content(value, &mut thoughts));
                }
                reply.reasoning.push_str(&thoughts.text);
            } else if let Some(refusal) = part.get("refusal").and_then(Value::as_str) {
                reply.add_refusal(refusal);
            } else if let Some(text) = part.get("text") {
                // Some servers wrap the text once more: `{"text": {"value": …}}`.
                apply_content(text.get("value").unwrap_or(text), reply);
            }
        }
        _ => {}
    }
}

pub(super) fn apply_event(data: &str, reply: &mut PartialReply) -> serde_json::Result<EventEffect> {
    Ok(apply_chunk(&serde_json::from_str(data)?, reply))
}

pub(super) fn apply_whole(
    data: &[u8],
    reply: &mut PartialReply,
) -> serde_json::Result<EventEffect> {
    let whole = serde_json::from_slice(data)?;
    let effect = apply_chunk(&whole, reply);
    let is_foreign =
        effect == EventEffect::Continue && !reply.has_choice && whole.get("choices").is_none();
    Ok(match effect {
        // An object of some other protocol.
        _ if is_foreign => EventEffect::Failed(WireError::from_json(&whole)),
        EventEffect::Continue => EventEffect::Finished,
        effect => effect,
    })
}
