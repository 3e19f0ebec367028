//! The fuzz target `header`. The check is in `src/header.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kforge_fuzz::header(input));
