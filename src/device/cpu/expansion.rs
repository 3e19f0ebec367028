//! Checks a preprocessed source for words that the preprocessor made, such as `asm` from `as##m`.
//!
//! Needed only for sources that join tokens: in all others `source_checks` sees every word. Text only; `toolchain` runs the
//! preprocessor on a text from [`without_own_words`].

use super::diagnostics::KERNEL_FILE;
use super::own_names::is_refused_when_made;
use super::source::ENTRIES_MARKER;
use super::words::{PTX_WORDS, is_kept_pragma, own_name, ptx_reason};
use crate::device::Refusal;
use crate::device::thread_locals::{THREAD_LOCAL, THREAD_LOCAL_WORDS};
use crate::kernel::lexer::{LexemeKind, lex, starts_with_directive};
use crate::verdict::Status;

/// The generated text without the entries behind the source, and without the `thread_local` of its own declarations. The kernel's own
/// ones have been edited before.
pub(super) fn without_own_words(text: &str) -> String {
    let source = text.find(ENTRIES_MARKER).map_or(text, |end| &text[..end]);
    source.replace("thread_local", "kforge_own_word")
}

/// A refusal if the kernel file's part of a preprocessed text has a word or a pragma that must not be there.
pub(super) fn check_expansion(text: &str) -> Option<Refusal> {
    let mut in_kernel = false;
    // Added to a line of the text, this gives the line of the kernel file.
    let mut offset = 0i64;
    for lexeme in lex(text) {
        let word = &text[lexeme.range.clone()];
        let line = u32::try_from(i64::from(lexeme.line) + offset)
            .unwrap_or(1)
            .max(1);
        match lexeme.kind {
            LexemeKind::Directive => {
                let body = word[1..].trim_start();
                if let Some((number, file)) = line_marker(body) {
                    in_kernel = file == KERNEL_FILE;
                    offset = i64::from(number) - i64::from(lexeme.line) - 1;
                } else if in_kernel && !is_accepted_pragma(body) {
                    let reason = format!("`#{body}` is not accepted: use `#pragma unroll` only");
                    return Some(Refusal::at_line(Status::Rejected, line, reason));
                }
            }
            LexemeKind::Identifier if !in_kernel => {}
            LexemeKind::Identifier if PTX_WORDS.contains(&word) => {
                let reason = ptx_reason(word);
                return Some(Refusal::at_line(Status::Unsupported, line, reason));
            }
            LexemeKind::Identifier if THREAD_LOCAL_WORDS.contains(&word) => {
                return Some(Refusal::at_line(Status::Rejected, line, THREAD_LOCAL));
            }
            LexemeKind::Identifier if is_refused_when_made(word) => {
                return Some(Refusal::at_line(Status::Rejected, line, own_name(word)));
            }
            _ => {}
        }
    }
    None
}

/// The line and the file of a marker such as `1 "kernel.cu" 2`.
fn line_marker(body: &str) -> Option<(u32, &str)> {
    let (number, rest) = body.split_once(' ')?;
    let file = rest.trim_start().strip_prefix('"')?.split('"').next()?;
    Some((number.parse().ok()?, file))
}

fn is_accepted_pragma(body: &str) -> bool {
    let Some(pragma) = body.strip_prefix("pragma") else {
        return false;
    };
    let pragma = pragma.trim_start();
    let is_own = pragma.strip_prefix("GCC").is_some_and(|rest| {
        let rest = rest.trim_start();
        starts_with_directive(rest, "unroll") || starts_with_directive(rest, "pch_preprocess")
    });
    is_own || is_kept_pragma(pragma) || starts_with_directive(pragma, "message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_words_are_refused_at_their_line() {
        let checked = |body: &str| {
            let text = format!(
                "# 1 \"unit.cpp\"\nasm(\"own\");\n# 5 \"kernel.cu\"\n{body}\n# 1 \"x.h\" 1\n__asm__(\"x\");\n"
            );
            check_expansion(&text).map(|refusal| (refusal.status, refusal.evidence.line))
        };
        assert_eq!(checked("int x;\nint asm_x;"), None);
        assert_eq!(
            checked("int x;\nasm(\"y\");"),
            Some((Status::Unsupported, Some(6)))
        );
        assert_eq!(
            checked("static thread_local int x;"),
            Some((Status::Rejected, Some(5)))
        );
        assert_eq!(
            checked("\n#pragma GCC optimize(\"O0\")"),
            Some((Status::Rejected, Some(6)))
        );
        assert_eq!(checked("#pragma GCC unroll 4\n#pragma unroll"), None);
        assert_eq!(
            check_expansion(&without_own_words("# 1 \"kernel.cu\"\nthread_local int x;")),
            None
        );
    }
}
