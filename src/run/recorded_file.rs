//! Files that a journal line names with their hash: kernels and replies.
//!
//! Reads a file and compares its hash with the recorded one. Repairs nothing.

use std::path::Path;

use anyhow::Result;

use crate::base::{Digest, Failure, files};

/// Reads a file of a run whose hash the journal has recorded. `what`: what the file holds, such as `kernel`.
///
/// # Errors
/// A usage failure if the contents have another hash; else an I/O error.
pub(crate) fn read_recorded(path: &Path, recorded: Digest, what: &str) -> Result<String> {
    let text = files::read(path)?;
    if Digest::of(&text) != recorded {
        return Err(Failure::usage(format!(
            "`{}` is not the {what} that the journal names",
            path.display()
        ))
        .hint(format!(
            "restore the original file: a {what} of a run must not be edited in place"
        ))
        .into());
    }
    Ok(text)
}
