//! Every change that kforge makes to a file that must survive a crash, as one function for each system call.
//!
//! An observer can watch the changes: the test of power loss rebuilds from them what a disk may hold after each. Retries nothing
//! and orders nothing; the parent module does.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::OnceLock;

use super::many_syncs::{SyncKind, sync_many};

/// A change of the file system that has just been made.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    CreateFolder(&'a Path),
    /// A new empty file.
    CreateFile(&'a Path),
    /// Bytes at the end of a file.
    Append(&'a Path, &'a [u8]),
    /// A file now has this length, which is smaller than before.
    Shorten(&'a Path, u64),
    /// Everything written to the file is on the disk.
    SyncFile(&'a Path),
    Rename {
        from: &'a Path,
        to: &'a Path,
    },
    Remove(&'a Path),
    /// Every name in the folder is on the disk.
    SyncFolder(&'a Path),
}

type ChangeObserver = Box<dyn Fn(&Change<'_>) + Send + Sync>;

static OBSERVER: OnceLock<ChangeObserver> = OnceLock::new();

/// Calls `observer` after every change that this process makes from now on, on the thread that made it. Only the first call has an
/// effect.
pub fn observe_changes(observer: impl Fn(&Change<'_>) + Send + Sync + 'static) {
    let _ = OBSERVER.set(Box::new(observer));
}

fn report(change: &Change<'_>) {
    if let Some(observer) = OBSERVER.get() {
        observer(change);
    }
}

/// # Errors
/// If the folder exists, or its parent does not.
pub(super) fn create_folder(path: &Path) -> io::Result<()> {
    fs::create_dir(path)?;
    report(&Change::CreateFolder(path));
    Ok(())
}

/// Creates a file, or empties an existing one, and writes into it.
pub(super) fn write_file(path: &Path, contents: &[u8]) -> io::Result<File> {
    let mut file = File::create(path)?;
    report(&Change::CreateFile(path));
    append(&mut file, path, contents)?;
    Ok(file)
}

/// Opens a file for appending. Returns whether it is new.
pub(super) fn open_for_append(path: &Path) -> io::Result<(File, bool)> {
    let mut options = File::options();
    options.read(true).append(true);
    match options.open(path) {
        Ok(file) => Ok((file, false)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = options.create_new(true).open(path)?;
            report(&Change::CreateFile(path));
            Ok((file, true))
        }
        Err(error) => Err(error),
    }
}

pub(super) fn append(file: &mut File, path: &Path, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    report(&Change::Append(path, bytes));
    Ok(())
}

pub(super) fn shorten(file: &File, path: &Path, length: u64) -> io::Result<()> {
    file.set_len(length)?;
    report(&Change::Shorten(path, length));
    Ok(())
}

/// Makes a file's contents and length durable.
pub(super) fn sync_file(file: &File, path: &Path) -> io::Result<()> {
    file.sync_data()?;
    report(&Change::SyncFile(path));
    Ok(())
}

pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    report(&Change::Rename { from, to });
    Ok(())
}

pub(super) fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)?;
    report(&Change::Remove(path));
    Ok(())
}

/// Makes contents and lengths of several files durable.
///
/// # Errors
/// The index of the first file that failed, and why.
pub(super) fn sync_files(files: &[File], paths: &[&Path]) -> Result<(), (usize, io::Error)> {
    sync_many(files, SyncKind::Data)?;
    paths
        .iter()
        .for_each(|path| report(&Change::SyncFile(path)));
    Ok(())
}

/// Makes the names in several folders durable.
///
/// # Errors
/// The index of the first folder that failed, and why.
pub(super) fn sync_folders(paths: &[&Path]) -> Result<(), (usize, io::Error)> {
    let mut folders = Vec::new();
    for (index, path) in paths.iter().enumerate() {
        folders.push(File::open(path).map_err(|error| (index, error))?);
    }
    sync_many(&folders, SyncKind::Names)?;
    paths
        .iter()
        .for_each(|path| report(&Change::SyncFolder(path)));
    Ok(())
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    sync_folders(&[path]).map_err(|(_, error)| error)
}
