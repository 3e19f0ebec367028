//! Files that survive a crash: write under a temporary name, rename, sync. Every error names its path.
//!
//! A failed sync is never repeated: the kernel may have dropped the pages, and a second call would then report success.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Digest, Failure};

/// Above this many files, one sync of the whole file system is cheaper than one sync for each file.
const MAX_SEPARATE_SYNCS: usize = 6;

/// The most files that a batch keeps open. Many systems allow a process 1,024.
const MAX_OPEN_FILES: usize = 256;

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

/// Creates a folder and its parents. Not synced; files that are written into it later are.
pub(crate) fn create_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|error| explain_io_error("create", path, error))
}

/// Replaces a file atomically: a reader sees the old contents or the new. Not synced, so only for copies that can be made again.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> Result<()> {
    write_and_rename(path, contents).map(drop)
}

/// As [`replace`], and durable when it returns.
pub(crate) fn replace_durably(path: &Path, contents: &[u8]) -> Result<()> {
    let file = write_and_rename(path, contents)?;
    sync(&file, path)?;
    sync_folder(parent_folder(path))
}

/// Removes a file, if it exists. Not synced, so only for files that can be made again.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(explain_io_error("remove", path, error))
        }
        _ => Ok(()),
    }
}

/// Makes the names of the files in a folder durable.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    let folder = File::open(path).map_err(|error| explain_io_error("open", path, error))?;
    sync(&folder, path)
}

/// Files that become durable together: many writes, one sync.
#[derive(Default)]
pub(crate) struct WriteBatch {
    written: Vec<(PathBuf, File)>,
    folders: BTreeSet<PathBuf>,
}

impl WriteBatch {
    /// Writes a file under its final name; its folder must exist. Durable only after `sync`.
    pub(crate) fn write(&mut self, path: PathBuf, contents: &[u8]) -> Result<()> {
        if self.written.len() >= MAX_OPEN_FILES {
            self.sync()?;
        }
        let file = write_and_rename(&path, contents)?;
        let folder = parent_folder(&path);
        if !self.folders.contains(folder) {
            self.folders.insert(folder.to_owned());
        }
        self.written.push((path, file));
        Ok(())
    }

    /// As [`WriteBatch::write`], into a folder that may not exist yet.
    pub(crate) fn write_in_new_folder(&mut self, path: PathBuf, contents: &[u8]) -> Result<()> {
        let folder = parent_folder(&path);
        if !self.folders.contains(folder) {
            match fs::create_dir(folder) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => create_folder(folder)?,
                Err(error) => return Err(explain_io_error("create", folder, error)),
            }
            // The name of the new folder must become durable too.
            self.folders.insert(parent_folder(folder).to_owned());
        }
        self.write(path, contents)
    }

    /// Makes everything written so far durable.
    pub(crate) fn sync(&mut self) -> Result<()> {
        if self.written.len() > MAX_SEPARATE_SYNCS
            && let Some((path, file)) = self.written.first()
            && sync_file_system(file).map_err(|error| explain_io_error("sync", path, error))?
        {
            self.clear();
            return Ok(());
        }
        if self.written.len() > 1 {
            self.written
                .iter()
                .for_each(|(_, file)| start_writeback(file));
        }
        for (path, file) in &self.written {
            sync(file, path)?;
        }
        for folder in &self.folders {
            sync_folder(folder)?;
        }
        self.clear();
        Ok(())
    }

    fn clear(&mut self) {
        self.written.clear();
        self.folders.clear();
    }
}

/// Syncs the file system of `file`. `false` if the operating system has no such call.
#[cfg(target_os = "linux")]
fn sync_file_system(file: &File) -> io::Result<bool> {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is open while `file` is borrowed, and the call accesses no memory of this process.
    match unsafe { libc::syncfs(file.as_raw_fd()) } {
        0 => Ok(true),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Starts writing the contents to disk without waiting, so that the first of several syncs can commit them all. Its errors are
/// ignored: the sync reports them.
#[cfg(target_os = "linux")]
fn start_writeback(file: &File) {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is open while `file` is borrowed, and the call accesses no memory of this process.
    unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}

#[cfg(not(target_os = "linux"))]
fn start_writeback(_file: &File) {}

#[cfg(not(target_os = "linux"))]
fn sync_file_system(_file: &File) -> io::Result<bool> {
    Ok(false)
}

/// Writes under a temporary name in the same folder, then renames. Returns the handle of the final file.
fn write_and_rename(path: &Path, contents: &[u8]) -> Result<File> {
    let name = path
        .file_name()
        .with_context(|| format!("`{}` does not name a file", path.display()))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".tmp");
    let temporary = path.with_file_name(hidden);
    let write = || -> io::Result<File> {
        let mut file = File::create(&temporary)?;
        file.write_all(contents)?;
        fs::rename(&temporary, path)?;
        Ok(file)
    };
    write().map_err(|error| explain_io_error("write", path, error))
}

/// Flushes a file's contents and length.
pub(crate) fn sync(file: &File, path: &Path) -> Result<()> {
    file.sync_data()
        .map_err(|error| explain_io_error("sync", path, error))
}

/// The folder of a path; `.` for a bare name.
fn parent_folder(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// A failure for an I/O error, with the path and a hint. `action` is the verb that failed: `read`, `write`, …
pub(crate) fn explain_io_error(action: &str, path: &Path, error: io::Error) -> anyhow::Error {
    use io::ErrorKind;
    let message = format!(
        "cannot {action} `{}`: {}",
        path.display(),
        system_message(&error)
    );
    let failure = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            Failure::environment(message)
                .hint("free some space there, then resume: all recorded results are kept")
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            Failure::environment(message)
                .hint("change the permissions, or choose another folder with `--output`")
        }
        ErrorKind::NotFound => Failure::usage(message).hint("check the path"),
        ErrorKind::NotADirectory | ErrorKind::IsADirectory | ErrorKind::AlreadyExists => {
            Failure::usage(message).hint(
                "something else is at that path: move it, or choose another folder with `--output`",
            )
        }
        _ => Failure::environment(message)
            .hint("the disk or its file system reports a fault: see the system log"),
    };
    failure.into()
}

/// The message of the operating system, in lower case and without the error number.
fn system_message(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(characters).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::FailureKind;

    #[test]
    fn a_batch_writes_every_file() {
        let root = tempfile::tempdir().unwrap();
        for count in [1, MAX_SEPARATE_SYNCS, 3 * MAX_SEPARATE_SYNCS] {
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
    fn io_errors_name_the_path_and_a_remedy() {
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
