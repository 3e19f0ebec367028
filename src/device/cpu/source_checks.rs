//! Checks before compilation: refuses features that this backend cannot run, and preprocessor lines that no kernel needs.
//!
//! These checks give early and clear messages. They are not a defence: the sandbox confines whatever runs.

use crate::device::Refusal;
use crate::kernel::lexer::{
    Lexeme, LexemeKind, are_adjacent, lex, starts_with_directive, strip_comments,
};
use crate::kernel::plan::{ArgumentType, Plan, TranslationUnit};
use crate::verdict::{Evidence, Status};

/// Headers of CUDA and of C++ that a kernel may include.
const SUPPORTED_HEADERS: &[&str] = &[
    "algorithm",
    "array",
    "assert.h",
    "cassert",
    "cfloat",
    "climits",
    "cmath",
    "cooperative_groups.h",
    "cooperative_groups/memcpy_async.h",
    "cooperative_groups/reduce.h",
    "cooperative_groups/scan.h",
    "cstddef",
    "cstdint",
    "cstdio",
    "cstdlib",
    "cstring",
    "cuda.h",
    "cuda/atomic",
    "cuda/barrier",
    "cuda/cmath",
    "cuda/functional",
    "cuda/latch",
    "cuda/pipeline",
    "cuda/semaphore",
    "cuda/std/algorithm",
    "cuda/std/array",
    "cuda/std/atomic",
    "cuda/std/barrier",
    "cuda/std/bit",
    "cuda/std/cassert",
    "cuda/std/cfloat",
    "cuda/std/climits",
    "cuda/std/cmath",
    "cuda/std/complex",
    "cuda/std/cstddef",
    "cuda/std/cstdint",
    "cuda/std/cstdlib",
    "cuda/std/cstring",
    "cuda/std/functional",
    "cuda/std/initializer_list",
    "cuda/std/iterator",
    "cuda/std/latch",
    "cuda/std/limits",
    "cuda/std/numeric",
    "cuda/std/optional",
    "cuda/std/semaphore",
    "cuda/std/span",
    "cuda/std/tuple",
    "cuda/std/type_traits",
    "cuda/std/utility",
    "cuda/std/variant",
    "cuda_bf16.h",
    "cuda_bf16.hpp",
    "cuda_fp16.h",
    "cuda_fp16.hpp",
    "cuda_fp8.h",
    "cuda_fp8.hpp",
    "cuda_pipeline.h",
    "cuda_pipeline_primitives.h",
    "cuda_runtime.h",
    "cuda_runtime_api.h",
    "device_functions.h",
    "device_launch_parameters.h",
    "device_types.h",
    "float.h",
    "functional",
    "initializer_list",
    "limits",
    "limits.h",
    "math.h",
    "math_constants.h",
    "math_functions.h",
    "numeric",
    "sm_60_atomic_functions.h",
    "stddef.h",
    "stdint.h",
    "stdio.h",
    "stdlib.h",
    "string.h",
    "tuple",
    "type_traits",
    "utility",
    "vector_functions.h",
    "vector_types.h",
];

/// Headers of CUDA that this backend does not support.
const UNSUPPORTED_HEADERS: &[&str] = &[
    "mma.h",
    "crt/mma.h",
    "cuda_awbarrier.h",
    "cuda_awbarrier_primitives.h",
    "cudaTypedefs.h",
    "cuda_fp4.h",
    "cuda_fp6.h",
    "cuComplex.h",
    "texture_fetch_functions.h",
];

/// Libraries of device code that this backend does not support, by the start of their headers' names.
const UNSUPPORTED_FOLDERS: &[&str] = &[
    "cuda/", "nv/", "cub/", "cute/", "cutlass/", "thrust/", "curand",
];

/// Identifiers of features that this backend does not support, with the name of the feature.
const UNSUPPORTED_WORDS: &[(&str, &str)] = &[
    ("asm", "inline PTX"),
    ("__asm", "inline PTX"),
    ("__asm__", "inline PTX"),
    ("wmma", "tensor cores"),
    ("nvcuda", "tensor cores"),
    ("wgmma", "tensor cores"),
    ("CUtensorMap", "tensor maps"),
    ("__cluster_dims__", "clusters"),
    ("this_cluster", "clusters"),
    ("cluster_group", "clusters"),
    ("this_grid", "grid-wide barriers"),
    ("grid_group", "grid-wide barriers"),
    ("this_multi_grid", "grid-wide barriers"),
    ("barrier_arrive_tx", "bulk copies"),
    ("memcpy_async_tx", "bulk copies"),
    ("cp_async_bulk", "bulk copies"),
    ("cudaTextureObject_t", "textures"),
    ("cudaSurfaceObject_t", "surfaces"),
    ("cudaLaunchKernel", "dynamic parallelism"),
    (
        "cudaGridDependencySynchronize",
        "programmatic dependent launches",
    ),
    (
        "cudaTriggerProgrammaticLaunchCompletion",
        "programmatic dependent launches",
    ),
];

/// A refusal if the source, or the type of an argument, is not supported or not accepted.
pub(super) fn refuse_unit(unit: &TranslationUnit) -> Option<Refusal> {
    for entry in &unit.entry_points {
        if entry.arguments.contains(&ArgumentType::TensorMap) {
            return Some(refusal(
                Status::Unsupported,
                entry.line,
                "tensor maps do not run on a CPU",
            ));
        }
    }
    let lexemes = lex(&unit.source);
    let text = |lexeme: &Lexeme| &unit.source[lexeme.range.clone()];
    for (index, lexeme) in lexemes.iter().enumerate() {
        let found = match lexeme.kind {
            LexemeKind::Directive => refuse_directive(text(lexeme), lexeme.line),
            LexemeKind::Identifier => refuse_word(text(lexeme), lexeme.line),
            LexemeKind::Symbol => {
                let launch = lexemes[index..]
                    .iter()
                    .take(3)
                    .map(text)
                    .eq(["<", "<", "<"])
                    && are_adjacent(&lexemes[index..]);
                launch.then(|| {
                    refusal(
                        Status::Unsupported,
                        lexeme.line,
                        "dynamic parallelism does not run on a CPU",
                    )
                })
            }
            _ => None,
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// A refusal if a launch of the plan is not supported.
pub(super) fn refuse_plan(plan: &Plan) -> Option<Refusal> {
    let refused = |what: &str| {
        let reason = format!("{what} do not run on a CPU");
        Some(Refusal {
            status: Status::Unsupported,
            reason,
            evidence: Box::default(),
        })
    };
    plan.launches.iter().find_map(|launch| match launch {
        launch if launch.cluster.is_some() => refused("clusters"),
        launch if launch.cooperative => refused("cooperative launches"),
        _ => None,
    })
}

fn refuse_word(word: &str, line: u32) -> Option<Refusal> {
    if word == "_Pragma" {
        return Some(refusal(
            Status::Rejected,
            line,
            "`_Pragma` is not accepted: write `#pragma unroll`",
        ));
    }
    if ["thread_local", "__thread", "_Thread_local"].contains(&word) {
        let reason =
            format!("`{word}` is not CUDA: a thread's own variables are its local variables");
        return Some(refusal(Status::Rejected, line, &reason));
    }
    let (_, what) = UNSUPPORTED_WORDS.iter().find(|(known, _)| *known == word)?;
    Some(refusal(
        Status::Unsupported,
        line,
        &format!("`{word}`: {what} cannot run on a CPU"),
    ))
}

fn refuse_directive(directive: &str, line: u32) -> Option<Refusal> {
    let plain = strip_comments(directive);
    let body = plain
        .strip_prefix('#')
        .or_else(|| plain.strip_prefix("%:"))?
        .trim_start();
    let rejected = |message: &str| Some(refusal(Status::Rejected, line, message));
    if body.starts_with(|first: char| first.is_ascii_digit()) || starts_with_directive(body, "line")
    {
        return rejected("line markers are not accepted");
    }
    if starts_with_directive(body, "include_next")
        || starts_with_directive(body, "embed")
        || starts_with_directive(body, "import")
    {
        return rejected("only `#include <…>` with a CUDA header is accepted");
    }
    if starts_with_directive(body, "pragma") {
        let pragma = body["pragma".len()..].trim();
        let accepted = [
            "unroll",
            "nounroll",
            "once",
            "nv_diag_suppress",
            "nv_diagnostic",
        ];
        if accepted.iter().any(|known| pragma.starts_with(known)) {
            return None;
        }
        return rejected(&format!(
            "`#pragma {pragma}` is not accepted: use `#pragma unroll` only"
        ));
    }
    if starts_with_directive(body, "define") {
        return refuse_macro(directive, line);
    }
    if starts_with_directive(body, "include") {
        return refuse_include(body["include".len()..].trim(), line);
    }
    None
}

/// Checks the operand of an `#include`.
fn refuse_include(operand: &str, line: u32) -> Option<Refusal> {
    let rejected = |message: &str| Some(refusal(Status::Rejected, line, message));
    let in_brackets = operand
        .strip_prefix('<')
        .and_then(|rest| rest.split_once('>'));
    let in_quotes = || operand.strip_prefix('"')?.split_once('"');
    let Some((name, _)) = in_brackets.or_else(in_quotes) else {
        return rejected("`#include` needs the name of a header in `<…>`");
    };
    if SUPPORTED_HEADERS.contains(&name) {
        return None;
    }
    let in_library = UNSUPPORTED_FOLDERS
        .iter()
        .any(|folder| name.starts_with(folder));
    if UNSUPPORTED_HEADERS.contains(&name) || (in_library && !name.contains("..")) {
        return Some(refusal(
            Status::Unsupported,
            line,
            &format!("`<{name}>` is not supported on a CPU"),
        ));
    }
    rejected(&format!(
        "`#include <{name}>` is not accepted: use CUDA headers only, such as `<cuda_bf16.h>`"
    ))
}

/// Checks the body of a macro, which is code too.
fn refuse_macro(directive: &str, line: u32) -> Option<Refusal> {
    let start = directive.find("define")?;
    lex(&directive[start..])
        .iter()
        .filter(|lexeme| lexeme.kind == LexemeKind::Identifier)
        .find_map(|lexeme| {
            refuse_word(
                &directive[start..][lexeme.range.clone()],
                line + lexeme.line - 1,
            )
        })
}

fn refusal(status: Status, line: u32, message: &str) -> Refusal {
    Refusal {
        status,
        reason: format!("line {line}: {message}"),
        evidence: Box::new(Evidence {
            line: Some(line),
            ..Evidence::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal_status(source: &str) -> Option<(Status, u32)> {
        let unit = TranslationUnit {
            source: source.to_owned(),
            constants: Vec::new(),
            macros: Vec::new(),
            entry_points: Vec::new(),
            fast_math: false,
            max_registers: None,
            arch: None,
        };
        refuse_unit(&unit).map(|refusal| (refusal.status, refusal.evidence.line.unwrap()))
    }

    #[test]
    fn refusals_name_status_and_line() {
        for (source, expected) in [
            ("// asm\nint assembly;\n", None),
            (
                "int x;\nasm volatile(\"\");",
                Some((Status::Unsupported, 2)),
            ),
            ("#include <mma.h>", Some((Status::Unsupported, 1))),
            ("k<<<1, 2>>>();", Some((Status::Unsupported, 1))),
            ("x = 1 << 2 < 3;", None),
            ("# 1 \"/usr/include/math.h\" 3", Some((Status::Rejected, 1))),
            ("#line 7", Some((Status::Rejected, 1))),
            ("#include \"/etc/passwd\"", Some((Status::Rejected, 1))),
            ("#include <../x>", Some((Status::Rejected, 1))),
            (
                "#include <cuda_bf16.h>\n#pragma unroll 4\n#define LINE 1\n#ifdef X\n#endif",
                None,
            ),
            ("#pragma GCC optimize(\"O0\")", Some((Status::Rejected, 1))),
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
            ("int x;\n%: 1 \"a\"", Some((Status::Rejected, 2))),
            (
                "#define WAIT(n) \\\n  asm volatile(\"cp.async\")",
                Some((Status::Unsupported, 2)),
            ),
            ("#define asm_free 1 // asm", None),
            ("#include <cuda/ptx>", Some((Status::Unsupported, 1))),
            ("#include <cuda/../x>", Some((Status::Rejected, 1))),
        ] {
            assert_eq!(refusal_status(source), expected, "{source}");
        }
    }
}
