//! The cache of compiled kernels: atomic writes, leases on files in use, and pruning to a size limit.
//!
//! Everything in the cache can be built again. Several processes may use it at the same time, so a file that may be in use is
//! never removed. Used by both compilers (`cpu::compiler`, `cuda::compiler`).

use std::fs::{File, TryLockError};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tempfile::{NamedTempFile, TempPath};

use crate::base::lock_wait::{LockWait, LockWaitError, USUAL_PAUSE};
use crate::base::{Failure, LockedFile};

/// Size limit for the compiled kernels of one kind. Files in use may exceed it.
const MAX_CACHE_BYTES: u64 = 2 << 30;
/// A process prunes after it has written the limit divided by this.
const PRUNE_DIVISOR: u64 = 16;
/// On a file system without locks, a file that was not used for this long counts as unused. A judge keeps using its oracle and
/// its baseline for as long as it lives.
const UNUSED_AGE: Duration = Duration::from_secs(3 * 24 * 3600);
/// Number of attempts if another process removes the file at the same moment.
const MAX_INSERT_TRIES: u32 = 200;
/// Age from which the runtimes of other versions are removed, and unfinished ones where locks do not work.
const RUNTIME_AGE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Start of the names of folders with a runtime.
pub(super) const RUNTIME_PREFIX: &str = "runtime-";
/// Start of the names of folders in which a runtime is built.
pub(super) const BUILDING_PREFIX: &str = "building-";
/// Start of the names of unfinished files.
const UNFINISHED_PREFIX: &str = ".new-";
/// A younger unfinished file may not be locked yet.
const UNFINISHED_AGE: Duration = Duration::from_secs(30);

/// The cache folder: `$KFORGE_CACHE_DIR`, `$XDG_CACHE_HOME/kforge`, `~/.cache/kforge`, or a temporary folder.
pub(super) fn folder() -> PathBuf {
    let given = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    given("KFORGE_CACHE_DIR")
        .or_else(|| given("XDG_CACHE_HOME").map(|folder| folder.join("kforge")))
        .or_else(|| given("HOME").map(|folder| folder.join(".cache/kforge")))
        .unwrap_or_else(|| std::env::temp_dir().join("kforge-cache"))
}

pub(super) fn create_folder(folder: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(folder).map_err(|error| write_failure(folder, &error))
}

pub(super) fn write_failure(path: &Path, error: &std::io::Error) -> Failure {
    Failure::environment(format!("failed to write `{}`: {error}", path.display())).hint(
        "free some space there, or set the environment variable KFORGE_CACHE_DIR to another folder",
    )
}

/// Writes a file atomically: after a loss of power too it has the old contents or the new ones.
pub(super) fn write_atomically(path: &Path, contents: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut temporary = unfinished_file(folder)?;
    temporary.write_all(contents)?;
    temporary.as_file().sync_data()?;
    temporary
        .into_temp_path()
        .persist(path)
        .map_err(|error| error.error)
}

/// A file that gets its final name when it is complete. It is locked, so that only the remains of a killed process are removed.
pub(super) fn unfinished_file(folder: &Path) -> std::io::Result<NamedTempFile> {
    let file = tempfile::Builder::new()
        .prefix(UNFINISHED_PREFIX)
        .tempfile_in(folder)?;
    // Without locks, its age protects it.
    let _ = file.as_file().try_lock_shared();
    Ok(file)
}

/// Removes the unfinished files of killed processes.
fn remove_unfinished_files(folder: &Path) {
    for entry in list_entries(folder, UNFINISHED_PREFIX) {
        if entry.age >= UNFINISHED_AGE {
            remove_unused(&entry);
        }
    }
}

/// Marks a folder as used, so that it is not pruned soon.
pub(super) fn mark_used(folder: &Path) {
    // If this fails, the folder is at worst pruned and built again.
    let _ = std::fs::File::open(folder).and_then(|file| file.set_modified(SystemTime::now()));
}

/// The lock of the process that builds a runtime in the cache.
pub(super) struct CacheLock {
    path: PathBuf,
    file: LockedFile,
}

/// Opens the lock, and creates it if necessary.
pub(super) fn open_lock(cache: &Path) -> Result<CacheLock, Failure> {
    let path = cache.join("lock");
    let file = File::create(&path).map_err(|error| write_failure(&path, &error))?;
    let file = LockedFile(file);
    Ok(CacheLock { path, file })
}

impl CacheLock {
    /// Waits for the lock, which is held until this value is dropped.
    pub(super) fn wait(&self, limit: Duration) -> Result<(), LockWaitError> {
        let wait = LockWait {
            files: &[&self.file],
            path: &self.path,
            name: "the lock of the cache",
            try_lock: &|_| self.file.try_lock(),
            limit,
            max_pause: USUAL_PAUSE,
        };
        wait.wait(Instant::now())
    }
}

/// Removes the unfinished runtimes of killed processes. The caller holds the cache's lock, so nothing builds one now.
pub(super) fn remove_unfinished_runtimes(cache: &Path) {
    for entry in list_entries(cache, BUILDING_PREFIX) {
        let _ = std::fs::remove_dir_all(&entry.path);
    }
}

/// Removes old runtimes, and unfinished ones if nothing builds one now. Errors are ignored: the next process tries again.
pub(super) fn prune_runtimes(cache: &Path) {
    if let Ok(lock) = open_lock(cache)
        && lock.file.try_lock().is_ok()
    {
        remove_unfinished_runtimes(cache);
    }
    remove_unfinished_files(cache);
    for prefix in [RUNTIME_PREFIX, BUILDING_PREFIX] {
        for entry in list_entries(cache, prefix) {
            if entry.age > RUNTIME_AGE {
                let _ = std::fs::remove_dir_all(&entry.path);
            }
        }
    }
}

/// A claim on a cached file: the file is not pruned while a clone of this value lives in any process.
#[derive(Clone, Debug)]
pub struct CacheLease {
    /// Holds a shared lock, which other processes see.
    _file: Arc<File>,
}

/// A folder of compiled kernels with a size limit. The least recently used files are pruned first.
#[derive(Debug)]
pub(super) struct ImageCache {
    folder: PathBuf,
    max_bytes: u64,
    /// Bytes that this process has written since it last pruned.
    bytes_written: AtomicU64,
}

impl ImageCache {
    pub(super) fn open(folder: PathBuf) -> Result<Self, Failure> {
        create_folder(&folder)?;
        remove_unfinished_files(&folder);
        Ok(Self {
            folder,
            max_bytes: MAX_CACHE_BYTES,
            bytes_written: AtomicU64::new(0),
        })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Claims a file, if it exists.
    pub(super) fn lease(&self, name: &str) -> Option<CacheLease> {
        let file = File::open(self.path(name)).ok()?;
        match file.try_lock_shared() {
            // Another process is removing it.
            Err(TryLockError::WouldBlock) => return None,
            // On a file system without locks, only its age protects it.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        // Another process may have removed it since it was opened.
        if file.metadata().ok()?.nlink() == 0 {
            return None;
        }
        // If this fails, the file is at worst pruned and built again.
        let _ = file.set_modified(SystemTime::now());
        Some(CacheLease {
            _file: Arc::new(file),
        })
    }

    /// Moves a complete file into the cache under `name`. If another process has just stored the same file, uses that one.
    pub(super) fn insert(&self, whole: TempPath, name: &str) -> std::io::Result<CacheLease> {
        let file = File::open(&whole)?;
        // Otherwise a loss of power could leave half a program, and the judge would blame the candidate for its crash.
        file.sync_data()?;
        // Locked before other processes can find it. Where locks do not work, they do not work for the others either.
        let _ = file.try_lock_shared();
        let bytes = file.metadata()?.len();
        let mut whole = whole;
        let mut tries = 0;
        let lease = loop {
            match whole.persist_noclobber(self.path(name)) {
                Ok(()) => {
                    break CacheLease {
                        _file: Arc::new(file),
                    };
                }
                Err(taken)
                    if taken.error.kind() == std::io::ErrorKind::AlreadyExists
                        && tries < MAX_INSERT_TRIES =>
                {
                    if let Some(lease) = self.lease(name) {
                        return Ok(lease);
                    }
                    whole = taken.path;
                    tries += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(error.error),
            }
        };
        self.note_written(bytes);
        Ok(lease)
    }

    /// Writes a file that may exist already, complete or not.
    pub(super) fn write(&self, name: &str, contents: &[u8]) -> std::io::Result<CacheLease> {
        for _ in 0..MAX_INSERT_TRIES {
            write_atomically(&self.path(name), contents)?;
            // Another process may have pruned it as old.
            if let Some(lease) = self.lease(name) {
                self.note_written(contents.len() as u64);
                return Ok(lease);
            }
        }
        Err(std::io::ErrorKind::ResourceBusy.into())
    }

    /// Counts written bytes, and prunes when there are enough.
    fn note_written(&self, bytes: u64) {
        let written = self.bytes_written.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if written >= self.max_bytes / PRUNE_DIVISOR {
            self.bytes_written.store(0, Ordering::Relaxed);
            self.prune();
        }
    }

    /// Removes the least recently used files until the rest is within the limit. Errors are ignored.
    pub(super) fn prune(&self) {
        let mut entries = list_entries(&self.folder, "");
        let mut bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.age));
        for entry in entries {
            if bytes <= self.max_bytes {
                break;
            }
            if remove_unused(&entry) {
                bytes -= entry.bytes;
            }
        }
    }
}

/// Removes a file that is not in use. Returns whether it is gone.
fn remove_unused(entry: &CacheEntry) -> bool {
    let Ok(file) = File::open(&entry.path) else {
        return !entry.path.exists();
    };
    let is_unused = match file.try_lock() {
        Ok(()) => true,
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(_)) => entry.age >= UNUSED_AGE,
    };
    is_unused && std::fs::remove_file(&entry.path).is_ok()
}

struct CacheEntry {
    path: PathBuf,
    bytes: u64,
    age: Duration,
}

/// The entries whose names start with a prefix. Every kforge process asks at its start, and a cache has thousands of other files: only
/// entries with such names are looked at.
fn list_entries(folder: &Path, prefix: &str) -> Vec<CacheEntry> {
    let now = SystemTime::now();
    let found = std::fs::read_dir(folder).into_iter().flatten().flatten();
    found
        .filter(|entry| (entry.file_name().as_encoded_bytes()).starts_with(prefix.as_bytes()))
        .filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            let age = now.duration_since(metadata.modified().ok()?);
            Some(CacheEntry {
                path: entry.path(),
                bytes: metadata.len(),
                age: age.unwrap_or_default(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_runtimes_are_removed() {
        let cache = tempfile::tempdir().unwrap();
        let old = SystemTime::now() - Duration::from_secs(40 * 24 * 3600);
        for name in ["runtime-a", "runtime-b", "building-c", "programs", "other"] {
            let folder = cache.path().join(name);
            create_folder(&folder).unwrap();
            std::fs::File::open(&folder)
                .unwrap()
                .set_modified(old)
                .unwrap();
        }
        mark_used(&cache.path().join("runtime-b"));
        prune_runtimes(cache.path());
        assert_eq!(
            names(cache.path()),
            ["lock", "other", "programs", "runtime-b"]
        );
    }

    fn names(folder: &Path) -> Vec<String> {
        let name = |entry: CacheEntry| entry.path.file_name().unwrap().display().to_string();
        let mut names: Vec<_> = list_entries(folder, "").into_iter().map(name).collect();
        names.sort();
        names
    }

    /// A cache with a limit of 160 bytes.
    fn store(folder: &Path) -> ImageCache {
        ImageCache {
            max_bytes: 160,
            ..ImageCache::open(folder.to_owned()).unwrap()
        }
    }

    /// Writes a file of 50 bytes that was last used this many minutes ago.
    fn write(store: &ImageCache, name: &str, minutes: u64) {
        let path = store.path(name);
        std::fs::write(&path, [0; 50]).unwrap();
        let used = SystemTime::now() - Duration::from_secs(60 * minutes);
        File::open(&path).unwrap().set_modified(used).unwrap();
    }

    #[test]
    fn prune_removes_least_recently_used_and_keeps_leased_files() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        for (name, minutes) in [("a", 50), ("b", 40), ("c", 30), ("d", 20), ("e", 10)] {
            write(&store, name, minutes);
        }
        // `a` stays claimed by a clone, `c` was used just now: both as another process would see it.
        let lease = store.lease("a").unwrap();
        File::open(store.path("a"))
            .unwrap()
            .set_modified(SystemTime::now() - Duration::from_secs(3600))
            .unwrap();
        let clone = lease.clone();
        drop(lease);
        drop(store.lease("c").unwrap());
        store.prune();
        assert_eq!(names(folder.path()), ["a", "c", "e"]);
        drop(clone);
        write(&store, "f", 0);
        store.prune();
        assert_eq!(names(folder.path()), ["c", "e", "f"]);
        assert!(store.lease("a").is_none());
    }

    #[test]
    fn writing_past_the_limit_prunes() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let mut leases = Vec::new();
        for number in 0..20 {
            let temporary = tempfile::NamedTempFile::new_in(store.folder()).unwrap();
            std::fs::write(temporary.path(), [0; 50]).unwrap();
            let lease = store.insert(temporary.into_temp_path(), &format!("{number}"));
            leases.push(lease.unwrap());
            // The first stays claimed, as a baseline does.
            leases.truncate(1);
        }
        let left = names(folder.path());
        assert!(
            left.len() <= 3 && left.contains(&"0".to_owned()),
            "{left:?}"
        );
    }

    #[test]
    fn two_writers_of_one_name_share_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let insert = || {
            let temporary = tempfile::NamedTempFile::new_in(store.folder()).unwrap();
            std::fs::write(temporary.path(), [0; 5]).unwrap();
            store.insert(temporary.into_temp_path(), "same").unwrap()
        };
        let (first, second) = (insert(), insert());
        drop(first);
        let large = ImageCache {
            max_bytes: 0,
            ..self::store(folder.path())
        };
        large.prune();
        assert_eq!(names(folder.path()), ["same"]);
        drop(second);
        large.prune();
        assert!(names(folder.path()).is_empty());
    }
}
