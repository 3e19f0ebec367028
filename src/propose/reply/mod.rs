//! What a model's reply holds: its trace, and then a kernel or edits of one; and what becomes of a kernel under edits.
//!
//! Pure, and in time proportional to the text. Where a reply may be read in two ways it is not read at all: the reason is told
//! instead. Never compiles, never asks.

mod apply;
mod blocks;
mod code;
mod edits;
mod fault_message;
mod json;
mod nearest;
mod normalized;
mod trace;

use serde::{Deserialize, Serialize};

pub use apply::{AppliedEdits, EditFault, EditRepair, NumberedLine, RepairKind, apply_edits};
pub use fault_message::describe_faults;
pub(crate) use trace::Trace;

/// What was read from a reply.
#[derive(Clone, Debug, PartialEq)]
pub struct ParsedReply {
    pub trace: Option<Trace>,
    /// Why there is no trace, or what of it could not be understood.
    pub trace_fault: Option<String>,
    pub content: ReplyContent,
    /// What was put right on the way, and why this kernel was taken where there are several: for people.
    pub notes: Vec<String>,
}

/// What a reply answers with.
#[derive(Clone, Debug, PartialEq)]
pub enum ReplyContent {
    /// A whole kernel file, with its header.
    Code(String),
    Edits(Vec<Edit>),
    /// The model says that no edit helps.
    NoValidEdit,
    /// Neither kernel nor edits, with the reason.
    Unusable(String),
    /// It ends before its end, whatever it holds: never compiled.
    Truncated,
}

/// One replacement of a text that occurs once.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Edit {
    pub old: String,
    pub new: String,
}

/// Reads a reply. It is not `complete` where it ended at its cap or its stream was cut: then only the trace is read.
///
/// The trace is taken off first, wherever it stands, so that nothing in it is taken for code. Then, in this order: edits, for
/// who writes edits may quote the kernel beside them; the word that no edit helps; a kernel; a difference in the notation of
/// `diff`, which often stands beside a kernel as an explanation.
pub fn parse_reply(text: &str, complete: bool) -> ParsedReply {
    let mut notes = Vec::new();
    let plain = clean_reply(text, &mut notes);
    let found = trace::extract_trace(&plain);
    let body = if complete {
        parse_content(&found, &mut notes)
    } else {
        ReplyContent::Truncated
    };
    ParsedReply {
        trace: found.trace,
        trace_fault: found.fault,
        content: body,
        notes,
    }
}

fn parse_content(found: &trace::ExtractedTrace, notes: &mut Vec<String>) -> ReplyContent {
    let rest = found.rest.as_str();
    if rest.trim().is_empty() && found.json.is_none() {
        return ReplyContent::Unusable("the reply is empty".to_owned());
    }
    match edits::tagged_edits(rest) {
        Ok(edits) if !edits.is_empty() => return ReplyContent::Edits(edits),
        Ok(_) => {}
        Err(body) => return body,
    }
    if edits::states_no_valid_edit(rest) {
        return ReplyContent::NoValidEdit;
    }
    let blocks = blocks::find_blocks(rest);
    let code = code::choose_kernel(&blocks, notes);
    if !matches!(code, ReplyContent::Unusable(_)) {
        return code;
    }
    let edits = edits::diff_edits(rest, &blocks);
    if !edits.is_empty() {
        notes.push("a difference was read as edits".to_owned());
        return ReplyContent::Edits(edits);
    }
    if let Some(body) = found.json.as_ref().and_then(code::content_from_json) {
        notes.push("the answer stood within the JSON".to_owned());
        return body;
    }
    if edits::mentions_no_valid_edit(rest) {
        return ReplyContent::NoValidEdit;
    }
    code
}

/// The reply without what is no part of its text: byte order marks, carriage returns, and thoughts that leaked.
fn clean_reply(text: &str, notes: &mut Vec<String>) -> String {
    let mut text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    for (open, close) in THOUGHT_TAGS {
        if let Some(rest) = strip_thoughts(&text, open, close) {
            notes.push("leaked thoughts were left out".to_owned());
            text = rest;
        }
    }
    if let Some((_, last)) = text.rsplit_once("<|channel|>final<|message|>") {
        notes.push("leaked thoughts were left out".to_owned());
        text = last
            .trim_end()
            .trim_end_matches("<|return|>")
            .trim_end_matches("<|end|>")
            .to_owned();
    }
    let escaped = ["&lt;edit", "&lt;old_str", "&lt;NO_VALID_EDIT"];
    if !text.contains('<') && escaped.iter().any(|tag| text.contains(tag)) {
        notes.push("the whole reply was written for HTML".to_owned());
        text = unescape_html(&text);
    }
    text
}

/// How models mark what they think to themselves.
const THOUGHT_TAGS: [(&str, &str); 4] = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<thought>", "</thought>"),
];

/// What follows the thoughts that a reply begins with. Where the template of a server has already written the opening mark, only
/// the closing one is there.
fn strip_thoughts(text: &str, open: &str, close: &str) -> Option<String> {
    let start = text.trim_start();
    if let Some(thoughts) = start.strip_prefix(open) {
        // Thoughts without an end are all there is.
        let end = thoughts.find(close).map(|end| end + close.len());
        return Some(thoughts[end.unwrap_or(thoughts.len())..].to_owned());
    }
    let end = text.find(close)?;
    let own_line = text[end + close.len()..].trim_start_matches([' ', '\t']);
    let alone = own_line.is_empty() || own_line.starts_with('\n');
    (alone && !text[..end].contains(open)).then(|| text[end + close.len()..].to_owned())
}

/// The characters behind the names that HTML has for them.
fn unescape_html(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&#39;", "'")
        .replace("&apos;", "'")
        .replace("&nbsp;", " ")
        .replace("&amp;", "&")
}

#[cfg(test)]
mod tests;
