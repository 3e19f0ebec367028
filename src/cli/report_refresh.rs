//! The report of a run while it works: written again from its files, at most once a minute, or as often as an environment variable says.
//!
//! A thread of its own reads the journals as `kforge report` does, so it can neither change nor hold up the run. Where the device is
//! the host, it waits while a launch is timed.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::report;
use crate::base::{Failure, files};
use crate::device::LockFile;
use crate::eval::TimingLock;
use crate::run::RunDirectory;

/// The shortest time between two reports.
const MIN_INTERVAL: Duration = Duration::from_secs(60);

/// Environment variable with another such time, in seconds.
const INTERVAL_VARIABLE: &str = "KFORGE_REPORT_SECONDS";

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
    /// If the lock cannot be opened, or no thread can be started. A usage failure if `KFORGE_REPORT_SECONDS` is no time.
    pub(super) fn start(directory: &Path, host_lock: Option<LockFile>) -> anyhow::Result<Self> {
        let min_interval = min_interval(std::env::var_os(INTERVAL_VARIABLE).as_deref())?;
        let shared = Arc::new(Shared::default());
        let lock = host_lock.map(TimingLock::open).transpose()?;
        let (directory, of_thread) = (directory.to_owned(), shared.clone());
        std::thread::Builder::new()
            .name("report".to_owned())
            .spawn(move || refresh(&directory, min_interval, lock.as_ref(), &of_thread))?;
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

/// The shortest time between two reports. `setting`: the value of the environment variable.
fn min_interval(setting: Option<&OsStr>) -> anyhow::Result<Duration> {
    let Some(setting) = setting else {
        return Ok(MIN_INTERVAL);
    };
    let seconds = setting.to_str().and_then(|text| text.trim().parse().ok());
    let interval = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    match interval {
        Some(interval) if interval > Duration::ZERO => Ok(interval),
        _ => Err(Failure::usage(format!(
            "{INTERVAL_VARIABLE} is `{}`: expected a number of seconds above 0",
            setting.display()
        ))
        .hint("the report of a working run is written again at most once in this time; unset it for once a minute")
        .into()),
    }
}

fn refresh(directory: &Path, min_interval: Duration, lock: Option<&TimingLock>, shared: &Shared) {
    let mut interval = min_interval;
    let mut last_bytes = 0;
    while shared.wait(interval) {
        let bytes = report::journal_bytes(directory);
        if bytes == last_bytes {
            continue;
        }
        let mut work = Duration::ZERO;
        match write(directory, lock, shared, &mut work) {
            Ok(()) => last_bytes = bytes,
            Err(error) => tracing::debug!("the report was not written again: {error:#}"),
        }
        interval = min_interval.max(work * MAX_SHARE);
    }
}

/// `work`: receives how long it takes to make the page, without the wait for the lock.
fn write(
    directory: &Path,
    lock: Option<&TimingLock>,
    shared: &Shared,
    work: &mut Duration,
) -> anyhow::Result<()> {
    let path: PathBuf = RunDirectory::new(directory).report();
    let page = {
        let _guard = lock.map(TimingLock::shared).transpose()?;
        let started = Instant::now();
        let page = report::page_of(directory);
        *work = started.elapsed();
        page?
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
    fn interval_is_a_minute_unless_a_time_is_given() {
        let interval = |setting: Option<&str>| min_interval(setting.map(OsStr::new));
        assert_eq!(interval(None).unwrap(), Duration::from_secs(60));
        assert_eq!(interval(Some("2.5")).unwrap(), Duration::from_millis(2500));
        for wrong in ["", "0", "-1", "NaN", "1e300", "a minute"] {
            let error = interval(Some(wrong)).unwrap_err().to_string();
            assert!(error.contains("expected a number of seconds"), "{error}");
        }
    }

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
