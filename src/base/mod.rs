//! What everything else stands on: failures, hashes, random streams, statistics, expressions, files.
//!
//! Nothing here knows what a kernel or a task is.

pub mod digest;
pub mod environment;
pub mod expression;
pub mod failure;
pub mod files;
pub mod random;
pub mod statistics;
pub mod text;
pub mod yaml;

pub use digest::Digest;
pub use failure::{Failure, Kind};
pub use random::Stream;
