//! A model's settings as fields of a request, and whether they fit the protocol.

use serde_json::{Map, Value, json};

use super::field_changes::FieldChanges;
use super::protocol::Protocol;
use crate::base::Failure;
use crate::base::text::did_you_mean;
use crate::llm::models::{ModelSettings, ProviderName};

/// The config names of all sampling settings.
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

/// Request fields that only kforge sets. Another value would change what the reply is, or cost more than was reserved.
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

/// All fields of a request except the prompt's texts.
pub(super) fn fields_without_text(
    protocol: Protocol,
    model: &ModelSettings,
    max_output: u64,
    changes: &FieldChanges,
) -> Map<String, Value> {
    let mut fields = Map::new();
    let is_streamed = model.stream.unwrap_or(true);
    fields.insert("model".to_owned(), json!(model.model));
    let own = |name: &str| !changes.left_out.contains(name);
    if protocol == Protocol::Chat && is_streamed && own("stream_options") {
        fields.insert("stream_options".to_owned(), json!({"include_usage": true}));
    }
    if protocol == Protocol::Responses && own("store") {
        // Each request is self-contained: the provider need not store it.
        fields.insert("store".to_owned(), json!(false));
    }
    for (setting, value) in configured_settings(model, max_output) {
        if let Some(path) = field_path(protocol, model, setting) {
            let path = match changes.output_cap {
                Some(path) if setting == "max_output_tokens" => path,
                _ => path,
            };
            if changes.left_out.contains(path) {
                continue;
            }
            set_at_path(&mut fields, path, value);
            if path == "thinking.budget_tokens" {
                set_at_path(&mut fields, "thinking.type", json!("enabled"));
            }
        }
    }
    merge_fields(&mut fields, &model.extra);
    fields.insert("stream".to_owned(), json!(is_streamed));
    fields
}

/// The path of a setting in the request: the model's `fields`, else the protocol's default. `None` if the protocol has no such
/// setting.
pub(super) fn field_path<'a>(
    protocol: Protocol,
    model: &'a ModelSettings,
    setting: &str,
) -> Option<&'a str> {
    match model.fields.get(setting) {
        Some(path) => Some(path),
        None => default_field_path(protocol, setting, model.provider),
    }
}

fn default_field_path(
    protocol: Protocol,
    setting: &str,
    provider: ProviderName,
) -> Option<&'static str> {
    Some(match (protocol, setting) {
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

/// The config's setting that a server's error message names. `message` is in lower case.
pub(in crate::llm) fn setting_named_in(
    protocol: Protocol,
    model: &ModelSettings,
    message: &str,
) -> Option<&'static str> {
    let settings = configured_settings(model, 0);
    let mut names = settings.iter().map(|(name, _)| *name);
    let is_named = |name: &&str| {
        let path = field_path(protocol, model, name).unwrap_or(name);
        let last = path.rsplit('.').next().unwrap_or(path);
        message.contains(last) || message.contains(*name)
    };
    // Every request has the output cap, which comes first. A setting from the config is the likelier cause.
    let cap = names.next().filter(is_named);
    names.find(is_named).or(cap)
}

/// The settings that have a value, in the order of `SETTINGS`.
pub(super) fn configured_settings(
    model: &ModelSettings,
    max_output: u64,
) -> Vec<(&'static str, Value)> {
    let stop = (!model.stop.is_empty()).then(|| json!(model.stop));
    let values = [
        Some(json!(max_output)),
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

/// Checks that the protocol has a field for every setting of the config. `key` is the model's key in the config.
pub(in crate::llm) fn check_model(key: &str, model: &ModelSettings) -> Result<(), Failure> {
    let Some(protocol) = Protocol::for_provider(model.provider) else {
        return Ok(());
    };
    check_paths(key, model)?;
    let cap = model.max_output_tokens();
    for (setting, _) in configured_settings(model, cap) {
        if field_path(protocol, model, setting).is_none() {
            return Err(Failure::usage(format!(
                "`{key}.{setting}`: provider `{}` has no such setting",
                model.provider.name()
            ))
            .hint(format!(
                "remove it, or name the server's field: `fields: {{{setting}: …}}`"
            )));
        }
    }
    let reserved = |name: &&&str| model.extra.contains_key(**name);
    if let Some(name) = RESERVED_FIELDS.iter().find(reserved) {
        return Err(
            Failure::usage(format!("`{key}.extra.{name}` is set by kforge")).hint(
                "remove it; `max_output_tokens` limits a reply, and each request has one text reply",
            ),
        );
    }
    // `extra` may still replace an object that holds the cap.
    let changes = FieldChanges::default();
    let fields = Value::Object(fields_without_text(protocol, model, cap, &changes));
    let path = field_path(protocol, model, "max_output_tokens").unwrap_or_default();
    if fields.pointer(&format!("/{}", path.replace('.', "/"))) != Some(&json!(cap)) {
        return Err(
            Failure::usage(format!("`{key}.extra` replaces the request's output cap"))
                .hint(format!("set `{path}` with `max_output_tokens`")),
        );
    }
    Ok(())
}

/// Checks the model's own field paths.
fn check_paths(key: &str, model: &ModelSettings) -> Result<(), Failure> {
    for (name, path) in &model.fields {
        if !SETTINGS.contains(&name.as_str()) {
            return Err(
                Failure::usage(format!("unknown setting `{name}` in `{key}.fields`"))
                    .hint(did_you_mean(name, SETTINGS)),
            );
        }
        let root = path.split('.').next().unwrap_or_default();
        let is_cap = name == "max_output_tokens" && root.starts_with("max_");
        let is_reserved = RESERVED_FIELDS.contains(&root) && !is_cap;
        if path.split('.').any(str::is_empty) || is_reserved {
            return Err(
                Failure::usage(format!("`{key}.fields.{name}` cannot be `{path}`")).hint(
                    "give a path in the request, such as `reasoning.effort`, that kforge does not set itself",
                ),
            );
        }
    }
    Ok(())
}

/// Sets the value at a path of field names.
fn set_at_path(map: &mut Map<String, Value>, path: &str, value: Value) {
    let Some((first, rest)) = path.split_once('.') else {
        map.insert(path.to_owned(), value);
        return;
    };
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

/// Merges objects, replaces other values, and removes fields that are `null` in `extra`.
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
