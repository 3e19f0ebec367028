//! The fuzz target `yaml`. The check is in `src/yaml.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kforge_fuzz::yaml(input));
