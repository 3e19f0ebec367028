//! Files that become durable together.
//!
//! The order is that of the parent module, for all files at once: sync the files, rename them, sync the folders.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::disk;
use super::io_error::{explain_io_error, vanished};
use super::paths::{parent_folder, temporary_name};

/// The most files that a batch keeps open. Many systems allow a process 1,024.
const MAX_OPEN_FILES: usize = 256;

/// Files that become durable together. They appear under their names only in `sync`; until then a reader sees the old contents.
#[derive(Default)]
pub(crate) struct WriteBatch {
    /// By the final path.
    written: BTreeMap<PathBuf, WrittenFile>,
    /// Folders with new names in them.
    folders: BTreeSet<PathBuf>,
    /// A sync failed, so the contents of the disk are unknown.
    broken: bool,
}

struct WrittenFile {
    file: File,
    temporary: PathBuf,
}

impl WriteBatch {
    /// Writes a file; its folder must exist. The file has its name, and is durable, only after `sync`.
    pub(crate) fn write(&mut self, path: PathBuf, contents: &[u8]) -> Result<()> {
        let folder = parent_folder(&path).to_owned();
        self.write_temporary(path, contents)?;
        self.folders.insert(folder);
        Ok(())
    }

    fn write_temporary(&mut self, path: PathBuf, contents: &[u8]) -> Result<()> {
        if self.written.len() >= MAX_OPEN_FILES {
            self.sync()?;
        }
        let temporary =
            temporary_name(&path).map_err(|error| explain_io_error("write", &path, error))?;
        let file = disk::write_file(&temporary, contents).map_err(|error| {
            // A full disk has no room for half a file.
            let _ = disk::remove(&temporary);
            explain("write", &path, error)
        })?;
        // A file that is written twice was emptied and written again under the same temporary name.
        self.written.insert(path, WrittenFile { file, temporary });
        Ok(())
    }

    /// Like [`WriteBatch::write`], for a copy of what a journal has: after a loss of power it is whole or missing.
    pub(crate) fn write_copy(&mut self, path: PathBuf, contents: &[u8]) -> Result<()> {
        self.write_temporary(path, contents)
    }

    /// Like [`WriteBatch::write`], but the folder and the folder above it may not exist yet. The folder above these two must
    /// exist: a folder that vanished is not made again.
    pub(crate) fn write_in_new_folder(&mut self, path: PathBuf, contents: &[u8]) -> Result<()> {
        let folder = parent_folder(&path);
        if !self.folders.contains(folder) {
            let is_missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
            let created = match self.create_one_folder(folder) {
                Err(error) if is_missing(&error) => self
                    .create_one_folder(parent_folder(folder))
                    .and_then(|()| self.create_one_folder(folder)),
                created => created,
            };
            created.map_err(|error| explain("create", folder, error))?;
        }
        self.write(path, contents)
    }

    /// Creates a folder and its parents, if they do not exist. Their names are durable only after `sync`.
    pub(crate) fn create_folder(&mut self, folder: &Path) -> Result<()> {
        match self.create_one_folder(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.create_folder(parent_folder(folder))?;
                self.create_one_folder(folder)
            }
            created => created,
        }
        .map_err(|error| explain_io_error("create", folder, error))
    }

    fn create_one_folder(&mut self, folder: &Path) -> io::Result<()> {
        match disk::create_folder(folder) {
            // A process that was killed may have created it without making its name durable.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
            created => created?,
        }
        self.folders.insert(parent_folder(folder).to_owned());
        Ok(())
    }

    /// Makes everything written so far durable and visible.
    ///
    /// # Errors
    /// The first error of any file. The batch then accepts no more files: a failed sync cannot be repeated.
    pub(crate) fn sync(&mut self) -> Result<()> {
        if self.broken {
            bail!("no more files are written, because an earlier file could not be made durable");
        }
        self.broken = true;
        let (mut files, mut renames) = (Vec::new(), Vec::new());
        for (path, written) in std::mem::take(&mut self.written) {
            files.push(written.file);
            renames.push((written.temporary, path));
        }
        let temporaries: Vec<_> = renames.iter().map(|(from, _)| from.as_path()).collect();
        disk::sync_files(&files, &temporaries)
            .map_err(|(index, error)| explain("sync", &renames[index].1, error))?;
        for (temporary, path) in &renames {
            disk::rename(temporary, path).map_err(|error| explain("write", path, error))?;
        }
        let folders = std::mem::take(&mut self.folders);
        let folders: Vec<_> = folders.iter().map(PathBuf::as_path).collect();
        disk::sync_folders(&folders)
            .map_err(|(index, error)| explain("sync", folders[index], error))?;
        self.broken = false;
        Ok(())
    }
}

/// The folders of a batch existed when it was made, so a missing folder has vanished.
fn explain(action: &str, path: &Path, error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::NotFound => vanished(parent_folder(path)),
        _ => explain_io_error(action, path, error),
    }
}
