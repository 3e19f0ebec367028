//! The compiler and linker flags of each build.
//!
//! Only flags; `compiler_runner` runs the compiler.

use std::path::Path;

use crate::device::Build;

/// Uses all instructions of this machine. Both gcc and clang accept this spelling on this architecture.
const NATIVE: &str = if cfg!(target_arch = "aarch64") {
    "-mcpu=native"
} else {
    "-march=native"
};
/// Flags of the fast build, for the precompiled header and the candidate alike: gcc uses a precompiled header only with equal flags.
pub(super) const FAST_FLAGS: &[&str] = &[
    "-std=gnu++17",
    "-O3",
    NATIVE,
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-strict-aliasing",
    "-fno-exceptions",
    "-fno-rtti",
    "-fstack-clash-protection",
    "-fno-stack-protector",
    NO_FORTIFY,
    "-fno-pie",
    // So that the object file says which functions a kernel can reach.
    "-ffunction-sections",
    // Calls of the heap are refused, so they must not be optimised away first.
    "-fno-builtin-malloc",
    "-fno-builtin-calloc",
    "-fno-builtin-free",
    "-w",
    "-fmax-errors=20",
];
/// Some systems replace calls of the C library with checked variants by default.
const NO_FORTIFY: &str = "-U_FORTIFY_SOURCE";
/// Flags of the bounds and race builds. Every memory access must stay as it is in the source: not moved before the condition that
/// guards it, and not split.
const INSPECTED_FLAGS: &[&str] = &[
    "-std=gnu++17",
    "-O1",
    "-g1",
    NATIVE,
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-strict-aliasing",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-pie",
    "-fno-tree-sra",
    "-fno-tree-loop-im",
    "-fno-move-loop-invariants",
    "-fno-if-conversion",
    "-fno-stack-protector",
    NO_FORTIFY,
    "-w",
    "-fmax-errors=20",
];
const BOUNDS_FLAGS: &[&str] = &[
    "-fsanitize=address",
    "-fsanitize=signed-integer-overflow,shift,integer-divide-by-zero,alignment,return,unreachable,vla-bound",
    // Calls instead of inline checks, because the runtime implements them.
    "--param=asan-instrumentation-with-call-threshold=0",
    "--param=asan-use-after-return=0",
];
const RACE_FLAGS: &[&str] = &[
    "-fsanitize=thread",
    "--param=tsan-distinguish-volatile=1",
    "--param=tsan-instrument-func-entry-exit=0",
];
const FAST_MATH_FLAGS: &[&str] = &["-ffast-math", "-fno-finite-math-only"];
/// Flags of the runtime. Without vectorisation: wide vectors slow down switching between fibers.
pub(super) const RUNTIME_FLAGS: &[&str] = &[
    "-std=gnu++17",
    "-O2",
    NATIVE,
    "-fno-tree-vectorize",
    "-fno-strict-aliasing",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-pie",
    "-w",
];
/// Flags of `start.cpp`, which runs before libc: without the stack protector, which libc sets up, and without calls of libc.
pub(super) const START_FLAGS: &[&str] = &[
    "-std=gnu++17",
    "-O1",
    "-fno-pie",
    "-fno-stack-protector",
    "-fno-builtin",
    "-fcf-protection=none",
    "-w",
];
/// The entry point is `kforge_start`, which installs the first seccomp filter.
const LINK_FLAGS: &[&str] = &[
    "-no-pie",
    "-pthread",
    "-Wl,--as-needed",
    // Binds all symbols at the start. Binding a symbol during a launch would change the memory of the process.
    "-Wl,-z,now",
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    "-Wl,-e,kforge_start",
];

/// The flags for a candidate and its precompiled header.
pub(super) fn compile_flags(build: Build, fast_math: bool) -> Vec<&'static str> {
    match build {
        Build::Fast if fast_math => [FAST_FLAGS, FAST_MATH_FLAGS].concat(),
        Build::Fast => FAST_FLAGS.to_vec(),
        Build::Bounds => [INSPECTED_FLAGS, BOUNDS_FLAGS].concat(),
        Build::Race => [INSPECTED_FLAGS, RACE_FLAGS].concat(),
    }
}

/// A static program needs no files to start and no sanitizer library, and its addresses fit in 32 bits.
pub(super) fn link_flags(is_static: bool) -> Vec<&'static str> {
    let static_flag: &[&str] = if is_static { &["-static"] } else { &[] };
    [LINK_FLAGS, static_flag].concat()
}

/// Collects the candidate's variables in sections of their own, for `saved_memory`. The bounds and race builds run once only.
pub(super) fn linker_script_flag(runtime: &Path, build: Build) -> Option<String> {
    let script = runtime.join("state.ld");
    (build == Build::Fast).then(|| format!("-Wl,-T,{}", script.display()))
}

/// The object file of the runtime, and the macro that selects the build.
pub(super) fn runtime_object(build: Build) -> (&'static str, &'static [&'static str]) {
    match build {
        Build::Fast => ("runtime.o", &[]),
        Build::Bounds => ("bounds.o", &["-DKFORGE_BOUNDS"]),
        Build::Race => ("race.o", &["-DKFORGE_RACE"]),
    }
}
