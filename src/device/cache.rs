//! Where compiled kernels are kept, and how that place stays small.
//!
//! Everything in it can be made again. Other processes may use it at the same time: what may be in use is never removed.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::base::Failure;

/// Above this, programs that nobody can be using any more are removed.
const PROGRAM_BYTES: u64 = 1 << 30;
/// A judge keeps the programs of its oracle and baseline as long as it lives.
const PROGRAM_AGE: Duration = Duration::from_secs(3 * 24 * 3600);
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

/// Removes what is old. Failing to is no failure: the next process will try.
pub(super) fn prune(cache: &Path, programs: &Path) {
    for entry in entries(cache) {
        let name = entry.path.file_name().unwrap_or_default().to_string_lossy();
        let disposable = name.starts_with("runtime-") || name.starts_with("building-");
        if disposable && entry.age > RUNTIME_AGE {
            let _ = std::fs::remove_dir_all(&entry.path);
        }
    }
    prune_files(programs);
}

/// Removes the oldest files of a folder that holds too much.
pub(super) fn prune_files(folder: &Path) {
    let mut entries = entries(folder);
    let mut bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.age));
    for entry in entries {
        if bytes <= PROGRAM_BYTES || entry.age < PROGRAM_AGE {
            break;
        }
        if std::fs::remove_file(&entry.path).is_ok() {
            bytes -= entry.bytes;
        }
    }
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
        let programs = cache.path().join("programs");
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
        // Sparse: large, and nothing on the disk.
        for (name, age) in [("p", old), ("q", SystemTime::now())] {
            let file = std::fs::File::create(programs.join(name)).unwrap();
            file.set_len(PROGRAM_BYTES).unwrap();
            file.set_modified(age).unwrap();
        }
        prune(cache.path(), &programs);
        let mut left: Vec<_> = entries(cache.path())
            .into_iter()
            .chain(entries(&programs))
            .map(|entry| entry.path.file_name().unwrap().to_owned())
            .collect();
        left.sort();
        assert_eq!(left, ["other", "programs", "q", "runtime-b"]);
    }
}
