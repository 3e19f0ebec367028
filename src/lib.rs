//! kforge: an evolutionary search driver for GPU kernels.

pub mod base;
pub mod device;
pub mod eval;
pub mod event;
pub mod kernel;
pub mod propose;
pub mod search;
pub mod task;
pub mod verdict;
pub mod worker;
