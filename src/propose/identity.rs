//! Whether two kernel files are the same candidate: their headers and their lexemes are equal.
//!
//! Comments in the code and white space do not count.

use crate::base::Digest;
use crate::kernel::syntax::Syntax;

/// The identity of any text.
pub(super) fn source_identity(source: &str) -> Digest {
    syntax_identity(&Syntax::parse(source))
}

/// The identity of a parsed source.
pub(super) fn syntax_identity(syntax: &Syntax<'_>) -> Digest {
    let source = syntax.source();
    let header = source.split("*/").next().unwrap_or_default();
    let joined = |lexemes: Vec<&str>| lexemes.join(" ");
    Digest::of_parts([
        joined(header.split_whitespace().collect()).as_bytes(),
        joined(syntax.lexemes()).as_bytes(),
    ])
}
