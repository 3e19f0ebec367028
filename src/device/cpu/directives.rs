//! Edits the directives of a source: refuses includes of files that no kernel needs, empties headers that do not exist on the CPU, drops
//! pragmas that are not CUDA's.
//!
//! A refused directive becomes an `#error`, so that it counts only where the preprocessor reaches it. Words in the bodies of
//! macros are edited by `words`.

use std::ops::Range;

use super::checked_source::CheckedSource;
use super::headers::{HeaderKind, classify};
use super::own_names::split_word;
use super::words::{edit_words, is_kept_pragma, own_name};
use crate::device::Refusal;
use crate::device::source_rewrite::{
    NO_HEADER_NAME, ONLY_INCLUDE, has_include_tests, header_name, is_line_marker, unknown_header,
};
use crate::kernel::lexer::{Lexeme, starts_with_directive, strip_comments};
use crate::verdict::Status;

/// The text of a message in front of the number of an empty header.
pub(super) const EMPTY_HEADER: &str = "kforge has no content for header number ";

/// Edits one directive.
pub(super) fn edit_directive(source: &str, lexeme: &Lexeme, checked: &mut CheckedSource) {
    let directive = &source[lexeme.range.clone()];
    let plain = strip_comments(directive);
    let Some(body) = plain.strip_prefix('#').or_else(|| plain.strip_prefix("%:")) else {
        return;
    };
    let body = body.trim_start();
    let range = lexeme.range.clone();
    let is = |name: &str| starts_with_directive(body, name);
    // The text of `#ident` reaches the assembler as it is.
    if is_line_marker(body) || is("ident") || is("sccs") {
        checked.edits.remove(source, range);
    } else if ["include_next", "embed", "import"].into_iter().any(is) {
        let refusal = Refusal::at_line(Status::Rejected, lexeme.line, ONLY_INCLUDE);
        checked.edits.refuse(source, range, refusal);
    } else if is("include") {
        edit_include(source, lexeme, body["include".len()..].trim(), checked);
    } else if is("pragma") {
        if !is_kept_pragma(&body["pragma".len()..]) {
            checked.edits.remove(source, range);
        }
    } else if let Some(word) = split_word(directive) {
        let refusal = Refusal::at_line(Status::Rejected, lexeme.line, own_name(&word));
        checked.edits.refuse(source, range, refusal);
    } else if !is("error") && !is("warning") {
        for (test, name) in has_include_tests(directive) {
            let exists = matches!(classify(name), HeaderKind::Supported | HeaderKind::HostOnly);
            let result = if exists { "1" } else { "0" };
            checked
                .edits
                .replace_in_directive(source, shift(&test, range.start), result);
        }
        edit_words(source, lexeme, checked);
    }
}

fn shift(range: &Range<usize>, offset: usize) -> Range<usize> {
    range.start + offset..range.end + offset
}

/// Edits an `#include`, given its operand.
fn edit_include(source: &str, lexeme: &Lexeme, operand: &str, checked: &mut CheckedSource) {
    let range = lexeme.range.clone();
    let refused = |status, reason: String| Refusal::at_line(status, lexeme.line, reason);
    let Some(name) = header_name(operand) else {
        let refusal = refused(Status::Rejected, NO_HEADER_NAME.to_owned());
        checked.edits.refuse(source, range, refusal);
        return;
    };
    match classify(name) {
        HeaderKind::Supported => {}
        HeaderKind::HostOnly => checked.edits.remove(source, range),
        HeaderKind::NotSupported => {
            let number = checked.empty_headers.len();
            let marker = format!("#pragma message \"{EMPTY_HEADER}{number}\"");
            checked.edits.replace(source, range, marker);
            let reason = format!("`<{name}>` is not supported on a CPU");
            checked
                .empty_headers
                .push(refused(Status::Unsupported, reason));
        }
        HeaderKind::Unknown => {
            let refusal = refused(Status::Rejected, unknown_header(name));
            checked.edits.refuse(source, range, refusal);
        }
    }
}
