//! A run's directory: its layout, its lock, its record, its journals (DESIGN section 7).
//!
//! The journals are the only source of truth. Nothing here knows what a search is, or decides what happens next.

mod best;
mod directory;
mod journal;
mod lock;
mod record;
mod time;

pub(crate) use best::{BestOfRun, best_of};
pub use directory::{RunDirectory, TaskDirectory};
pub use journal::{Head, Journal, Line};
pub(crate) use lock::Lock;
pub use record::{Record, SCHEMA as RECORD_SCHEMA, TaskRecord, WarmStart, host_name, refuse};
pub(crate) use time::{compact_timestamp, milliseconds, now, timestamp};
