//! A reply's trace: what the model takes for the bottleneck, what it changes, and what it expects of that.
//!
//! Found wherever it stands, and taken out of the reply whole. Tolerant of how it is written; what it means is never guessed:
//! an effect that can be read in two ways is none.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::json;

/// The longest text of one field.
const MAX_FIELD_CHARS: usize = 4000;
/// How many braces are tried.
const MAX_TRIED_OBJECTS: usize = 256;
/// How much text is read in vain before no more is tried.
const MAX_TRIED_BYTES: usize = 1024 * 1024;

/// Why a kernel is as it is, in the model's words.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Trace {
    pub bottleneck: String,
    pub hypothesis: String,
    pub change: String,
    /// By how much the time is expected to change: less than 0 is faster.
    pub expected_percent: Option<f64>,
    pub risk: String,
    /// The trace as the model wrote it.
    pub verbatim: String,
}

/// What is left of a reply without its trace.
#[derive(Debug)]
pub(super) struct ExtractedTrace {
    pub(super) trace: Option<Trace>,
    pub(super) fault: Option<String>,
    pub(super) rest: String,
    /// The object that the trace was in, where it was JSON.
    pub(super) json: Option<Value>,
}

/// The names that a field goes by.
const FIELD_ALIASES: [(&str, &[&str]); 5] = [
    (
        "bottleneck",
        // A repair names the cause of the failure instead.
        &[
            "bottleneck",
            "bottlenecks",
            "current_bottleneck",
            "cause",
            "root_cause",
        ],
    ),
    ("hypothesis", &["hypothesis", "reasoning", "rationale"]),
    ("change", &["change", "changes", "proposed_change"]),
    (
        "expected",
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
    ("risk", &["risk", "risks"]),
];

/// A candidate for the trace: where it stands, and what it is.
struct TraceLocation {
    start: usize,
    end: usize,
    json: Option<Value>,
    fields: Map<String, Value>,
}

/// Takes the trace out of a reply. Of several the last one counts, as of several kernels; all are taken out.
pub(super) fn extract_trace(text: &str) -> ExtractedTrace {
    let mut fault = None;
    let mut places = find_json_traces(text, &mut fault);
    if places.is_empty() {
        places.extend(find_trace_element(text));
    }
    let mut rest = String::with_capacity(text.len());
    let mut at = 0;
    for place in &places {
        let (start, end) = with_wrappers(text, place.start, place.end);
        if start >= at {
            rest.push_str(&text[at..start]);
            rest.push('\n');
            at = end;
        }
    }
    rest.push_str(&text[at..]);
    let Some(place) = places.pop() else {
        return ExtractedTrace {
            trace: None,
            fault: Some(fault.unwrap_or_else(|| "there is no trace".to_owned())),
            rest,
            json: None,
        };
    };
    let (trace, fault) = read_trace(&place.fields, &text[place.start..place.end]);
    ExtractedTrace {
        trace: Some(trace),
        fault,
        rest,
        json: place.json,
    }
}

/// The objects that hold a trace's fields.
fn find_json_traces(text: &str, fault: &mut Option<String>) -> Vec<TraceLocation> {
    let mut places = Vec::new();
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
                let known = fields
                    .keys()
                    .filter(|key| field_of_key(key).is_some())
                    .count();
                let has_answer = ["code", "kernel", "source", "edits", "old_str"]
                    .iter()
                    .any(|key| fields.contains_key(*key));
                if known >= 2 || is_labelled && (known == 1 || has_answer) {
                    at = start + length;
                    places.push(TraceLocation {
                        start,
                        end: start + length,
                        json: Some(Value::Object(fields.clone())),
                        fields,
                    });
                }
            }
            Err((line, what)) => {
                bytes += text.len().min(start + 128 * 1024) - start;
                if is_labelled && fault.is_none() {
                    let line = text[..start].matches('\n').count() + line + 1;
                    *fault = Some(format!(
                        "the trace is no JSON: line {line} of the reply: {what}"
                    ));
                }
            }
        }
    }
    places
}

/// Whether what stands before an object says that it is JSON or the trace.
fn is_labelled(before: &str) -> bool {
    let line = before.trim_end().rsplit('\n').next().unwrap_or_default();
    let line = line.trim().trim_end_matches([':', '*']).to_lowercase();
    [
        "```json", "~~~json", "```jsonc", "```json5", "<trace>", "trace",
    ]
    .iter()
    .any(|label| line.ends_with(label))
}

/// The members of an object, or of the one that it holds under a name for all of them.
fn members_by_key(value: &Value) -> Map<String, Value> {
    let Value::Object(members) = value else {
        return Map::new();
    };
    let mut fields = Map::new();
    for (key, value) in members {
        let is_wrapping = key.to_lowercase().ends_with("trace");
        match value {
            Value::Object(inner) if is_wrapping => {
                fields.extend(
                    inner
                        .iter()
                        .map(|(key, value)| (normalize_key(key), value.clone())),
                );
            }
            _ => {
                fields.insert(normalize_key(key), value.clone());
            }
        }
    }
    fields
}

/// A key without regard to how it is written.
fn normalize_key(key: &str) -> String {
    key.trim().to_lowercase().replace([' ', '-'], "_")
}

fn field_of_key(key: &str) -> Option<&'static str> {
    FIELD_ALIASES
        .iter()
        .find(|(_, names)| names.contains(&key))
        .map(|(field, _)| *field)
}

/// `<trace>` with elements or lines of its own instead of JSON.
fn find_trace_element(text: &str) -> Option<TraceLocation> {
    let start = text.find("<trace>")?;
    let inner = start + "<trace>".len();
    let close = text[inner..].find("</trace>")? + inner;
    let body = &text[inner..close];
    let mut fields = Map::new();
    for (_, names) in FIELD_ALIASES {
        for name in names {
            let open = format!("<{name}>");
            let shut = format!("</{name}>");
            let value = body
                .split_once(open.as_str())
                .and_then(|(_, rest)| rest.split_once(shut.as_str()));
            if let Some((value, _)) = value {
                fields.insert((*name).to_owned(), Value::String(value.trim().to_owned()));
            }
        }
    }
    if fields.is_empty() {
        for line in body.lines() {
            let line = line.trim().trim_start_matches(['-', '*', ' ']);
            if let Some((key, value)) = line.split_once(':') {
                let key = normalize_key(key.trim_matches(['*', '`', ' ']));
                let value = value.trim().trim_start_matches("**").trim();
                if field_of_key(&key).is_some() {
                    fields.insert(key, Value::String(value.to_owned()));
                }
            }
        }
    }
    (!fields.is_empty()).then_some(TraceLocation {
        start,
        end: close + "</trace>".len(),
        json: None,
        fields,
    })
}

/// The place with the marks around it: a fence that holds nothing else, and `<trace>`.
fn with_wrappers(text: &str, start: usize, end: usize) -> (usize, usize) {
    let (mut start, mut end) = (start, end);
    loop {
        let before = text[..start].trim_end();
        let after = &text[end..];
        let next = after.len() - after.trim_start().len();
        let after = after.trim_start();
        if before.ends_with("<trace>") && after.starts_with("</trace>") {
            start = before.len() - "<trace>".len();
            end += next + "</trace>".len();
            continue;
        }
        let line_start = before.rfind('\n').map_or(0, |line| line + 1);
        let opening = before[line_start..].trim_start_matches([' ', '\t']);
        let closing = after.lines().next().unwrap_or_default().trim_end();
        let mark = closing.trim_matches(['`', '~']).is_empty() && closing.len() >= 3;
        let is_fence = ["```", "~~~"].iter().any(|mark| opening.starts_with(mark));
        if mark && is_fence && opening.starts_with(&closing[..3]) {
            start = line_start;
            end += next + closing.len();
            continue;
        }
        return (start, end);
    }
}

fn read_trace(fields: &Map<String, Value>, verbatim: &str) -> (Trace, Option<String>) {
    let mut trace = Trace {
        verbatim: truncate_chars(verbatim, 16 * MAX_FIELD_CHARS),
        ..Trace::default()
    };
    let mut fault = None;
    for (key, value) in fields {
        match field_of_key(key) {
            Some("bottleneck") => trace.bottleneck = value_text(value),
            Some("hypothesis") => trace.hypothesis = value_text(value),
            Some("change") => trace.change = value_text(value),
            Some("risk") => trace.risk = value_text(value),
            Some("expected") => match parse_percent(key, value) {
                Ok(percent) => trace.expected_percent = percent.or(trace.expected_percent),
                Err(what) => fault = Some(what),
            },
            _ => {}
        }
    }
    (trace, fault)
}

fn value_text(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.trim().to_owned(),
        Value::Array(values) => values.iter().map(value_text).collect::<Vec<_>>().join("; "),
        other => other.to_string(),
    };
    truncate_chars(&text, MAX_FIELD_CHARS)
}

fn truncate_chars(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The expected change of time in percent. A number is taken at its word; in a text, words say what its sign does not; a range
/// stands for its middle, and a factor (`1.3x`) is one of speed.
fn parse_percent(key: &str, value: &Value) -> Result<Option<f64>, String> {
    let is_factor = key == "expected_speedup";
    let percent = match value {
        Value::Null => return Ok(None),
        Value::Number(number) if is_factor => number.as_f64().and_then(percent_from_factor),
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match percent_from_text(text, is_factor) {
            Some(percent) => Some(percent),
            None if !text.chars().any(|letter| letter.is_ascii_digit()) => return Ok(None),
            None => None,
        },
        _ => None,
    };
    match percent {
        Some(percent) if percent.is_finite() && percent >= -100.0 => Ok(Some(percent)),
        _ => Err(format!(
            "`{key}`: expected the change of time in percent, such as -20, found `{}`",
            truncate_chars(&value_text(value), 60)
        )),
    }
}

fn percent_from_factor(factor: f64) -> Option<f64> {
    (factor > 0.0).then(|| (1.0 / factor - 1.0) * 100.0)
}

fn percent_from_text(text: &str, is_factor: bool) -> Option<f64> {
    let text = text
        .to_lowercase()
        .replace(['−', '–', '—'], "-")
        .replace(',', ".");
    let has = |beginnings: &[&str]| {
        text.split(|letter: char| !letter.is_alphabetic())
            .any(|word| {
                beginnings
                    .iter()
                    .any(|beginning| word.starts_with(beginning))
            })
    };
    let faster = has(&[
        "fast",
        "speed",
        "reduc",
        "less",
        "lower",
        "improv",
        "gain",
        "schneller",
        "weniger",
        "short",
        "quick",
    ]);
    let slower = has(&["slow", "longer", "regress", "langsamer", "increas"]);
    let numbers = find_numbers(&text);
    let (first, last) = match numbers.as_slice() {
        [only] => (*only, *only),
        // A dash between two numbers is no sign.
        [first, last] if first.is_dash_before(last) => (
            *first,
            NumberInText {
                value: last.value.copysign(first.value),
                ..*last
            },
        ),
        [first, last] if first.is_range_with(last, &text) => (*first, *last),
        _ => return None,
    };
    let is_times = |number: &NumberInText| {
        let behind = text[number.end..].trim_start();
        behind.starts_with(['x', '×']) || behind.starts_with("times") || behind.starts_with("-fold")
    };
    let middle = f64::midpoint(first.value, last.value);
    if is_times(&last) || is_factor && !text.contains('%') {
        return if slower {
            None
        } else {
            percent_from_factor(middle)
        };
    }
    match (faster, slower) {
        (true, true) => None,
        // `20 % faster` and `-20 % (faster)` say the same.
        (true, false) => Some(-middle.abs()),
        (false, true) => Some(middle.abs()),
        (false, false) if is_factor => None,
        (false, false) => Some(middle),
    }
}

/// A number within a text, and where it stands.
#[derive(Clone, Copy, Debug)]
struct NumberInText {
    value: f64,
    start: usize,
    end: usize,
}

impl NumberInText {
    fn is_dash_before(&self, last: &Self) -> bool {
        // The sign of the second is the dash, with nothing but a percent sign between.
        last.start - self.end <= 2 && last.value < 0.0 && last.value.abs() != self.value
    }

    fn is_range_with(&self, last: &Self, text: &str) -> bool {
        let between = text[self.end..last.start].trim_matches(['%', ' ', '.']);
        ["to", "-", "bis", "..", "and", "or", ""].contains(&between)
    }
}

fn find_numbers(text: &str) -> Vec<NumberInText> {
    let bytes = text.as_bytes();
    let mut numbers = Vec::new();
    let mut at = 0;
    while at < bytes.len() && numbers.len() < 3 {
        if !bytes[at].is_ascii_digit() || at > 0 && bytes[at - 1].is_ascii_alphabetic() {
            at += 1;
            continue;
        }
        let mut end = at;
        while end < bytes.len()
            && (bytes[end].is_ascii_digit()
                || bytes[end] == b'.' && bytes.get(end + 1).is_some_and(u8::is_ascii_digit))
        {
            end += 1;
        }
        let start = if at > 0 && bytes[at - 1] == b'-' {
            at - 1
        } else {
            at
        };
        if let Ok(value) = text[start..end].parse() {
            numbers.push(NumberInText { value, start, end });
        }
        at = end;
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(text: &str) -> Option<f64> {
        parse_percent("expected_percent", &Value::String(text.to_owned()))
            .unwrap()
            .map(|percent| (percent * 100.0).round() / 100.0)
    }

    #[test]
    fn expected_percent_is_read_in_many_notations() {
        assert_eq!(expected("-20%"), Some(-20.0));
        assert_eq!(expected("−20 %"), Some(-20.0));
        assert_eq!(expected("20% faster"), Some(-20.0));
        assert_eq!(expected("about 5 percent slower"), Some(5.0));
        assert_eq!(expected("-10 to -20"), Some(-15.0));
        assert_eq!(expected("10-20% faster"), Some(-15.0));
        assert_eq!(expected("-10–20 %"), Some(-15.0));
        assert_eq!(expected("1.25x"), Some(-20.0));
        assert_eq!(expected("2x speedup"), Some(-50.0));
        assert_eq!(expected("12,5 % weniger Zeit"), Some(-12.5));
        assert_eq!(expected("+3"), Some(3.0));
        assert_eq!(expected("unknown"), None);
    }

    #[test]
    fn ambiguous_expectations_are_errors() {
        let read = |text: &str| parse_percent("expected_percent", &Value::String(text.to_owned()));
        assert!(read("-10 for b1, -30 for b64 and 5 for the rest").is_err());
        assert!(read("-150").is_err());
        assert!(read("20% faster or slower").is_err());
        assert!(parse_percent("expected_percent", &Value::Bool(true)).is_err());
    }
}
