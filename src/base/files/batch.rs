//! Files that become durable together.
//!
//! The order is that of the parent module, for all files at once: sync the files, rename them, sync the folders. The syncs of one
//! phase run on several threads, because a file system combines syncs that arrive at the same time into one write of its own
//! journal.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};

use super::disk;
use super::io_error::{explain_io_error, vanished_folder};
use super::parallel;
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
        let temporary = temporary_name(&path)?;
        let file = disk::write_file(&temporary, contents).map_err(|error| {
            // A full disk has no room for half a file.
            let _ = disk::remove(&temporary);
            match error.kind() {
                io::ErrorKind::NotFound => vanished_folder(parent_folder(&path)),
                _ => explain_io_error("write", &path, error),
            }
        })?;
        // A file that is written twice was emptied and written again under the same temporary name.
        self.written.insert(path, WrittenFile { file, temporary });
        Ok(())
    }

    /// As [`WriteBatch::write`], for a copy of what a journal has: after a loss of power it is whole or missing.
    pub(crate) fn write_copy(&mut self, path: PathBuf, contents: &[u8]) -> Result<()> {
        self.write_temporary(path, contents)
    }

    /// As [`WriteBatch::write`], into a folder that may not exist yet, in a folder that may not exist yet. The folder above must
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
            created.map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => vanished_folder(folder),
                _ => explain_io_error("create", folder, error),
            })?;
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
        let written: Vec<_> = std::mem::take(&mut self.written).into_iter().collect();
        let written = Arc::new(written);
        parallel::for_each(&written, |(path, written): &(PathBuf, WrittenFile)| {
            disk::sync_file(&written.file, &written.temporary)
                .map_err(|error| explain_io_error("sync", path, error))
        })?;
        for (path, written) in &*written {
            disk::rename(&written.temporary, path)
                .map_err(|error| explain_io_error("write", path, error))?;
        }
        let folders: Vec<_> = std::mem::take(&mut self.folders).into_iter().collect();
        parallel::for_each(&Arc::new(folders), |folder: &PathBuf| {
            disk::sync_folder(folder).map_err(|error| explain_io_error("sync", folder, error))
        })?;
        self.broken = false;
        Ok(())
    }
}
