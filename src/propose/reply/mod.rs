//! Parses the reply of a model into its trace and a kernel or edits, and applies edits to a kernel.
//!
//! Pure, and linear in the length of the text. A reply that can be understood in two ways is refused with the reason, never
//! guessed. Never compiles, and never sends a request.

mod apply;
mod blocks;
mod cleaning;
mod code;
mod content;
mod diff;
mod edits;
mod fault_message;
mod faults;
mod fit;
mod json;
mod nearest;
mod normalized;
mod percent;
mod text;
mod trace;

pub use apply::{AppliedEdits, apply_edits};
pub use content::{Edit, ParsedReply, ReplyContent};
pub use fault_message::describe_faults;
pub use faults::{EditFault, EditRepair, NumberedLine, RepairKind, UnmatchedEdit};

/// Parses a reply. `complete` is false if it was cut by its token limit or its stream ended early: then only the trace is read.
///
/// The trace is removed first, wherever it is, so that no part of it counts as code. The rest is searched in this order:
///
/// 1. edits, because a reply with edits may also quote the kernel;
/// 2. `NO_VALID_EDIT` on a line of its own;
/// 3. a kernel;
/// 4. a unified diff, which often only explains a kernel;
/// 5. code or edits inside the JSON of the trace;
/// 6. `NO_VALID_EDIT` in a sentence.
pub fn parse_reply(text: &str, complete: bool) -> ParsedReply {
    let mut notes = Vec::new();
    let text = cleaning::clean_reply(text, &mut notes);
    let extracted = trace::extract_trace(&text);
    let content = if complete {
        parse_content(&extracted, &mut notes)
    } else {
        ReplyContent::Truncated
    };
    ParsedReply {
        trace: extracted.trace,
        trace_fault: extracted.fault,
        content,
        notes,
    }
}

/// Parses a reply that may have been cut anywhere, because its stream broke. Only a kernel that a closing fence ends is certain to be
/// whole; `None` if there is none, or if another kernel starts after it.
pub fn parse_finished_kernel(text: &str) -> Option<ParsedReply> {
    let mut notes = vec!["took a whole kernel from a reply that did not end".to_owned()];
    let text = cleaning::clean_reply(text, &mut notes);
    let extracted = trace::extract_trace(&text);
    if edits::tagged_edits(&extracted.rest).is_ok_and(|edits| !edits.is_empty()) {
        return None;
    }
    let mut blocks = blocks::find_blocks(&extracted.rest);
    for block in &mut blocks {
        block.closed = block.has_end_fence;
    }
    let content = code::choose_kernel(&blocks, &mut notes);
    matches!(content, ReplyContent::Code(_)).then_some(ParsedReply {
        trace: extracted.trace,
        trace_fault: extracted.fault,
        content,
        notes,
    })
}

fn parse_content(extracted: &trace::ExtractedTrace, notes: &mut Vec<String>) -> ReplyContent {
    let rest = extracted.rest.as_str();
    if rest.trim().is_empty() && extracted.json.is_none() {
        return ReplyContent::Unusable("the reply is empty".to_owned());
    }
    match edits::tagged_edits(rest) {
        Ok(edits) if !edits.is_empty() => return ReplyContent::Edits(edits),
        Ok(_) => {}
        Err(content) => return content,
    }
    if edits::states_no_valid_edit(rest) {
        return ReplyContent::NoValidEdit;
    }
    let blocks = blocks::find_blocks(rest);
    let code = code::choose_kernel(&blocks, notes);
    if !matches!(code, ReplyContent::Unusable(_)) {
        return code;
    }
    let edits = diff::diff_edits(rest, &blocks);
    if !edits.is_empty() {
        notes.push("read a diff as edits".to_owned());
        return ReplyContent::Edits(edits);
    }
    if let Some(content) = extracted.json.as_ref().and_then(code::content_from_json) {
        notes.push("took the code or edits from the JSON of the trace".to_owned());
        return content;
    }
    if edits::mentions_no_valid_edit(rest) {
        return ReplyContent::NoValidEdit;
    }
    code
}

#[cfg(test)]
mod tests;
