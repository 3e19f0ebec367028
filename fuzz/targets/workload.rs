//! The fuzz target `workload`. The check is in `src/workload.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kforge_fuzz::workload(input));
