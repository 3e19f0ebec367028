//! The fuzz target `journal`. The check is in `src/journal.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kforge_fuzz::journal(input));
