//! A run directory: its layout, its lock, its record and its journals (`docs/run-directory.md`).
//!
//! The journals are the only source of truth; everything else is a copy or a cache. Nothing here knows what a search is or decides what
//! happens next: `driver` does. `sweep` is the folder of several runs. `space_file` has nothing to do with a run: it is the file of a
//! recorded space, with its T4 form.

mod best;
mod directory;
mod journal;
mod journal_scan;
mod line;
mod lock;
mod owner_file;
mod record;
mod sessions;
mod space_entry;
mod space_file;
mod space_header;
mod sweep;
mod t4;
mod time;

pub(crate) use best::{BestOfRun, best_kernel};
pub use directory::{RunDirectory, TaskDirectory};
pub use journal::Journal;
pub(crate) use journal_scan::{JournalPosition, damaged_line};
pub use line::{JournalLine, LineHead, LineSpan, ParseLine};
pub(crate) use lock::RunLock;
pub use record::{
    RunRecord, SCHEMA as RECORD_SCHEMA, TaskRecord, WarmStart, YardstickRecord,
    changes_not_accepted, host_name,
};
pub(crate) use sessions::{TaskSession, TaskSessions};
pub(crate) use space_entry::SpaceEntry;
pub(crate) use space_file::{BestPoint, SpaceFile, SpaceTally};
pub(crate) use space_header::{SpaceHeader, SpaceIdentity};
pub(crate) use sweep::{SweepDirectory, SweepRecord, SweepRun};
pub(crate) use time::{compact_timestamp, now_milliseconds, parse_timestamp, timestamp};
