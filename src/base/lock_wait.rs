//! Waiting for a file lock: with a limit, and with a message that names the holder if it takes long.
//!
//! Polls, because the system's own wait for a lock has no limit. Opens no file and decides nothing about a failure.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::progress;

/// How long a wait is before it is reported, and the factor between reports.
const FIRST_REPORT: Duration = Duration::from_secs(5);
const REPORT_FACTOR: u32 = 4;
const REPORT_PAUSE: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_micros(100);
/// The longest pause between two attempts, where a few wake-ups a second may disturb others.
pub(crate) const USUAL_PAUSE: Duration = Duration::from_millis(2);

/// A lock that is waited for.
pub(crate) struct LockWait<'a> {
    /// The files whose holders a message names.
    pub(crate) files: &'a [&'a File],
    pub(crate) path: &'a Path,
    /// The lock's name in messages, such as `the timing lock`.
    pub(crate) name: &'a str,
    /// Tries to obtain the lock. `waited`: how long it has been waited for.
    pub(crate) try_lock: &'a dyn Fn(Duration) -> Result<(), TryLockError>,
    pub(crate) limit: Duration,
    /// The longest pause between two attempts.
    pub(crate) max_pause: Duration,
}

/// Why a lock was not obtained.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockWaitError {
    #[error("{0}")]
    TimedOut(String),
    #[error("failed to lock `{path}`: {error}")]
    Failed { path: String, error: io::Error },
}

impl LockWait<'_> {
    /// Waits until the lock is obtained. Warns after a few seconds.
    pub(crate) fn wait(&self, started: Instant) -> Result<(), LockWaitError> {
        let _bounded = progress::bounded_wait();
        let mut pause = FIRST_PAUSE;
        let mut report_at = FIRST_REPORT;
        loop {
            match (self.try_lock)(started.elapsed()) {
                Ok(()) => return Ok(()),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => {
                    return Err(LockWaitError::Failed {
                        path: self.path.display().to_string(),
                        error,
                    });
                }
            }
            let waited = started.elapsed();
            if waited >= self.limit {
                return Err(LockWaitError::TimedOut(format!(
                    "{} (`{}`) was held by {} for {} s",
                    self.name,
                    self.path.display(),
                    describe_holders(self.files),
                    waited.as_secs()
                )));
            }
            if waited >= report_at && may_report() {
                tracing::warn!(
                    "waiting for {} (`{}`) for {} s, held by {}; the limit is {} s",
                    self.name,
                    self.path.display(),
                    waited.as_secs(),
                    describe_holders(self.files),
                    self.limit.as_secs()
                );
                report_at *= REPORT_FACTOR;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(self.max_pause);
        }
    }
}

/// At most one report of a process in `REPORT_PAUSE`: several kforge processes that share a machine wait for each other often.
fn may_report() -> bool {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let may = last.is_none_or(|last| last.elapsed() >= REPORT_PAUSE);
    if may {
        *last = Some(Instant::now());
    }
    may
}

/// The processes that hold a lock on one of the files; `another process` if the system names none.
fn describe_holders(files: &[&File]) -> String {
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let wanted: Vec<_> = files.iter().filter_map(|file| lock_place(file)).collect();
    let mut holders: Vec<_> = locks
        .lines()
        .filter_map(|line| {
            // `1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF`; a waiting process has `->` after the number.
            let fields: Vec<_> = line.split_ascii_whitespace().collect();
            let is_wanted = fields.get(1) == Some(&"FLOCK")
                && wanted.iter().any(|place| fields.get(5) == Some(&&**place));
            let process = fields.get(4)?.parse::<u32>().ok()?;
            // Processes of other containers have no number here.
            (is_wanted && process != 0).then_some(process)
        })
        .collect();
    holders.sort_unstable();
    holders.dedup();
    let names: Vec<_> = holders
        .into_iter()
        .map(|process| {
            let name = std::fs::read_to_string(format!("/proc/{process}/comm"));
            let name = name.unwrap_or_default();
            format!("process {process} ({})", name.trim())
        })
        .collect();
    if names.is_empty() {
        "another process".to_owned()
    } else {
        names.join(" and ")
    }
}

/// The name of a file in `/proc/locks`.
fn lock_place(file: &File) -> Option<String> {
    let metadata = file.metadata().ok()?;
    let device = metadata.dev();
    Some(format!(
        "{:02x}:{:02x}:{}",
        libc::major(device),
        libc::minor(device),
        metadata.ino()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_ends_at_its_limit_and_names_the_holder() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let held = File::open(file.path()).unwrap();
        held.try_lock().unwrap();
        let other = File::open(file.path()).unwrap();
        let wait = LockWait {
            files: &[&other],
            path: file.path(),
            name: "the test's lock",
            try_lock: &|_| other.try_lock_shared(),
            limit: Duration::from_millis(50),
            max_pause: USUAL_PAUSE,
        };
        let error = wait.wait(Instant::now()).unwrap_err().to_string();
        assert!(
            error.contains("the test's lock")
                && error.contains(&format!("process {}", std::process::id())),
            "{error}"
        );
        drop(held);
        wait.wait(Instant::now()).unwrap();
    }
}
