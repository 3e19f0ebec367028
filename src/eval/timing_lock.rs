//! Quiet for the clock: nothing else of kforge uses a device while a launch on it is timed.
//!
//! One lock for all kforge processes of a machine and device: what runs on the device shares it, timing holds it alone. Where the
//! device is the host, compiling and proposing share it too. Whoever waits stands at a gate first, so that nobody waits for ever.

use std::fs::{File, TryLockError};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::device::LockFile;

/// How long a process may keep the others from their work before something must be wrong.
const MAX_WAIT: Duration = Duration::from_secs(600);

/// A handle on a device's lock. Each handle excludes every other, also within one process.
pub(crate) struct TimingLock {
    lock: LockFile,
}

/// Held for as long as the work lasts; dropping it releases the lock.
pub(crate) struct TimingLockGuard {
    file: Option<File>,
    since: Instant,
    mode: &'static str,
}

impl Drop for TimingLockGuard {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            tracing::debug!(
                "device held {} for {} us",
                self.mode,
                self.since.elapsed().as_micros()
            );
        }
    }
}

impl TimingLock {
    pub(crate) fn open(lock: LockFile) -> anyhow::Result<Self> {
        let quiet = Self { lock };
        quiet.open_file("")?;
        Ok(quiet)
    }

    /// For work on the host: compiling, proposing.
    pub(crate) fn host_work(&self) -> anyhow::Result<TimingLockGuard> {
        match self.lock.is_host {
            true => self.shared(),
            false => Ok(TimingLockGuard {
                file: None,
                since: Instant::now(),
                mode: "not at all",
            }),
        }
    }

    /// For work on the device that may go on beside other such work, but not beside a clock.
    pub(crate) fn shared(&self) -> anyhow::Result<TimingLockGuard> {
        self.lock(File::try_lock_shared, "shared")
    }

    /// For making ready what will use the device: the same as sharing it, under another name in the log.
    pub(crate) fn shared_for_setup(&self) -> anyhow::Result<TimingLockGuard> {
        self.lock(File::try_lock_shared, "to make ready")
    }

    /// For timing.
    pub(crate) fn exclusive(&self) -> anyhow::Result<TimingLockGuard> {
        self.lock(File::try_lock, "alone")
    }

    fn lock(
        &self,
        lock: fn(&File) -> Result<(), TryLockError>,
        how: &'static str,
    ) -> anyhow::Result<TimingLockGuard> {
        let begun = Instant::now();
        // Held only while waiting: those behind it come in the order in which they were let through.
        let gate = self.open_file(".gate")?;
        self.wait_for_lock(&gate, File::try_lock, begun)?;
        let file = self.open_file("")?;
        self.wait_for_lock(&file, lock, begun)?;
        Ok(TimingLockGuard {
            file: Some(file),
            since: Instant::now(),
            mode: how,
        })
    }

    fn wait_for_lock(
        &self,
        file: &File,
        lock: fn(&File) -> Result<(), TryLockError>,
        begun: Instant,
    ) -> anyhow::Result<()> {
        let mut pause = Duration::from_micros(100);
        loop {
            match lock(file) {
                Ok(()) => return Ok(()),
                Err(TryLockError::WouldBlock) if begun.elapsed() < MAX_WAIT => {
                    std::thread::sleep(pause)
                }
                Err(TryLockError::WouldBlock) => {
                    anyhow::bail!(
                        "`{}` has been held by another kforge process for {} s",
                        self.lock.path.display(),
                        MAX_WAIT.as_secs()
                    )
                }
                Err(TryLockError::Error(error)) => {
                    return Err(error)
                        .context(format!("failed to lock `{}`", self.lock.path.display()));
                }
            }
            pause = (pause * 2).min(Duration::from_millis(2));
        }
    }

    fn open_file(&self, suffix: &str) -> anyhow::Result<File> {
        let mut path = self.lock.path.clone().into_os_string();
        path.push(suffix);
        let path = PathBuf::from(path);
        // A link that somebody has put there leads to a file that is none of ours, and would be opened to everybody below.
        let mut options = File::options();
        options
            .write(true)
            .read(true)
            .custom_flags(libc::O_NOFOLLOW);
        // A file of another user's is opened, never made anew: some systems refuse the one and not the other.
        let open =
            (options.open(&path)).or_else(|_| options.create(true).truncate(false).open(&path));
        let file = open.with_context(|| format!("failed to open `{}`", path.display()))?;
        // A card is shared by all users of a machine; where the file is another's, it is open already.
        if !self.lock.is_host {
            let _ = file.set_permissions(PermissionsExt::from_mode(0o666));
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn shared_locks_coexist_and_exclusive_excludes_all() {
        let folder = tempfile::tempdir().unwrap();
        let quiet = TimingLock::open(LockFile {
            path: folder.path().join("lock"),
            is_host: true,
        })
        .unwrap();
        let first = quiet.shared().unwrap();
        let second = quiet.shared().unwrap();
        let file = quiet.open_file("").unwrap();
        assert!(matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
        drop((first, second));
        let alone = quiet.exclusive().unwrap();
        assert!(matches!(
            file.try_lock_shared(),
            Err(TryLockError::WouldBlock)
        ));
        drop(alone);
        assert!(file.try_lock().is_ok());
    }

    #[test]
    fn symlinked_lock_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let theirs = folder.path().join("theirs");
        std::fs::write(&theirs, "").unwrap();
        std::fs::set_permissions(&theirs, PermissionsExt::from_mode(0o600)).unwrap();
        let path = folder.path().join("lock");
        std::os::unix::fs::symlink(&theirs, &path).unwrap();
        let opened = TimingLock::open(LockFile {
            path,
            is_host: false,
        });
        assert!(opened.is_err());
        let mode = std::fs::metadata(&theirs).unwrap().permissions().mode();
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
        let card = open_lock(&folder, false);
        let alone = card.exclusive().unwrap();
        drop(card.host_work().unwrap());
        let host = open_lock(&folder, true);
        let file = host.open_file("").unwrap();
        assert!(matches!(
            file.try_lock_shared(),
            Err(TryLockError::WouldBlock)
        ));
        drop(alone);
        let beside = host.host_work().unwrap();
        assert!(matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
        drop(beside);
    }
}
