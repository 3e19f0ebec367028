//! The text that any program can give to NVRTC: a kernel file with what the judge puts in front of it.
//!
//! It needs no header that the judge provides, and has none of the judge's checks. Lines are those of the kernel file. Compiles nothing.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::compiler::limits_cooperative_groups;
use super::headers::{preamble, provided_headers};
use super::omitted_headers::{declares, omitted_headers};
use super::source_checks::check_source;
use crate::device::refusal::Refusal;
use crate::device::source_rewrite::header_name;
use crate::device::standard_headers::freed_constants;
use crate::kernel::lexer::{LexemeKind, lex, starts_with_directive, strip_comments};
use crate::kernel::plan::{ArgumentType, TranslationUnit};

/// The two parts of the text. The tunables' macros come between them.
pub(crate) struct PlainSource {
    pub(crate) before: String,
    pub(crate) behind: String,
    /// Whether the text includes headers of CUDA.
    pub(crate) needs_headers: bool,
}

/// Makes the text.
///
/// # Errors
/// The reason why the source cannot be compiled without the judge. It may have a line.
pub(crate) fn plain_source(unit: &TranslationUnit) -> Result<PlainSource, Refusal> {
    let checked = check_source(&unit.source, &|name| {
        !name.starts_with("cute/") && !name.starts_with("cutlass/")
    })?;
    if let Some(refusal) = checked.edits.refusals().first() {
        return Err(refusal.clone());
    }
    let (source, provided) = without_provided_headers(&checked.text);
    let mut before = String::new();
    if limits_cooperative_groups(&unit.source) {
        before.push_str("#define _CG_LIMIT_INCLUDED_DEPENDENCIES\n");
    }
    before.push_str(&preamble());
    let mut entries = unit.entry_points.iter();
    let takes_map = entries.any(|entry| entry.arguments.contains(&ArgumentType::TensorMap));
    let has_own_map = declares(&unit.source, &lex(&unit.source), "CUtensorMap");
    let tensor_map = (takes_map && !has_own_map).then(|| "cuda.h".to_owned());
    let names: BTreeSet<String> = provided.into_iter().chain(tensor_map).collect();
    let mut texts: Vec<String> = Vec::new();
    for (name, text) in provided_headers() {
        let text = text.replace("#pragma once\n", "");
        if names.contains(&name) && !texts.contains(&text) {
            texts.push(text);
        }
    }
    before.extend(texts);
    before.push_str(&omitted_headers(unit));
    for (name, value) in &unit.constants {
        let kind = i32::try_from(*value).map_or("long long", |_| "int");
        // Writing to a String cannot fail.
        let _ = writeln!(before, "constexpr {kind} {name} = {value};");
    }
    let mut behind = freed_constants(&unit.source);
    behind.push_str("#line 1 \"kernel.cu\"\n");
    behind.push_str(source.trim_end());
    behind.push('\n');
    let needs_headers = [&before, &behind].iter().any(|text| {
        let mut lexemes = lex(text).into_iter();
        lexemes.any(|lexeme| included(text, &lexeme.range, lexeme.kind).is_some())
    });
    Ok(PlainSource {
        before,
        behind,
        needs_headers,
    })
}

/// The source without the includes of headers that the judge provides, and the names of these.
fn without_provided_headers(source: &str) -> (String, Vec<String>) {
    let provided = provided_headers();
    let mut text = source.to_owned();
    let mut names = Vec::new();
    for lexeme in lex(source).into_iter().rev() {
        let Some(name) = included(source, &lexeme.range, lexeme.kind) else {
            continue;
        };
        if provided.iter().any(|(known, _)| *known == name) {
            // The lines stay.
            let lines = source[lexeme.range.clone()].matches('\n').count();
            text.replace_range(lexeme.range, &"\n".repeat(lines));
            names.push(name);
        }
    }
    (text, names)
}

/// The header that a directive includes.
fn included(source: &str, range: &std::ops::Range<usize>, kind: LexemeKind) -> Option<String> {
    let plain = strip_comments(&source[range.clone()]);
    let body = plain.strip_prefix('#')?.trim_start();
    if kind != LexemeKind::Directive || !starts_with_directive(body, "include") {
        return None;
    }
    header_name(body["include".len()..].trim()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Status;

    fn unit(source: &str) -> TranslationUnit {
        TranslationUnit {
            source: source.to_owned(),
            constants: vec![("COLUMNS".to_owned(), 64)],
            macros: Vec::new(),
            entry_points: Vec::new(),
            fast_math: false,
            max_registers: None,
            arch: None,
        }
    }

    #[test]
    fn provided_headers_are_written_out_and_lines_stay() {
        let source = "#include <stdint.h>\n#include <cstdint> // the same\n#include <vector>\n#include <cuda_fp16.h>\n\
                      __host__ int f();\n";
        let plain = plain_source(&unit(source)).unwrap();
        assert_eq!(plain.before.matches("#define INT32_MAX").count(), 1);
        assert!(plain.before.ends_with("constexpr int COLUMNS = 64;\n"));
        assert_eq!(
            plain.behind,
            "#line 1 \"kernel.cu\"\n\n\n\n#include <cuda_fp16.h>\n int f();\n"
        );
        assert!(plain.needs_headers);
        assert!(
            !plain_source(&unit("#include <math.h>\n"))
                .unwrap()
                .needs_headers
        );
    }

    #[test]
    fn what_needs_the_judge_is_refused_with_the_line() {
        for (source, status) in [
            ("\n#include <cute/tensor.hpp>", Status::Unsupported),
            ("\nvoid f() { k<<<1, 1>>>(); }", Status::Rejected),
        ] {
            let refusal = plain_source(&unit(source)).err().unwrap();
            assert_eq!((refusal.status, refusal.evidence.line), (status, Some(2)));
        }
    }
}
