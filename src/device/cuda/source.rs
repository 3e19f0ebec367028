//! Generates the text that NVRTC compiles: the header's constants and macros, the kernel file, and the checks that the header's
//! launches pass what the kernels take (`launch_checks`).
//!
//! Line numbers in errors are those of the kernel file. Compiles nothing.

use std::fmt::Write;

use super::headers::preamble;
use super::launch_checks::{CheckNames, END_OF_SOURCE, launch_checks};
use super::omitted_headers::{declares, omitted_headers};
use crate::device::source_trace::{MarkedSource, ReportAs};
use crate::device::standard_headers::freed_constants;
use crate::kernel::lexer::lex;
use crate::kernel::plan::{ArgumentType, EntryPoint, TranslationUnit};

/// A function whose call leaves the number of a refused line in the PTX if the function around the call is compiled.
const REFUSE: &str = r#"template <int Number> __device__ inline void refuse() { asm volatile("// kforge refuses line number %0" :: "n"(Number)); }"#;

/// The C++ text of a translation unit, given its checked source with marks.
pub(super) fn translation_unit(unit: &TranslationUnit, marked: &MarkedSource) -> String {
    // Writing to a String cannot fail, so the results of `writeln!` are ignored.
    let names = CheckNames::of(&unit.source);
    let mut text = format!(
        "namespace {} {{ {REFUSE} }}\n{}{}",
        names.checks(),
        names.frame_declarations(),
        preamble()
    );
    let takes_map = |entry: &EntryPoint| entry.arguments.contains(&ArgumentType::TensorMap);
    if unit.entry_points.iter().any(takes_map)
        && !declares(&unit.source, &lex(&unit.source), "CUtensorMap")
    {
        text.push_str("#include <cuda.h>\n");
    }
    text.push_str(&omitted_headers(unit));
    for (name, value) in &unit.constants {
        let kind = match i32::try_from(*value) {
            Ok(_) => "int",
            Err(_) => "long long",
        };
        let _ = writeln!(text, "constexpr {kind} {name} = {value};");
    }
    for (name, value) in &unit.macros {
        let _ = writeln!(text, "#define {name} {value}");
    }
    text.push_str(&freed_constants(&unit.source));
    text.push_str("#line 1 \"kernel.cu\"\n");
    text.push_str(&marked.text);
    text.push_str(END_OF_SOURCE);
    text.push_str(&marked.report(ReportAs::Warnings));
    text.push_str(&launch_checks(unit));
    text
}

/// The call of `REFUSE` for a refusal. Only the hash in its name keeps a source from changing it.
pub(super) fn refusing_call(source: &str, number: usize) -> String {
    format!("::{}::refuse<{number}>()", CheckNames::of(source).checks())
}
