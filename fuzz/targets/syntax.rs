//! The fuzz target `syntax`. The check is in `src/syntax.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kforge_fuzz::syntax(input));
