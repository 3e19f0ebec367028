//! A kernel's source as the C++ compiler gets it, and the possible reasons to refuse it.
//!
//! Whether a reason counts is known after the compilation, because only the compiler's preprocessor knows which code is present. Data
//! only: `source_checks` makes it, and `explain` reads it after a failed compilation.

use crate::device::Refusal;
use crate::device::source_rewrite::SourceRewrite;
use crate::verdict::Status;

/// The result of the checks before compilation.
#[derive(Debug, Default)]
pub(super) struct CheckedSource {
    /// The source for the compiler. It has as many lines as the kernel file.
    pub(super) text: String,
    /// Refused directives, each edited into an `#error`. A refusal counts if the compiler reaches the directive.
    pub(super) edits: SourceRewrite,
    /// Words that this device does not know. A refusal counts if the compiler reports an error about the word.
    pub(super) suspect_words: Vec<SuspectWord>,
    /// Headers that have no content on the CPU. A refusal counts if the compiler reaches the header, and later misses a name.
    pub(super) empty_headers: Vec<Refusal>,
    /// The lines with inline PTX. A thread that reaches one ends the process.
    pub(super) ptx_lines: Vec<u32>,
    /// Whether the preprocessor can make words or directives that are not in the text, for example by `##`.
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
