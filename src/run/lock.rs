//! The lock of a run directory: one process at a time.
//!
//! Relies on the system's file locks, which end with the process. Never waits for a lock.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use anyhow::Result;

use crate::base::{Failure, files};

/// A held lock. The system releases it when the value is dropped or the process ends in any way.
pub(crate) struct RunLock {
    _file: File,
}

impl RunLock {
    /// Locks the file at `path`, creating it if necessary, and writes this process's number into it.
    ///
    /// # Errors
    /// A usage failure that names the other process if the lock is held; else an I/O error.
    pub(crate) fn acquire(path: &Path) -> Result<Self> {
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|error| files::explain_io_error("open", path, error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use_error(&mut file, path)),
            Err(TryLockError::Error(error)) => {
                return Err(files::explain_io_error("lock", path, error));
            }
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(|error| files::explain_io_error("write", path, error))?;
        Ok(Self { _file: file })
    }
}

fn in_use_error(file: &mut File, path: &Path) -> anyhow::Error {
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
