//! Checks of a kernel's source: directives that no CUDA kernel needs, and what lies behind a compile error.
//!
//! A refused directive becomes an `#error`, so that it counts only where NVRTC's preprocessor reaches it. The checks give clear
//! messages. They are not a defense: the sandbox limits what NVRTC can read, and `code_checks` inspects the result.

use super::diagnostics::{ErrorBlock, first_error_block};
use super::headers::is_standard_header;
use super::source::refusing_call;
use crate::device::launches::LaunchPlace;
use crate::device::macro_collisions::{self, CompilerError};
use crate::device::refusal::{NESTED_LAUNCH, Refusal};
use crate::device::source_rewrite::{
    NO_HEADER_NAME, ONLY_INCLUDE, SourceRewrite, has_include_tests, header_name, is_line_marker,
    leaves_folder, unknown_header,
};
use crate::device::thread_locals::{OpenBraces, THREAD_LOCAL, THREAD_LOCAL_WORDS, ThreadLocalEdit};
use crate::kernel::lexer::{Lexeme, LexemeKind, lex, starts_with_directive, strip_comments};
use crate::kernel::plan::TranslationUnit;
use crate::verdict::{Evidence, Status};

/// Prefixes of headers that a machine may lack, and the library or package of each.
const OPTIONAL_HEADERS: &[(&str, &str)] = &[
    ("cute/", "CUTLASS"),
    ("cutlass/", "CUTLASS"),
    ("mma.h", "package `nvidia-cuda-crt`"),
    ("crt/", "package `nvidia-cuda-crt`"),
];

/// A kernel's source as NVRTC gets it.
#[derive(Debug)]
pub(super) struct CheckedSource {
    /// With as many lines as the kernel file.
    pub(super) text: String,
    /// Refusals of directives, which count if NVRTC reaches them.
    pub(super) edits: SourceRewrite,
}

/// Checks a source and edits its directives. `is_known`: whether the installed CUDA, CCCL or CUTLASS has a header of that name.
///
/// # Errors
/// A refusal that no preprocessor can lift.
pub(super) fn check_source(
    source: &str,
    is_known: &dyn Fn(&str) -> bool,
) -> Result<CheckedSource, Refusal> {
    let lexemes = lex(source);
    let mut braces = OpenBraces::default();
    let mut edits = SourceRewrite::default();
    for (index, lexeme) in lexemes.iter().enumerate() {
        let text = &source[lexeme.range.clone()];
        braces.read(source, &lexemes, index);
        match lexeme.kind {
            LexemeKind::Identifier
                if THREAD_LOCAL_WORDS.contains(&text) && braces.in_function() =>
            {
                // A comment in the PTX of every function that is called.
                let number = edits.add_refusal(rejected(lexeme.line, THREAD_LOCAL));
                let edit = ThreadLocalEdit {
                    refusing: format!("{};", refusing_call(source, number)),
                    edits: &mut edits,
                };
                braces.edit_thread_local(source, &lexemes, index, edit);
            }
            LexemeKind::Directive => edit_directive(source, lexeme, is_known, &mut edits),
            LexemeKind::Symbol if text == "<" => {
                let place = LaunchPlace {
                    source,
                    lexemes: &lexemes,
                    index,
                };
                if place.is_launch() {
                    let number = edits.add_refusal(rejected(lexeme.line, NESTED_LAUNCH));
                    place.edit(&braces, &refusing_call(source, number), &mut edits);
                }
            }
            LexemeKind::Identifier
                if text == "__host__" && is_host_only(source, &lexemes, index) =>
            {
                edits.remove(source, lexeme.range.clone());
            }
            LexemeKind::Literal if text.contains(".include") => {
                return Err(rejected(lexeme.line, "PTX may not include files"));
            }
            _ => {}
        }
    }
    let text = edits.apply(source);
    Ok(CheckedSource { text, edits })
}

/// Whether a `__host__` has no `__device__` next to it. NVRTC accepts no such function; without any annotation it takes the function for
/// device code, and leaves it out if nothing calls it.
fn is_host_only(source: &str, lexemes: &[Lexeme], index: usize) -> bool {
    let is_word = |lexeme: &&Lexeme| lexeme.kind == LexemeKind::Identifier;
    let before = lexemes[..index].iter().rev().take_while(is_word);
    let behind = lexemes[index..].iter().take_while(is_word);
    let mut words = before
        .chain(behind)
        .map(|lexeme| &source[lexeme.range.clone()]);
    !words.any(|word| word == "__device__" || word == "__global__")
}

/// The refusal behind a failed compilation. `None`: an ordinary compile error.
pub(super) fn explain(
    unit: &TranslationUnit,
    checked: &CheckedSource,
    log: &str,
) -> Option<Refusal> {
    if let Some(refusal) = checked.edits.reached(log) {
        return Some(refusal.clone());
    }
    let error = first_error_block(log)?;
    let collision = macro_collisions::explain(
        &unit.source,
        &unit.macros,
        &CompilerError {
            lines: &error.lines,
            text: &error.text,
        },
    );
    if let Some((line, reason)) = collision {
        let evidence = Evidence {
            line,
            log: Some(error.text),
            ..Evidence::default()
        };
        return Some(Refusal {
            status: Status::CompileError,
            reason,
            evidence: Box::new(evidence),
        });
    }
    if let Some(refusal) = explain_end(unit, &error) {
        return Some(refusal);
    }
    let line = *error.lines.first()?;
    if error.message.contains("thread_local specifier") {
        return Some(rejected(line, THREAD_LOCAL));
    }
    let mut launches = checked.edits.refusals().iter();
    let is_launch = |refusal: &&Refusal| {
        refusal.evidence.line == Some(line) && refusal.reason.ends_with(NESTED_LAUNCH)
    };
    launches.find(is_launch).cloned()
}

/// The refusal of a source that changes the names that NVRTC returns.
pub(super) fn forged_names(source: &str) -> Refusal {
    let reason = "`#pragma nv_mangled_name` is not accepted: the judge asks for the names of compiled functions";
    match first_line_with(source, &["nv_mangled_name", "_Pragma"]) {
        Some(line) => rejected(line, reason),
        None => Refusal::new(Status::Rejected, reason),
    }
}

/// Explains an error in the text after the source: a scope that the source leaves open, or an expression that names no single function.
fn explain_end(unit: &TranslationUnit, error: &ErrorBlock) -> Option<Refusal> {
    // Excerpts of that text are left out.
    if error.text.lines().count() > 1 {
        return None;
    }
    let has = |part: &str| error.message.contains(part);
    let is_open = [
        "namespace definition is not allowed",
        "may not have extern \"C\" linkage",
        "name followed by \"::\" must be a class or namespace name",
    ];
    if is_open.into_iter().any(has) {
        let last = unit.source.lines().count().max(1) as u32;
        let reason = "the file ends within a declaration: a `{` is not closed";
        return Some(Refusal::at_line(Status::CompileError, last, reason));
    }
    let line = *error.lines.first()?;
    has("cannot deduce \"auto\" template parameter").then(|| {
        let mut entries = unit.entry_points.iter();
        let entry = entries.find(|entry| entry.line == line);
        let expression = entry.map_or("the kernel", |entry| entry.expression.as_str());
        let reason = format!(
            "`{expression}` names no single function: it is overloaded, or a template that needs arguments in `<…>`"
        );
        Refusal::at_line(Status::CompileError, line, reason)
    })
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

/// Edits one directive: removes line markers, and makes an `#error` of what no kernel needs.
fn edit_directive(
    source: &str,
    lexeme: &Lexeme,
    is_known: &dyn Fn(&str) -> bool,
    edits: &mut SourceRewrite,
) {
    let directive = &source[lexeme.range.clone()];
    let (line, range) = (lexeme.line, lexeme.range.clone());
    let plain = strip_comments(directive);
    let Some(body) = plain.strip_prefix('#').or_else(|| plain.strip_prefix("%:")) else {
        return;
    };
    let body = body.trim_start();
    let is = |name: &str| starts_with_directive(body, name);
    if is_line_marker(body) {
        edits.remove(source, range);
    } else if ["include_next", "embed", "import"].into_iter().any(is) {
        edits.refuse(source, range, rejected(line, ONLY_INCLUDE));
    } else if is("include") {
        let refusal = match header_name(body["include".len()..].trim()) {
            Some(name) => refuse_include(name, line, is_known),
            None => Some(rejected(line, NO_HEADER_NAME)),
        };
        if let Some(refusal) = refusal {
            edits.refuse(source, range, refusal);
        }
    } else {
        for (test, name) in has_include_tests(directive) {
            if leaves_folder(name) {
                let test = range.start + test.start..range.start + test.end;
                edits.replace_in_directive(source, test, "0");
            }
        }
    }
}

/// Why a header cannot be included.
fn refuse_include(name: &str, line: u32, is_known: &dyn Fn(&str) -> bool) -> Option<Refusal> {
    let is_there = is_known(name) || is_standard_header(name);
    if is_there && !leaves_folder(name) {
        return None;
    }
    let mut optional = OPTIONAL_HEADERS.iter();
    let library = optional.find(|(start, _)| name.starts_with(start) && !leaves_folder(name));
    if let Some((_, library)) = library {
        let reason = format!("`<{name}>` is not installed here ({library})");
        return Some(Refusal::at_line(Status::Unsupported, line, reason));
    }
    Some(rejected(line, &unknown_header(name)))
}

fn rejected(line: u32, reason: &str) -> Refusal {
    Refusal::at_line(Status::Rejected, line, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The refusal that counts if the compiler reaches its line.
    fn found(source: &str) -> Option<(Status, Option<u32>)> {
        let refusal = match check_source(source, &|name| name == "cuda_fp16.h") {
            Ok(checked) => {
                let lines = checked.text.matches('\n').count();
                assert_eq!(lines, source.matches('\n').count(), "{source}");
                checked.edits.refusals().first()?.clone()
            }
            Err(refusal) => refusal,
        };
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
            "\n#include \"mine.h\"",
            "\n#embed \"/etc/hostname\"",
            "\nvoid f() { k<<<1, 1>>>(); }",
            "\nvoid f() { asm(\".include \\\"/etc/hostname\\\"\"); }",
        ] {
            assert_eq!(found(source), Some((Status::Rejected, Some(2))), "{source}");
        }
        let missing = found("#include <cute/tensor.hpp>");
        assert_eq!(missing, Some((Status::Unsupported, Some(1))));
    }

    #[test]
    fn files_outside_the_header_folders_cannot_be_probed() {
        for source in [
            "#if __has_include(\"/etc/hostname\")\n#endif",
            "#if defined(A) && __has_include( </etc/hostname> )\n#endif",
            "#define HAS __has_include(\"/etc/hostname\")",
        ] {
            let checked = check_source(source, &|_| false).unwrap();
            assert!(!checked.text.contains("hostname"), "{}", checked.text);
        }
        let helper = check_source(
            "inline __host__ int f();\n__host__ __device__ int g();",
            &|_| false,
        );
        assert_eq!(
            helper.unwrap().text,
            "inline  int f();\n__host__ __device__ int g();"
        );
        let marker = check_source("#line 7 \"other.cu\"\nint x;", &|_| false).unwrap();
        assert_eq!(marker.text, "\nint x;");
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
            assert_eq!(check_source(source, &|_| true).unwrap().text, source);
        }
        assert_eq!(
            first_line_with("\nint f() {\n  return new int; }", &["malloc", "new"]),
            Some(3)
        );
    }
}
