//! The fuzz target `mutate`. The check is in `src/mutate.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kforge_fuzz::mutate(input));
