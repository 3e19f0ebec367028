//! A lock for file systems without file locks, such as Lustre without `-o flock`: a file that names its owner.
//!
//! The file is created only if it does not exist, which is atomic on network file systems too. It stays behind when its owner is
//! killed. Another process on the same machine can see that the owner has ended, and takes over. A process on another machine
//! cannot, so the user must delete the file; the error says so. Knows nothing of runs.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::guardian::process_start;
use crate::base::random;

/// How often the lock is tried again if another process takes over or gives up at the same moment.
const MAX_LOCK_TRIES: u32 = 20;

/// A process that owns the lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LockOwner {
    /// A random number, different for each acquisition.
    id: String,
    pub(super) host: String,
    /// Changes whenever the machine starts.
    boot: String,
    /// Process numbers are unique within a namespace.
    namespace: String,
    pub(super) process: u32,
    /// When the process started, in the unit of `/proc`. It distinguishes the process from a later process with the same number.
    started: u64,
}

/// Why the lock was not acquired.
#[derive(Debug)]
pub(super) enum OwnerFileError {
    /// `None` if the file does not name its owner.
    InUse(Option<LockOwner>),
    Io(io::Error),
}

impl From<io::Error> for OwnerFileError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A held lock; released when it is dropped.
#[derive(Debug)]
pub(super) struct OwnerFile {
    path: PathBuf,
    owner: LockOwner,
}

impl OwnerFile {
    /// Creates the file at `path`, or takes it over from a process of this machine that has ended.
    pub(super) fn acquire(path: &Path) -> Result<Self, OwnerFileError> {
        let owner = LockOwner::this_process();
        let held = || Self {
            path: path.to_owned(),
            owner: owner.clone(),
        };
        for _ in 0..MAX_LOCK_TRIES {
            if create(path, &owner)? {
                return Ok(held());
            }
            let other = match read(path) {
                Ok(other) => other,
                // It was released just now.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error.into()),
            };
            match &other {
                Some(dead) if dead.has_ended() => {
                    if take_over(path, dead, &owner)? {
                        return Ok(held());
                    }
                }
                _ => return Err(OwnerFileError::InUse(other)),
            }
        }
        Err(OwnerFileError::InUse(None))
    }
}

impl Drop for OwnerFile {
    fn drop(&mut self) {
        if read(&self.path).is_ok_and(|owner| owner.as_ref() == Some(&self.owner)) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// For processes that do not need the file: fails if another process owns it, unless that process has certainly ended.
pub(super) fn check_unowned(path: &Path) -> Result<(), OwnerFileError> {
    match read(path) {
        Ok(Some(owner)) if owner.has_ended() => Ok(()),
        Ok(owner) => Err(OwnerFileError::InUse(owner)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Replaces the file of an owner that has ended. Returns false if another process was faster.
///
/// All processes that take over from the same owner try to create the same second file, and only one of them can. A process that comes
/// when the second file is gone again finds another owner.
fn take_over(path: &Path, dead: &LockOwner, owner: &LockOwner) -> Result<bool, OwnerFileError> {
    let mut claim = path.as_os_str().to_owned();
    claim.push(format!(".after-{}", dead.id));
    let claim = PathBuf::from(claim);
    if !create(&claim, owner)? {
        return match read(&claim) {
            Ok(other) => Err(OwnerFileError::InUse(other)),
            Err(_) => Ok(false),
        };
    }
    if read(path)?.as_ref() != Some(dead) {
        std::fs::remove_file(&claim)?;
        return Ok(false);
    }
    std::fs::rename(&claim, path)?;
    Ok(true)
}

/// Creates a file that names its owner. Returns false if it exists.
fn create(path: &Path, owner: &LockOwner) -> io::Result<bool> {
    let mut file = match File::options().write(true).create_new(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(error),
    };
    let written = serde_json::to_vec(owner)
        .map_err(io::Error::from)
        .and_then(|text| file.write_all(&text));
    if written.is_err() {
        let _ = std::fs::remove_file(path);
    }
    written.map(|()| true)
}

/// The owner that a file names; `None` if it names none, because it was just created or is damaged.
fn read(path: &Path) -> io::Result<Option<LockOwner>> {
    Ok(serde_json::from_slice(&std::fs::read(path)?).ok())
}

impl LockOwner {
    fn this_process() -> Self {
        let process = std::process::id();
        Self {
            id: format!("{:016x}", random::fresh_seed()),
            host: super::record::host_name(),
            boot: boot_id(),
            namespace: process_namespace(),
            process,
            started: start_time(process).unwrap_or(0),
        }
    }

    /// Whether the process has certainly ended. Only processes of the same machine and namespace can be seen.
    fn has_ended(&self) -> bool {
        let is_visible = !self.boot.is_empty()
            && !self.namespace.is_empty()
            && self.boot == boot_id()
            && self.namespace == process_namespace();
        is_visible && start_time(self.process) != Some(self.started)
    }
}

fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    text.unwrap_or_default().trim().to_owned()
}

fn process_namespace() -> String {
    let link = std::fs::read_link("/proc/self/ns/pid");
    link.map_or_else(|_| String::new(), |link| link.display().to_string())
}

/// When a process started. `None` if there is no such process.
fn start_time(process: u32) -> Option<u64> {
    process_start(process.try_into().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, owner: &LockOwner) {
        std::fs::write(path, serde_json::to_vec(owner).unwrap()).unwrap();
    }

    #[test]
    fn one_process_owns_the_file_and_releases_it() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("lock.owner");
        let held = OwnerFile::acquire(&path).unwrap();
        match OwnerFile::acquire(&path) {
            Err(OwnerFileError::InUse(Some(owner))) => assert_eq!(owner, held.owner),
            other => panic!("{other:?}"),
        }
        assert!(check_unowned(&path).is_err());
        drop(held);
        assert!(!path.exists());
        OwnerFile::acquire(&path).unwrap();
    }

    #[test]
    fn dead_owner_is_replaced_by_exactly_one_process() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("lock.owner");
        for _ in 0..20 {
            // The number of this process, but of an earlier start.
            let dead = LockOwner {
                started: 1,
                ..LockOwner::this_process()
            };
            write(&path, &dead);
            check_unowned(&path).unwrap();
            let held: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..8)
                    .map(|_| scope.spawn(|| OwnerFile::acquire(&path).ok()))
                    .collect();
                let results = threads.into_iter().map(|thread| thread.join().unwrap());
                results.flatten().collect()
            });
            assert_eq!(held.len(), 1);
            drop(held);
            assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn owner_on_another_machine_is_never_replaced() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("lock.owner");
        let elsewhere = LockOwner {
            boot: "another".to_owned(),
            started: 1,
            ..LockOwner::this_process()
        };
        write(&path, &elsewhere);
        assert!(matches!(
            OwnerFile::acquire(&path),
            Err(OwnerFileError::InUse(Some(_)))
        ));
        std::fs::write(&path, "").unwrap();
        assert!(matches!(
            OwnerFile::acquire(&path),
            Err(OwnerFileError::InUse(None))
        ));
    }
}
