//! Errors that a server reports, in any of the three protocols: in a body with an error status, in one with status 200, or in a
//! stream.
//!
//! Reads the notations of all known servers. What follows from an error is decided in `refusal`.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use crate::llm::retry;

/// The longest part of a server's message that is kept, in characters: room is left for a hint.
const MAX_MESSAGE_CHARS: usize = 400;

/// The fields that hold an error, outermost first.
const ERROR_FIELDS: [&str; 4] = ["error", "errors", "fault", "detail"];

/// The fields that hold a message, most specific first.
const MESSAGE_FIELDS: [&str; 9] = [
    "message",
    "msg",
    "error_msg",
    "errorMessage",
    "detail",
    "faultstring",
    "description",
    "error_description",
    "error",
];

/// The fields that hold a code or a type.
const KIND_FIELDS: [&str; 6] = [
    "type",
    "code",
    "status",
    "error_type",
    "error_code",
    "errcode",
];

/// A server's description of an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::llm) struct WireError {
    /// The error's types and codes in lower case, each followed by a space.
    pub kind: String,
    pub message: String,
    /// The HTTP status that the error names: 429 in a body with status 200.
    pub status: Option<u16>,
    /// The delay that the error asks for.
    pub retry_after: Option<Duration>,
    /// The request fields that the error names, without `body`.
    pub fields: Vec<String>,
    /// The context window and the tokens that the request needs, if the error has them as numbers of their own.
    pub window: Option<u64>,
    pub needed: Option<u64>,
    /// The message is a text, not an object. It may come from something else than a model server.
    pub is_text: bool,
    /// The message is a web page, not an error of a model server.
    pub is_page: bool,
}

impl WireError {
    /// Reads an error from the fields `error`, `errors`, `fault` or `detail`, or from the value itself.
    pub(in crate::llm) fn from_json(value: &Value) -> Self {
        let inner = innermost(value);
        let mut error = Self {
            message: truncate(&message_of(inner).unwrap_or_else(|| inner.to_string())),
            ..Self::default()
        };
        let levels = if std::ptr::eq(inner, value) {
            vec![inner]
        } else {
            vec![inner, value]
        };
        for level in levels {
            error.read_codes(level);
        }
        // A router quotes what the provider said.
        if let Some(raw) = inner.pointer("/metadata/raw").and_then(Value::as_str)
            && !raw.is_empty()
            && !error.message.contains(raw)
        {
            error.message = truncate(&format!("{}: {raw}", error.message));
        }
        if let Some(field) = inner.get("param").and_then(Value::as_str) {
            error.fields.push(field.to_owned());
        }
        error.fields.extend(located_fields(value));
        let number = |name: &str| inner.get(name).and_then(Value::as_u64);
        error.window = number("n_ctx");
        error.needed = number("n_prompt_tokens");
        error.retry_after = retry::retry_after_in_body(value, &error.message, SystemTime::now());
        error
    }

    /// The error in a body that is not JSON: a web page, a plain text, or nothing.
    pub(in crate::llm) fn from_text(text: &str) -> Self {
        let text = text.trim().trim_start_matches('\u{feff}').trim_start();
        if !text.starts_with('<') {
            return Self {
                message: truncate(if text.is_empty() {
                    "the body is empty"
                } else {
                    text
                }),
                is_text: true,
                retry_after: retry::retry_after_in_body(&Value::Null, text, SystemTime::now()),
                ..Self::default()
            };
        }
        let title = element(text, "title").or_else(|| element(text, "h1"));
        let message = match title {
            Some(title) => format!("a web page: \"{}\"", truncate(&title)),
            None => "a web page".to_owned(),
        };
        // Gateways put the status into the title: `502 Bad Gateway`, `example.com | 502: Bad gateway`.
        let status = title_status(&message);
        Self {
            message,
            status,
            is_text: true,
            is_page: true,
            ..Self::default()
        }
    }

    /// The error of a body that may be JSON.
    pub(in crate::llm) fn from_bytes(bytes: &[u8]) -> Self {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        match serde_json::from_slice::<Value>(bytes) {
            Ok(value) => Self::from_json(&value),
            Err(_) => Self::from_text(&String::from_utf8_lossy(bytes)),
        }
    }

    /// A message from kforge about what the server did.
    pub(in crate::llm) fn from_message(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            ..Self::default()
        }
    }

    /// Types, codes and statuses of one level of the error.
    fn read_codes(&mut self, level: &Value) {
        for name in KIND_FIELDS {
            let text = match level.get(name) {
                Some(Value::String(text)) => text.to_lowercase(),
                Some(Value::Number(number)) => number.to_string(),
                _ => continue,
            };
            let status = text.trim().parse().ok();
            self.status = self
                .status
                .or(status.filter(|status| (400..600).contains(status)));
            // `error` as a type says nothing.
            if text != "error" && !self.kind.split(' ').any(|known| known == text) {
                self.kind += &text;
                self.kind.push(' ');
            }
        }
    }

    /// The kind and the message on one line.
    pub(in crate::llm) fn describe(&self) -> String {
        match (self.kind.trim(), self.message.trim()) {
            ("", "") => "the server gives no reason".to_owned(),
            ("", message) => message.to_owned(),
            (kind, "") => kind.to_owned(),
            (kind, message) => format!("{kind}: {message}"),
        }
    }
}

/// Whether an object without a reply describes an error.
pub(super) fn is_error(object: &Map<String, Value>) -> bool {
    let is_set = |name: &str| match object.get(name) {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(list)) => !list.is_empty(),
        Some(Value::Object(fields)) => !fields.is_empty(),
        Some(_) => true,
    };
    ERROR_FIELDS.into_iter().any(is_set)
        || object.get("object").and_then(Value::as_str) == Some("error")
        || object.get("type").and_then(Value::as_str) == Some("error")
        || ["error_code", "error_msg", "faultstring"]
            .into_iter()
            .any(is_set)
        || ["message", "msg"]
            .into_iter()
            .any(|name| matches!(object.get(name), Some(Value::String(text)) if !text.is_empty()))
}

/// The innermost object or text that describes the error.
fn innermost(value: &Value) -> &Value {
    let mut inner = value;
    // Errors are nested a few levels at most.
    for _ in 0..4 {
        inner = match inner {
            Value::Array(list) => match list.first() {
                // The messages of a list are joined later.
                Some(first) if list.len() == 1 || first.get("error").is_some() => first,
                _ => break,
            },
            Value::Object(fields) => {
                let has_message = MESSAGE_FIELDS
                    .iter()
                    .any(|name| matches!(fields.get(*name), Some(Value::String(_))));
                let is_next = |name: &&&str| {
                    matches!(fields.get(**name), Some(Value::Object(_) | Value::Array(_)))
                        && (!has_message || **name == "error")
                };
                match ERROR_FIELDS.iter().find(is_next) {
                    Some(name) => &fields[*name],
                    None => break,
                }
            }
            _ => break,
        };
    }
    inner
}

/// The message of an error; of a list, all messages.
fn message_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Object(fields) => {
            let found = MESSAGE_FIELDS.iter().find_map(|name| {
                let message = message_of(fields.get(*name)?)?;
                (!message.trim().is_empty()).then_some(message)
            })?;
            Some(match located_field(value) {
                Some(field) => format!("{field}: {found}"),
                None => found,
            })
        }
        Value::Array(list) => {
            let messages: Vec<String> = list.iter().filter_map(message_of).collect();
            (!messages.is_empty()).then(|| messages.join("; "))
        }
        _ => None,
    }
}

/// The fields that a list of validation errors names: `{"loc": ["body", "stream_options"], "msg": …}`.
fn located_fields(value: &Value) -> Vec<String> {
    match value {
        Value::Array(list) => list.iter().flat_map(located_fields).collect(),
        Value::Object(fields) => {
            let own = located_field(value);
            let inner = ERROR_FIELDS.iter().filter_map(|name| fields.get(*name));
            own.into_iter()
                .chain(inner.flat_map(located_fields))
                .collect()
        }
        _ => Vec::new(),
    }
}

fn located_field(value: &Value) -> Option<String> {
    let path = value.get("loc")?.as_array()?.iter();
    let path = path
        .filter_map(Value::as_str)
        .filter(|name| *name != "body");
    let path = path.collect::<Vec<_>>().join(".");
    (!path.is_empty()).then_some(path)
}

/// The text of the first element with this name.
fn element(page: &str, name: &str) -> Option<String> {
    let lower = page.to_ascii_lowercase();
    let open = lower.find(&format!("<{name}"))?;
    let start = open + lower[open..].find('>')? + 1;
    let end = start + lower[start..].find(&format!("</{name}"))?;
    let text = page[start..end]
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    (!text.is_empty()).then_some(text)
}

fn title_status(title: &str) -> Option<u16> {
    title
        .split(|letter: char| !letter.is_ascii_digit())
        .filter(|digits| digits.len() == 3)
        .filter_map(|digits| digits.parse().ok())
        .find(|status| (400..600).contains(status))
}

fn truncate(text: &str) -> String {
    match text.char_indices().nth(MAX_MESSAGE_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn errors_of_all_servers_are_read() {
        for (body, kind, status, message) in [
            (
                json!({"error": {"message": "slow", "type": "rate_limit_error", "code": 429}}),
                "rate_limit_error 429",
                Some(429),
                "slow",
            ),
            (
                json!({"error": {"message": "slow", "code": "429"}}),
                "429",
                Some(429),
                "slow",
            ),
            (
                json!({"error": "No such endpoint"}),
                "",
                None,
                "No such endpoint",
            ),
            (
                json!({"error": "too long", "error_type": "validation"}),
                "validation",
                None,
                "too long",
            ),
            (json!({"detail": "Not Found"}), "", None, "Not Found"),
            (
                json!({"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "no extra"}]}),
                "extra_forbidden",
                None,
                "seed: no extra",
            ),
            (
                json!({"object": "error", "message": "bad", "type": "BadRequestError", "param": null, "code": 400}),
                "badrequesterror 400",
                Some(400),
                "bad",
            ),
            (
                json!([{"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}]),
                "503 unavailable",
                Some(503),
                "overloaded",
            ),
            (
                json!({"success": false, "errors": [{"code": 7003, "message": "no route"}]}),
                "7003",
                None,
                "no route",
            ),
            (json!({"errors": ["one", "two"]}), "", None, "one; two"),
            (json!({"code": 50501, "msg": "busy"}), "50501", None, "busy"),
            (
                json!({"fault": {"faultstring": "Quota violation", "detail": {"errorcode": "policies"}}}),
                "",
                None,
                "Quota violation",
            ),
            (
                json!({"error": {"message": "Provider returned error", "code": 502, "metadata": {"raw": "upstream down", "provider_name": "x"}}}),
                "502",
                Some(502),
                "Provider returned error: upstream down",
            ),
            (
                json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
                "overloaded_error",
                None,
                "Overloaded",
            ),
            (json!({}), "", None, "{}"),
            (json!(null), "", None, "null"),
        ] {
            let error = WireError::from_json(&body);
            assert_eq!(
                (error.kind.trim(), error.status, error.message.as_str()),
                (kind, status, message),
                "{body}"
            );
        }
    }

    #[test]
    fn pages_and_texts_are_read() {
        let page = "\u{feff}<!DOCTYPE html><html><head><TITLE>x.ai |\n 502: Bad gateway</TITLE>";
        let error = WireError::from_text(page);
        assert!(error.is_page && error.status == Some(502), "{error:?}");
        assert_eq!(error.message, "a web page: \"x.ai | 502: Bad gateway\"");
        assert_eq!(WireError::from_text("<p>").message, "a web page");
        let error = WireError::from_bytes(b"no healthy upstream\n");
        assert_eq!(
            (error.message.as_str(), error.is_page),
            ("no healthy upstream", false)
        );
    }

    #[test]
    fn named_fields_are_collected() {
        let pydantic = json!({"detail": [
            {"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"},
            {"type": "extra_forbidden", "loc": ["body", "reasoning", "effort"], "msg": "x"}]});
        assert_eq!(
            WireError::from_json(&pydantic).fields,
            ["stream_options", "reasoning.effort"]
        );
        let openai = json!({"error": {"message": "Unsupported", "param": "temperature"}});
        assert_eq!(WireError::from_json(&openai).fields, ["temperature"]);
    }
}
