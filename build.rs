//! Compiles the judge's own numerics: fill, poison, compare, hash. Contraction stays off, so that every device gives the same bits.

fn main() {
    println!("cargo::rerun-if-changed=src/device/numerics.h");
    println!("cargo::rerun-if-changed=src/device/numerics.cpp");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(3)
        .flag("-ffp-contract=off")
        .flag("-fno-exceptions")
        .flag("-fno-rtti")
        .flag_if_supported("-fno-math-errno")
        .cpp_link_stdlib(None)
        .file("src/device/numerics.cpp")
        .compile("kforge_numerics");
}
