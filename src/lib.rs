//! kforge: an evolutionary search driver for GPU kernels.
//!
//! `ARCHITECTURE.md` shows the way through: which module to read first, and which may use which.

pub mod base;
pub mod cli;
pub mod config;
pub mod device;
pub mod driver;
pub mod eval;
pub mod event;
pub mod kernel;
pub mod llm;
pub mod propose;
pub mod report;
pub mod run;
pub mod search;
pub mod task;
pub mod verdict;
pub mod worker;
