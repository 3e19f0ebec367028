//! Headers that a source uses and does not include. The CPU knows their names without an include, so NVRTC gets them too: otherwise
//! a kernel could pass on a CPU and fail to compile on every GPU.
//!
//! Pure: from a source to the includes in front of it. A source that includes a header, or declares its types, gets nothing new.

use crate::kernel::lexer::{Lexeme, LexemeKind, lex};
use crate::kernel::plan::{ArgumentType, TranslationUnit};
use crate::task::DType;

/// A header, and which names need it.
struct OmittedHeader {
    /// Its file. A source that mentions it includes it itself.
    file: &'static str,
    /// Parts of names that only this header declares.
    parts: &'static [&'static str],
    /// Names that a source may also give to something else: they count if a launch passes elements of `dtype`.
    plain_names: &'static [&'static str],
    dtype: Option<DType>,
}

const HEADERS: &[OmittedHeader] = &[
    OmittedHeader {
        file: "cuda_fp16.h",
        parts: &["__half", "2half"],
        plain_names: &["half", "half2"],
        dtype: Some(DType::Float16),
    },
    OmittedHeader {
        file: "cuda_bf16.h",
        parts: &["nv_bfloat16", "2bfloat16", "bfloat162"],
        plain_names: &[],
        dtype: None,
    },
    OmittedHeader {
        file: "cooperative_groups.h",
        parts: &["cooperative_groups"],
        plain_names: &[],
        dtype: None,
    },
];

/// The includes that a source has left out, one a line.
pub(crate) fn omitted_headers(unit: &TranslationUnit) -> String {
    let source = unit.source.as_str();
    let lexemes = lex(source);
    let names: Vec<&str> = lexemes
        .iter()
        .filter(|lexeme| lexeme.kind == LexemeKind::Identifier)
        .map(|lexeme| &source[lexeme.range.clone()])
        .collect();
    let omitted = HEADERS.iter().filter(|header| {
        let is_passed = unit.entry_points.iter().any(|entry| {
            let elements = header.dtype.map(ArgumentType::Pointer);
            elements.is_some_and(|elements| entry.arguments.contains(&elements))
        });
        let needs = |name: &&str| {
            header.parts.iter().any(|part| name.contains(part))
                || is_passed && header.plain_names.contains(name)
        };
        let used = names.iter().filter(|name| needs(name));
        let mut declared = used.clone().map(|name| declares(source, &lexemes, name));
        !source.contains(header.file)
            && used.count() > 0
            && !declared.any(|is_declared| is_declared)
    });
    omitted
        .map(|header| format!("#include <{}>\n", header.file))
        .collect()
}

/// Whether a source defines a type itself, as sources written for NVRTC do: a definition with braces, `using` or `typedef`.
pub(super) fn declares(source: &str, lexemes: &[Lexeme], name: &str) -> bool {
    let text = |index: usize| {
        let lexeme = lexemes.get(index);
        lexeme.map_or("", |lexeme| &source[lexeme.range.clone()])
    };
    (0..lexemes.len()).any(|index| {
        let is_in_typedef = || {
            let statement = (0..index).rev().map(text);
            let mut start = statement.take_while(|text| !matches!(*text, ";" | "{" | "}"));
            text(index + 1) == ";" && start.any(|text| text == "typedef")
        };
        let is_typedef_of_struct = || index > 0 && text(index - 1) == "}" && text(index + 1) == ";";
        let before = index.checked_sub(1).map_or("", text);
        // `struct NAME {` or `struct alignas(4) NAME {`, and not the value `NAME{1, 2}`.
        let is_definition = match text(index + 1) {
            "{" => matches!(before, "struct" | "class" | "union" | "enum" | ")"),
            "=" => before == "using",
            _ => false,
        };
        text(index) == name && (is_definition || is_typedef_of_struct() || is_in_typedef())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::plan::EntryPoint;

    fn omitted(source: &str, argument: DType) -> String {
        omitted_headers(&TranslationUnit {
            source: source.to_owned(),
            constants: Vec::new(),
            macros: Vec::new(),
            entry_points: vec![EntryPoint {
                expression: "k".to_owned(),
                arguments: vec![ArgumentType::Pointer(argument)],
                argument_names: vec!["x".to_owned()],
                line: 1,
            }],
            fast_math: false,
            max_registers: None,
            arch: None,
        })
    }

    #[test]
    fn own_types_are_recognized() {
        for (source, is_own) in [
            ("struct alignas(64) CUtensorMap { int x; };", true),
            ("typedef struct X_st { int x; } CUtensorMap;", true),
            ("using CUtensorMap = X;", true),
            (
                "__global__ void k(const __grid_constant__ CUtensorMap map) {}",
                false,
            ),
            ("void f() { return CUtensorMap{}; }", false),
        ] {
            assert_eq!(
                declares(source, &lex(source), "CUtensorMap"),
                is_own,
                "{source}"
            );
        }
    }

    #[test]
    fn headers_are_added_only_where_their_names_are_used_and_not_declared() {
        let bf16 = "#include <cuda_bf16.h>\n";
        let fp16 = "#include <cuda_fp16.h>\n";
        let groups = "#include <cooperative_groups.h>\n";
        for (source, dtype, expected) in [
            (
                "__global__ void k(__nv_bfloat16* x) {}",
                DType::BFloat16,
                bf16,
            ),
            (
                "__global__ void k(float* x) { x[0] = __half2float(__float2half(1.0f)); }",
                DType::Float32,
                fp16,
            ),
            ("__global__ void k(half* x) {}", DType::Float16, fp16),
            ("namespace cg = cooperative_groups;", DType::Float32, groups),
            (
                "#include <cuda_bf16.h>\n__global__ void k(__nv_bfloat16* x) {}",
                DType::BFloat16,
                "",
            ),
            (
                "__global__ void k(float* x) { int half = 3; x[half] = 1; }",
                DType::Float32,
                "",
            ),
            (
                "struct __half { unsigned short bits; }; __global__ void k(__half* x) {}",
                DType::Float16,
                "",
            ),
            (
                "typedef unsigned short half; __global__ void k(half* x) {}",
                DType::Float16,
                "",
            ),
            (
                "using half = _Float16; __global__ void k(half* x) {}",
                DType::Float16,
                "",
            ),
            (
                "// __half\n__global__ void k(float* x) {}",
                DType::Float32,
                "",
            ),
            ("__global__ void k(float* x) {}", DType::Float32, ""),
        ] {
            assert_eq!(omitted(source, dtype), expected, "{source}");
        }
    }
}
