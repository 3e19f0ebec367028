//! Whether two kernel files are the same candidate before anything is compiled: their normal forms are equal.
//!
//! Comments, white space and the order of the header's keys do not count. A file without a normal form, because its code uses its
//! line numbers or macros that make text, is compared by its header and its lexemes.

use crate::base::Digest;
use crate::kernel::normal_form;
use crate::kernel::syntax::Syntax;

/// The identity of any text.
pub(super) fn source_identity(source: &str) -> Digest {
    normal_form(source).unwrap_or_else(|| lexeme_identity(&Syntax::parse(source)))
}

/// The identity of a parsed source.
pub(super) fn syntax_identity(syntax: &Syntax<'_>) -> Digest {
    normal_form(syntax.source()).unwrap_or_else(|| lexeme_identity(syntax))
}

fn lexeme_identity(syntax: &Syntax<'_>) -> Digest {
    let source = syntax.source();
    let header = source.split("*/").next().unwrap_or_default();
    let joined = |lexemes: Vec<&str>| lexemes.join(" ");
    Digest::of_parts([
        joined(header.split_whitespace().collect()).as_bytes(),
        joined(syntax.lexemes()).as_bytes(),
    ])
}
