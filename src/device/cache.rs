//! Where compiled kernels are kept, and how that place stays small.
//!
//! Everything in it can be made again. Other processes may use it at the same time: what may be in use is never removed.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tempfile::TempPath;

use crate::base::Failure;

/// The most that compiled kernels of one kind may take, but for those in use.
const MOST_BYTES: u64 = 2 << 30;
/// How much of that one process writes before it looks whether something has to go.
const SHARE_WRITTEN: u64 = 16;
/// Where files cannot be locked, nobody uses one that is older: a judge keeps its oracle's and its baseline's as long as it lives.
const UNUSED_AGE: Duration = Duration::from_secs(3 * 24 * 3600);
/// How often a file that another process is just removing is asked for.
const KEEP_TRIES: u32 = 200;
/// Runtimes of other versions, and what a killed process left half built.
const RUNTIME_AGE: Duration = Duration::from_secs(30 * 24 * 3600);

/// `$KFORGE_CACHE_DIR`, `$XDG_CACHE_HOME/kforge`, `~/.cache/kforge`, or a temporary folder.
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

pub(super) fn make(folder: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(folder).map_err(|error| unwritable(folder, &error))
}

pub(super) fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::environment(format!("failed to write `{}`: {error}", path.display())).hint(
        "make room there, or name another folder in the environment variable KFORGE_CACHE_DIR",
    )
}

/// Writes a file in one step: whoever reads it finds all of it, or what was there before.
pub(super) fn put(path: &Path, contents: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let beside = tempfile::NamedTempFile::new_in(folder)?;
    std::fs::write(beside.path(), contents)?;
    beside
        .into_temp_path()
        .persist(path)
        .map_err(|error| error.error)
}

/// Says that a folder is in use, so that it is not removed soon.
pub(super) fn touch(folder: &Path) {
    // A folder that cannot be touched is at worst built again some day.
    let _ = std::fs::File::open(folder).and_then(|file| file.set_modified(SystemTime::now()));
}

/// Removes runtimes that are old. Failing to is no failure: the next process will try.
pub(super) fn prune_runtimes(cache: &Path) {
    for entry in entries(cache) {
        let name = entry.path.file_name().unwrap_or_default().to_string_lossy();
        let disposable = name.starts_with("runtime-") || name.starts_with("building-");
        if disposable && entry.age > RUNTIME_AGE {
            let _ = std::fs::remove_dir_all(&entry.path);
        }
    }
}

/// That a file of a store is in use: as long as anybody has it, the file stays.
#[derive(Clone, Debug)]
pub struct Held {
    /// Locked, for others to see.
    _file: Arc<File>,
}

/// A folder of compiled kernels with a limit: where it holds too much, those go that were not used for the longest time.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    most: u64,
    /// What this process has written since it last pruned.
    written: AtomicU64,
}

impl Store {
    pub(super) fn open(folder: PathBuf) -> Result<Self, Failure> {
        make(&folder)?;
        Ok(Self {
            folder,
            most: MOST_BYTES,
            written: AtomicU64::new(0),
        })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The file, if it is there, and that it is in use from now on.
    pub(super) fn hold(&self, name: &str) -> Option<Held> {
        let file = File::open(self.path(name)).ok()?;
        match file.try_lock_shared() {
            // Somebody is removing it.
            Err(TryLockError::WouldBlock) => return None,
            // Without locks its age alone protects it.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        // It may have been removed since it was opened.
        if file.metadata().ok()?.nlink() == 0 {
            return None;
        }
        // What cannot be marked as used is at worst built again some day.
        let _ = file.set_modified(SystemTime::now());
        Some(Held {
            _file: Arc::new(file),
        })
    }

    /// Gives a whole file its name, unless another process has made the same meanwhile.
    pub(super) fn keep(&self, whole: TempPath, name: &str) -> std::io::Result<Held> {
        let file = File::open(&whole)?;
        // Before it can be found; a lock that cannot be had is of no use to others either.
        let _ = file.try_lock_shared();
        let bytes = file.metadata()?.len();
        let mut whole = whole;
        let mut tries = 0;
        let held = loop {
            match whole.persist_noclobber(self.path(name)) {
                Ok(()) => {
                    break Held {
                        _file: Arc::new(file),
                    };
                }
                Err(taken)
                    if taken.error.kind() == std::io::ErrorKind::AlreadyExists
                        && tries < KEEP_TRIES =>
                {
                    if let Some(held) = self.hold(name) {
                        return Ok(held);
                    }
                    whole = taken.path;
                    tries += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(error.error),
            }
        };
        self.wrote(bytes);
        Ok(held)
    }

    /// Writes a file that may be there already, torn or whole.
    pub(super) fn put(&self, name: &str, contents: &[u8]) -> std::io::Result<Held> {
        for _ in 0..KEEP_TRIES {
            put(&self.path(name), contents)?;
            // Another process may have taken it for something old.
            if let Some(held) = self.hold(name) {
                self.wrote(contents.len() as u64);
                return Ok(held);
            }
        }
        Err(std::io::ErrorKind::ResourceBusy.into())
    }

    /// Looks now and then whether something has to go.
    fn wrote(&self, bytes: u64) {
        let written = self.written.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if written >= self.most / SHARE_WRITTEN {
            self.written.store(0, Ordering::Relaxed);
            self.prune();
        }
    }

    /// Removes what was not used for the longest time, until the rest is small enough. Failing to is no failure.
    pub(super) fn prune(&self) {
        let mut entries = entries(&self.folder);
        let mut bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.age));
        for entry in entries {
            if bytes <= self.most {
                break;
            }
            if remove_unused(&entry) {
                bytes -= entry.bytes;
            }
        }
    }
}

/// Whether it is gone.
fn remove_unused(entry: &Entry) -> bool {
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

struct Entry {
    path: PathBuf,
    bytes: u64,
    age: Duration,
}

fn entries(folder: &Path) -> Vec<Entry> {
    let now = SystemTime::now();
    let found = std::fs::read_dir(folder).into_iter().flatten().flatten();
    found
        .filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            let age = now.duration_since(metadata.modified().ok()?);
            Some(Entry {
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
    fn only_what_is_old_goes() {
        let cache = tempfile::tempdir().unwrap();
        let old = SystemTime::now() - Duration::from_secs(40 * 24 * 3600);
        for name in ["runtime-a", "runtime-b", "building-c", "programs", "other"] {
            let folder = cache.path().join(name);
            make(&folder).unwrap();
            std::fs::File::open(&folder)
                .unwrap()
                .set_modified(old)
                .unwrap();
        }
        touch(&cache.path().join("runtime-b"));
        prune_runtimes(cache.path());
        assert_eq!(names(cache.path()), ["other", "programs", "runtime-b"]);
    }

    fn names(folder: &Path) -> Vec<String> {
        let name = |entry: Entry| entry.path.file_name().unwrap().display().to_string();
        let mut names: Vec<_> = entries(folder).into_iter().map(name).collect();
        names.sort();
        names
    }

    /// A store of 160 bytes.
    fn store(folder: &Path) -> Store {
        Store {
            most: 160,
            ..Store::open(folder.to_owned()).unwrap()
        }
    }

    /// Fifty bytes, used so many minutes ago.
    fn write(store: &Store, name: &str, minutes: u64) {
        let path = store.path(name);
        std::fs::write(&path, [0; 50]).unwrap();
        let used = SystemTime::now() - Duration::from_secs(60 * minutes);
        File::open(&path).unwrap().set_modified(used).unwrap();
    }

    #[test]
    fn what_was_not_used_for_the_longest_time_goes_first_and_nothing_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        for (name, minutes) in [("a", 50), ("b", 40), ("c", 30), ("d", 20), ("e", 10)] {
            write(&store, name, minutes);
        }
        // Held by a clone, and asked for again: both as another process would see it.
        let held = store.hold("a").unwrap();
        File::open(store.path("a"))
            .unwrap()
            .set_modified(SystemTime::now() - Duration::from_secs(3600))
            .unwrap();
        let clone = held.clone();
        drop(held);
        drop(store.hold("c").unwrap());
        store.prune();
        assert_eq!(names(folder.path()), ["a", "c", "e"]);
        drop(clone);
        write(&store, "f", 0);
        store.prune();
        assert_eq!(names(folder.path()), ["c", "e", "f"]);
        assert!(store.hold("a").is_none());
    }

    #[test]
    fn a_process_prunes_while_it_writes() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let mut held = Vec::new();
        for number in 0..20 {
            let beside = tempfile::NamedTempFile::new_in(store.folder()).unwrap();
            std::fs::write(beside.path(), [0; 50]).unwrap();
            let kept = store.keep(beside.into_temp_path(), &format!("{number}"));
            held.push(kept.unwrap());
            // The first stays in use, as a baseline does.
            held.truncate(1);
        }
        let left = names(folder.path());
        assert!(
            left.len() <= 3 && left.contains(&"0".to_owned()),
            "{left:?}"
        );
    }

    #[test]
    fn of_two_that_make_the_same_both_hold_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let keep = || {
            let beside = tempfile::NamedTempFile::new_in(store.folder()).unwrap();
            std::fs::write(beside.path(), [0; 5]).unwrap();
            store.keep(beside.into_temp_path(), "same").unwrap()
        };
        let (first, second) = (keep(), keep());
        drop(first);
        let large = Store {
            most: 0,
            ..self::store(folder.path())
        };
        large.prune();
        assert_eq!(names(folder.path()), ["same"]);
        drop(second);
        large.prune();
        assert!(names(folder.path()).is_empty());
    }
}
