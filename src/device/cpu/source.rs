//! Generates the C++ translation unit of a candidate: constants, tunables, the kernel file, and one entry per launch.
//!
//! `source_checks` has edited the kernel file before. Its `__shared__` declarations, unroll pragmas and waiting loops are rewritten in place (`shared_declarations`,
//! `wait_loops`). Line numbers in compiler messages stay those of the kernel file. Nothing is compiled here.

use std::fmt::Write;
use std::ops::Range;

use super::checked_source::CheckedSource;
use super::headers::{HeaderKind, classify};
use super::own_names::{directives_before_source, directives_behind_source};
use super::shared_declarations::{declaration_end, rewrite_shared};
use super::wait_loops::wait_loop_edits;
use super::words::{DROPPED_PRAGMA, EMPTY_PTX, PTX_AT_LINE};
use crate::device::argument_checks::passed_types;
use crate::device::source_rewrite::header_name;
use crate::device::source_trace::{MarkedSource, ReportAs};
use crate::device::standard_headers::freed_constants;
use crate::kernel::lexer::{Lexeme, LexemeKind, lex, strip_comments};
use crate::kernel::plan::TranslationUnit;

/// What separates a source from the entries in the generated text.
pub(super) const ENTRIES_MARKER: &str = "\n# 1 \"launches of the header\"\n";

/// The C++ text of a translation unit, given its checked source. `directives`: in front of the kernel file, such as other macros.
pub(super) fn generate_cpp(
    unit: &TranslationUnit,
    checked: &CheckedSource,
    directives: &str,
) -> String {
    let mut text = text_before(unit, checked, directives);
    text.push_str(&rewrite_source(unit, &checked.text));
    text.push_str(ENTRIES_MARKER);
    text.push_str(&directives_behind_source());
    text.push_str("KFORGE_ENTRIES_BEGIN\n");
    for (index, entry) in unit.entry_points.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "# {} \"kernel.cu\"\nKFORGE_ENTRY({index}, ({}), {})",
            entry.line,
            entry.expression,
            passed_types(entry)
        );
    }
    text.push_str("KFORGE_ENTRIES_END\n");
    text
}

/// The text of a unit for the preprocessor alone: it reports what is compiled.
pub(super) fn text_to_trace(
    unit: &TranslationUnit,
    checked: &CheckedSource,
    marked: &MarkedSource,
    directives: &str,
) -> String {
    let mut text = text_before(unit, checked, directives);
    text.push_str(&marked.text);
    text.push_str("\n\n");
    text.push_str(&marked.report(ReportAs::Words));
    text
}

/// The text in front of the kernel file.
fn text_before(unit: &TranslationUnit, checked: &CheckedSource, directives: &str) -> String {
    // A `__shared__` in a macro is not rewritten. A thread-local variable works too: an operating system thread runs one block
    // at a time.
    let mut text =
        String::from("#include \"kforge_cuda.h\"\n#define __shared__ static thread_local\n");
    if !directives.is_empty() {
        // The headers of the C++ library need the macros of their own compiler.
        text.push_str(&included_headers(&unit.source));
        text.push_str(directives);
    }
    for (name, value) in &unit.constants {
        let is_int = i32::try_from(*value).is_ok();
        let kind = if is_int { "int" } else { "long long" };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "constexpr {kind} {name} = {value};");
    }
    for (name, value) in &unit.macros {
        let _ = writeln!(text, "#define {name} {value}");
    }
    let _ = writeln!(
        text,
        "#define {DROPPED_PRAGMA}(...)\n#define {EMPTY_PTX}(...) __atomic_signal_fence(__ATOMIC_SEQ_CST)"
    );
    for line in &checked.ptx_lines {
        let _ = writeln!(
            text,
            "#define {PTX_AT_LINE}{line}(...) ::kforge::reached_ptx({line})"
        );
    }
    text.push_str(&freed_constants(&unit.source));
    text.push_str(&directives_before_source());
    text.push_str("# 1 \"kernel.cu\"\n");
    text
}

/// The headers that a source may include, one a line.
fn included_headers(source: &str) -> String {
    let mut text = String::new();
    for lexeme in lex(source) {
        let plain = match lexeme.kind {
            LexemeKind::Directive => strip_comments(&source[lexeme.range]),
            _ => continue,
        };
        let body = plain.trim_start_matches(['#', '%', ':']).trim_start();
        let name = body
            .strip_prefix("include")
            .map(str::trim)
            .and_then(header_name);
        if let Some(name) = name.filter(|name| classify(name) == HeaderKind::Supported) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "#include <{name}>");
        }
    }
    text
}

/// The checked source with all rewrites.
fn rewrite_source(unit: &TranslationUnit, source: &str) -> String {
    let lexemes = lex(source);
    let mut edits = declaration_edits(unit, source, &lexemes);
    edits.extend(wait_loop_edits(source, &lexemes));
    edits.sort_by_key(|(range, _)| range.start);
    let mut text = String::with_capacity(source.len() + 1024);
    let mut at = 0;
    for (range, replacement) in edits {
        // An unclosed declaration extends over the loops after it and has been rewritten with them.
        if range.start >= at {
            text.push_str(&source[at..range.start]);
            text.push_str(&replacement);
            at = range.end;
        }
    }
    text.push_str(&source[at..]);
    text
}

/// The replacements for `__shared__` declarations and unroll pragmas.
fn declaration_edits(
    unit: &TranslationUnit,
    source: &str,
    lexemes: &[Lexeme],
) -> Vec<(Range<usize>, String)> {
    let mut edits = Vec::new();
    // One entry for each open brace: whether it opens a namespace.
    let mut scopes = Vec::new();
    // The index of the first lexeme of the current statement.
    let mut statement = 0;
    let mut shared_count = 0;
    let mut index = 0;
    while index < lexemes.len() {
        let lexeme = &lexemes[index];
        match (&lexeme.kind, &source[lexeme.range.clone()]) {
            (LexemeKind::Directive, line) => {
                let next = lexemes.get(index + 1);
                let next = next.map_or("", |lexeme| &source[lexeme.range.clone()]);
                if let Some(replacement) = rewrite_unroll(line, next, unit) {
                    edits.push((lexeme.range.clone(), replacement));
                }
                if statement == index {
                    statement = index + 1;
                }
            }
            (LexemeKind::Symbol, "{") => {
                scopes.push(opens_namespace(source, &lexemes[statement..index]));
                statement = index + 1;
            }
            (LexemeKind::Symbol, "}") => {
                scopes.pop();
                statement = index + 1;
            }
            (LexemeKind::Symbol, ";") => statement = index + 1,
            (LexemeKind::Identifier, "__shared__") => {
                let end = declaration_end(source, lexemes, index);
                let declaration = &lexemes[statement..end.min(lexemes.len())];
                let at_namespace_scope = scopes.iter().all(|is_namespace| *is_namespace);
                let replacement =
                    rewrite_shared(source, declaration, at_namespace_scope, &mut shared_count);
                if let Some(mut replacement) = replacement {
                    let end = lexemes.get(end).map_or(source.len(), |end| end.range.end);
                    let range = lexemes[statement].range.start..end;
                    replacement.extend(source[range.clone()].matches('\n'));
                    edits.push((range, replacement));
                }
                index = end;
                statement = end + 1;
            }
            _ => {}
        }
        index += 1;
    }
    edits
}

/// gcc's form of `#pragma unroll`, which needs a literal count and a loop on the next line.
fn rewrite_unroll(line: &str, next: &str, unit: &TranslationUnit) -> Option<String> {
    let count = line
        .strip_prefix('#')?
        .trim_start()
        .strip_prefix("pragma")?
        .trim_start()
        .strip_prefix("unroll")?
        .trim()
        .trim_start_matches('(')
        .trim_end_matches(')')
        .trim();
    let named = (unit.macros.iter().chain(&unit.constants))
        .find(|(name, _)| name == count)
        .map(|(_, value)| *value);
    let count = count.parse().ok().or(named);
    let count = count.filter(|count| (1..=65_534).contains(count))?;
    let is_loop = matches!(next, "for" | "while" | "do");
    is_loop.then(|| format!("#pragma GCC unroll {count}"))
}

/// Whether the text before a brace is `namespace …`, `inline namespace …` or `extern "C"` without a function.
fn opens_namespace(source: &str, statement: &[Lexeme]) -> bool {
    let words: Vec<_> = statement
        .iter()
        .filter(|lexeme| lexeme.kind != LexemeKind::Directive)
        .map(|lexeme| &source[lexeme.range.clone()])
        .collect();
    match words.as_slice() {
        ["namespace", ..] | ["inline", "namespace", ..] => true,
        ["extern", language] => language.starts_with('"'),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(source: &str) -> String {
        let unit = TranslationUnit {
            source: source.to_owned(),
            constants: vec![("WIDTH".to_owned(), 8)],
            macros: vec![("UNROLL".to_owned(), 4)],
            entry_points: Vec::new(),
            fast_math: false,
            max_registers: None,
            arch: None,
        };
        rewrite_source(&unit, source)
    }

    #[test]
    fn shared_declarations_are_placed_in_the_arena() {
        insta::assert_snapshot!(rewritten("void f() {\n  __shared__ float a[32][33], b;\n}"), @r"
        void f() {
          typedef float kforge_shared_type_0[32][33]; static thread_local ::kforge::SharedSlot kforge_shared_slot_0; kforge_shared_type_0& a = *static_cast<kforge_shared_type_0*>(::kforge::shared_static(kforge_shared_slot_0, sizeof(kforge_shared_type_0), alignof(kforge_shared_type_0)));typedef float kforge_shared_type_1; static thread_local ::kforge::SharedSlot kforge_shared_slot_1; kforge_shared_type_1& b = *static_cast<kforge_shared_type_1*>(::kforge::shared_static(kforge_shared_slot_1, sizeof(kforge_shared_type_1), alignof(kforge_shared_type_1)));
        }
        ");
        insta::assert_snapshot!(rewritten("void f() { extern __shared__ __align__(16) unsigned char raw[]; }"), @"void f() { unsigned char* const raw = static_cast<unsigned char*>(::kforge::shared_dynamic()); }");
        insta::assert_snapshot!(rewritten("namespace n { extern __shared__ float s[]; __shared__ Pair<int, 2> t[WIDTH]; }"), @"namespace n { KFORGE_DYNAMIC_SHARED(float, s); static thread_local Pair<int, 2> t[WIDTH]; KFORGE_SHARED_VARIABLE(t); }");
    }

    #[test]
    fn namespace_scope_is_recognised() {
        for (source, at_namespace_scope) in [
            (
                "extern \"C\" __global__ void f() { __shared__ float s[4]; }",
                false,
            ),
            (
                "inline __device__ void f() { __shared__ float s[4]; }",
                false,
            ),
            (
                "#define A\nnamespace { struct S { void f() { __shared__ float s[4]; } }; }",
                false,
            ),
            ("extern \"C\" { __shared__ float s[4]; }", true),
            ("inline namespace a { __shared__ float s[4]; }", true),
            ("__shared__ float s[4];", true),
        ] {
            assert_eq!(
                rewritten(source).contains("KFORGE_SHARED_VARIABLE"),
                at_namespace_scope,
                "{source}"
            );
        }
        let record = rewritten("void f() { __shared__ struct { float a[2]; int b, c; } s, t[3]; }");
        assert!(
            record.contains("kforge_shared_type_0& s = ")
                && record.contains("kforge_shared_type_1[3]; ")
                && record.contains("& t = "),
            "{record}"
        );
    }

    #[test]
    fn line_numbers_are_preserved() {
        let source = "void f() {\n  __shared__ float\n    a[32];\n  int x;\n}\n#pragma unroll UNROLL\nfor (;;) {}\n#pragma unroll\nfor (;;) {}\n#pragma unroll N\nfor (;;) {}";
        let result = rewritten(source);
        assert_eq!(result.lines().count(), source.lines().count());
        assert_eq!(result.lines().nth(3), Some("  int x;"));
        assert_eq!(result.lines().nth(5), Some("#pragma GCC unroll 4"));
        assert_eq!(result.lines().nth(7), Some("#pragma unroll"));
    }

    #[test]
    fn multi_line_declarations_preserve_line_numbers() {
        for (source, words) in [
            (
                "void f() {\n  __shared__ float a[32 // width\n  ][33 /* x\n */];\n  int x;\n}",
                "[32 ][33 ]; static",
            ),
            (
                "void f() {\n  __shared__ alignas(\n16 // why\n) float a[32];\n  int x;\n}",
                "struct alignas(16) kforge_shared_aligned_0",
            ),
            (
                "void f() {\n  __shared__\n#ifdef A\n  float a[4];\n#endif\n  int x;\n}",
                "  __shared__\n#ifdef A\n  float a[4];",
            ),
            (
                "float é\n#pragma unroll 4\nfor __shared__ x;\n  int x;\n",
                "#pragma GCC unroll 4\nfor __shared__ x;",
            ),
            (
                "void f() {\n  __shared__ float a[sizeof(\"\\\n\")];\n  int x;\n}",
                "__shared__ float a[sizeof(\"\\\n\")];",
            ),
        ] {
            let result = rewritten(source);
            assert!(result.contains(words), "{result}");
            let line = |text: &str| text.lines().position(|line| line == "  int x;");
            assert_eq!(line(&result), line(source), "{result}");
        }
    }

    #[test]
    fn loops_in_an_unclosed_declaration_are_not_rewritten() {
        for inside in ["while (*x == 0) {\n}\n", "é\nwhile (*x == 0);\n"] {
            let source = format!("void f() {{\n  __shared__ float a[ {{\n{inside}}}\n");
            let result = rewritten(&source);
            assert_eq!(result.matches('\n').count(), source.matches('\n').count());
            assert!(!result.contains("polled"), "{result}");
        }
    }

    #[test]
    fn malformed_source_does_not_panic() {
        for source in [
            "__shared__",
            "__shared__;",
            "void f() { __shared__ [3]; }",
            "}} __shared__ alignas( x",
            "extern __shared__ float s;",
        ] {
            rewritten(source);
        }
    }
}
