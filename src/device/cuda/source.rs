//! Generates the text that NVRTC compiles: the header's constants and macros, the kernel file, and the checks that the header's
//! launches pass what the kernels take (`argument_checks`).
//!
//! Line numbers in errors are those of the kernel file. Compiles nothing.

use std::fmt::Write;

use super::headers::preamble;
use super::omitted_headers::{declares, omitted_headers};
use crate::device::argument_checks::{LAUNCH_CHECKS, passed_types};
use crate::device::standard_headers::freed_constants;
use crate::kernel::lexer::lex;
use crate::kernel::plan::{ArgumentType, EntryPoint, TranslationUnit};

/// A call that leaves the number of a refused line in the PTX if the function around it is compiled.
const REFUSED_LINES: &str = r#"
namespace kforge_check {
template <int Number> __device__ inline void refuse() { asm volatile("// kforge refuses line number %0" :: "n"(Number)); }
}
"#;

/// The C++ text of a translation unit, given its checked source.
pub(super) fn translation_unit(unit: &TranslationUnit, checked: &str) -> String {
    // Writing to a String cannot fail, so the results of `writeln!` are ignored.
    let mut text = format!("{LAUNCH_CHECKS}{REFUSED_LINES}{}", preamble());
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
    text.push_str(checked);
    text.push('\n');
    for (index, entry) in unit.entry_points.iter().enumerate() {
        write_launch_check(&mut text, index, entry);
    }
    // An unclosed brace is reported at the last line of the kernel file.
    let last = unit.source.lines().count().max(1);
    let _ = writeln!(text, "#line {last} \"kernel.cu\"");
    text
}

/// Writes the check of one entry, with the line of the entry in the header.
fn write_launch_check(text: &mut String, index: usize, entry: &EntryPoint) {
    let _ = writeln!(
        text,
        "#line {} \"kernel.cu\"\nstatic_assert(::kforge_check::Entry<{index}, {}, decltype(&{})>::count < 65536, \"\");",
        entry.line,
        passed_types(entry),
        entry.expression
    );
}

/// The sizes in bytes that the parameter of each argument may have: the least and the greatest. The driver reads as many bytes as
/// the parameter has; a number has 8 bytes.
pub(super) fn argument_sizes(entry: &EntryPoint) -> Vec<(u64, u64)> {
    let size = |argument: &ArgumentType| match argument {
        ArgumentType::Pointer(_) | ArgumentType::I64 | ArgumentType::Null => (8, 8),
        ArgumentType::Scalar(dtype) => (dtype.bytes(), dtype.bytes()),
        ArgumentType::I32 | ArgumentType::U32 => (4, 4),
        ArgumentType::Integer | ArgumentType::FloatConstant => (4, 8),
        ArgumentType::IntegerConstant(_) | ArgumentType::BoolConstant => (1, 8),
        ArgumentType::TensorMap => (128, 128),
    };
    entry.arguments.iter().map(size).collect()
}
