//! Which of a reply's blocks is the kernel.
//!
//! A kernel is known by its header. Of several whole ones the last is taken: models that write more than one correct themselves,
//! or quote the kernel that they were shown first. Never joins what could be joined in two ways.

use serde_json::Value;

use super::blocks::{ReplyBlock, starts_with_header};
use super::{Edit, ReplyContent, edits, unescape_html};

/// What a block holds.
enum BlockKind {
    /// Header and code.
    Kernel(String),
    /// A header and nothing else.
    Header(String),
    /// Device code without a header.
    Code(String),
    Other,
}

pub(super) fn choose_kernel(blocks: &[ReplyBlock], notes: &mut Vec<String>) -> ReplyContent {
    let kinds: Vec<_> = blocks.iter().map(|block| block_kind(&block.text)).collect();
    let whole = |(block, kind): &(&ReplyBlock, &BlockKind)| {
        block.closed && matches!(kind, BlockKind::Kernel(_))
    };
    let pairs = || blocks.iter().zip(&kinds);
    let last = kinds.len()
        - pairs()
            .rev()
            .position(|pair| whole(&pair))
            .unwrap_or(kinds.len());
    let is_cut = |(block, kind): (&ReplyBlock, &BlockKind)| {
        !block.closed && (!matches!(kind, BlockKind::Other) || starts_with_header(&block.text))
    };
    // What was meant as the answer was cut: an earlier kernel is a draft.
    if pairs().skip(last).any(is_cut) {
        return ReplyContent::Truncated;
    }
    if let Some(BlockKind::Kernel(text)) = last.checked_sub(1).and_then(|last| kinds.get(last)) {
        let count = pairs().filter(whole).count();
        if count > 1 {
            notes.push(format!("the last of {count} kernels was taken"));
        }
        return ReplyContent::Code(text.clone());
    }
    let headers: Vec<_> = kinds
        .iter()
        .filter_map(|kind| match kind {
            BlockKind::Header(text) => Some(text),
            _ => None,
        })
        .collect();
    let codes: Vec<_> = kinds
        .iter()
        .filter_map(|kind| match kind {
            BlockKind::Code(text) => Some(text),
            _ => None,
        })
        .collect();
    match (headers.as_slice(), codes.as_slice()) {
        ([header], [code]) => {
            notes.push("the header and the code stood apart".to_owned());
            ReplyContent::Code(format!("{}\n\n{}", header.trim_end(), code.trim_start()))
        }
        ([], []) if blocks.iter().any(|block| !block.closed) => ReplyContent::Truncated,
        ([], []) => ReplyContent::Unusable("the reply holds neither a kernel nor edits".to_owned()),
        ([], _) => ReplyContent::Unusable(
            "the code has no header: a kernel file begins with `/* kforge`, the launches in YAML, and `*/`"
                .to_owned(),
        ),
        ([_], []) => ReplyContent::Unusable("the reply holds a header and no code".to_owned()),
        _ => ReplyContent::Unusable(
            "headers and code stand apart, and it is not said which belong together".to_owned(),
        ),
    }
}

fn block_kind(text: &str) -> BlockKind {
    let text = clean_code(text);
    if starts_with_header(&text) {
        return classify_with_header(text);
    }
    // A header that is not the first thing in the block may go there: it is a comment.
    if let Some(start) = find_later_header(&text) {
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
        return classify_with_header(format!("{text}\n"));
    }
    if has_device_function(&text) {
        BlockKind::Code(text)
    } else {
        BlockKind::Other
    }
}

fn classify_with_header(text: String) -> BlockKind {
    let body = text.split_once("*/").map_or("", |(_, body)| body);
    if has_device_function(body) {
        BlockKind::Kernel(text)
    } else if body.trim().is_empty() {
        BlockKind::Header(text)
    } else {
        // A header and some text: the compiler will say what is amiss.
        BlockKind::Kernel(text)
    }
}

/// Where a header begins behind other lines.
fn find_later_header(text: &str) -> Option<usize> {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if starts_with_header(line) {
            return Some(at + line.len() - line.trim_start().len());
        }
        at += line.len();
    }
    None
}

/// Whether a text has a function that a device runs.
fn has_device_function(text: &str) -> bool {
    text.contains("__global__") || text.contains("kernel void ")
}

/// The text as a compiler can read it: what only the way from the model to here has put in.
fn clean_code(text: &str) -> String {
    let mut text: String = text
        .trim_start_matches(['\u{feff}', '\n'])
        .chars()
        .filter(|letter| !matches!(letter, '\u{feff}' | '\u{200b}'..='\u{200d}' | '\u{2060}'))
        .map(|letter| if letter == '\u{a0}' { ' ' } else { letter })
        .collect();
    // Where something is escaped and nothing is not, all is: no kernel does without either sign.
    let escaped = text.contains("&lt;") || text.contains("&gt;");
    if escaped && !text.contains(['<', '>']) {
        text = unescape_html(&text);
    }
    let length = text.trim_end().len();
    text.truncate(length);
    text.push('\n');
    text
}

/// A kernel or edits that stand in the JSON itself.
pub(super) fn content_from_json(json: &Value) -> Option<ReplyContent> {
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
        let edits = edits::without_duplicates(edits?);
        return (!edits.is_empty()).then_some(ReplyContent::Edits(edits));
    }
    if let (Some(old), Some(new)) = (
        text(json, &["old_str", "old_string"]),
        text(json, &["new_str", "new_string"]),
    ) {
        return Some(ReplyContent::Edits(vec![Edit { old, new }]));
    }
    let code = text(json, &["code", "kernel", "source", "cuda"])?;
    match block_kind(&code) {
        BlockKind::Kernel(text) => Some(ReplyContent::Code(text)),
        _ => None,
    }
}
