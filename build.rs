//! Compiles the harness numerics in `src/device/numerics.cpp`: fill, poison, compare, hash. Says which commit this is.
//!
//! Contraction is off in every variant, so that all devices give the same bits. Only an optimised build names its commit: otherwise
//! every commit would compile the whole crate again.

#[path = "build/version.rs"]
mod version;

use std::path::Path;

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
    name_the_commit();
    compile_numerics();
}

/// Sets `KFORGE_BUILD`, which is part of `kforge --version`.
fn name_the_commit() {
    println!("cargo::rerun-if-changed=build/version.rs");
    let is_optimised = std::env::var("OPT_LEVEL").is_ok_and(|level| level != "0");
    if !is_optimised {
        println!("cargo::rustc-env=KFORGE_BUILD=development build");
        return;
    }
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| ".".to_owned());
    let root = Path::new(&root);
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    println!("cargo::rerun-if-changed=build/archived.txt");
    for path in version::watched(root) {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok();
    let build = version::describe(root, epoch.as_deref());
    let build = build.unwrap_or_else(|| "unknown commit".to_owned());
    println!("cargo::rustc-env=KFORGE_BUILD={build}");
}

fn compile_numerics() {
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
