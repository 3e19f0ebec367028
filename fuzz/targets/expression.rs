//! The fuzz target `expression`. The check is in `src/expression.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kforge_fuzz::expression(input));
