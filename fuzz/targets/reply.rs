//! The fuzz target `reply`. The check is in `src/reply.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kforge_fuzz::reply(input));
