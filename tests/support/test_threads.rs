//! Runs three times as many tests at a time as there are cores, unless `RUST_TEST_THREADS` says how many.
//!
//! Most tests wait for other processes most of their time: with two tests for each core, the cores are busy for little more than half of
//! the time. The test harness of Rust reads the variable when `main` starts, and has no other setting. `tests/machine/harness.rs`
//! sets its own number.

use std::num::NonZeroUsize;

/// How many tests run at a time for each core.
const TESTS_PER_CORE: usize = 3;

/// The system calls this before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = choose_test_threads;

extern "C" fn choose_test_threads() {
    const VARIABLE: &str = "RUST_TEST_THREADS";
    if std::env::var_os(VARIABLE).is_none() {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        // SAFETY: this process has no other thread before `main`.
        unsafe { std::env::set_var(VARIABLE, (TESTS_PER_CORE * cores).to_string()) };
    }
}
