//! Quiet for the clock: where the device is the host, nothing else of kforge runs while a launch is timed.
//!
//! One lock for all kforge processes of a user on this machine: compiling, checking and proposing share it, timing holds it alone.

use std::fs::{File, TryLockError};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;

/// How long a process may keep the others from their work before something must be wrong.
const PATIENCE: Duration = Duration::from_secs(600);

/// A handle on the machine's lock. Each handle excludes every other, also within one process.
pub struct Quiet {
    path: PathBuf,
}

/// Held for as long as the work lasts; dropping it releases the lock.
pub struct Held {
    _file: File,
}

impl Quiet {
    pub fn open() -> anyhow::Result<Self> {
        // SAFETY: geteuid has no preconditions and cannot fail.
        let user = unsafe { libc::geteuid() };
        let path = std::env::temp_dir().join(format!("kforge-host-{user}.lock"));
        let quiet = Self { path };
        quiet.file()?;
        Ok(quiet)
    }

    /// For work that may go on beside other such work, but not beside a clock.
    pub fn share(&self) -> anyhow::Result<Held> {
        self.lock(File::try_lock_shared)
    }

    /// For timing.
    pub fn alone(&self) -> anyhow::Result<Held> {
        self.lock(File::try_lock)
    }

    fn lock(&self, lock: fn(&File) -> Result<(), TryLockError>) -> anyhow::Result<Held> {
        let file = self.file()?;
        let begun = Instant::now();
        let mut pause = Duration::from_micros(200);
        loop {
            match lock(&file) {
                Ok(()) => return Ok(Held { _file: file }),
                Err(TryLockError::WouldBlock) if begun.elapsed() < PATIENCE => {
                    std::thread::sleep(pause)
                }
                Err(TryLockError::WouldBlock) => {
                    anyhow::bail!(
                        "`{}` has been held by another kforge process for {} s",
                        self.path.display(),
                        PATIENCE.as_secs()
                    )
                }
                Err(TryLockError::Error(error)) => {
                    return Err(error).context(format!("failed to lock `{}`", self.path.display()));
                }
            }
            pause = (pause * 2).min(Duration::from_millis(5));
        }
    }

    fn file(&self) -> anyhow::Result<File> {
        let open = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .read(true)
            .open(&self.path);
        open.with_context(|| format!("failed to open `{}`", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sharers_go_together_and_the_clock_goes_alone() {
        let folder = tempfile::tempdir().unwrap();
        let quiet = Quiet {
            path: folder.path().join("lock"),
        };
        let first = quiet.share().unwrap();
        let second = quiet.share().unwrap();
        let file = quiet.file().unwrap();
        assert!(matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
        drop((first, second));
        let alone = quiet.alone().unwrap();
        assert!(matches!(
            file.try_lock_shared(),
            Err(TryLockError::WouldBlock)
        ));
        drop(alone);
        assert!(file.try_lock().is_ok());
    }
}
