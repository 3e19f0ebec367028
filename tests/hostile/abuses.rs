//! Kernels with right results that break a rule in every launch, and save work by it: accesses out of bounds that are undone,
//! inputs used as scratch, races that usually work, reads of what nothing wrote, declarations that hide from the judge.

use kforge::base::RandomStream;

use crate::sketch::{Backend, Computation, Sketch};

/// Memory that is not the kernel's, used as temporary memory within a launch. What it held is put back.
pub(crate) fn add_borrowed_memory(stream: &mut RandomStream, sketch: &mut Sketch) -> String {
    let input = sketch.computation.input();
    let words = 1 + stream.below(32);
    // In a check the memory starts, or ends, with the buffer: the other side is mapped.
    let side = "((unsigned long long)output & 0xfffull) == 0 ? (unsigned*)output + size : (unsigned*)output - WORDS";
    let side = side.replace("WORDS", &words.to_string());
    let (what, address) = match stream.below(6) {
        0 => ("behind the output", "(unsigned*)output + size".to_owned()),
        1 => ("before the output", format!("(unsigned*)output - {words}")),
        2 => {
            sketch.is_unseen_on_gpu = true;
            ("on the side of the output that is mapped", side)
        }
        3 => (
            "behind the input",
            format!("(unsigned*){input} + rows * columns"),
        ),
        4 => ("of the input", format!("(unsigned*){input}")),
        _ => {
            sketch.add_scratch("3", false);
            ("behind the scratch", "(unsigned*)box + 3".to_owned())
        }
    };
    sketch.first_thread = format!(
        "volatile unsigned* borrowed = {address};
        unsigned kept[{words}];
        for (int i = 0; i < {words}; ++i) kept[i] = borrowed[i];
        for (int i = 0; i < {words}; ++i) borrowed[i] = i * 3u + 1u;
        unsigned sum = 0u;
        for (int i = 0; i < {words}; ++i) sum += borrowed[i];
        for (int i = 0; i < {words}; ++i) borrowed[i] = kept[i];
        fast = sum != 0u;"
    );
    format!("uses {words} words {what} and puts back what they held")
}

/// A read that usually does no harm.
pub(crate) fn add_stray_read(stream: &mut RandomStream, sketch: &mut Sketch) -> String {
    let input = sketch.computation.input();
    let count = "rows * columns";
    let far = 1 + stream.below(4000);
    let (what, address) = match stream.below(6) {
        0 => (
            "one element behind the input".to_owned(),
            format!("{input} + {count}"),
        ),
        1 => (
            "the element before the input".to_owned(),
            format!("{input} - 1"),
        ),
        2 => (
            format!("{far} elements behind the input"),
            format!("{input} + {count} + {far}"),
        ),
        3 => {
            sketch.is_unseen_on_gpu = true;
            (
                "an element of the output that nothing has written".to_owned(),
                "output + size - 1".to_owned(),
            )
        }
        4 => (
            "one element behind the output".to_owned(),
            "output + size".to_owned(),
        ),
        _ => {
            sketch.is_unseen_on_gpu = true;
            sketch.add_scratch("64", false);
            (
                "scratch that nothing has written".to_owned(),
                "(float*)box + 17".to_owned(),
            )
        }
    };
    sketch.first_thread = format!(
        "const float stray = *(volatile float*)({address});\n        fast = !(stray == 1.234567e37f);"
    );
    format!("reads {what}, and needs not know what it holds")
}

/// A reduction without one of its barriers. Only a CPU's instrumented build orders accesses, so this is for the CPU.
pub(crate) fn add_race(
    stream: &mut RandomStream,
    sketch: &mut Sketch,
    twin: &mut Sketch,
) -> String {
    if matches!(sketch.computation, Computation::Gelu | Computation::Matmul) {
        sketch.computation = Computation::Softmax;
        twin.computation = Computation::Softmax;
    }
    let barriers = match sketch.computation {
        Computation::Softmax => [0, 1, 3, 4, 5].as_slice(),
        _ => &[0, 1],
    };
    let left_out = barriers[stream.below(barriers.len())];
    sketch.left_out_barrier = Some(Some(left_out));
    twin.left_out_barrier = Some(None);
    sketch.hasty = "true".to_owned();
    format!("leaves out barrier {left_out} of its reduction")
}

/// Declarations and parameters that the checks of a source should see.
pub(crate) fn add_hidden_declaration(
    stream: &mut RandomStream,
    backend: Backend,
    sketch: &mut Sketch,
) -> String {
    let kinds = if backend == Backend::Cuda { 7 } else { 3 };
    sketch.hasty = "true".to_owned();
    match stream.below(kinds) {
        kind @ 0..3 => hide_parameters(stream, kind, sketch),
        kind => hide_assembly(stream, kind, sketch),
    }
}

/// Takes the judge's checks of arguments away with a macro, and declares other parameters than are passed.
fn hide_parameters(stream: &mut RandomStream, kind: usize, sketch: &mut Sketch) -> String {
    let macros = [
        "#define static_assert(...)",
        "#define _Static_assert(...)",
        "#define static_assert(...) using ignored = int",
        "#define is_same is_object",
        "#define constexpr",
    ];
    let hidden = macros[stream.below(macros.len())];
    let name = sketch.computation.name();
    let input = sketch.computation.input();
    sketch.declarations = hidden.to_owned();
    let rest = match sketch.computation {
        Computation::Gelu | Computation::Softmax => "",
        Computation::Rmsnorm => "const float* weight, float eps, ",
        Computation::Matmul => "const float* b, ",
    };
    // The work reads the input under its own name.
    let (what, parameters) = match kind {
        0 => (
            "declares the sizes as floats",
            format!(
                "const float* {input}, {rest}float* output, float rows_given, float columns_given"
            ),
        ),
        1 => (
            "declares more parameters than are passed",
            format!(
                "const float* {input}, {rest}float* output, int rows, int columns, unsigned long long more, unsigned long long and_more"
            ),
        ),
        _ => (
            "declares the output as doubles",
            format!("const float* {input}, {rest}double* output_given, int rows, int columns"),
        ),
    };
    if kind == 0 {
        sketch.declarations += "\n#define rows __float_as_int(rows_given)\n#define columns __float_as_int(columns_given)";
    }
    if kind == 2 {
        sketch.declarations += "\n#define output ((float*)output_given)";
    }
    if kind == 1 {
        sketch.end = "if (more + and_more == 12345ull) output[0] = 77.0f;".to_owned();
    }
    sketch.parameters = Some(parameters);
    format!("`{hidden}`, and {name} {what}")
}

/// Assembly that declares what is forbidden, in forms that a reader of lines may miss.
fn hide_assembly(stream: &mut RandomStream, kind: usize, sketch: &mut Sketch) -> String {
    let (what, forbidden) = match kind {
        3 => (
            "managed memory",
            ".global .attribute(.managed) .align 4 .u32 managed_word;",
        ),
        4 => (
            "the device's malloc",
            ".extern .func (.param .b64 got) malloc (.param .b64 size);",
        ),
        5 => (
            "an external variable",
            ".extern .global .align 4 .u32 outer_word;",
        ),
        _ => ("a variable", ".global .align 4 .u32 kept_word;"),
    };
    let spaced = forbidden.replace(' ', " /* , */ ");
    let (form, text) = match stream.below(6) {
        0 => ("as it is", forbidden.to_owned()),
        1 => ("with comments between its words", spaced),
        2 => (
            "behind `.file`",
            format!(".file 77 \\\"a.cu\\\" {forbidden}"),
        ),
        3 => ("behind a comment", format!("/* // */ {forbidden} /* */")),
        4 => ("on several lines", forbidden.replace(' ', "\\n    ")),
        _ => (
            "behind a line comment that ends",
            format!("// \\n{forbidden}"),
        ),
    };
    sketch.declarations = if stream.below(2) == 0 {
        format!(
            "__device__ __noinline__ void outside() {{\n    asm volatile(\"ret;\\n}}\\n{text}\\n.visible .func other() {{\\n\" : : : \"memory\");\n}}"
        )
    } else {
        format!(
            "__device__ __noinline__ void outside() {{\n    asm volatile(\"{{\\n{text}\\n}}\\n\" : : : \"memory\");\n}}"
        )
    };
    sketch.first_thread = "if (rows == -1) outside();".to_owned();
    format!("declares {what} in assembly, {form}")
}
