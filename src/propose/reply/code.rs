//! Which of a reply's blocks is the kernel.
//!
//! A kernel is known by its header. Of several whole ones the last is taken: models that write more than one correct themselves,
//! or quote the kernel that they were shown first. Never joins what could be joined in two ways.

use serde_json::Value;

use super::blocks::{Block, begins_header};
use super::{Body, Edit, edits, unescaped};

/// What a block holds.
enum Kind {
    /// Header and code.
    Kernel(String),
    /// A header and nothing else.
    Header(String),
    /// Device code without a header.
    Code(String),
    Other,
}

pub(super) fn choose(blocks: &[Block], notes: &mut Vec<String>) -> Body {
    let kinds: Vec<_> = blocks.iter().map(|block| kind(&block.text)).collect();
    let whole = |(block, kind): &(&Block, &Kind)| block.closed && matches!(kind, Kind::Kernel(_));
    let pairs = || blocks.iter().zip(&kinds);
    let last = kinds.len()
        - pairs()
            .rev()
            .position(|pair| whole(&pair))
            .unwrap_or(kinds.len());
    let is_cut = |(block, kind): (&Block, &Kind)| {
        !block.closed && (!matches!(kind, Kind::Other) || begins_header(&block.text))
    };
    // What was meant as the answer was cut: an earlier kernel is a draft.
    if pairs().skip(last).any(is_cut) {
        return Body::Truncated;
    }
    if let Some(Kind::Kernel(text)) = last.checked_sub(1).and_then(|last| kinds.get(last)) {
        let count = pairs().filter(whole).count();
        if count > 1 {
            notes.push(format!("the last of {count} kernels was taken"));
        }
        return Body::Code(text.clone());
    }
    let headers: Vec<_> = kinds
        .iter()
        .filter_map(|kind| match kind {
            Kind::Header(text) => Some(text),
            _ => None,
        })
        .collect();
    let codes: Vec<_> = kinds
        .iter()
        .filter_map(|kind| match kind {
            Kind::Code(text) => Some(text),
            _ => None,
        })
        .collect();
    match (headers.as_slice(), codes.as_slice()) {
        ([header], [code]) => {
            notes.push("the header and the code stood apart".to_owned());
            Body::Code(format!("{}\n\n{}", header.trim_end(), code.trim_start()))
        }
        ([], []) if blocks.iter().any(|block| !block.closed) => Body::Truncated,
        ([], []) => Body::None("the reply holds neither a kernel nor edits".to_owned()),
        ([], _) => Body::None(
            "the code has no header: a kernel file begins with `/* kforge`, the launches in YAML, and `*/`"
                .to_owned(),
        ),
        ([_], []) => Body::None("the reply holds a header and no code".to_owned()),
        _ => Body::None(
            "headers and code stand apart, and it is not said which belong together".to_owned(),
        ),
    }
}

fn kind(text: &str) -> Kind {
    let text = clean(text);
    if begins_header(&text) {
        return with_header(text);
    }
    // A header that is not the first thing in the block may go there: it is a comment.
    if let Some(start) = header_later(&text) {
        let length = text[start..]
            .find("*/")
            .map_or(text.len() - start, |end| end + 2);
        let (header, rest) = text[start..].split_at(length);
        let before = text[..start].trim();
        let is_label = before.lines().count() <= 1 && !before.contains([';', '#', '{', '<', '/']);
        let before = if is_label { "" } else { before };
        let text = [header, before, rest.trim()]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join("\n\n");
        return with_header(format!("{text}\n"));
    }
    if is_code(&text) {
        Kind::Code(text)
    } else {
        Kind::Other
    }
}

fn with_header(text: String) -> Kind {
    let body = text.split_once("*/").map_or("", |(_, body)| body);
    if is_code(body) {
        Kind::Kernel(text)
    } else if body.trim().is_empty() {
        Kind::Header(text)
    } else {
        // A header and some text: the compiler will say what is amiss.
        Kind::Kernel(text)
    }
}

/// Where a header begins behind other lines.
fn header_later(text: &str) -> Option<usize> {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if begins_header(line) {
            return Some(at + line.len() - line.trim_start().len());
        }
        at += line.len();
    }
    None
}

/// Whether a text has a function that a device runs.
fn is_code(text: &str) -> bool {
    text.contains("__global__") || text.contains("kernel void ")
}

/// The text as a compiler can read it: what only the way from the model to here has put in.
fn clean(text: &str) -> String {
    let mut text: String = text
        .trim_start_matches(['\u{feff}', '\n'])
        .chars()
        .filter(|letter| !matches!(letter, '\u{feff}' | '\u{200b}'..='\u{200d}' | '\u{2060}'))
        .map(|letter| if letter == '\u{a0}' { ' ' } else { letter })
        .collect();
    // Where something is escaped and nothing is not, all is: no kernel does without either sign.
    let escaped = text.contains("&lt;") || text.contains("&gt;");
    if escaped && !text.contains(['<', '>']) {
        text = unescaped(&text);
    }
    let length = text.trim_end().len();
    text.truncate(length);
    text.push('\n');
    text
}

/// A kernel or edits that stand in the JSON itself.
pub(super) fn within(json: &Value) -> Option<Body> {
    let text = |value: &Value, names: &[&str]| {
        names
            .iter()
            .find_map(|name| value.get(name)?.as_str().map(str::to_owned))
    };
    if let Some(list) = json.get("edits").and_then(Value::as_array) {
        let edits: Option<Vec<_>> = list
            .iter()
            .map(|edit| {
                Some(Edit {
                    old: text(edit, &["old_str", "old_string", "old"])?,
                    new: text(edit, &["new_str", "new_string", "new"])?,
                })
            })
            .collect();
        let edits = edits::once_each(edits?);
        return (!edits.is_empty()).then_some(Body::Edits(edits));
    }
    if let (Some(old), Some(new)) = (
        text(json, &["old_str", "old_string"]),
        text(json, &["new_str", "new_string"]),
    ) {
        return Some(Body::Edits(vec![Edit { old, new }]));
    }
    let code = text(json, &["code", "kernel", "source", "cuda"])?;
    match kind(&code) {
        Kind::Kernel(text) => Some(Body::Code(text)),
        _ => None,
    }
}
