//! kforge: an evolutionary search driver for GPU kernels.
//!
//! The modules in reading order; each uses only those below it. `ARCHITECTURE.md` shows the way through.

pub mod base;
pub mod cli;
pub mod config;
pub mod device;
pub mod driver;
pub mod eval;
pub mod event;
pub mod kernel;
pub mod propose;
pub mod report;
pub mod run;
pub mod search;
pub mod task;
pub mod verdict;
pub mod worker;
