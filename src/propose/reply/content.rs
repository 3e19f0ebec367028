//! What a parsed reply contains: plain data that the parsers of this module share.

use serde::{Deserialize, Serialize};

use super::trace::Trace;

/// A parsed reply.
#[derive(Clone, Debug, PartialEq)]
pub struct ParsedReply {
    pub trace: Option<Trace>,
    /// Why there is no trace, or which part of it is wrong.
    pub trace_fault: Option<String>,
    pub content: ReplyContent,
    /// For people: what was corrected while parsing, and which kernel was taken if there are several.
    pub notes: Vec<String>,
}

/// What a reply proposes.
#[derive(Clone, Debug, PartialEq)]
pub enum ReplyContent {
    /// A whole kernel file with its header.
    Code(String),
    Edits(Vec<Edit>),
    /// The model states that no edit helps.
    NoValidEdit,
    /// Neither a kernel nor edits; the reason.
    Unusable(String),
    /// The reply was cut off. Whatever it contains is never compiled.
    Truncated,
}

/// One replacement of a text that occurs exactly once in a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Edit {
    pub old: String,
    pub new: String,
}
