//! Tests that run on every machine with a C++ compiler, in one program: linking is slow, and tests of one program share the cores.
//!
//! Tests that need a GPU, NVRTC, Python, a sandbox or a third-party server are in `tests/machine`.

mod admission;
mod agreement;
#[path = "../support/agreement.rs"]
mod agreement_rules;
mod asking;
mod cli;
#[path = "../support/code_cases.rs"]
mod code_cases;
mod cpu_device;
mod driver;
mod fixtures;
#[path = "../support/header_cases.rs"]
mod header_cases;
mod language;
mod llm;
mod mailbox;
mod operators;
mod own_tasks;
mod profiling;
#[path = "../support/program.rs"]
mod program;
mod racing;
mod replies;
mod report_refresh;
mod reports;
mod run_log;
mod seeds;
mod simulated;
mod sources;
mod stored_inputs;
#[path = "../support/stored_task.rs"]
mod stored_task;
mod sweeps;
#[path = "../support/test_threads.rs"]
mod test_threads;
mod tune;
mod tune_first;
mod watch;
mod watch_network;
