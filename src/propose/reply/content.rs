//! What a parsed reply contains. Plain data that the parsers of `propose::reply` share.

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
    /// Replacements in the parent's kernel file.
    Edits(Vec<Edit>),
    /// The model states that no edit helps.
    NoValidEdit,
    /// Neither a kernel nor edits; the reason.
    Unusable(String),
    /// The reply was cut off. Whatever it contains is never compiled.
    Truncated,
}

/// One `str_replace` pair: `old` must occur exactly once in the kernel, and `new` replaces it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Edit {
    pub old: String,
    pub new: String,
}
