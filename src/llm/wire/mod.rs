//! The three protocols: a question as the bytes of a request's body, and what a server says as a reply.
//!
//! Pure: opens no connection. Texts are written into the body where they lie, without a copy in between.

use std::fmt;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::models::{Model, ProviderName};
use super::{Part, Request};
use crate::base::Failure;
use crate::base::text::did_you_mean;
use crate::event::Usage;

mod chat;
mod messages;
mod responses;

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    /// Anthropic's Messages.
    Messages,
    /// OpenAI's Chat Completions.
    Chat,
    /// OpenAI's Responses.
    Responses,
}

/// What has come of a reply so far.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub text: String,
    pub usage: Option<Usage>,
    /// How the model ended; `None` while it has not.
    pub end: Option<End>,
    /// The model that answered, as the server calls it.
    pub served_by: Option<String>,
    /// What Anthropic has said of the usage so far.
    counted: messages::Counted,
}

/// Why a model stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    Complete,
    Truncated,
    Refused(String),
    /// For a reason that has no place in a question for text.
    Odd(String),
}

/// What an event of a stream came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    More,
    /// The protocol's last event.
    Last,
    /// The server gave up.
    Failed(Trouble),
}

/// What a server says is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Trouble {
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
const OWN: [&str; 13] = [
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

impl Wire {
    pub(super) fn of(provider: ProviderName) -> Option<Self> {
        match provider {
            ProviderName::Anthropic => Some(Wire::Messages),
            ProviderName::Responses => Some(Wire::Responses),
            ProviderName::Openai
            | ProviderName::Gemini
            | ProviderName::Openrouter
            | ProviderName::Deepseek
            | ProviderName::Together
            | ProviderName::Ollama => Some(Wire::Chat),
            ProviderName::Command | ProviderName::Mailbox | ProviderName::Replay => None,
        }
    }

    /// The address, from the one in the config.
    pub(super) fn url(self, base: &str) -> String {
        let base = base.trim_end_matches('/');
        match self {
            Wire::Messages => format!("{}/v1/messages", base.strip_suffix("/v1").unwrap_or(base)),
            Wire::Chat => format!("{base}/chat/completions"),
            Wire::Responses => format!("{base}/responses"),
        }
    }

    /// What the protocol calls a setting; `None` where it has no such thing.
    fn path(self, setting: &str, provider: ProviderName) -> Option<&'static str> {
        Some(match (self, setting) {
            (_, "temperature") => "temperature",
            (_, "top_p") => "top_p",
            (_, "top_k") => "top_k",
            (Wire::Messages, "max_output_tokens") => "max_tokens",
            (Wire::Messages, "effort") => "output_config.effort",
            (Wire::Messages, "thinking_tokens") => "thinking.budget_tokens",
            (Wire::Messages, "stop") => "stop_sequences",
            (Wire::Chat, "max_output_tokens") => match provider {
                ProviderName::Openai | ProviderName::Gemini => "max_completion_tokens",
                _ => "max_tokens",
            },
            (Wire::Chat, "effort") => match provider {
                ProviderName::Openrouter => "reasoning.effort",
                _ => "reasoning_effort",
            },
            (Wire::Chat, "thinking_tokens") if provider == ProviderName::Openrouter => {
                "reasoning.max_tokens"
            }
            (Wire::Chat, "seed") => "seed",
            (Wire::Chat, "stop") => "stop",
            (Wire::Responses, "max_output_tokens") => "max_output_tokens",
            (Wire::Responses, "effort") => "reasoning.effort",
            _ => return None,
        })
    }

    /// The whole body.
    pub(super) fn body(self, model: &Model, request: &Request) -> serde_json::Result<Vec<u8>> {
        let small = self.small(model, request.most_output);
        let body = Body {
            wire: self,
            small: &small,
            caches: model.cache.unwrap_or(true),
            request,
        };
        // Source code has a character in ten that JSON escapes.
        let mut bytes = Vec::with_capacity(request.bytes() + request.bytes() / 8 + 2048);
        serde_json::to_writer(&mut bytes, &body)?;
        Ok(bytes)
    }

    /// Everything but the texts.
    fn small(self, model: &Model, most_output: u64) -> Map<String, Value> {
        let mut small = Map::new();
        let is_streamed = model.stream.unwrap_or(true);
        small.insert("model".to_owned(), json!(model.model));
        if self == Wire::Chat && is_streamed {
            small.insert("stream_options".to_owned(), json!({"include_usage": true}));
        }
        if self == Wire::Responses {
            // Nothing is asked for twice: no conversation needs to be kept there.
            small.insert("store".to_owned(), json!(false));
        }
        for (setting, value) in given(model, most_output) {
            if let Some(path) = self.place(model, setting) {
                put(&mut small, path, value);
                if path == "thinking.budget_tokens" {
                    put(&mut small, "thinking.type", json!("enabled"));
                }
            }
        }
        merge(&mut small, &model.extra);
        small.insert("stream".to_owned(), json!(is_streamed));
        small
    }

    fn place<'a>(self, model: &'a Model, setting: &str) -> Option<&'a str> {
        match model.fields.get(setting) {
            Some(path) => Some(path),
            None => self.path(setting, model.provider),
        }
    }

    /// The setting of the config that a server's message complains of.
    pub(super) fn refused(self, model: &Model, message: &str) -> Option<&'static str> {
        let given = given(model, 0);
        let mut names = given.iter().map(|(name, _)| *name);
        // What is set by hand is the likelier cause than the cap, which every request has.
        let named = |name: &&str| {
            let path = self.place(model, name).unwrap_or(name);
            let last = path.rsplit('.').next().unwrap_or(path);
            message.contains(last) || message.contains(*name)
        };
        let cap = names.next().filter(named);
        names.find(named).or(cap)
    }

    /// One event of a stream.
    pub(super) fn event(self, data: &str, gathered: &mut Gathered) -> Result<Said, String> {
        match self {
            Wire::Messages => messages::event(data, gathered),
            Wire::Chat => chat::event(data, gathered),
            Wire::Responses => responses::event(data, gathered),
        }
        .map_err(|error| format!("an event of the stream cannot be read: {error}"))
    }

    /// A reply that came as a whole.
    pub(super) fn whole(self, data: &[u8], gathered: &mut Gathered) -> Result<Said, String> {
        match self {
            Wire::Messages => messages::whole(data, gathered),
            Wire::Chat => chat::whole(data, gathered),
            Wire::Responses => responses::whole(data, gathered),
        }
        .map_err(|error| format!("the reply cannot be read: {error}"))
    }
}

/// The settings that are given, with their values.
fn given(model: &Model, most_output: u64) -> Vec<(&'static str, Value)> {
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
pub(super) fn check(key: &str, model: &Model) -> Result<(), Failure> {
    let Some(wire) = Wire::of(model.provider) else {
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
        if path.split('.').any(str::is_empty) || (OWN.contains(&root) && !is_cap) {
            return Err(Failure::usage(format!("`{key}.fields.{name}` cannot be `{path}`"))
                .hint("a path into the request, such as `reasoning.effort`, to a field that kforge does not fill itself"));
        }
    }
    let mark = model.max_output_tokens();
    for (setting, _) in given(model, mark) {
        if wire.place(model, setting).is_none() {
            return Err(Failure::usage(format!(
                "`{key}.{setting}`: the provider `{}` has no such setting",
                model.provider.name()
            ))
            .hint(format!(
                "leave it out, or say where this server takes it: `fields: {{{setting}: …}}`"
            )));
        }
    }
    if let Some(own) = OWN.iter().find(|own| model.extra.contains_key(**own)) {
        return Err(Failure::usage(format!("`{key}.extra.{own}` is kforge's own to fill")).hint(
            "leave it out; the most tokens of a reply are `max_output_tokens`, and one question has one reply in text",
        ));
    }
    let small = wire.small(model, mark);
    let place = wire.place(model, "max_output_tokens").unwrap_or_default();
    let pointer = format!("/{}", place.replace('.', "/"));
    if Value::Object(small).pointer(&pointer) != Some(&json!(mark)) {
        return Err(Failure::usage(format!(
            "`{key}.extra` would take the cap of the reply out of the request"
        ))
        .hint(format!("leave `{place}` to `max_output_tokens`")));
    }
    Ok(())
}

/// Sets the value at a path of names.
fn put(map: &mut Map<String, Value>, path: &str, value: Value) {
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
                put(inner, rest, value);
            }
        }
    }
}

/// Objects are merged, other values replaced, and `null` takes a field out.
fn merge(map: &mut Map<String, Value>, extra: &Map<String, Value>) {
    for (key, value) in extra {
        match (map.get_mut(key), value) {
            (_, Value::Null) => {
                map.shift_remove(key);
            }
            (Some(Value::Object(inner)), Value::Object(more)) => merge(inner, more),
            _ => {
                map.insert(key.clone(), value.clone());
            }
        }
    }
}

/// A request's body as it is written.
struct Body<'a> {
    wire: Wire,
    small: &'a Map<String, Value>,
    caches: bool,
    request: &'a Request,
}

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in self.small {
            map.serialize_entry(key, value)?;
        }
        match self.wire {
            Wire::Messages => messages::texts(&mut map, self.request, self.caches)?,
            Wire::Chat => chat::texts(&mut map, self.request)?,
            Wire::Responses => responses::texts(&mut map, self.request)?,
        }
        map.end()
    }
}

/// All parts of a prompt as one text, written without being put together first.
struct Joined<'a>(&'a [Part]);

impl fmt::Display for Joined<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|part| formatter.write_str(&part.text))
    }
}

impl Serialize for Joined<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            [only] => serializer.serialize_str(&only.text),
            _ => serializer.collect_str(self),
        }
    }
}

impl Trouble {
    /// From what a server puts into `error`, or at the top where it has no such field.
    pub(super) fn read(value: &Value) -> Self {
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
    pub(super) fn is_final(&self) -> bool {
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
        WORDS.iter().any(|word| self.kind.contains(word)) || self.is_about_money()
    }

    /// Whether money or a limit of spending is what is missing: no patience helps.
    pub(super) fn is_about_money(&self) -> bool {
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
