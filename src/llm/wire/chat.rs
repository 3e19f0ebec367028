//! OpenAI's Chat Completions, and what compatible servers make of them.
//!
//! Cached tokens are a part of the prompt's. Some servers leave reasoning out of the completion's count and have it in the total
//! alone: what is billed is the larger.

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{End, Gathered, Joined, Said, Trouble};
use crate::event::Usage;
use crate::llm::Request;

#[derive(Serialize)]
struct Message<T> {
    role: &'static str,
    content: T,
}

pub(super) fn texts<M: SerializeMap>(map: &mut M, request: &Request) -> Result<(), M::Error> {
    let user = Message {
        role: "user",
        content: Joined(&request.parts),
    };
    if request.system.is_empty() {
        return map.serialize_entry("messages", &[user]);
    }
    let system = Message {
        role: "system",
        content: request.system.as_str(),
    };
    map.serialize_entry("messages", &(system, user))
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    choices: Option<Vec<Choice>>,
    #[serde(default)]
    usage: Option<Counted>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Option<Piece>,
    #[serde(default)]
    message: Option<Piece>,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Piece {
    #[serde(default)]
    content: Option<Content>,
    #[serde(default)]
    refusal: Option<String>,
}

/// A text, or a list of texts.
#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<TextPart>),
}

#[derive(Deserialize)]
struct TextPart {
    #[serde(default)]
    text: String,
}

#[derive(Deserialize)]
struct Counted {
    #[serde(default)]
    prompt_tokens: Option<u64>,
    #[serde(default)]
    completion_tokens: Option<u64>,
    #[serde(default)]
    total_tokens: Option<u64>,
    #[serde(default)]
    prompt_tokens_details: Option<Details>,
    #[serde(default)]
    completion_tokens_details: Option<Details>,
    /// As DeepSeek has it.
    #[serde(default)]
    prompt_cache_hit_tokens: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Details {
    cached_tokens: Option<u64>,
    cache_write_tokens: Option<u64>,
    reasoning_tokens: Option<u64>,
}

impl Counted {
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

fn end(reason: &str) -> End {
    match reason.to_lowercase().as_str() {
        "stop" | "end_turn" | "stop_sequence" | "eos" | "eos_token" => End::Complete,
        "length" | "max_tokens" | "model_length" => End::Truncated,
        "content_filter" | "safety" | "refusal" => {
            End::Refused(format!("the reply ended for the reason `{reason}`"))
        }
        _ => End::Odd(format!("the reply ended for the reason `{reason}`")),
    }
}

fn take(chunk: Chunk, gathered: &mut Gathered) -> Said {
    if let Some(error) = chunk.error.filter(|error| !error.is_null()) {
        return Said::Failed(Trouble::read(&error));
    }
    if chunk.model.is_some() && gathered.served_by.is_none() {
        gathered.served_by = chunk.model;
    }
    if let Some(usage) = chunk.usage.and_then(Counted::usage) {
        gathered.usage = Some(usage);
    }
    // One reply was asked for: more choices would be somebody else's.
    let Some(choice) = chunk.choices.and_then(|choices| choices.into_iter().next()) else {
        return Said::More;
    };
    if let Some(reason) = choice.finish_reason.filter(|reason| !reason.is_empty()) {
        let is_refused = matches!(gathered.end, Some(End::Refused(_)));
        if !is_refused {
            gathered.end = Some(end(&reason));
        }
    }
    if let Some(piece) = choice.delta.or(choice.message) {
        match piece.content {
            Some(Content::Text(text)) => gathered.text.push_str(&text),
            Some(Content::Parts(parts)) => parts
                .iter()
                .for_each(|part| gathered.text.push_str(&part.text)),
            None => {}
        }
        if let Some(refusal) = piece.refusal.filter(|refusal| !refusal.is_empty()) {
            match &mut gathered.end {
                Some(End::Refused(words)) => words.push_str(&refusal),
                end => *end = Some(End::Refused(refusal)),
            }
        }
    }
    Said::More
}

pub(super) fn event(data: &str, gathered: &mut Gathered) -> serde_json::Result<Said> {
    if data.trim() == "[DONE]" {
        return Ok(Said::Last);
    }
    Ok(take(serde_json::from_str(data)?, gathered))
}

pub(super) fn whole(data: &[u8], gathered: &mut Gathered) -> serde_json::Result<Said> {
    Ok(match take(serde_json::from_slice(data)?, gathered) {
        Said::More => Said::Last,
        said => said,
    })
}
