//! kforge searches for fast GPU kernels: models and mutation operators propose kernels, a judge checks and times them, and an
//! archive keeps the fastest of each kind.
//!
//! This file only declares the modules. `ARCHITECTURE.md` describes them, says which to read first and which may use which.

pub mod base;
pub mod cli;
pub mod config;
pub mod device;
pub mod driver;
pub mod eval;
pub mod event;
pub mod export;
pub mod history;
pub mod kernel;
pub mod llm;
pub mod page;
pub mod propose;
pub mod report;
pub mod run;
pub mod search;
pub mod task;
#[cfg(test)]
#[path = "../tests/support/test_threads.rs"]
mod test_threads;
pub mod verdict;
pub mod worker;
