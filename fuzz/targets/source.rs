//! The fuzz target `source`. The check is in `src/source.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kforge_fuzz::source(input));
