//! Temporary files: one folder for kforge's main process and the processes that work for it, so that nothing else is left behind.
//!
//! The folder is removed when the main process ends: by itself, by the guardian if it is killed, and if both are killed, by the
//! next kforge, which recognizes an abandoned folder by its free lock. Files that must be on another file system, such as the
//! cache's, are not here.

use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use super::{guardian, random};

/// Passes the folder to processes that work for this one.
const VARIABLE: &str = "KFORGE_TEMPORARY_FOLDER";
/// The folders' names, after which come the process id and a random number.
const PREFIX: &str = "kforge-process-";
/// A file in the folder that its process keeps locked.
const LOCK_NAME: &str = "lock";
/// A folder that is younger may not be locked yet.
const MIN_ABANDONED_AGE: Duration = Duration::from_secs(60);
/// On a file system without locks, a folder of this age counts as abandoned.
const MAX_UNLOCKED_AGE: Duration = Duration::from_secs(3 * 24 * 3600);

static FOLDER: OnceLock<TemporaryRoot> = OnceLock::new();

/// Where temporary files are created.
struct TemporaryRoot {
    path: PathBuf,
    /// Locked while this process lives. `None` if the folder is another's.
    lock: Option<File>,
}

/// Uses the folder of the process that started this one.
pub(crate) fn inherit() {
    let inherited = std::env::var_os(VARIABLE).map(PathBuf::from);
    if let Some(path) = inherited.filter(|path| path.is_dir()) {
        // The first use in this process.
        let _ = FOLDER.set(TemporaryRoot { path, lock: None });
    }
}

/// Passes the folder to a child that calls `inherit`.
pub(crate) fn pass_on(command: &mut Command) {
    command.env(VARIABLE, root());
}

/// An unnamed file.
pub(crate) fn file() -> io::Result<File> {
    tempfile::tempfile_in(root())
}

/// A new folder, which is removed when it is dropped.
pub(crate) fn folder(prefix: &str) -> io::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix(prefix).tempdir_in(root())
}

/// Removes this process's folder. Call it last.
pub(crate) fn remove() {
    if let Some(root) = FOLDER.get()
        && root.lock.is_some()
    {
        // If this fails, the guardian tries again.
        let _ = std::fs::remove_dir_all(&root.path);
    }
}

/// The folder of this process. A process without a guardian, such as a test, uses the system's.
pub(crate) fn root() -> &'static Path {
    let root = FOLDER.get_or_init(|| {
        let system = std::env::temp_dir();
        let own = guardian::is_enabled().then(|| {
            remove_abandoned(&system);
            create_own(&system)
        });
        own.and_then(Result::ok).unwrap_or(TemporaryRoot {
            path: system,
            lock: None,
        })
    });
    &root.path
}

fn create_own(system: &Path) -> io::Result<TemporaryRoot> {
    let number = random::fresh_seed();
    let path = system.join(format!("{PREFIX}{}-{number:016x}", std::process::id()));
    // Before the folder exists, so that a kill at any moment leaves none.
    guardian::remove_at_end(&path);
    DirBuilder::new().mode(0o700).create(&path)?;
    let lock = File::create(path.join(LOCK_NAME))?;
    // Where locks do not work, only its age shows that a folder is abandoned.
    let _ = lock.try_lock();
    Ok(TemporaryRoot {
        path,
        lock: Some(lock),
    })
}

/// Removes the folders of processes that were killed together with their guardian. Errors are ignored: the next process tries
/// again.
fn remove_abandoned(system: &Path) {
    // SAFETY: no preconditions.
    let user = unsafe { libc::geteuid() };
    for entry in std::fs::read_dir(system).into_iter().flatten().flatten() {
        let is_named = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let metadata = is_named.then(|| entry.metadata().ok()).flatten();
        let Some(metadata) = metadata.filter(|metadata| metadata.is_dir()) else {
            continue;
        };
        let age = metadata
            .modified()
            .ok()
            .and_then(|modified| SystemTime::now().duration_since(modified).ok())
            .unwrap_or_default();
        if metadata.uid() == user && is_abandoned(&entry.path(), age) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn is_abandoned(folder: &Path, age: Duration) -> bool {
    if age < MIN_ABANDONED_AGE {
        return false;
    }
    let Ok(lock) = File::open(folder.join(LOCK_NAME)) else {
        // Its process was killed before it made the lock.
        return true;
    };
    match lock.try_lock() {
        Ok(()) => true,
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(_)) => age >= MAX_UNLOCKED_AGE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_abandoned_folders_are_removed() {
        let system = tempfile::tempdir().unwrap();
        let make = |name: &str, minutes: u64| {
            let folder = system.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            let lock = File::create(folder.join(LOCK_NAME)).unwrap();
            let modified = SystemTime::now() - Duration::from_secs(60 * minutes);
            File::open(&folder).unwrap().set_modified(modified).unwrap();
            lock
        };
        drop(make("kforge-process-1-a", 10));
        drop(make("kforge-process-2-new", 0));
        drop(make("kforge-other", 10));
        let locked = make("kforge-process-3-used", 10);
        locked.try_lock().unwrap();
        std::fs::remove_file(system.path().join("kforge-other/lock")).unwrap();
        remove_abandoned(system.path());
        let mut left: Vec<_> = std::fs::read_dir(system.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(
            left,
            [
                "kforge-other",
                "kforge-process-2-new",
                "kforge-process-3-used"
            ]
        );
    }
}
