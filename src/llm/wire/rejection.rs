//! Finds the field of a request that a server rejects, and how to do without it.
//!
//! A rejected field is left out only if a reply is possible without it. The output cap is necessary: it gets its other name.

use serde_json::{Map, Value};

use super::error::WireError;
use super::field_changes::{FieldChange, FieldChanges};
use super::fields::{configured_settings, field_path, fields_without_text};
use super::protocol::Protocol;
use crate::llm::models::ModelSettings;

/// Words that a server uses about a field that it does not know or accept.
const REJECTIONS: [&str; 20] = [
    "unsupported",
    "not supported",
    "does not support",
    "doesn't support",
    "unknown",
    "unrecognized",
    "unexpected",
    "not permitted",
    "not allowed",
    "forbidden",
    "extra",
    "invalid",
    "not known",
    "not accept",
    "deprecated",
    "cannot find",
    "no such",
    "not a valid",
    "additional propert",
    "cannot both be specified",
];

/// Words that precede the name of a field.
const LABELS: [&str; 7] = [
    "parameter",
    "parameters",
    "argument",
    "argument supplied",
    "field",
    "property",
    "key",
];

/// The change that avoids a server's error about a field of the request; `None` if the error is about something else, or if the
/// field is necessary. `sent`: the changes of the rejected request.
pub(in crate::llm) fn change_after_error(
    protocol: Protocol,
    model: &ModelSettings,
    error: &WireError,
    sent: &FieldChanges,
) -> Option<FieldChange> {
    let message = error.describe().to_lowercase();
    let is_rejection =
        !error.fields.is_empty() || REJECTIONS.iter().any(|phrase| message.contains(phrase));
    if !is_rejection {
        return None;
    }
    let fields = fields_without_text(protocol, model, 1, sent);
    let is_sent = |path: &str| {
        let pointer = format!("/{}", path.replace('.', "/"));
        has_path(&fields, &pointer)
    };
    let own = ["stream_options", "store"].map(|name| (name, name.to_owned()));
    let settings = configured_settings(model, 1).into_iter().skip(1);
    let settings = settings.filter_map(|(setting, _)| {
        Some((setting, field_path(protocol, model, setting)?.to_owned()))
    });
    // A field that the error names apart from its message is certain.
    let optional: Vec<_> = own.into_iter().chain(settings).collect();
    let mut optional = optional.into_iter().filter(|(_, path)| is_sent(path));
    if let Some((_, path)) = optional.find(|(_, path)| is_named(path, error, &message)) {
        return Some(FieldChange::LeaveOut(path));
    }
    if protocol != Protocol::Chat || sent.output_cap.is_some() {
        return None;
    }
    let cap = field_path(protocol, model, "max_output_tokens")?;
    let names = ["max_tokens", "max_completion_tokens"];
    let (from, to) = match names.iter().position(|name| *name == cap)? {
        0 => (names[0], names[1]),
        _ => (names[1], names[0]),
    };
    // A message with a limit is about the cap's value: under another name the server might ignore it.
    let has_limit = message
        .split(|letter: char| !letter.is_ascii_digit())
        .any(|digits| digits.len() >= 3 && digits.parse::<u64>().is_ok_and(|number| number > 600));
    let is_unknown = !message.contains("invalid") || !error.fields.is_empty();
    (is_unknown && !has_limit && is_named(from, error, &message))
        .then_some(FieldChange::RenameOutputCap { from, to })
}

/// Whether an error names the field at a path.
fn is_named(path: &str, error: &WireError, message: &str) -> bool {
    let last = path.rsplit('.').next().unwrap_or(path);
    let root = path.split('.').next().unwrap_or(path);
    let mut fields = error.fields.iter().map(|field| field.to_lowercase());
    if fields.any(|field| field == path || field == root || field.ends_with(&format!(".{last}"))) {
        return true;
    }
    // A word such as `stop` or `seed` occurs in other messages too: it counts only as a quoted name.
    let is_distinct = last.contains('_') || last == "temperature";
    let is_word_at = |at: usize, name: &str| {
        let is_part = |letter: Option<char>| {
            letter.is_some_and(|letter| letter.is_ascii_alphanumeric() || letter == '_')
        };
        let before = message[..at].chars().next_back();
        let after = message[at + name.len()..].chars().next();
        let is_quote =
            |letter: Option<char>| letter.is_some_and(|letter| matches!(letter, '\'' | '"' | '`'));
        let is_label = |text: &str| {
            let text = text.trim_end_matches([':', ' ']);
            LABELS.iter().any(|label| text.ends_with(label))
        };
        !is_part(before)
            && !is_part(after)
            && (is_distinct || is_quote(after) || is_label(&message[..at]))
    };
    [path, last].iter().any(|name| {
        message
            .match_indices(name)
            .any(|(at, _)| is_word_at(at, name))
    })
}

fn has_path(fields: &Map<String, Value>, pointer: &str) -> bool {
    let mut names = pointer.split('/').skip(1);
    let Some(first) = names.next().and_then(|name| fields.get(name)) else {
        return false;
    };
    names
        .try_fold(first, |value, name| value.get(name))
        .is_some()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::llm::models::ProviderName;

    fn change(error: Value) -> Option<FieldChange> {
        let mut model = ModelSettings::new(ProviderName::Openai, "m");
        model.temperature = Some(0.5);
        model.seed = Some(1);
        model.stop = vec!["END".to_owned()];
        model.effort = Some("high".to_owned());
        let error = WireError::from_json(&error);
        change_after_error(Protocol::Chat, &model, &error, &FieldChanges::default())
    }

    #[test]
    fn rejected_fields_are_found_in_the_words_of_all_servers() {
        let out = |path: &str| Some(FieldChange::LeaveOut(path.to_owned()));
        let renamed = Some(FieldChange::RenameOutputCap {
            from: "max_completion_tokens",
            to: "max_tokens",
        });
        for (error, expected) in [
            (
                json!({"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]}),
                out("stream_options"),
            ),
            (
                json!({"error": {"message": "Unsupported value: 'temperature' does not support 0.5 with this model.", "param": "temperature"}}),
                out("temperature"),
            ),
            (
                json!({"error": {"message": "property 'seed' is unsupported"}}),
                out("seed"),
            ),
            (
                json!({"error": {"message": "Unsupported parameter: stop"}}),
                out("stop"),
            ),
            (
                json!([{"error": {"code": 400, "message": "Invalid JSON payload received. Unknown name \"seed\": Cannot find field."}}]),
                out("seed"),
            ),
            (
                json!({"error": {"message": "Unrecognized request argument supplied: reasoning_effort"}}),
                out("reasoning_effort"),
            ),
            (
                json!({"error": {"message": "Unknown parameter: 'max_completion_tokens'"}}),
                renamed.clone(),
            ),
            (
                json!({"detail": [{"type": "extra_forbidden", "loc": ["body", "max_completion_tokens"], "msg": "Extra inputs are not permitted"}]}),
                renamed,
            ),
            (
                json!({"error": {"message": "max_completion_tokens is too large: 16384. This model supports at most 8192 completion tokens", "param": "max_completion_tokens"}}),
                None,
            ),
            (
                json!({"error": {"message": "Invalid max_completion_tokens value, the valid range is [1, 8192]"}}),
                None,
            ),
            (
                json!({"error": {"message": "Invalid max_completion_tokens value"}}),
                None,
            ),
            (
                json!({"error": {"message": "Please stop: invalid request, the seed of all evil"}}),
                None,
            ),
            (
                json!({"error": {"message": "Invalid model: m", "param": "model"}}),
                None,
            ),
        ] {
            assert_eq!(change(error.clone()), expected, "{error}");
        }
    }

    #[test]
    fn a_field_that_was_not_sent_is_not_left_out_again() {
        let model = ModelSettings::new(ProviderName::Openai, "m");
        let error = WireError::from_message("unknown parameter: 'stream_options'");
        let mut changes = FieldChanges::default();
        let change = change_after_error(Protocol::Chat, &model, &error, &changes).unwrap();
        assert!(changes.add(&change));
        assert_eq!(
            change_after_error(Protocol::Chat, &model, &error, &changes),
            None
        );
    }
}
