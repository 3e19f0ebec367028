//! Files that survive a crash and a loss of power. Every error names its path.
//!
//! **The contract.** A new file is written under a temporary name in its folder, synced, and renamed; then its folder is synced. So
//! after a crash at any point a file has its old contents or its new ones, and is never empty or torn. A folder is durable once its
//! parent is synced. A journal grows by whole lines and is synced; only what was appended since the last sync can be torn.
//!
//! `WriteBatch` and the functions whose names end in `durably` keep the whole contract. `replace`, `create_folder` and `remove` leave
//! out the sync of the folder on purpose: they are for copies and caches, which kforge can make again.
//!
//! Every durable change goes through `disk`. Otherwise `observe_changes`, and with it the test of a power loss, does not see it.
//! This module never repeats a failed sync: the kernel may have dropped the pages, and a second call would then report success. It
//! never flushes a whole file system: that would wait for data of other processes and hide which file failed.

mod batch;
mod disk;
mod io_error;
mod many_syncs;
mod paths;

use std::fs::{self, File};
use std::io;
use std::path::Path;

use anyhow::Result;

use super::{Digest, Failure};

pub(crate) use batch::WriteBatch;
pub use disk::{Change, observe_changes};
pub(crate) use io_error::{explain_io_error, has_no_locks};
pub(crate) use paths::parent_folder;

/// Reads a text file.
pub(crate) fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| explain_io_error("read", path, error))
}

/// Reads a text file whose digest a journal records. `content`: what the file contains, for the error, such as `kernel`.
///
/// # Errors
/// If the file cannot be read, or its text has another digest.
pub(crate) fn read_recorded(path: &Path, digest: Digest, content: &str) -> Result<String> {
    let text = read(path)?;
    if Digest::of(&text) != digest {
        return Err(Failure::usage(format!(
            "`{}` is not the {content} that the journal names",
            path.display()
        ))
        .hint(format!(
            "restore the original file: never edit a {content} in a run directory"
        ))
        .into());
    }
    Ok(text)
}

/// Creates a folder and its parents. They may be lost if the power fails: use it only for files that kforge can make again.
pub(crate) fn create_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|error| explain_io_error("create", path, error))
}

/// Creates a folder and its parents. Durable on return.
pub(crate) fn create_folder_durably(path: &Path) -> Result<()> {
    let mut batch = WriteBatch::default();
    batch.create_folder(path)?;
    batch.sync()
}

/// Replaces a file atomically. Until its folder is synced, it may have the old or the new contents after a power failure, so use it
/// for copies and caches.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> Result<()> {
    replace_contents(path, contents).map_err(|error| explain_io_error("write", path, error))
}

/// Like [`replace`], and durable when it returns.
///
/// # Errors
/// If it cannot be written. A missing folder is an error too: it was deleted while kforge ran.
pub(crate) fn replace_durably(path: &Path, contents: &[u8]) -> Result<()> {
    let folder = parent_folder(path);
    replace_contents(path, contents).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io_error::vanished(folder),
        _ => explain_io_error("write", path, error),
    })?;
    sync_folder(folder)
}

fn replace_contents(path: &Path, contents: &[u8]) -> io::Result<()> {
    let temporary = paths::unique_temporary_name(path)?;
    let replaced = disk::write_file(&temporary, contents)
        .and_then(|file| disk::sync_file(&file, &temporary))
        .and_then(|()| disk::rename(&temporary, path));
    if replaced.is_err() {
        let _ = disk::remove(&temporary);
    }
    replaced
}

/// Removes a file, if it exists. It may come back if the power fails: use it only for files that kforge can make again.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match disk::remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(explain_io_error("remove", path, error))
        }
        _ => Ok(()),
    }
}

/// Makes the names of the files in a folder durable.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    disk::sync_folder(path).map_err(|error| explain_io_error("sync", path, error))
}

/// Makes a file's contents and length durable.
pub(crate) fn sync(file: &File, path: &Path) -> Result<()> {
    disk::sync_file(file, path).map_err(|error| explain_io_error("sync", path, error))
}

/// Opens a file for reading and appending, or creates it. The name of a new or empty file is durable on return.
pub(crate) fn open_for_append(path: &Path) -> Result<File> {
    let (file, is_new) =
        disk::open_for_append(path).map_err(|error| explain_io_error("open", path, error))?;
    // A process that was killed may have created it without making its name durable.
    if is_new || file.metadata().is_ok_and(|metadata| metadata.len() == 0) {
        sync_folder(parent_folder(path))?;
    }
    Ok(file)
}

/// Appends bytes to a file and makes them durable.
///
/// # Errors
/// If the bytes cannot be written or synced, or if the file was deleted since it was opened: they would be lost with it.
pub(crate) fn append_durably(file: &mut File, path: &Path, bytes: &[u8]) -> Result<()> {
    append(file, path, bytes)?;
    sync(file, path)
}

/// Appends bytes to a file. They may be lost if the power fails before the next [`sync`].
///
/// # Errors
/// See [`append_durably`].
pub(crate) fn append(file: &mut File, path: &Path, bytes: &[u8]) -> Result<()> {
    if was_deleted(file, path) {
        return Err(io_error::vanished(path));
    }
    disk::append(file, path, bytes).map_err(|error| explain_io_error("write", path, error))
}

/// Whether the file at `path`, which is open, was deleted. Some file systems always report no links, so the path counts too.
fn was_deleted(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(open) = file.metadata() else {
        return false;
    };
    open.nlink() == 0 && !fs::metadata(path).is_ok_and(|found| found.ino() == open.ino())
}

/// Cuts a file to a length in bytes and makes the length durable.
pub(crate) fn shorten_durably(file: &File, path: &Path, length: u64) -> Result<()> {
    disk::shorten(file, path, length).map_err(|error| explain_io_error("shorten", path, error))?;
    sync(file, path)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::base::FailureKind;

    #[test]
    fn a_batch_writes_every_file() {
        let root = tempfile::tempdir().unwrap();
        for count in [1, 6, 300] {
            let mut batch = WriteBatch::default();
            for index in 0..count {
                let path = root.path().join(format!("{count}/{index}/kernel.cu"));
                batch
                    .write_in_new_folder(path, format!("source {index}").as_bytes())
                    .unwrap();
            }
            batch.sync().unwrap();
            for index in 0..count {
                let folder = root.path().join(format!("{count}/{index}"));
                assert_eq!(
                    read(&folder.join("kernel.cu")).unwrap(),
                    format!("source {index}")
                );
                assert_eq!(
                    fs::read_dir(folder).unwrap().count(),
                    1,
                    "no temporary file stays behind"
                );
            }
        }
    }

    #[test]
    fn io_errors_name_the_path() {
        let root = tempfile::tempdir().unwrap();
        let missing = root.path().join("missing/file");
        let error = read(&missing).unwrap_err();
        let failure = error.downcast_ref::<Failure>().unwrap();
        assert_eq!(failure.kind, FailureKind::Usage);
        assert!(
            failure.message.contains("missing/file")
                && failure.message.ends_with("no such file or directory"),
            "{failure}"
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_environment_failure() {
        let full = Path::new("/dev/full");
        let error = File::options()
            .write(true)
            .open(full)
            .unwrap()
            .write_all(b"x")
            .unwrap_err();
        let failure = explain_io_error("write", full, error)
            .downcast::<Failure>()
            .unwrap();
        assert_eq!(failure.kind, FailureKind::Environment);
        assert!(
            failure.message.contains("no space left on device") && failure.hint.is_some(),
            "{failure}"
        );
    }
}
