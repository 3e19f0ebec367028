//! One process per directory.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use anyhow::Result;

use crate::base::{Failure, files};

/// Held for as long as the value lives; the system lets go of it when the process dies, however it dies.
pub(crate) struct RunLock {
    _file: File,
}

impl RunLock {
    /// Takes the lock, or says who holds it.
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
    // Whoever holds the lock may be about to write its number: then it stays unnamed.
    let _ = file.take(32).read_to_string(&mut holder);
    let folder = path.parent().unwrap_or(path).display();
    let (who, how) = match holder.trim().parse::<u32>() {
        Ok(process) => (
            format!("process {process}"),
            format!("stop it (`kill {process}`)"),
        ),
        Err(_) => ("another process".to_owned(), "stop it".to_owned()),
    };
    Failure::usage(format!("`{folder}` is in use by {who}"))
        .hint(format!(
            "wait for it to end, or {how}, or choose another directory with `--output`"
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
        let held = RunLock::acquire(&path).unwrap();
        let error = RunLock::acquire(&path).err().unwrap().to_string();
        assert!(
            error.contains(&format!("in use by process {}", std::process::id())),
            "{error}"
        );
        drop(held);
        RunLock::acquire(&path).unwrap();
    }
}
