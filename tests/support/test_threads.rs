//! Runs twice as many tests at a time as there are cores, unless `RUST_TEST_THREADS` says how many.
//!
//! Most tests wait for other processes half of their time, so one test for each core would leave cores idle. The test harness of Rust
//! reads the variable when `main` starts, and has no other setting. `tests/machine/harness.rs` does the same for its tests.

use std::num::NonZeroUsize;

/// The system calls this before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = choose_test_threads;

extern "C" fn choose_test_threads() {
    const VARIABLE: &str = "RUST_TEST_THREADS";
    if std::env::var_os(VARIABLE).is_none() {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        // SAFETY: this process has no other thread before `main`.
        unsafe { std::env::set_var(VARIABLE, (2 * cores).to_string()) };
    }
}
