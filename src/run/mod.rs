//! A run's directory: its layout, its lock, its record, its journals (DESIGN section 7).
//!
//! The journals are the only source of truth. Nothing here knows what a search is, or decides what happens next.

mod best;
mod directory;
mod journal;
mod lock;
mod record;
mod time;

pub(crate) use best::{BestOfRun, best_kernel};
pub use directory::{RunDirectory, TaskDirectory};
pub use journal::{Journal, JournalLine, LineHead};
pub(crate) use lock::RunLock;
pub use record::{
    RunRecord, SCHEMA as RECORD_SCHEMA, TaskRecord, WarmStart, changes_not_accepted, host_name,
};
pub(crate) use time::{compact_timestamp, now_milliseconds, parse_timestamp, timestamp};
