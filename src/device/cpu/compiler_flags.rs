//! How each build is compiled and linked.
//!
//! Flags only; nothing runs here.

use std::path::Path;

use crate::device::Build;

/// Whatever this machine can do; the name that both compilers know on this architecture.
const NATIVE: &str = if cfg!(target_arch = "aarch64") {
    "-mcpu=native"
} else {
    "-march=native"
};
/// The flags of header and candidate alike: a precompiled header is used only under its own.
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
    "-w",
    "-fmax-errors=20",
];
/// Some systems let the compiler replace calls of the C library by checked ones of their own.
const NO_FORTIFY: &str = "-U_FORTIFY_SOURCE";
/// The flags of the inspected builds. Every access must stay one, where the source has it: none moved ahead of the condition
/// that guards it, no vector's copy taken apart.
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
    // Calls instead of code in place: they are answered by the runtime.
    "--param=asan-instrumentation-with-call-threshold=0",
    "--param=asan-use-after-return=0",
];
const RACE_FLAGS: &[&str] = &[
    "-fsanitize=thread",
    "--param=tsan-distinguish-volatile=1",
    "--param=tsan-instrument-func-entry-exit=0",
];
const FAST_MATH_FLAGS: &[&str] = &["-ffast-math", "-fno-finite-math-only"];
/// The runtime's own flags: wide vectors in its switch cost more than they bring.
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
/// For the first instructions of a process: no stack guard, which libc has yet to set up, and no call of libc.
pub(super) const START_FLAGS: &[&str] = &[
    "-std=gnu++17",
    "-O1",
    "-fno-pie",
    "-fno-stack-protector",
    "-fno-builtin",
    "-fcf-protection=none",
    "-w",
];
/// Where a process begins: with what takes away what it no longer needs.
const LINK_FLAGS: &[&str] = &[
    "-no-pie",
    "-pthread",
    "-Wl,--as-needed",
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    "-Wl,-e,kforge_start",
];

/// What compiles a candidate, and its precompiled header.
pub(super) fn compile_flags(build: Build, fast_math: bool) -> Vec<&'static str> {
    match build {
        Build::Fast if fast_math => [FAST_FLAGS, FAST_MATH_FLAGS].concat(),
        Build::Fast => FAST_FLAGS.to_vec(),
        Build::Bounds => [INSPECTED_FLAGS, BOUNDS_FLAGS].concat(),
        Build::Race => [INSPECTED_FLAGS, RACE_FLAGS].concat(),
    }
}

/// A program that is whole needs no file to begin, and no library of a sanitizer; its addresses are short.
pub(super) fn link_flags(is_static: bool) -> Vec<&'static str> {
    let static_flag: &[&str] = if is_static { &["-static"] } else { &[] };
    [LINK_FLAGS, static_flag].concat()
}

/// Gathers the variables of the candidate's own file, for `state`. The inspected builds are for one launch.
pub(super) fn linker_script_flag(runtime: &Path, build: Build) -> Option<String> {
    let script = runtime.join("state.ld");
    (build == Build::Fast).then(|| format!("-Wl,-T,{}", script.display()))
}

/// The runtime's object file, and the macro that makes it what it is.
pub(super) fn runtime_object(build: Build) -> (&'static str, &'static [&'static str]) {
    match build {
        Build::Fast => ("runtime.o", &[]),
        Build::Bounds => ("bounds.o", &["-DKFORGE_BOUNDS"]),
        Build::Race => ("race.o", &["-DKFORGE_RACE"]),
    }
}
