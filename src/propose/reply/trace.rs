//! Extracts the trace of a reply: what the model sees as the bottleneck, what it changes, and the effect that it expects.
//!
//! Finds a trace wherever it is, and removes it from the reply. Tolerant of notation, but never guesses a meaning: an expected
//! effect that can be understood in two ways is reported as a fault.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::blocks::starts_with_header;
use super::json;
use super::percent::parse_percent;
use super::text::truncate_chars;

/// The longest text of one field, in characters.
const MAX_FIELD_CHARS: usize = 4000;
/// The most objects that are tried.
const MAX_TRIED_OBJECTS: usize = 256;
/// After this much text was parsed, no more objects are tried.
const MAX_TRIED_BYTES: usize = 1024 * 1024;

/// Why a kernel is as it is, in the model's words.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Trace {
    /// What limits the kernel; for a repair, the cause of the failure.
    pub bottleneck: String,
    pub hypothesis: String,
    pub change: String,
    /// The expected change of the run time in percent: below 0 is faster.
    pub expected_percent: Option<f64>,
    pub risk: String,
    /// The trace as the model wrote it.
    pub verbatim: String,
}

/// A reply split into its trace and the rest.
#[derive(Debug)]
pub(super) struct ExtractedTrace {
    pub(super) trace: Option<Trace>,
    pub(super) fault: Option<String>,
    pub(super) rest: String,
    /// The JSON object that contained the trace.
    pub(super) json: Option<Value>,
}

/// A field of a trace.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TraceField {
    Bottleneck,
    Hypothesis,
    Change,
    Expected,
    Risk,
}

/// The keys that are accepted for each field.
const FIELD_ALIASES: [(TraceField, &[&str]); 5] = [
    (
        TraceField::Bottleneck,
        // The trace of a repair names the cause of the failure instead.
        &[
            "bottleneck",
            "bottlenecks",
            "current_bottleneck",
            "cause",
            "root_cause",
        ],
    ),
    (
        TraceField::Hypothesis,
        &["hypothesis", "reasoning", "rationale"],
    ),
    (
        TraceField::Change,
        &["change", "changes", "proposed_change"],
    ),
    (
        TraceField::Expected,
        &[
            "expected_percent",
            "expected_effect_percent",
            "expected_change_percent",
            "expected_time_change_percent",
            "expected_effect",
            "expected_change",
            "expected",
            "expected_speedup",
        ],
    ),
    (TraceField::Risk, &["risk", "risks"]),
];

/// Keys of an object that contains the kernel or the edits next to the trace.
const CONTENT_KEYS: [&str; 5] = ["code", "kernel", "source", "edits", "old_str"];

/// Line ends that label the object after them as JSON or as the trace.
const LABELS: [&str; 6] = [
    "```json", "~~~json", "```jsonc", "```json5", "<trace>", "trace",
];

/// A trace found in a reply.
struct TraceLocation {
    start: usize,
    end: usize,
    json: Option<Value>,
    fields: Map<String, Value>,
}

/// Takes all traces out of a reply. The last one counts, as the last of several kernels does.
pub(super) fn extract_trace(text: &str) -> ExtractedTrace {
    let (mut locations, fault) = find_json_traces(text);
    if locations.is_empty() {
        locations.extend(find_trace_element(text));
    }
    let mut rest = String::with_capacity(text.len());
    let mut at = 0;
    for location in &locations {
        let (start, end) = with_wrappers(text, location.start, location.end);
        if start >= at {
            rest.push_str(&text[at..start]);
            rest.push('\n');
            at = end;
        }
    }
    rest.push_str(&text[at..]);
    let Some(location) = locations.pop() else {
        return ExtractedTrace {
            trace: None,
            fault: Some(fault.unwrap_or_else(|| "the reply has no trace".to_owned())),
            rest,
            json: None,
        };
    };
    let (trace, fault) = read_trace(&location.fields, &text[location.start..location.end]);
    ExtractedTrace {
        trace: Some(trace),
        fault,
        rest,
        json: location.json,
    }
}

/// The JSON objects that contain fields of a trace, and why the first object labelled as one could not be parsed.
fn find_json_traces(text: &str) -> (Vec<TraceLocation>, Option<String>) {
    let mut locations = Vec::new();
    let mut fault = None;
    let (mut at, mut tries, mut bytes) = (0, 0, 0);
    while let Some(offset) = text[at..].find('{') {
        let start = at + offset;
        at = start + 1;
        if !json::may_start_object(&text[start..]) {
            continue;
        }
        tries += 1;
        if tries > MAX_TRIED_OBJECTS || bytes > MAX_TRIED_BYTES {
            break;
        }
        let is_labelled = is_labelled(&text[..start]);
        match json::parse_object(&text[start..]) {
            Ok((value, length)) => {
                bytes += length;
                let fields = members_by_key(&value);
                if is_trace(&fields, is_labelled) {
                    at = start + length;
                    locations.push(TraceLocation {
                        start,
                        end: start + length,
                        json: Some(Value::Object(fields.clone())),
                        fields,
                    });
                }
            }
            Err(error) => {
                bytes += (text.len() - start).min(json::MAX_LENIENT_BYTES);
                if is_labelled && fault.is_none() {
                    let line = text[..start].matches('\n').count() + error.line + 1;
                    let reason = error.reason;
                    fault = Some(format!(
                        "the trace is not valid JSON: line {line} of the reply: {reason}"
                    ));
                }
            }
        }
    }
    (locations, fault)
}

/// Whether an object is a trace: two known fields, or one if it is labelled as JSON.
fn is_trace(fields: &Map<String, Value>, is_labelled: bool) -> bool {
    let known = fields
        .keys()
        .filter(|key| field_of_key(key).is_some())
        .count();
    let has_content = CONTENT_KEYS.iter().any(|key| fields.contains_key(*key))
        || is_labelled && fields.values().any(has_kernel);
    known >= 2 || is_labelled && (known == 1 || has_content)
}

/// Whether a value contains a kernel: a text with a header.
fn has_kernel(value: &Value) -> bool {
    let mut texts = json::texts_of(value).into_iter();
    texts.any(|text| text.lines().any(starts_with_header))
}

/// Whether the text before an object labels it as JSON or as the trace.
fn is_labelled(before: &str) -> bool {
    let line = before.trim_end().rsplit('\n').next().unwrap_or_default();
    let line = line.trim().trim_end_matches([':', '*']).to_lowercase();
    LABELS.iter().any(|label| line.ends_with(label))
}

/// The members of an object by normalized key. Members of an inner object such as `"trace": {…}` are included.
fn members_by_key(value: &Value) -> Map<String, Value> {
    let Value::Object(members) = value else {
        return Map::new();
    };
    let mut fields = Map::new();
    for (key, value) in members {
        let is_wrapper = key.to_lowercase().ends_with("trace");
        match value {
            Value::Object(inner) if is_wrapper => {
                let inner = inner.iter();
                fields.extend(inner.map(|(key, value)| (normalize_key(key), value.clone())));
            }
            _ => {
                fields.insert(normalize_key(key), value.clone());
            }
        }
    }
    fields
}

fn normalize_key(key: &str) -> String {
    key.trim().to_lowercase().replace([' ', '-'], "_")
}

fn field_of_key(key: &str) -> Option<TraceField> {
    FIELD_ALIASES
        .iter()
        .find(|(_, names)| names.contains(&key))
        .map(|(field, _)| *field)
}

/// A `<trace>` element that contains elements or `key: value` lines instead of JSON.
fn find_trace_element(text: &str) -> Option<TraceLocation> {
    let start = text.find("<trace>")?;
    let inner = start + "<trace>".len();
    let close = text[inner..].find("</trace>")? + inner;
    let body = &text[inner..close];
    let mut fields = Map::new();
    for name in FIELD_ALIASES.iter().flat_map(|(_, names)| *names) {
        let (open, shut) = (format!("<{name}>"), format!("</{name}>"));
        let value = body
            .split_once(open.as_str())
            .and_then(|(_, rest)| rest.split_once(shut.as_str()));
        if let Some((value, _)) = value {
            fields.insert((*name).to_owned(), Value::String(value.trim().to_owned()));
        }
    }
    if fields.is_empty() {
        fields = fields_in_lines(body);
    }
    (!fields.is_empty()).then_some(TraceLocation {
        start,
        end: close + "</trace>".len(),
        json: None,
        fields,
    })
}

/// The fields written as `key: value` lines, also as a Markdown list.
fn fields_in_lines(text: &str) -> Map<String, Value> {
    let mut fields = Map::new();
    for line in text.lines() {
        let line = line.trim().trim_start_matches(['-', '*', ' ']);
        if let Some((key, value)) = line.split_once(':') {
            let key = normalize_key(key.trim_matches(['*', '`', ' ']));
            let value = value.trim().trim_start_matches("**").trim();
            if field_of_key(&key).is_some() {
                fields.insert(key, Value::String(value.to_owned()));
            }
        }
    }
    fields
}

/// The bytes of a trace with what wraps it: `<trace>` tags, and a fence that contains nothing else.
fn with_wrappers(text: &str, start: usize, end: usize) -> (usize, usize) {
    let (mut start, mut end) = (start, end);
    loop {
        let before = text[..start].trim_end();
        let after = &text[end..];
        let space = after.len() - after.trim_start().len();
        let after = after.trim_start();
        if before.ends_with("<trace>") && after.starts_with("</trace>") {
            start = before.len() - "<trace>".len();
            end += space + "</trace>".len();
            continue;
        }
        let line_start = before.rfind('\n').map_or(0, |line| line + 1);
        let opening = before[line_start..].trim_start_matches([' ', '\t']);
        let closing = after.lines().next().unwrap_or_default().trim_end();
        let is_closing_fence = closing.trim_matches(['`', '~']).is_empty() && closing.len() >= 3;
        let is_opening_fence = ["```", "~~~"].iter().any(|mark| opening.starts_with(mark));
        if is_closing_fence && is_opening_fence && opening.starts_with(&closing[..3]) {
            start = line_start;
            end += space + closing.len();
            continue;
        }
        return (start, end);
    }
}

/// The trace with these fields, and why its expected effect was not understood.
fn read_trace(fields: &Map<String, Value>, verbatim: &str) -> (Trace, Option<String>) {
    let mut trace = Trace {
        verbatim: truncate_chars(verbatim, 16 * MAX_FIELD_CHARS),
        ..Trace::default()
    };
    let mut fault = None;
    for (key, value) in fields {
        let Some(field) = field_of_key(key) else {
            continue;
        };
        match field {
            TraceField::Bottleneck => trace.bottleneck = value_text(value),
            TraceField::Hypothesis => trace.hypothesis = value_text(value),
            TraceField::Change => trace.change = value_text(value),
            TraceField::Risk => trace.risk = value_text(value),
            TraceField::Expected => match parse_percent(key, value) {
                Ok(percent) => trace.expected_percent = percent.or(trace.expected_percent),
                Err(reason) => fault = Some(reason),
            },
        }
    }
    (trace, fault)
}

/// A value as text. The elements of a list are joined by `; `.
fn value_text(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.trim().to_owned(),
        Value::Array(values) => values.iter().map(value_text).collect::<Vec<_>>().join("; "),
        other => other.to_string(),
    };
    truncate_chars(&text, MAX_FIELD_CHARS)
}
