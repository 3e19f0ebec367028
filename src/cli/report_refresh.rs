//! The report of a run while it works: written again from its files, at most once a minute.
//!
//! A thread of its own reads the journals as `kforge report` does, so it can neither change nor hold up the run. Where the device is
//! the host, it waits while a launch is timed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::report;
use crate::base::files;
use crate::device::LockFile;
use crate::eval::TimingLock;
use crate::run::RunDirectory;

/// The shortest time between two reports.
const MIN_INTERVAL: Duration = Duration::from_secs(60);

/// The report of a long run takes long: it is written at most for this share of the time.
const MAX_SHARE: u32 = 50;

/// Writes the report of a run until it is stopped.
pub(super) struct ReportRefresh {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Held while a report is put in place, so that none comes after the last one of the run.
    is_stopped: Mutex<bool>,
    changed: Condvar,
}

impl ReportRefresh {
    /// Starts the thread. `host_lock`: the lock of the processor, if kernels run on it.
    ///
    /// # Errors
    /// If the lock cannot be opened, or no thread can be started.
    pub(super) fn start(directory: &Path, host_lock: Option<LockFile>) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared::default());
        let lock = host_lock.map(TimingLock::open).transpose()?;
        let (directory, of_thread) = (directory.to_owned(), shared.clone());
        std::thread::Builder::new()
            .name("report".to_owned())
            .spawn(move || refresh(&directory, lock.as_ref(), &of_thread))?;
        Ok(Self { shared })
    }

    /// From now on no report is written. Does not wait for one in progress: it is dropped.
    pub(super) fn stop(&self) {
        *self.shared.lock() = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, bool> {
        self.is_stopped
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits, and returns whether to go on.
    fn wait(&self, time: Duration) -> bool {
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), time, |is_stopped| !*is_stopped);
        !*waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

fn refresh(directory: &Path, lock: Option<&TimingLock>, shared: &Shared) {
    let mut interval = MIN_INTERVAL;
    let mut last_bytes = 0;
    while shared.wait(interval) {
        let bytes = report::journal_bytes(directory);
        if bytes == last_bytes {
            continue;
        }
        let started = Instant::now();
        match write(directory, lock, shared) {
            Ok(()) => last_bytes = bytes,
            Err(error) => tracing::debug!("the report was not written again: {error:#}"),
        }
        interval = MIN_INTERVAL.max(started.elapsed() * MAX_SHARE);
    }
}

fn write(directory: &Path, lock: Option<&TimingLock>, shared: &Shared) -> anyhow::Result<()> {
    let path: PathBuf = RunDirectory::new(directory).report();
    let page = {
        let _guard = lock.map(TimingLock::shared).transpose()?;
        report::page_of(directory)?
    };
    let is_stopped = shared.lock();
    if *is_stopped {
        return Ok(());
    }
    files::replace(&path, page.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stopped_refresh_ends_its_wait_at_once() {
        let shared = Arc::new(Shared::default());
        let refresh = ReportRefresh {
            shared: shared.clone(),
        };
        let waiting = std::thread::spawn(move || shared.wait(Duration::from_secs(600)));
        refresh.stop();
        assert!(!waiting.join().unwrap());
        assert!(!refresh.shared.wait(Duration::from_secs(600)));
    }
}
