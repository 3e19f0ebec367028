//! The fuzz target `definition`. The check is in `src/definition.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kforge_fuzz::definition(input));
