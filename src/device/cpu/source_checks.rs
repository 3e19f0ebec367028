//! Checks and edits a source before it is compiled: what this device cannot run, and preprocessor lines that no kernel needs.
//!
//! What the preprocessor leaves out, and functions that nothing calls, do not count. So a source is hardly ever refused here:
//! `directives` and `words` edit it, the compiler and the process decide, and `explain` reads the compiler's errors.
//! The checks give clear messages. They are not a defence: the sandbox confines whatever runs.

use std::collections::HashMap;
use std::ops::Range;

use super::arch_branches::choose_fallbacks;
use super::checked_source::CheckedSource;
use super::directives::edit_directive;
use super::words::Words;
use crate::device::Refusal;
use crate::device::launches::LaunchPlace;
use crate::device::refusal::NESTED_LAUNCH;
use crate::device::thread_locals::{OpenBraces, THREAD_LOCAL, THREAD_LOCAL_WORDS, ThreadLocalEdit};
use crate::kernel::lexer::{Lexeme, LexemeKind, lex};
use crate::kernel::plan::{ArgumentType, LaunchPlan, TranslationUnit};
use crate::verdict::Status;

/// Integer types of C that every kernel has.
const INTEGER_TYPES: &[&str] = &[
    "int8_t",
    "int16_t",
    "int32_t",
    "int64_t",
    "uint8_t",
    "uint16_t",
    "uint32_t",
    "uint64_t",
    "intptr_t",
    "uintptr_t",
    "size_t",
    "ptrdiff_t",
];

/// A refusal if the type of an argument is not supported.
pub(super) fn refuse_arguments(unit: &TranslationUnit) -> Option<Refusal> {
    let takes_map = |arguments: &[ArgumentType]| arguments.contains(&ArgumentType::TensorMap);
    let mut entries = unit.entry_points.iter();
    let entry = entries.find(|entry| takes_map(&entry.arguments))?;
    let reason = "tensor maps do not run on a CPU";
    Some(Refusal::at_line(Status::Unsupported, entry.line, reason))
}

/// A refusal if a launch of the plan is not supported.
pub(super) fn refuse_plan(plan: &LaunchPlan) -> Option<Refusal> {
    let refused = |what: &str| {
        let reason = format!("{what} do not run on a CPU");
        Some(Refusal::new(Status::Unsupported, reason))
    };
    plan.launches.iter().find_map(|launch| match launch {
        launch if launch.cluster.is_some() => refused("clusters"),
        launch if launch.cooperative => refused("cooperative launches"),
        _ => None,
    })
}

/// Checks a source and makes the edits. Where a source selects between inline PTX and C++, the C++ is used.
pub(super) fn check_source(source: &str) -> CheckedSource {
    check(source, choose_fallbacks)
}

/// Like `check_source`, for the program that a GPU runs: its inline PTX stays.
pub(super) fn check_source_for_gpu(source: &str) -> CheckedSource {
    check(source, |_, _| HashMap::new())
}

/// `choose`: the directives to replace, by their indices.
fn check(
    source: &str,
    choose: impl Fn(&str, &[Lexeme]) -> HashMap<usize, &'static str>,
) -> CheckedSource {
    let lexemes = lex(source);
    let mut checked = CheckedSource {
        joins_tokens: joins_tokens(source),
        ..CheckedSource::default()
    };
    let mut braces = OpenBraces::default();
    let fallbacks = choose(source, &lexemes);
    let words = Words {
        source,
        lexemes: &lexemes,
        is_directive: false,
    };
    for (index, lexeme) in lexemes.iter().enumerate() {
        let text = &source[lexeme.range.clone()];
        braces.read(source, &lexemes, index);
        match lexeme.kind {
            LexemeKind::Directive => match fallbacks.get(&index) {
                Some(condition) => {
                    let range = lexeme.range.clone();
                    checked.edits.replace(source, range, *condition);
                }
                None => edit_directive(source, lexeme, &mut checked),
            },
            LexemeKind::Identifier
                if THREAD_LOCAL_WORDS.contains(&text) && braces.in_function() =>
            {
                checked.add_suspect_word("", Status::Rejected, lexeme.line, THREAD_LOCAL);
                let edit = ThreadLocalEdit {
                    refusing: format!("::kforge::reached_thread_local({});", lexeme.line),
                    edits: &mut checked.edits,
                };
                braces.edit_thread_local(source, &lexemes, index, edit);
            }
            LexemeKind::Identifier if matches!(text, "typedef" | "using") && braces.is_empty() => {
                if let Some(range) = own_integer_type(source, &lexemes[index..]) {
                    checked.edits.remove(source, range);
                }
            }
            LexemeKind::Identifier => words.edit(index, &mut checked),
            LexemeKind::Symbol if text == "<" => {
                let place = LaunchPlace {
                    source,
                    lexemes: &lexemes,
                    index,
                };
                if place.is_launch() {
                    checked.add_suspect_word("<<<", Status::Rejected, lexeme.line, NESTED_LAUNCH);
                    let refusing = format!("::kforge::reached_launch({})", lexeme.line);
                    place.edit(&braces, &refusing, &mut checked.edits);
                }
            }
            _ => {}
        }
    }
    checked.text = checked.edits.apply(source);
    checked
}

/// The range of a declaration such as `typedef unsigned long long uint64_t;` without its `;`, as sources for NVRTC have them. Here
/// the system declares the type, perhaps as another one of the same size.
fn own_integer_type(source: &str, lexemes: &[Lexeme]) -> Option<Range<usize>> {
    let texts = lexemes.iter().take(8);
    let texts: Vec<_> = texts.map(|lexeme| &source[lexeme.range.clone()]).collect();
    let end = texts.iter().position(|text| *text == ";")?;
    let name = match texts.as_slice() {
        ["using", name, "=", ..] => name,
        ["typedef", ..] => texts.get(end.checked_sub(1)?)?,
        _ => return None,
    };
    let range = lexemes[0].range.start..lexemes[end - 1].range.end;
    INTEGER_TYPES.contains(name).then_some(range)
}

/// Whether the preprocessor makes words that are not in the source: with `##`, or from a word that a backslash continues.
fn joins_tokens(source: &str) -> bool {
    let is_word =
        |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let is_split = |(at, _): (usize, &str)| {
        let behind = source[at + 1..].trim_start_matches([' ', '\t', '\r', '\u{b}', '\u{c}']);
        let next = behind.strip_prefix('\n').map(|rest| rest.bytes().next());
        is_word(source[..at].bytes().next_back()) && next.is_some_and(is_word)
    };
    ["##", "%:%:", "??"]
        .iter()
        .any(|join| source.contains(join))
        || source.match_indices('\\').any(is_split)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first refusal that counts if the compiler reaches its line or fails there.
    fn possible(source: &str) -> Option<(Status, u32)> {
        let checked = check_source(source);
        let lines = checked.text.matches('\n').count();
        assert_eq!(lines, source.matches('\n').count(), "{}", checked.text);
        let suspect_words = checked.suspect_words.iter().map(|suspect| &suspect.refusal);
        let mut all = (checked.edits.refusals().iter())
            .chain(&checked.empty_headers)
            .chain(suspect_words);
        let first = all.next()?;
        Some((first.status, first.evidence.line?))
    }

    #[test]
    fn possible_refusals_name_status_and_line() {
        for (source, expected) in [
            ("// asm\nint assembly;\n", None),
            (
                "int x;\nasm volatile(\"nop\");",
                Some((Status::Unsupported, 2)),
            ),
            ("#include <mma.h>", Some((Status::Unsupported, 1))),
            ("k<<<1, 2>>>();", Some((Status::Rejected, 1))),
            ("x = 1 << 2 < 3;", None),
            ("#include \"/etc/passwd\"", Some((Status::Rejected, 1))),
            ("#include <../x>", Some((Status::Rejected, 1))),
            (
                "#include <cuda_bf16.h>\n#pragma unroll 4\n#define LINE 1\n#ifdef X\n#endif",
                None,
            ),
            ("#  include HEADER", Some((Status::Rejected, 1))),
            ("#/* */include <sys/mman.h>", Some((Status::Rejected, 1))),
            ("#inc\\\nlude <fcntl.h>", Some((Status::Rejected, 1))),
            ("#inc\\\r\nlude <fcntl.h>", Some((Status::Rejected, 1))),
            ("#inc\\ \nlude <fcntl.h>", Some((Status::Rejected, 1))),
            ("#/*\n*/include <fcntl.h>", Some((Status::Rejected, 1))),
            (
                "#if 0\n'\n#endif\n#include <fcntl.h>",
                Some((Status::Rejected, 4)),
            ),
            (
                "#define WAIT(n) \\\n  asm volatile(\"cp.async\")",
                Some((Status::Unsupported, 2)),
            ),
            ("#define asm_free 1 // asm", None),
            ("#include <cuda/ptx>", Some((Status::Unsupported, 1))),
            ("#include <cuda/../x>", Some((Status::Rejected, 1))),
            ("thread_local int x;", Some((Status::Rejected, 1))),
        ] {
            assert_eq!(possible(source), expected, "{source}");
        }
    }

    #[test]
    fn refused_kernels_do_not_reach_the_compiler() {
        for (source, expected) in [
            ("asm volatile(\"x\");", "KFORGE_PTX_AT_LINE_1(\"x\");"),
            (
                "asm\nvolatile\n(\"x\");",
                "KFORGE_PTX_AT_LINE_1\n\n(\"x\");",
            ),
            (
                "asm volatile(\"\" ::: \"memory\");",
                "KFORGE_EMPTY_PTX(\"\" ::: \"memory\");",
            ),
            (
                "#define W(n) __asm__ \\\n  __volatile__(\"x\")",
                "#define W(n) KFORGE_PTX_AT_LINE_1 \\\n(\"x\")",
            ),
            ("#undef asm", "#undef KFORGE_PTX_AT_LINE_1"),
            ("#define J(x) x##asm", "#define J(x) x##asm"),
            (
                "_Pragma(\"unroll 2\") for",
                "KFORGE_DROPPED_PRAGMA(\"unroll 2\") for",
            ),
            ("_Pragma(\"pack(1)\")", "_Pragma(\"pack(1)\")"),
            ("#pragma GCC optimize(\"O0\")\nint x;", "\nint x;"),
            ("#pragma unroll 4", "#pragma unroll 4"),
            (
                "#line 7\n# 1 \"/usr/include/math.h\" 3\n%: 1 \"a\"\nx",
                "\n\n\nx",
            ),
            (
                "#if __has_include(<cute/tensor.hpp>) || __has_include(<cmath>)",
                "#if 0 || 1",
            ),
            ("#if __has_include(\"/etc/passwd\")", "#if 0"),
            ("#include <vector>\n", "\n"),
            ("thread_local int x;", "kforge_refuses_thread_local int x;"),
            ("typedef unsigned long long uint64_t;", ";"),
            ("using int64_t = long long;", ";"),
            (
                "namespace n { using int64_t = long long; }",
                "namespace n { using int64_t = long long; }",
            ),
        ] {
            assert_eq!(check_source(source).text, expected, "{source}");
        }
    }

    #[test]
    fn joined_words_need_a_preprocessor() {
        for source in [
            "a##b",
            "a%:%:b",
            "as\\\nm(\"x\")",
            "a??/",
            "thread\\ \n_local",
        ] {
            assert!(joins_tokens(source), "{source}");
        }
        for source in ["#define A(x) \\\n  x", "a \\\nb", "# a", "x\\n"] {
            assert!(!joins_tokens(source), "{source}");
        }
    }
}
