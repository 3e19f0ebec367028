//! Compiles the judge's own numerics: fill, poison, compare, hash. Contraction stays off, so that every device gives the same bits.

/// What is compiled more than once: names as `numerics.rs` has them, and the instructions that may be used. Vectors stay at
/// 256 bits: some processors slow down for longer ones, and a launch is timed right behind.
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
            // Which exceptions are raised is not looked at; that they might be keeps loops from becoming vectors.
            .flag_if_supported("-fno-trapping-math")
            .flags(*flags)
            .cpp_link_stdlib(None)
            .file("src/device/numerics.cpp")
            .compile(name);
    }
}
