//! Chooses the kernel among the blocks of a reply.
//!
//! A kernel starts with its header. Of several whole kernels the last one is taken: models that write more than one correct
//! themselves, or quote the kernel that they were shown first. Never joins parts that fit together in two ways.

use serde_json::Value;

use super::blocks::{ReplyBlock, find_blocks, starts_with_header};
use super::content::{Edit, ReplyContent};
use super::edits;
use super::json;
use super::text::unescape_html;

/// What a block contains.
enum BlockKind {
    /// Header and code.
    Kernel(String),
    /// A header and nothing else.
    Header(String),
    /// Device code without a header.
    Code(String),
    Other,
}

/// The kernel of a reply; `Unusable` with the reason if there is none, `Truncated` if the last one was cut off.
pub(super) fn choose_kernel(blocks: &[ReplyBlock], notes: &mut Vec<String>) -> ReplyContent {
    let kinds: Vec<_> = blocks.iter().map(|block| block_kind(&block.text)).collect();
    let is_whole_kernel = |(block, kind): &(&ReplyBlock, &BlockKind)| {
        block.closed && matches!(kind, BlockKind::Kernel(_))
    };
    let pairs = || blocks.iter().zip(&kinds);
    let after_last = kinds.len()
        - pairs()
            .rev()
            .position(|pair| is_whole_kernel(&pair))
            .unwrap_or(kinds.len());
    let is_cut = |(block, kind): (&ReplyBlock, &BlockKind)| {
        !block.closed && (!matches!(kind, BlockKind::Other) || starts_with_header(&block.text))
    };
    // If the last kernel was cut off, an earlier one is only a draft.
    if pairs().skip(after_last).any(is_cut) {
        return ReplyContent::Truncated;
    }
    if let Some(BlockKind::Kernel(text)) =
        after_last.checked_sub(1).and_then(|last| kinds.get(last))
    {
        let count = pairs().filter(is_whole_kernel).count();
        if count > 1 {
            notes.push(format!("took the last of {count} kernels"));
        }
        return ReplyContent::Code(text.clone());
    }
    join_header_and_code(blocks, &kinds, notes)
}

/// The kernel made of a header and code in separate blocks, if there is exactly one of each.
fn join_header_and_code(
    blocks: &[ReplyBlock],
    kinds: &[BlockKind],
    notes: &mut Vec<String>,
) -> ReplyContent {
    let mut headers = Vec::new();
    let mut codes = Vec::new();
    for kind in kinds {
        match kind {
            BlockKind::Header(text) => headers.push(text),
            BlockKind::Code(text) => codes.push(text),
            BlockKind::Kernel(_) | BlockKind::Other => {}
        }
    }
    let unusable = |reason: &str| ReplyContent::Unusable(reason.to_owned());
    match (headers.as_slice(), codes.as_slice()) {
        ([header], [code]) => {
            notes.push("joined the header and the code, which are in separate blocks".to_owned());
            ReplyContent::Code(format!("{}\n\n{}", header.trim_end(), code.trim_start()))
        }
        ([], []) if blocks.iter().any(|block| !block.closed) => ReplyContent::Truncated,
        ([], []) => unusable("the reply contains neither a kernel nor edits"),
        ([], _) => unusable(
            "the code has no header: hint: start the kernel file with `/* kforge`, the launches in YAML, and `*/`",
        ),
        ([_], []) => unusable("the reply contains a header and no code"),
        _ => unusable(
            "headers and code are in separate blocks, and it is unclear which belong together",
        ),
    }
}

fn block_kind(text: &str) -> BlockKind {
    let text = clean_code(text);
    if starts_with_header(&text) {
        return classify_with_header(text);
    }
    // A header is a comment, so a header later in the block can move to the start.
    if let Some(start) = find_later_header(&text) {
        let length = text[start..]
            .find("*/")
            .map_or(text.len() - start, |end| end + 2);
        let (header, rest) = text[start..].split_at(length);
        let before = text[..start].trim();
        // A single line such as a file name is no code, and goes.
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

/// The kind of a text that starts with a header. Anything after the header counts as code: the compiler reports what is wrong.
fn classify_with_header(text: String) -> BlockKind {
    let body = text.split_once("*/").map_or("", |(_, body)| body);
    if body.trim().is_empty() {
        BlockKind::Header(text)
    } else {
        BlockKind::Kernel(text)
    }
}

/// The first byte of a header that does not start the text.
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

/// Whether a text contains a CUDA or Metal kernel function.
fn has_device_function(text: &str) -> bool {
    text.contains("__global__") || text.contains("kernel void ")
}

/// The text without invisible characters and HTML escapes, which no compiler accepts.
fn clean_code(text: &str) -> String {
    let mut text: String = text
        .trim_start_matches(['\u{feff}', '\n'])
        .chars()
        .filter(|letter| !matches!(letter, '\u{feff}' | '\u{200b}'..='\u{200d}' | '\u{2060}'))
        .map(|letter| if letter == '\u{a0}' { ' ' } else { letter })
        .collect();
    // Every kernel contains `<` or `>`: without either, all of them are escaped.
    let has_escapes = text.contains("&lt;") || text.contains("&gt;");
    if has_escapes && !text.contains(['<', '>']) {
        text = unescape_html(&text);
    }
    let length = text.trim_end().len();
    text.truncate(length);
    text.push('\n');
    text
}

/// A kernel or edits that are members of a JSON object.
pub(super) fn content_from_json(value: &Value) -> Option<ReplyContent> {
    let text = |value: &Value, names: &[&str]| {
        names
            .iter()
            .find_map(|name| value.get(name)?.as_str().map(str::to_owned))
    };
    if let Some(list) = value.get("edits").and_then(Value::as_array) {
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
        text(value, &["old_str", "old_string"]),
        text(value, &["new_str", "new_string"]),
    ) {
        return Some(ReplyContent::Edits(vec![Edit { old, new }]));
    }
    let named = text(value, &["code", "kernel", "source", "cuda"]);
    if let Some(kernel) = named.as_deref().and_then(kernel_in) {
        return Some(ReplyContent::Code(kernel));
    }
    // A tool call may have any name for the file.
    let mut kernels: Vec<String> = Vec::new();
    for text in json::texts_of(value) {
        match kernel_in(text) {
            Some(kernel) if !kernels.contains(&kernel) => kernels.push(kernel),
            _ => {}
        }
    }
    match kernels.as_slice() {
        [kernel] => Some(ReplyContent::Code(kernel.clone())),
        _ => None,
    }
}

/// The kernel in a text that is nothing but a kernel, or that has one in a fenced block.
fn kernel_in(text: &str) -> Option<String> {
    if let BlockKind::Kernel(kernel) = block_kind(text)
        && !text.contains("```")
    {
        return Some(kernel);
    }
    match choose_kernel(&find_blocks(text), &mut Vec::new()) {
        ReplyContent::Code(kernel) => Some(kernel),
        _ => None,
    }
}
