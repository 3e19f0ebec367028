//! Compiles the harness numerics in `src/device/numerics.cpp`: fill, poison, compare, hash.
//!
//! Contraction is off in every variant, so that all devices give the same bits.

/// The variants: the name that `numerics.rs` uses, and the compiler flags for the instruction set. Vectors are at most 256 bits,
/// because some processors lower their clock for wider ones, and a timed launch follows directly.
const VARIANTS: &[(&str, &[&str])] = &[
    ("kforge_numerics", &[]),
    #[cfg(target_arch = "x86_64")]
    ("kforge_numerics_avx2", &["-mavx2"]),
    #[cfg(target_arch = "x86_64")]
    (
        "kforge_numerics_avx512",
        &[
            "-mavx2",
            "-mavx512f",
            "-mavx512bw",
            "-mavx512dq",
            "-mavx512vl",
            "-mprefer-vector-width=256",
        ],
    ),
];

fn main() {
    println!("cargo::rerun-if-changed=src/device/numerics.h");
    println!("cargo::rerun-if-changed=src/device/numerics.cpp");
    for (name, flags) in VARIANTS {
        cc::Build::new()
            .cpp(true)
            .std("c++17")
            .opt_level(3)
            .define("KFORGE_VARIANT", *name)
            .flag("-ffp-contract=off")
            .flag("-fno-exceptions")
            .flag("-fno-rtti")
            .flag_if_supported("-fno-math-errno")
            // No code reads floating-point exceptions, and the possibility of a trap prevents vectorization.
            .flag_if_supported("-fno-trapping-math")
            .flags(*flags)
            .cpp_link_stdlib(None)
            .file("src/device/numerics.cpp")
            .compile(name);
    }
}
