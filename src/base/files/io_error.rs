//! Turns an I/O error into a failure with a path and a hint.

use std::io;
use std::path::Path;

use crate::base::Failure;

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

/// The failure for a folder or file that existed while kforge worked in it, and does not any more.
pub(super) fn vanished(path: &Path) -> anyhow::Error {
    Failure::environment(format!(
        "`{}` was moved or deleted while kforge was working there",
        path.display()
    ))
    .hint("put it back where it was, then resume")
    .into()
}

/// Whether a file lock failed because the file system has none.
pub(crate) fn has_no_locks(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOLCK | libc::ENOSYS | libc::EOPNOTSUPP)
    )
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
