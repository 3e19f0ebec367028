//! The foundation of all other modules: failures, hashes, random streams, statistics, expressions, files, signals, text, YAML.
//!
//! Knows nothing about kernels, tasks or runs, and uses no other module of kforge.

pub(crate) mod cpu_time;
pub(crate) mod descriptors;
pub(crate) mod digest;
pub(crate) mod environment;
pub(crate) mod exact;
pub mod expression;
pub(crate) mod failure;
pub mod files;
pub(crate) mod guardian;
pub(crate) mod interrupt;
pub(crate) mod lock_wait;
pub(crate) mod locked_file;
pub(crate) mod process;
pub(crate) mod progress;
pub mod random;
pub(crate) mod shingles;
pub(crate) mod statistics;
pub(crate) mod student;
pub(crate) mod temporary;
pub(crate) mod text;
pub(crate) mod value_reader;
pub mod yaml;

pub use digest::Digest;
pub use failure::{Failure, FailureKind};
pub(crate) use locked_file::LockedFile;
pub use random::RandomStream;
pub use shingles::Shingles;
