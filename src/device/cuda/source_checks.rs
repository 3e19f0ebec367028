//! Checks of a kernel's source before it is compiled: rejects lines that no CUDA kernel needs.
//!
//! The checks give early, clear messages. They are not a defense: the sandbox limits what NVRTC can read, and `ptx` inspects the
//! result.

use super::headers::is_standard_header;
use crate::device::refusal::Refusal;
use crate::kernel::lexer::{
    Lexeme, LexemeKind, are_adjacent, lex, starts_with_directive, strip_comments,
};
use crate::verdict::Status;

/// Prefixes of headers that a machine may lack, and the library or package of each.
const OPTIONAL_HEADERS: &[(&str, &str)] = &[
    ("cute/", "CUTLASS"),
    ("cutlass/", "CUTLASS"),
    ("mma.h", "package `nvidia-cuda-crt`"),
    ("crt/", "package `nvidia-cuda-crt`"),
];

/// Checks a source; the error is about its first bad line. `is_known`: whether the installed CUDA, CCCL or CUTLASS has a header of
/// that name.
pub(super) fn check_source(source: &str, is_known: &dyn Fn(&str) -> bool) -> Result<(), Refusal> {
    let lexemes = lex(source);
    let text = |lexeme: &Lexeme| &source[lexeme.range.clone()];
    for (index, lexeme) in lexemes.iter().enumerate() {
        let is_launch = || {
            let next = lexemes[index..].iter().take(3);
            next.map(text).eq(["<", "<", "<"]) && are_adjacent(&lexemes[index..])
        };
        match lexeme.kind {
            LexemeKind::Directive => check_directive(text(lexeme), lexeme.line, is_known)?,
            LexemeKind::Symbol if is_launch() => {
                let reason = "a kernel must not launch another: list the launches in the header";
                return Err(rejected(lexeme.line, reason));
            }
            LexemeKind::Literal if text(lexeme).contains(".include") => {
                return Err(rejected(lexeme.line, "PTX may not include files"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The first line that contains one of `words`.
pub(super) fn first_line_with(source: &str, words: &[&str]) -> Option<u32> {
    let is_meant = |lexeme: &Lexeme| {
        let text = &source[lexeme.range.clone()];
        match lexeme.kind {
            LexemeKind::Identifier => words.contains(&text),
            LexemeKind::Directive => words.iter().any(|word| text.contains(word)),
            _ => false,
        }
    };
    let mut lexemes = lex(source).into_iter();
    lexemes.find(is_meant).map(|lexeme| lexeme.line)
}

fn check_directive(
    directive: &str,
    line: u32,
    is_known: &dyn Fn(&str) -> bool,
) -> Result<(), Refusal> {
    let plain = strip_comments(directive);
    let Some(body) = plain.strip_prefix('#').or_else(|| plain.strip_prefix("%:")) else {
        return Ok(());
    };
    let body = body.trim_start();
    if body.starts_with(|first: char| first.is_ascii_digit()) || starts_with_directive(body, "line")
    {
        return Err(rejected(line, "line markers are not accepted"));
    }
    let mut others = ["include_next", "embed", "import"].iter();
    if others.any(|name| starts_with_directive(body, name)) {
        return Err(rejected(
            line,
            "only `#include <…>` of CUDA headers is accepted",
        ));
    }
    if let Some((_, behind)) = body.split_once("__has_include") {
        return match header_name(behind.trim_start_matches(['(', ' ', '\t', '_'])) {
            Some(name) => check_location(name, line),
            None => Ok(()),
        };
    }
    if !starts_with_directive(body, "include") {
        return Ok(());
    }
    match header_name(body["include".len()..].trim()) {
        Some(name) => check_include(name, line, is_known),
        None => Err(rejected(line, "`#include` needs a header name in `<…>`")),
    }
}

fn check_include(name: &str, line: u32, is_known: &dyn Fn(&str) -> bool) -> Result<(), Refusal> {
    check_location(name, line)?;
    // A standard header may be included in a part for the host; NVRTC reports it if it is needed.
    if is_known(name) || is_standard_header(name) {
        return Ok(());
    }
    let mut optional = OPTIONAL_HEADERS.iter();
    if let Some((_, library)) = optional.find(|(start, _)| name.starts_with(start)) {
        let reason = format!("`<{name}>` is not installed here ({library})");
        return Err(Refusal::at_line(Status::Unsupported, line, reason));
    }
    let reason = format!("`#include <{name}>`: no such header in CUDA, CCCL or CUTLASS");
    Err(rejected(line, &reason))
}

/// The name in `<…>` or `"…"`.
fn header_name(text: &str) -> Option<&str> {
    let within = |open: char, close: char| Some(text.strip_prefix(open)?.split_once(close)?.0);
    within('<', '>').or_else(|| within('"', '"'))
}

/// Refuses a name that could refer to a file outside the header folders.
fn check_location(name: &str, line: u32) -> Result<(), Refusal> {
    let name = name.trim();
    let leaves_folder = name.starts_with(['/', '~'])
        || name.contains('\\')
        || name.split('/').any(|part| part == "..");
    if leaves_folder {
        let reason = format!("`{name}` is outside the CUDA header folders");
        return Err(rejected(line, &reason));
    }
    Ok(())
}

fn rejected(line: u32, reason: &str) -> Refusal {
    Refusal::at_line(Status::Rejected, line, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(source: &str) -> Option<(Status, Option<u32>)> {
        let refusal = check_source(source, &|name| name == "cuda_fp16.h").err()?;
        Some((refusal.status, refusal.evidence.line))
    }

    #[test]
    fn includes_outside_cuda_headers_are_rejected_with_their_line() {
        for source in [
            "\n#include \"/etc/hostname\"",
            "\n#include </etc/hostname>",
            "\n#include \"../x.h\"",
            "\n#include <cuda/../../x.h>",
            "\n# include /* a */ \"/etc/hostname\"",
            "\n#inc\\\nlude \"/etc/hostname\"",
            "\n%:include \"/etc/hostname\"",
            "\n#include NAME",
            "\n#if __has_include(\"/etc/hostname\")\n#endif",
            "\n#if defined(A) && __has_include( </etc/hostname> )\n#endif",
            "\n#include \"mine.h\"",
            "\n#line 7 \"other.cu\"",
            "\nvoid f() { k<<<1, 1>>>(); }",
            "\nvoid f() { asm(\".include \\\"/etc/hostname\\\"\"); }",
        ] {
            assert_eq!(found(source), Some((Status::Rejected, Some(2))), "{source}");
        }
        let missing = found("#include <cute/tensor.hpp>");
        assert_eq!(missing, Some((Status::Unsupported, Some(1))));
    }

    #[test]
    fn usual_sources_are_accepted() {
        for source in [
            "#include <cuda_fp16.h>",
            "#include \"cuda_fp16.h\"",
            "#include <cstdio>\n#include <vector>",
            "#if __has_include(<cuda_fp16.h>)\n#endif",
            "int x = a << b; // #include \"/etc/hostname\"",
            "a << <::b",
        ] {
            assert_eq!(found(source), None, "{source}");
        }
        assert_eq!(
            first_line_with("\nint f() {\n  return new int; }", &["malloc", "new"]),
            Some(3)
        );
    }
}
