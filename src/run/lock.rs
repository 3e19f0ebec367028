//! One process per directory.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use anyhow::Result;

use crate::base::{Failure, files};

/// Held for as long as the value lives; the system lets go of it when the process dies, however it dies.
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, or says who holds it.
    pub(crate) fn take(path: &Path) -> Result<Self> {
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|error| files::explain("open", path, error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(&mut file, path)),
            Err(TryLockError::Error(error)) => return Err(files::explain("lock", path, error)),
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(|error| files::explain("write", path, error))?;
        Ok(Self { _file: file })
    }
}

fn in_use(file: &mut File, path: &Path) -> anyhow::Error {
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
    fn a_second_holder_is_told_of_the_first() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("lock");
        let held = Lock::take(&path).unwrap();
        let error = Lock::take(&path).err().unwrap().to_string();
        assert!(
            error.contains(&format!("in use by process {}", std::process::id())),
            "{error}"
        );
        drop(held);
        Lock::take(&path).unwrap();
    }
}
