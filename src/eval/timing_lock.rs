//! The timing lock: while a launch is timed, no other kforge process uses the device.
//!
//! One file lock for all kforge processes of a machine, per device. Work on the device holds it shared; timing holds it
//! exclusively. If the device is the host, compiling and proposing hold it shared too. Does not decide what is timed.
//!
//! Timings follow one another as far as possible: before each change from shared to exclusive the device waits for the slowest of those
//! that share it. Three more file locks make the order. Nobody needs to remember anything, so a process may be killed at any moment.
//!
//! - The gate: the next timing holds it while it waits for the lock. Meanwhile nobody else begins to share the lock.
//! - The overdue file: a process that has waited `PATIENCE` to share the lock holds it, shared with others. Meanwhile no timing passes
//!   the gate.
//! - The share lock, only on a GPU: a process that shares the lock holds it too, so only one at a time does. Checks of three processes
//!   at once take five times as long as alone (`benches/results/search-gpu.md`), because the GPU runs the launches of one process
//!   at a time, and the driver most calls. What launches little shares the lock without it: the opening of a GPU, and Python that prepares a
//!   baseline.
//!
//! A timing that has held the lock for `TIMING_SLICE` lets those at the gate and those that are overdue go first before its next timing
//! block, if there are any. So a slow kernel delays others by no more than that and one block at a time, however long its timing takes.
//!
//! So a process that wants to share the lock waits for `PATIENCE`, then at most for the timing that holds the lock and the one at the gate.
//! On a host all such processes then begin at once. A timing at the gate waits for those that share the lock already.

use std::fs::{File, TryLockError};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::stage_times::StageTimes;
use crate::base::lock_wait::{LockWait, LockWaitError, USUAL_PAUSE};
use crate::base::{Failure, LockedFile, files};
use crate::device::LockFile;

/// Maximum time to wait for the lock. A process that holds it longer is broken.
const MAX_WAIT: Duration = Duration::from_secs(600);
/// How long timings go before those that wait to share the lock. `benches/timing_lock.py` compares values.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the pieces of one piece of work wait for timings that go between them, about.
const YIELD_LIMIT: Duration = Duration::from_secs(2);
/// How long pieces hold the lock of a GPU before a timing goes between two of them. Kernels are closed then and opened again, which takes
/// milliseconds.
const GPU_SLICE: Duration = Duration::from_millis(200);
/// How long a timing holds the lock before it lets others go first. Its kernels are opened again then, so a shorter one costs more, and the
/// timings of fast kernels end before.
const TIMING_SLICE: Duration = Duration::from_secs(2);
/// The longest pause between two attempts to get the lock of a GPU. A timing there does not notice a process of the host that wakes up.
const GPU_PAUSE: Duration = Duration::from_micros(500);

/// The end of the gate's path.
const GATE: &str = ".gate";
/// The end of the overdue file's path.
const OVERDUE: &str = ".overdue";
/// The end of the share lock's path.
const SHARE: &str = ".share";

/// A device's timing lock. Two values exclude each other even within one process.
pub(crate) struct TimingLock {
    lock_file: LockFile,
    patience: Duration,
    /// How long pieces of work hold the lock before a timing goes between two of them.
    slice: Duration,
    /// How long a timing holds the lock before it lets others go first.
    timing_slice: Duration,
    /// Gets the time spent waiting.
    times: StageTimes,
    /// How long this value has held the lock, in microseconds. Two guards at once count twice.
    held: Arc<AtomicU64>,
}

/// Holds the lock until it is dropped.
pub(crate) struct TimingLockGuard {
    /// `None`: nothing is locked.
    file: Option<LockedFile>,
    /// The share lock of a process that shares the lock of a GPU and launches much.
    _share: Option<LockedFile>,
    since: Instant,
    waited: Duration,
    mode: Mode,
    held: Arc<AtomicU64>,
}

/// How the lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    NotLocked,
    Shared,
    SharedForOpening,
    SharedForSetup,
    Exclusive,
}

impl Mode {
    /// Its name in the log.
    fn name(self) -> &'static str {
        match self {
            Self::NotLocked => "not locked",
            Self::Shared => "shared",
            Self::SharedForOpening => "shared for opening",
            Self::SharedForSetup => "shared for setup",
            Self::Exclusive => "exclusively",
        }
    }
}

impl Drop for TimingLockGuard {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            let microseconds = self.since.elapsed().as_micros();
            let held = u64::try_from(microseconds).unwrap_or(u64::MAX);
            self.held.fetch_add(held, Ordering::Relaxed);
            tracing::debug!(
                "timing lock held {} for {microseconds} us after a wait of {} us",
                self.mode.name(),
                self.waited.as_micros()
            );
        }
    }
}

/// Pieces of work on the device, one after the other, that share the lock. A timing that waits goes between two of them.
pub(crate) struct SharedPieces<'l> {
    lock: &'l TimingLock,
    mode: Mode,
    /// `None` before the first piece.
    guard: Option<TimingLockGuard>,
    /// How long the pieces have waited, together.
    waited: Duration,
}

impl<'l> SharedPieces<'l> {
    fn new(lock: &'l TimingLock, mode: Mode) -> Self {
        Self {
            lock,
            mode,
            guard: None,
            waited: Duration::ZERO,
        }
    }

    /// The next piece begins. The lock is held until this value is dropped, or until a later piece begins while a timing waits. Pieces
    /// that have waited `YIELD_LIMIT` together wait no more, so that the work ends. `free_memory`: called before a timing goes first,
    /// because it may need the memory.
    pub(crate) fn begin(&mut self, free_memory: impl FnOnce()) -> anyhow::Result<()> {
        if let Some(guard) = &self.guard {
            if self.waited >= YIELD_LIMIT
                || guard.since.elapsed() < self.lock.slice
                || !self.lock.is_timing_waiting()?
            {
                return Ok(());
            }
            free_memory();
        }
        self.guard = None;
        let guard = self.lock.share(self.mode)?;
        self.waited += guard.waited;
        self.guard = Some(guard);
        Ok(())
    }
}

impl TimingLock {
    /// Opens the lock file, and creates it if it does not exist.
    pub(crate) fn open(lock_file: LockFile) -> anyhow::Result<Self> {
        let slice = if lock_file.is_host {
            Duration::ZERO
        } else {
            GPU_SLICE
        };
        let timing_lock = Self {
            lock_file,
            patience: PATIENCE,
            slice,
            timing_slice: TIMING_SLICE,
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
        Ok(self.guard([None, None], Mode::NotLocked, Instant::now()))
    }

    /// For work on the device that may overlap other such work but not timing.
    pub(crate) fn shared(&self) -> anyhow::Result<TimingLockGuard> {
        self.share(Mode::Shared)
    }

    /// For opening the device, which must not disturb a timing. It launches little, so a check may run meanwhile.
    pub(crate) fn shared_for_opening(&self) -> anyhow::Result<TimingLockGuard> {
        self.share(Mode::SharedForOpening)
    }

    /// For timing.
    pub(crate) fn exclusive(&self) -> anyhow::Result<TimingLockGuard> {
        let started = Instant::now();
        let (gate, overdue) = (self.open_file(GATE)?, self.open_file(OVERDUE)?);
        self.wait_for_lock(&[&gate, &overdue], "a turn for", started, &|_| {
            ensure_free(&overdue)?;
            gate.try_lock()
        })?;
        let file = self.open_file("")?;
        self.wait_for_lock(&[&file], "", started, &|_| file.try_lock())?;
        Ok(self.guard([Some(file), None], Mode::Exclusive, started))
    }

    /// Whether a timing must release the lock before its next timing block, because it has held the lock for long and others wait.
    pub(crate) fn must_give_way(&self, timing: &TimingLockGuard) -> anyhow::Result<bool> {
        if timing.since.elapsed() < self.timing_slice {
            return Ok(false);
        }
        Ok(self.is_timing_waiting()? || self.is_sharing_overdue()?)
    }

    fn share(&self, mode: Mode) -> anyhow::Result<TimingLockGuard> {
        let started = Instant::now();
        let share = if self.lock_file.is_host || mode == Mode::SharedForOpening {
            None
        } else {
            let share = self.open_file(SHARE)?;
            self.wait_for_lock(&[&share], "a turn to share", started, &|_| share.try_lock())?;
            Some(share)
        };
        let (gate, overdue) = (self.open_file(GATE)?, self.open_file(OVERDUE)?);
        let file = self.open_file("")?;
        self.wait_for_lock(&[&file], "", started, &|waited| {
            // Of others that share the lock, any number may be here at once.
            let result = gate.try_lock_shared().and_then(|()| {
                let result = file.try_lock_shared();
                gate.unlock().map_err(TryLockError::Error)?;
                result
            });
            if result.is_err() && waited >= self.patience {
                // Once it is locked this changes nothing. If a timing is looking at the file at this moment, the next attempt locks it.
                let _ = overdue.try_lock_shared();
            }
            result
        })?;
        Ok(self.guard([Some(file), share], mode, started))
    }

    /// For several pieces of work on the device, like `shared` for each.
    pub(crate) fn shared_pieces(&self) -> SharedPieces<'_> {
        SharedPieces::new(self, Mode::Shared)
    }

    /// For preparing the device in several pieces: like `shared_pieces`, with another name in the log.
    pub(crate) fn shared_pieces_for_setup(&self) -> SharedPieces<'_> {
        SharedPieces::new(self, Mode::SharedForSetup)
    }

    /// Whether a timing is at the gate.
    fn is_timing_waiting(&self) -> anyhow::Result<bool> {
        let gate = self.open_file(GATE)?;
        match gate.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }

    /// Whether something has waited too long to share the lock.
    fn is_sharing_overdue(&self) -> anyhow::Result<bool> {
        let overdue = self.open_file(OVERDUE)?;
        match ensure_free(&overdue) {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }

    fn guard(
        &self,
        [file, share]: [Option<LockedFile>; 2],
        mode: Mode,
        started: Instant,
    ) -> TimingLockGuard {
        let waited = started.elapsed();
        if file.is_some() {
            self.times.add_wait(waited);
        }
        TimingLockGuard {
            file,
            _share: share,
            since: Instant::now(),
            waited,
            mode,
            held: self.held.clone(),
        }
    }

    /// `what`: what the lock gives, for messages; empty for the timing lock itself. `files`: whose holders a message names.
    fn wait_for_lock(
        &self,
        files: &[&File],
        what: &str,
        started: Instant,
        try_lock: &dyn Fn(Duration) -> Result<(), TryLockError>,
    ) -> anyhow::Result<()> {
        let (device, max_pause) = if self.lock_file.is_host {
            ("this machine's timing lock", USUAL_PAUSE)
        } else {
            ("the GPU's timing lock", GPU_PAUSE)
        };
        let name = format!("{what} {device}");
        let wait = LockWait {
            files,
            path: &self.lock_file.path,
            name: name.trim_start(),
            try_lock,
            limit: MAX_WAIT,
            max_pause,
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

/// Whether nobody holds the lock of this file. Takes it for a moment.
fn ensure_free(file: &File) -> Result<(), TryLockError> {
    file.try_lock()?;
    file.unlock().map_err(TryLockError::Error)
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
#[path = "timing_lock_tests.rs"]
mod tests;
