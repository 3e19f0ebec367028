//! The three protocols: a question as the bytes of a request's body, and what a server says as a reply.
//!
//! Pure: opens no connection. Texts are written into the body where they lie, without a copy in between.

use std::fmt;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::models::{ModelSettings, ProviderName};
use super::{PromptPart, Request};
use crate::base::Failure;
use crate::base::text::did_you_mean;
use crate::event::Usage;

mod chat;
mod messages;
mod responses;

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Anthropic's Messages.
    Messages,
    /// OpenAI's Chat Completions.
    Chat,
    /// OpenAI's Responses.
    Responses,
}

/// What has come of a reply so far.
#[derive(Debug, Default)]
pub(super) struct PartialReply {
    pub text: String,
    pub usage: Option<Usage>,
    /// How the model ended; `None` while it has not.
    pub finish_reason: Option<FinishReason>,
    /// The model that answered, as the server calls it.
    pub served_by: Option<String>,
    /// What Anthropic has said of the usage so far.
    messages_usage: messages::MessagesUsage,
}

/// Why a model stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FinishReason {
    Complete,
    Truncated,
    Refused(String),
    /// For a reason that has no place in a question for text.
    Unexpected(String),
}

/// What an event of a stream came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum EventEffect {
    Continue,
    /// The protocol's last event.
    Finished,
    /// The server gave up.
    Failed(WireError),
}

/// What a server says is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct WireError {
    /// Its types and codes, in lower case, each followed by a space.
    pub kind: String,
    pub message: String,
}

/// Every setting of how a model writes, by the name that it has in the config.
const SETTINGS: [&str; 8] = [
    "max_output_tokens",
    "temperature",
    "top_p",
    "top_k",
    "effort",
    "thinking_tokens",
    "seed",
    "stop",
];

/// Fields of a request that kforge alone decides about: with another value the reply would be another thing, or cost more than
/// was reserved.
const RESERVED_FIELDS: [&str; 13] = [
    "model",
    "messages",
    "system",
    "instructions",
    "input",
    "stream",
    "n",
    "best_of",
    "tools",
    "functions",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
];

impl Protocol {
    pub(super) fn for_provider(provider: ProviderName) -> Option<Self> {
        match provider {
            ProviderName::Anthropic => Some(Protocol::Messages),
            ProviderName::Responses => Some(Protocol::Responses),
            ProviderName::Openai
            | ProviderName::Gemini
            | ProviderName::Openrouter
            | ProviderName::Deepseek
            | ProviderName::Together
            | ProviderName::Ollama => Some(Protocol::Chat),
            ProviderName::Command | ProviderName::Mailbox | ProviderName::Replay => None,
        }
    }

    /// The address, from the one in the config.
    pub(super) fn url(self, base: &str) -> String {
        let base = base.trim_end_matches('/');
        match self {
            Protocol::Messages => {
                format!("{}/v1/messages", base.strip_suffix("/v1").unwrap_or(base))
            }
            Protocol::Chat => format!("{base}/chat/completions"),
            Protocol::Responses => format!("{base}/responses"),
        }
    }

    /// What the protocol calls a setting; `None` where it has no such thing.
    fn default_field_path(self, setting: &str, provider: ProviderName) -> Option<&'static str> {
        Some(match (self, setting) {
            (_, "temperature") => "temperature",
            (_, "top_p") => "top_p",
            (_, "top_k") => "top_k",
            (Protocol::Messages, "max_output_tokens") => "max_tokens",
            (Protocol::Messages, "effort") => "output_config.effort",
            (Protocol::Messages, "thinking_tokens") => "thinking.budget_tokens",
            (Protocol::Messages, "stop") => "stop_sequences",
            (Protocol::Chat, "max_output_tokens") => match provider {
                ProviderName::Openai | ProviderName::Gemini => "max_completion_tokens",
                _ => "max_tokens",
            },
            (Protocol::Chat, "effort") => match provider {
                ProviderName::Openrouter => "reasoning.effort",
                _ => "reasoning_effort",
            },
            (Protocol::Chat, "thinking_tokens") if provider == ProviderName::Openrouter => {
                "reasoning.max_tokens"
            }
            (Protocol::Chat, "seed") => "seed",
            (Protocol::Chat, "stop") => "stop",
            (Protocol::Responses, "max_output_tokens") => "max_output_tokens",
            (Protocol::Responses, "effort") => "reasoning.effort",
            _ => return None,
        })
    }

    /// The whole body.
    pub(super) fn body(
        self,
        model: &ModelSettings,
        request: &Request,
    ) -> serde_json::Result<Vec<u8>> {
        let small = self.fields_without_text(model, request.max_output);
        let body = RequestBody {
            wire: self,
            fields: &small,
            caches: model.cache.unwrap_or(true),
            request,
        };
        // Source code has a character in ten that JSON escapes.
        let mut bytes = Vec::with_capacity(request.bytes() + request.bytes() / 8 + 2048);
        serde_json::to_writer(&mut bytes, &body)?;
        Ok(bytes)
    }

    /// Everything but the texts.
    fn fields_without_text(self, model: &ModelSettings, most_output: u64) -> Map<String, Value> {
        let mut small = Map::new();
        let is_streamed = model.stream.unwrap_or(true);
        small.insert("model".to_owned(), json!(model.model));
        if self == Protocol::Chat && is_streamed {
            small.insert("stream_options".to_owned(), json!({"include_usage": true}));
        }
        if self == Protocol::Responses {
            // Nothing is asked for twice: no conversation needs to be kept there.
            small.insert("store".to_owned(), json!(false));
        }
        for (setting, value) in configured_settings(model, most_output) {
            if let Some(path) = self.field_path(model, setting) {
                set_at_path(&mut small, path, value);
                if path == "thinking.budget_tokens" {
                    set_at_path(&mut small, "thinking.type", json!("enabled"));
                }
            }
        }
        merge_fields(&mut small, &model.extra);
        small.insert("stream".to_owned(), json!(is_streamed));
        small
    }

    fn field_path<'a>(self, model: &'a ModelSettings, setting: &str) -> Option<&'a str> {
        match model.fields.get(setting) {
            Some(path) => Some(path),
            None => self.default_field_path(setting, model.provider),
        }
    }

    /// The setting of the config that a server's message complains of.
    pub(super) fn setting_named_in(
        self,
        model: &ModelSettings,
        message: &str,
    ) -> Option<&'static str> {
        let given = configured_settings(model, 0);
        let mut names = given.iter().map(|(name, _)| *name);
        // What is set by hand is the likelier cause than the cap, which every request has.
        let named = |name: &&str| {
            let path = self.field_path(model, name).unwrap_or(name);
            let last = path.rsplit('.').next().unwrap_or(path);
            message.contains(last) || message.contains(*name)
        };
        let cap = names.next().filter(named);
        names.find(named).or(cap)
    }

    /// One event of a stream.
    pub(super) fn apply_event(
        self,
        data: &str,
        gathered: &mut PartialReply,
    ) -> Result<EventEffect, String> {
        match self {
            Protocol::Messages => messages::apply_event(data, gathered),
            Protocol::Chat => chat::apply_event(data, gathered),
            Protocol::Responses => responses::apply_event(data, gathered),
        }
        .map_err(|error| format!("an event of the stream cannot be read: {error}"))
    }

    /// A reply that came as a whole.
    pub(super) fn apply_whole(
        self,
        data: &[u8],
        gathered: &mut PartialReply,
    ) -> Result<EventEffect, String> {
        match self {
            Protocol::Messages => messages::apply_whole(data, gathered),
            Protocol::Chat => chat::apply_whole(data, gathered),
            Protocol::Responses => responses::apply_whole(data, gathered),
        }
        .map_err(|error| format!("the reply cannot be read: {error}"))
    }
}

/// The settings that are given, with their values.
fn configured_settings(model: &ModelSettings, most_output: u64) -> Vec<(&'static str, Value)> {
    let stop = (!model.stop.is_empty()).then(|| json!(model.stop));
    let values = [
        Some(json!(most_output)),
        model.temperature.map(|value| json!(value)),
        model.top_p.map(|value| json!(value)),
        model.top_k.map(|value| json!(value)),
        model.effort.as_ref().map(|value| json!(value)),
        model.thinking_tokens.map(|value| json!(value)),
        model.seed.map(|value| json!(value)),
        stop,
    ];
    let named = SETTINGS.into_iter().zip(values);
    named
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
}

/// Whether everything that the config sets has a place in the protocol.
pub(super) fn check_model(key: &str, model: &ModelSettings) -> Result<(), Failure> {
    let Some(wire) = Protocol::for_provider(model.provider) else {
        return Ok(());
    };
    for (name, path) in &model.fields {
        if !SETTINGS.contains(&name.as_str()) {
            return Err(
                Failure::usage(format!("unknown setting `{name}` in `{key}.fields`"))
                    .hint(did_you_mean(name, SETTINGS)),
            );
        }
        let root = path.split('.').next().unwrap_or_default();
        let is_cap = name == "max_output_tokens" && root.starts_with("max_");
        if path.split('.').any(str::is_empty) || (RESERVED_FIELDS.contains(&root) && !is_cap) {
            return Err(Failure::usage(format!("`{key}.fields.{name}` cannot be `{path}`"))
                .hint("a path into the request, such as `reasoning.effort`, to a field that kforge does not fill itself"));
        }
    }
    let cap = model.max_output_tokens();
    for (setting, _) in configured_settings(model, cap) {
        if wire.field_path(model, setting).is_none() {
            return Err(Failure::usage(format!(
                "`{key}.{setting}`: the provider `{}` has no such setting",
                model.provider.name()
            ))
            .hint(format!(
                "leave it out, or say where this server takes it: `fields: {{{setting}: …}}`"
            )));
        }
    }
    if let Some(own) = RESERVED_FIELDS
        .iter()
        .find(|own| model.extra.contains_key(**own))
    {
        return Err(Failure::usage(format!("`{key}.extra.{own}` is kforge's own to fill")).hint(
            "leave it out; the most tokens of a reply are `max_output_tokens`, and one question has one reply in text",
        ));
    }
    let small = wire.fields_without_text(model, cap);
    let place = wire
        .field_path(model, "max_output_tokens")
        .unwrap_or_default();
    let pointer = format!("/{}", place.replace('.', "/"));
    if Value::Object(small).pointer(&pointer) != Some(&json!(cap)) {
        return Err(Failure::usage(format!(
            "`{key}.extra` would take the cap of the reply out of the request"
        ))
        .hint(format!("leave `{place}` to `max_output_tokens`")));
    }
    Ok(())
}

/// Sets the value at a path of names.
fn set_at_path(map: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            map.insert(path.to_owned(), value);
        }
        Some((first, rest)) => {
            let inner = map
                .entry(first)
                .or_insert_with(|| Value::Object(Map::new()));
            if !inner.is_object() {
                *inner = Value::Object(Map::new());
            }
            if let Value::Object(inner) = inner {
                set_at_path(inner, rest, value);
            }
        }
    }
}

/// Objects are merged, other values replaced, and `null` takes a field out.
fn merge_fields(map: &mut Map<String, Value>, extra: &Map<String, Value>) {
    for (key, value) in extra {
        match (map.get_mut(key), value) {
            (_, Value::Null) => {
                map.shift_remove(key);
            }
            (Some(Value::Object(inner)), Value::Object(more)) => merge_fields(inner, more),
            _ => {
                map.insert(key.clone(), value.clone());
            }
        }
    }
}

/// A request's body as it is written.
struct RequestBody<'a> {
    wire: Protocol,
    fields: &'a Map<String, Value>,
    caches: bool,
    request: &'a Request,
}

impl Serialize for RequestBody<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in self.fields {
            map.serialize_entry(key, value)?;
        }
        match self.wire {
            Protocol::Messages => messages::write_texts(&mut map, self.request, self.caches)?,
            Protocol::Chat => chat::write_texts(&mut map, self.request)?,
            Protocol::Responses => responses::write_texts(&mut map, self.request)?,
        }
        map.end()
    }
}

/// All parts of a prompt as one text, written without being put together first.
struct JoinedParts<'a>(&'a [PromptPart]);

impl fmt::Display for JoinedParts<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|part| formatter.write_str(&part.text))
    }
}

impl Serialize for JoinedParts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            [only] => serializer.serialize_str(&only.text),
            _ => serializer.collect_str(self),
        }
    }
}

impl WireError {
    /// From what a server puts into `error`, or at the top where it has no such field.
    pub(super) fn from_json(value: &Value) -> Self {
        let inner = match value.get("error") {
            Some(error) if !error.is_null() => error,
            _ => value,
        };
        let word = |name: &str| match inner.get(name) {
            Some(Value::String(text)) => format!("{} ", text.to_lowercase()),
            Some(Value::Number(number)) => format!("{number} "),
            _ => String::new(),
        };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let said = ["message", "detail", "error"].map(|name| inner.get(name).and_then(text));
        let message = said
            .into_iter()
            .flatten()
            .next()
            .or_else(|| text(inner))
            .unwrap_or_else(|| inner.to_string());
        Self {
            kind: word("type") + &word("code") + &word("status"),
            message,
        }
    }

    /// Whether the same question would be answered so for ever.
    pub(super) fn is_permanent(&self) -> bool {
        const WORDS: [&str; 9] = [
            "invalid_request",
            "authentication",
            "permission",
            "not_found",
            "billing",
            "insufficient_quota",
            "invalid_api_key",
            "model_not_found",
            "context_length_exceeded",
        ];
        WORDS.iter().any(|word| self.kind.contains(word)) || self.is_out_of_funds()
    }

    /// Whether money or a limit of spending is what is missing: no patience helps.
    pub(super) fn is_out_of_funds(&self) -> bool {
        const KINDS: [&str; 4] = [
            "insufficient_quota",
            "billing",
            "insufficient_balance",
            "payment_required",
        ];
        const WORDS: [&str; 9] = [
            "spend limit",
            "spending limit",
            "spend cap",
            "credit balance",
            "insufficient credits",
            "insufficient balance",
            "exceeded your current quota",
            "usage limits",
            "billing",
        ];
        let message = self.message.to_lowercase();
        KINDS.iter().any(|kind| self.kind.contains(kind))
            || WORDS.iter().any(|word| message.contains(word))
    }
}
