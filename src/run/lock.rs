//! The lock of a run directory: one process at a time.
//!
//! Relies on the system's file locks, which end with the process. On a file system without them, such as some NFS and Lustre
//! mounts, a file that names its owner takes their place (`owner_file`). Never waits for a lock.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::owner_file::{self, LockOwner, OwnerFile, OwnerFileError};
use crate::base::{Failure, LockedFile, files};

/// A held lock. It is released when the value is dropped. If the process is killed, the system releases it, or another process
/// of this machine takes it over.
pub(crate) struct RunLock {
    _file: LockedFile,
    _owner: Option<OwnerFile>,
}

impl RunLock {
    /// Locks the file at `path`, creating it if necessary, and writes this process's number into it.
    ///
    /// # Errors
    /// A usage failure that names the other process if the lock is held; else an I/O error.
    pub(crate) fn acquire(path: &Path) -> Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|error| files::explain_io_error("open", path, error))?;
        let file = LockedFile(file);
        let mut owner_path = path.as_os_str().to_owned();
        owner_path.push(".owner");
        let owner_path = PathBuf::from(owner_path);
        let mut owner = None;
        match file.try_lock() {
            // A process that sees this file system through another mount may have no locks.
            Ok(()) => {
                owner_file::check_unowned(&owner_path)
                    .map_err(|error| explain_owner_error(&owner_path, error))?;
            }
            Err(TryLockError::WouldBlock) => return Err(in_use_error(&file, path)),
            Err(TryLockError::Error(error)) if files::has_no_locks(&error) => {
                tracing::warn!(
                    "the file system of `{}` has no file locks ({error}); `{}` is used instead",
                    path.display(),
                    owner_path.display()
                );
                let acquired = OwnerFile::acquire(&owner_path);
                owner = Some(acquired.map_err(|error| explain_owner_error(&owner_path, error))?);
            }
            Err(TryLockError::Error(error)) => {
                return Err(files::explain_io_error("lock", path, error));
            }
        }
        let write = |mut file: &File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&file).map_err(|error| files::explain_io_error("write", path, error))?;
        Ok(Self {
            _file: file,
            _owner: owner,
        })
    }
}

fn explain_owner_error(path: &Path, error: OwnerFileError) -> anyhow::Error {
    match error {
        OwnerFileError::InUse(owner) => owned_error(path, owner),
        OwnerFileError::Io(error) => files::explain_io_error("create", path, error),
    }
}

fn owned_error(path: &Path, owner: Option<LockOwner>) -> anyhow::Error {
    let folder = path.parent().unwrap_or(path).display();
    let holder = owner.map_or_else(
        || "an unknown process".to_owned(),
        |owner| format!("process {} on `{}`", owner.process, owner.host),
    );
    Failure::usage(format!("`{folder}` is in use by {holder}"))
        .hint(format!(
            "wait until it ends; if it has ended, delete `{}`: this file system has no locks that end with a process",
            path.display()
        ))
        .into()
}

fn in_use_error(file: &File, path: &Path) -> anyhow::Error {
    let mut holder = String::new();
    // The other process may not have written its number yet. Then the message does not name it.
    let _ = file.take(32).read_to_string(&mut holder);
    let folder = path.parent().unwrap_or(path).display();
    let (holder, stop) = match holder.trim().parse::<u32>() {
        Ok(process) => (
            format!("process {process}"),
            format!("stop it (`kill {process}`)"),
        ),
        Err(_) => ("another process".to_owned(), "stop it".to_owned()),
    };
    Failure::usage(format!("`{folder}` is in use by {holder}"))
        .hint(format!(
            "wait until it ends, {stop}, or choose another directory with `--output`"
        ))
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_process_gets_an_error_that_names_the_first() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("lock");
        let lock = RunLock::acquire(&path).unwrap();
        let error = RunLock::acquire(&path).err().unwrap().to_string();
        assert!(
            error.contains(&format!("in use by process {}", std::process::id())),
            "{error}"
        );
        drop(lock);
        RunLock::acquire(&path).unwrap();
    }
}
