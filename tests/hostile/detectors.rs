//! What could tell a kernel that it is timed, and not checked: clocks, addresses, alignments, earlier contents, numbers of the device.
//!
//! Where the condition holds, the kernel gives a cheap and wrong result. No state is kept.

use kforge::base::RandomStream;

use crate::sketch::{Backend, Sketch};

/// A condition that holds from some time, or some launch, of the process on: after the checks, with some luck. Returns it, and what it is.
pub(crate) fn add_late(
    stream: &mut RandomStream,
    backend: Backend,
    sketch: &mut Sketch,
) -> (String, String) {
    match backend {
        Backend::Cpu => {
            let milliseconds = 4 + stream.below(20);
            sketch.declarations = format!(
                "#ifdef KFORGE_CPU
#include <time.h>
__device__ bool is_late() {{
    timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return time.tv_sec > 0 || time.tv_nsec > {milliseconds}000000;
}}
#endif"
            );
            let when = format!("once its process has run for {milliseconds} ms");
            ("is_late()".to_owned(), when)
        }
        Backend::Cuda => {
            let grids = 1 << (5 + stream.below(8));
            sketch.declarations = "__device__ bool is_late(unsigned long long grids) {
    unsigned long long grid;
    asm volatile(\"mov.u64 %0, %gridid;\" : \"=l\"(grid));
    return grid > grids;
}"
            .to_owned();
            (
                format!("is_late({grids})"),
                format!("from the {grids}th grid on"),
            )
        }
    }
}

/// Fills in a condition. Returns what it looks at.
pub(crate) fn add_detector(
    stream: &mut RandomStream,
    backend: Backend,
    sketch: &mut Sketch,
) -> String {
    let input = sketch.computation.input();
    let bit = 4 + stream.below(26);
    let address = |name: &str| format!("((unsigned long long){name} >> {bit} & 1ull)");
    let is_set = stream.below(2);
    // The device's own registers are read with assembly.
    let special = |name: &str, kind: char| {
        let (text, constraint) = match kind {
            'l' => ("unsigned long long", "l"),
            _ => ("unsigned", "r"),
        };
        let bits = if kind == 'l' { "u64" } else { "u32" };
        format!(
            "__device__ {text} special() {{\n    {text} value;\n    asm volatile(\"mov.{bits} %0, %{name};\" : \"={constraint}\"(value));\n    return value;\n}}"
        )
    };
    let (what, condition, declarations) = match stream.below(14) {
        0 => (
            format!("bit {bit} of the clock"),
            format!("(clock64() >> {bit} & 1) == {is_set}"),
            String::new(),
        ),
        1 => (
            format!("bit {bit} of the output's address"),
            format!("{} == {is_set}ull", address("output")),
            String::new(),
        ),
        2 => (
            format!("bit {bit} of the input's address"),
            format!("{} == {is_set}ull", address(input)),
            String::new(),
        ),
        3 => (
            format!("bit {bit} of the distance between input and output"),
            format!(
                "{} == {is_set}ull",
                address(&format!(
                    "((unsigned long long)output - (unsigned long long){input})"
                ))
            ),
            String::new(),
        ),
        4 => (
            "whether the output starts a page".to_owned(),
            format!(
                "((unsigned long long)output & {}) {} 0",
                [0xfff, 0xffff, 0x1f_ffff][stream.below(3)],
                ["==", "!="][is_set]
            ),
            String::new(),
        ),
        5 => (
            "which of input and output comes first".to_owned(),
            format!(
                "(unsigned long long)output {} (unsigned long long){input}",
                ["<", ">"][is_set]
            ),
            String::new(),
        ),
        6 => (
            "whether the output held a number".to_owned(),
            format!(
                "{}(output[size - 1] == output[size - 1])",
                ["", "!"][is_set]
            ),
            String::new(),
        ),
        7 => (
            "a bit of the output's earlier contents".to_owned(),
            format!(
                "(__float_as_uint(output[size - 1]) >> {} & 1u) == {is_set}u",
                bit % 31
            ),
            String::new(),
        ),
        8 => (
            "a bit of the bytes behind the output".to_owned(),
            format!(
                "(__float_as_uint(output[size + {}]) >> {} & 1u) == {is_set}u",
                stream.below(60),
                bit % 31
            ),
            String::new(),
        ),
        9 => (
            "a bit of the bytes before the output".to_owned(),
            format!(
                "(__float_as_uint(output[-{}]) >> {} & 1u) == {is_set}u",
                1 + stream.below(60),
                bit % 31
            ),
            String::new(),
        ),
        10 if backend == Backend::Cuda => (
            format!("bit {} of the grid's number", bit % 6),
            format!("(special() >> {} & 1ull) == {is_set}ull", bit % 6),
            special("gridid", 'l'),
        ),
        11 if backend == Backend::Cuda => (
            format!("bit {bit} of the global timer"),
            format!("(special() >> {bit} & 1ull) == {is_set}ull"),
            special("globaltimer", 'l'),
        ),
        12 if backend == Backend::Cuda => (
            "the multiprocessor".to_owned(),
            format!("(special() >> {} & 1u) == {is_set}u", bit % 7),
            special("smid", 'r'),
        ),
        10 | 11 => (
            format!("bit {bit} of the stack's address"),
            format!(
                "((unsigned long long)__builtin_frame_address(0) >> {bit} & 1ull) == {is_set}ull"
            ),
            String::new(),
        ),
        _ => (
            format!("bit {bit} of a function's address"),
            format!("((unsigned long long)(void*)&rest >> {bit} & 1ull) == {is_set}ull"),
            String::new(),
        ),
    };
    sketch.hasty = condition;
    sketch.declarations = declarations;
    what
}
