//! The fuzzer's entry for `reply`: what is checked is in `src/`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kforge_fuzz::reply(input));
