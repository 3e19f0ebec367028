//! What is refused before anything is compiled: lines that no kernel of this device needs.
//!
//! These rules give early, clear messages. They are no defence: NVRTC reads what its process may read, and the PTX is looked at.

use super::headers::is_standard_header;
use crate::device::Refusal;
use crate::kernel::lexer::{
    Lexeme, LexemeKind, are_adjacent, lex, starts_with_directive, strip_comments,
};
use crate::verdict::{Evidence, Status};

/// What a machine may lack: the beginnings of headers' names, and what they belong to.
const OPTIONAL_HEADERS: &[(&str, &str)] = &[
    ("cute/", "CUTLASS"),
    ("cutlass/", "CUTLASS"),
    ("mma.h", "package `nvidia-cuda-crt`"),
    ("crt/", "package `nvidia-cuda-crt`"),
];

/// `is_known`: whether CUDA, CCCL or CUTLASS have a header of that name here.
pub(super) fn check_source(source: &str, is_known: &dyn Fn(&str) -> bool) -> Option<Refusal> {
    let tokens = lex(source);
    let text = |token: &Lexeme| &source[token.range.clone()];
    tokens.iter().enumerate().find_map(|(index, token)| {
        let launch = || tokens[index..].iter().take(3).map(text).eq(["<", "<", "<"]);
        match token.kind {
            LexemeKind::Directive => check_directive(text(token), token.line, is_known),
            LexemeKind::Symbol if launch() && are_adjacent(&tokens[index..]) => Some(rejected(
                token.line,
                "a kernel does not launch another: the header says what is launched",
            )),
            LexemeKind::Literal if text(token).contains(".include") => {
                Some(rejected(token.line, "PTX may not include files"))
            }
            _ => None,
        }
    })
}

/// The line of the first of some words.
pub(super) fn first_line_with(source: &str, words: &[&str]) -> Option<u32> {
    let tokens = lex(source);
    let is_meant = |token: &&Lexeme| {
        let text = &source[token.range.clone()];
        match token.kind {
            LexemeKind::Identifier => words.contains(&text),
            LexemeKind::Directive => words.iter().any(|word| text.contains(word)),
            _ => false,
        }
    };
    tokens.iter().find(is_meant).map(|token| token.line)
}

fn check_directive(directive: &str, line: u32, is_known: &dyn Fn(&str) -> bool) -> Option<Refusal> {
    let plain = strip_comments(directive);
    let body = plain
        .strip_prefix('#')
        .or_else(|| plain.strip_prefix("%:"))?;
    let body = body.trim_start();
    if body.starts_with(|first: char| first.is_ascii_digit()) || starts_with_directive(body, "line")
    {
        return Some(rejected(line, "line markers are not accepted"));
    }
    if ["include_next", "embed", "import"]
        .iter()
        .any(|name| starts_with_directive(body, name))
    {
        return Some(rejected(
            line,
            "only `#include <…>` of CUDA's headers is accepted",
        ));
    }
    if let Some((_, behind)) = body.split_once("__has_include") {
        let asked = header_name(behind.trim_start_matches(['(', ' ', '\t', '_']));
        return asked
            .filter(|name| is_outside_headers(name))
            .map(|name| outside_headers(name, line));
    }
    if !starts_with_directive(body, "include") {
        return None;
    }
    let Some(name) = header_name(body["include".len()..].trim()) else {
        return Some(rejected(line, "`#include` wants a header's name in `<…>`"));
    };
    if is_outside_headers(name) {
        return Some(outside_headers(name, line));
    }
    // What is missing may stand where only a host's compiler would look: NVRTC tells.
    if is_known(name) || is_standard_header(name) {
        return None;
    }
    let optional = OPTIONAL_HEADERS
        .iter()
        .find(|(start, _)| name.starts_with(start));
    if let Some((_, library)) = optional {
        let reason = format!("`<{name}>` is not installed here ({library})");
        return Some(refusal(Status::Unsupported, line, &reason));
    }
    let reason = format!("`#include <{name}>`: CUDA, CCCL and CUTLASS have no such header");
    Some(rejected(line, &reason))
}

fn header_name(text: &str) -> Option<&str> {
    let within = |open: char, close: char| Some(text.strip_prefix(open)?.split_once(close)?.0);
    within('<', '>').or_else(|| within('"', '"'))
}

/// Whether a name could mean a file outside of the headers' folders.
fn is_outside_headers(name: &str) -> bool {
    let name = name.trim();
    name.starts_with(['/', '~']) || name.contains('\\') || name.split('/').any(|part| part == "..")
}

fn outside_headers(name: &str, line: u32) -> Refusal {
    rejected(
        line,
        &format!("`{}` is outside of CUDA's headers", name.trim()),
    )
}

fn rejected(line: u32, reason: &str) -> Refusal {
    refusal(Status::Rejected, line, reason)
}

fn refusal(status: Status, line: u32, reason: &str) -> Refusal {
    Refusal {
        status,
        reason: format!("line {line}: {reason}"),
        evidence: Box::new(Evidence {
            line: Some(line),
            ..Evidence::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(source: &str) -> Option<(Status, Option<u32>)> {
        let refusal = check_source(source, &|name| name == "cuda_fp16.h")?;
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
