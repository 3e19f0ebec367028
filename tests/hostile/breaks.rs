//! Kernels that try to end, stop or confuse the process that runs them. None may cost more than its own verdict.

use kforge::base::RandomStream;

use crate::sketch::{Backend, Sketch};

/// Fills in a fault. Returns what it is.
pub(crate) fn add_break(
    stream: &mut RandomStream,
    backend: Backend,
    sketch: &mut Sketch,
) -> String {
    let address = [0usize, 8, 4096, 0x7fff_ffff_f000, usize::MAX - 15][stream.below(5)];
    let input = sketch.computation.input();
    let (what, statement) = match stream.below(16) {
        0 => (format!("writes to address {address:#x}"), format!("*(volatile unsigned*){address:#x}ull = 1u;")),
        1 => (format!("reads address {address:#x}"), format!("if (*(volatile unsigned*){address:#x}ull == 7u) fast = true;")),
        2 => ("traps".to_owned(), "__trap();".to_owned()),
        3 => ("fails an assertion".to_owned(), "assert(rows < 0);".to_owned()),
        4 => ("writes to an odd address".to_owned(), "*(volatile unsigned*)((char*)output + 1) = 1u;".to_owned()),
        5 => ("recurses without end".to_owned(), "output[0] = deeper(rows);".to_owned()),
        6 => ("has a huge local array".to_owned(), "volatile char large[400000];\n        large[rows] = 1;\n        if (large[rows + 1] == 77) fast = true;".to_owned()),
        7 => ("prints without end".to_owned(), "for (int i = 0; i < 3000000; ++i) printf(\"%d %d\\n\", i, rows);".to_owned()),
        8 => ("calls an address that is no function".to_owned(), format!("((void (*)())(unsigned long long)__float_as_uint({input}[0]))();")),
        9 => ("waits at a barrier alone".to_owned(), "__syncthreads();".to_owned()),
        10 => ("divides by zero".to_owned(), "fast = rows / (columns - columns) == 3;".to_owned()),
        11 => ("fills memory far behind the output".to_owned(), "for (long long i = 0; i < 100000000ll; i += 512) output[i] = 1.0f;".to_owned()),
        12 if backend == Backend::Cpu => ("ends the process".to_owned(), ["_exit(0);", "abort();", "exit(3);", "raise(9);"][stream.below(4)].to_owned()),
        13 if backend == Backend::Cpu => ("loops without end".to_owned(), "for (volatile int i = 0;; i = i + 1) {\n        }".to_owned()),
        14 if backend == Backend::Cpu => ("overwrites what the C library needs".to_owned(), "memset((char*)stdout, 0x41, 200);\n        printf(\"text\\n\");".to_owned()),
        _ => ("throws away its stack pointer".to_owned(), "longer_than_it_seems(rows);".to_owned()),
    };
    sketch.declarations = "#include <assert.h>
#ifdef KFORGE_CPU
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#endif
__device__ __noinline__ float deeper(int depth) {
    volatile float own[64];
    own[depth & 63] = depth;
    return depth == -1 ? own[1] : deeper(depth + 1) + own[depth & 63];
}
__device__ __noinline__ void longer_than_it_seems(int rows) {
    volatile unsigned long long words[2];
    for (int i = 0; i < 4000; ++i) words[i] = 0x4141414141414141ull + rows;
}"
    .to_owned();
    sketch.first_thread = statement;
    what
}
