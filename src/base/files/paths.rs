//! Names of temporary files, and the folder of a path. Touches no file.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// The name under which a file is written before it is renamed: `.NAME.tmp`, in the same folder. The next write of the file
/// replaces what a crash has left there.
pub(super) fn temporary_name(path: &Path) -> io::Result<PathBuf> {
    let mut name = hidden_name(path)?;
    name.push(".tmp");
    Ok(path.with_file_name(name))
}

/// Like [`temporary_name`], for a file that several processes may write at the same time: `.NAME.RANDOM.tmp`.
pub(super) fn unique_temporary_name(path: &Path) -> io::Result<PathBuf> {
    let mut name = hidden_name(path)?;
    name.push(format!(".{:016x}.tmp", crate::base::random::fresh_seed()));
    Ok(path.with_file_name(name))
}

fn hidden_name(path: &Path) -> io::Result<OsString> {
    let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    Ok(hidden)
}

/// The folder of a path; `.` for a bare name.
pub(crate) fn parent_folder(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}
