//! The shingles of a kernel file, to compare how alike two kernels are.
//!
//! Comments, white space and the point do not count; names do. Judges nothing: whether two kernels are near-copies is decided in `search`.

use super::Kernel;
use super::header_comment::find_header;
use super::lexer::lex;
use crate::base::Shingles;

impl Kernel {
    /// Those of its header and its code. The same for all kernels of a family.
    pub fn shingles(&self) -> Shingles {
        let text = self.at_lowest_point();
        let header = find_header(&text)
            .ok()
            .and_then(|found| text.get(found.body));
        Shingles::of(lexemes(header.unwrap_or_default()).chain(lexemes(&text)))
    }
}

/// A header is a comment of its file, so it is read by itself.
fn lexemes(text: &str) -> impl Iterator<Item = &str> {
    lex(text).into_iter().map(|lexeme| &text[lexeme.range])
}
