//! A kernel's source as the compiler gets it, with everything that may still count against it.
//!
//! Data only: `source_checks` makes it, `explain` reads it after a failed compilation.

use crate::device::Refusal;
use crate::device::source_rewrite::SourceRewrite;
use crate::verdict::Status;

/// The result of the checks before compilation.
#[derive(Debug, Default)]
pub(super) struct CheckedSource {
    /// With as many lines as the kernel file.
    pub(super) text: String,
    /// Refusals of directives, which count if the compiler reaches them.
    pub(super) edits: SourceRewrite,
    /// Words that this device does not know. They count if the compiler reports an error about one of them.
    pub(super) suspect_words: Vec<SuspectWord>,
    /// Headers without content here. One counts if the compiler reaches it and then misses a name.
    pub(super) empty_headers: Vec<Refusal>,
    /// The lines with inline PTX. A thread that reaches one ends the process.
    pub(super) ptx_lines: Vec<u32>,
    /// Whether the preprocessor can make directives or words that are not in the text, such as a name joined with `##`.
    pub(super) joins_tokens: bool,
}

/// A word that may be the reason for a compile error.
#[derive(Debug)]
pub(super) struct SuspectWord {
    pub(super) line: u32,
    pub(super) word: String,
    pub(super) refusal: Refusal,
}

impl CheckedSource {
    pub(super) fn add_suspect_word(
        &mut self,
        word: &str,
        status: Status,
        line: u32,
        reason: impl std::fmt::Display,
    ) {
        self.suspect_words.push(SuspectWord {
            line,
            word: word.to_owned(),
            refusal: Refusal::at_line(status, line, reason),
        });
    }
}
