//! The timing lock: while a launch is timed, no other kforge process uses the device.
//!
//! One file lock for all kforge processes of a machine, per device. Work on the device holds it shared; timing holds it
//! exclusively. If the device is the host, compiling and proposing hold it shared too. All waiters queue at a second lock, the
//! gate, so that none starves. Does not decide what is timed.

use std::fs::{File, TryLockError};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::stage_times::StageTimes;
use crate::base::lock_wait::{LockWait, LockWaitError};
use crate::base::{Failure, LockedFile, files};
use crate::device::LockFile;

/// Maximum time to wait for the lock. A process that holds it longer is broken.
const MAX_WAIT: Duration = Duration::from_secs(600);

/// A device's timing lock. Two values exclude each other even within one process.
pub(crate) struct TimingLock {
    lock_file: LockFile,
    /// Gets the time spent waiting.
    times: StageTimes,
    /// How long this value has held the lock, in microseconds. Two guards at once count twice.
    held: Arc<AtomicU64>,
}

/// Holds the lock until it is dropped.
pub(crate) struct TimingLockGuard {
    file: Option<LockedFile>,
    since: Instant,
    mode: &'static str,
    held: Arc<AtomicU64>,
}

impl Drop for TimingLockGuard {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            let microseconds = self.since.elapsed().as_micros();
            let held = u64::try_from(microseconds).unwrap_or(u64::MAX);
            self.held.fetch_add(held, Ordering::Relaxed);
            tracing::debug!("timing lock held {} for {microseconds} us", self.mode);
        }
    }
}

impl TimingLock {
    /// Opens the lock file, and creates it if it does not exist.
    pub(crate) fn open(lock_file: LockFile) -> anyhow::Result<Self> {
        let timing_lock = Self {
            lock_file,
            times: StageTimes::default(),
            held: Arc::default(),
        };
        timing_lock.open_file("")?;
        Ok(timing_lock)
    }

    /// Adds the time spent waiting to the times of a judgement.
    pub(super) fn set_times(&mut self, times: StageTimes) {
        self.times = times;
    }

    /// How long the lock was held since the last call.
    pub(crate) fn take_held_time(&self) -> Duration {
        Duration::from_micros(self.held.swap(0, Ordering::Relaxed))
    }

    /// For work on the host, such as compiling and proposing. Locks only if the device is the host.
    pub(crate) fn host_work(&self) -> anyhow::Result<TimingLockGuard> {
        if self.lock_file.is_host {
            return self.shared();
        }
        Ok(TimingLockGuard {
            file: None,
            since: Instant::now(),
            mode: "not locked",
            held: self.held.clone(),
        })
    }

    /// For work on the device that may overlap other such work but not timing.
    pub(crate) fn shared(&self) -> anyhow::Result<TimingLockGuard> {
        self.lock(File::try_lock_shared, "shared")
    }

    /// Like `shared`, with another name in the log: for preparing the device.
    pub(crate) fn shared_for_setup(&self) -> anyhow::Result<TimingLockGuard> {
        self.lock(File::try_lock_shared, "shared for setup")
    }

    /// For timing.
    pub(crate) fn exclusive(&self) -> anyhow::Result<TimingLockGuard> {
        self.lock(File::try_lock, "exclusively")
    }

    fn lock(
        &self,
        lock: fn(&File) -> Result<(), TryLockError>,
        how: &'static str,
    ) -> anyhow::Result<TimingLockGuard> {
        let started = Instant::now();
        // Held only while waiting, so that waiters get the lock in the order in which they passed the gate.
        let gate = self.open_file(".gate")?;
        self.wait_for_lock(&gate, "a turn for", File::try_lock, started)?;
        let file = self.open_file("")?;
        self.wait_for_lock(&file, "", lock, started)?;
        self.times.add_wait(started.elapsed());
        Ok(TimingLockGuard {
            file: Some(file),
            since: Instant::now(),
            mode: how,
            held: self.held.clone(),
        })
    }

    /// `what`: what the lock gives, for messages; empty for the timing lock itself.
    fn wait_for_lock(
        &self,
        file: &File,
        what: &str,
        lock: fn(&File) -> Result<(), TryLockError>,
        started: Instant,
    ) -> anyhow::Result<()> {
        let device = if self.lock_file.is_host {
            "this machine's timing lock"
        } else {
            "the GPU's timing lock"
        };
        let name = format!("{what} {device}");
        let wait = LockWait {
            file,
            path: &self.lock_file.path,
            name: name.trim_start(),
            lock,
            limit: MAX_WAIT,
        };
        match wait.wait(started) {
            Err(LockWaitError::Failed { error, .. }) if files::has_no_locks(&error) => {
                Err(no_locks(&self.lock_file.path).into())
            }
            result => Ok(result?),
        }
    }

    fn open_file(&self, suffix: &str) -> anyhow::Result<LockedFile> {
        let mut path = self.lock_file.path.clone().into_os_string();
        path.push(suffix);
        let path = PathBuf::from(path);
        // Do not follow links: a link planted here could lead to any file, whose permissions would then be widened below.
        let mut options = File::options();
        options
            .write(true)
            .read(true)
            .custom_flags(libc::O_NOFOLLOW);
        // Without O_CREAT first: some systems refuse O_CREAT on another user's file in a shared folder.
        let open =
            (options.open(&path)).or_else(|_| options.create(true).truncate(false).open(&path));
        let file = open.with_context(|| format!("failed to open `{}`", path.display()))?;
        // All users of a machine share a GPU. If another user owns the file, that user has set the permissions.
        if !self.lock_file.is_host {
            let _ = file.set_permissions(PermissionsExt::from_mode(0o666));
        }
        Ok(LockedFile(file))
    }
}

fn no_locks(path: &Path) -> Failure {
    Failure::environment(format!(
        "cannot lock `{}`: its file system has no file locks",
        path.display()
    ))
    .hint(
        "set the environment variable KFORGE_LOCK_DIR to a folder on a local disk, the same one for all kforge processes",
    )
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn shared_locks_coexist_and_exclusive_excludes_all() {
        let folder = tempfile::tempdir().unwrap();
        let timing_lock = TimingLock::open(LockFile {
            path: folder.path().join("lock"),
            is_host: true,
        })
        .unwrap();
        let first = timing_lock.shared().unwrap();
        let second = timing_lock.shared().unwrap();
        let file = timing_lock.open_file("").unwrap();
        assert!(matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
        drop((first, second));
        timing_lock.take_held_time();
        let exclusive = timing_lock.exclusive().unwrap();
        assert!(matches!(
            file.try_lock_shared(),
            Err(TryLockError::WouldBlock)
        ));
        std::thread::sleep(Duration::from_millis(5));
        drop(exclusive);
        assert!(timing_lock.take_held_time() >= Duration::from_millis(5));
        assert_eq!(timing_lock.take_held_time(), Duration::ZERO);
        assert!(file.try_lock().is_ok());
    }

    #[test]
    fn symlinked_lock_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("target");
        std::fs::write(&target, "").unwrap();
        std::fs::set_permissions(&target, PermissionsExt::from_mode(0o600)).unwrap();
        let path = folder.path().join("lock");
        std::os::unix::fs::symlink(&target, &path).unwrap();
        let opened = TimingLock::open(LockFile {
            path,
            is_host: false,
        });
        assert!(opened.is_err());
        let mode = std::fs::metadata(&target).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    fn open_lock(folder: &tempfile::TempDir, is_host: bool) -> TimingLock {
        let path = folder.path().join("lock");
        TimingLock::open(LockFile { path, is_host }).unwrap()
    }

    /// Limit for the turns that others take while the lock is waited for. Without the gate they would take all of them.
    const MAX_TURNS: usize = 2000;

    #[test]
    fn exclusive_lock_is_not_starved() {
        let folder = tempfile::tempdir().unwrap();
        let crowd = open_lock(&folder, true);
        let turns = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            // Each thread locks again at once, so that at every moment one of them holds the lock.
            for _ in 0..3 {
                scope.spawn(|| {
                    while turns.load(Ordering::SeqCst) < MAX_TURNS {
                        let guard = crowd.shared().unwrap();
                        turns.fetch_add(1, Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(5));
                        drop(guard);
                    }
                });
            }
            while turns.load(Ordering::SeqCst) < 3 {
                std::thread::sleep(Duration::from_millis(1));
            }
            let guard = open_lock(&folder, true).exclusive().unwrap();
            let passed = turns.swap(MAX_TURNS, Ordering::SeqCst);
            drop(guard);
            assert!(passed < MAX_TURNS, "the crowd took {passed} turns");
        });
    }

    #[test]
    fn waiter_precedes_a_repeated_locker() {
        let folder = tempfile::tempdir().unwrap();
        let (greedy, patient) = (open_lock(&folder, false), open_lock(&folder, false));
        let turns = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while turns.load(Ordering::SeqCst) < MAX_TURNS {
                    let guard = greedy.exclusive().unwrap();
                    turns.fetch_add(1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(5));
                    drop(guard);
                }
            });
            while turns.load(Ordering::SeqCst) < 2 {
                std::thread::sleep(Duration::from_millis(1));
            }
            let guard = patient.exclusive().unwrap();
            let passed = turns.swap(MAX_TURNS, Ordering::SeqCst);
            drop(guard);
            assert!(passed < MAX_TURNS, "the other took {passed} turns");
        });
    }

    #[test]
    fn host_work_waits_only_when_the_device_is_the_host() {
        let folder = tempfile::tempdir().unwrap();
        let gpu = open_lock(&folder, false);
        let exclusive = gpu.exclusive().unwrap();
        drop(gpu.host_work().unwrap());
        let host = open_lock(&folder, true);
        let file = host.open_file("").unwrap();
        assert!(matches!(
            file.try_lock_shared(),
            Err(TryLockError::WouldBlock)
        ));
        drop(exclusive);
        let host_work = host.host_work().unwrap();
        assert!(matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
        drop(host_work);
    }
}
