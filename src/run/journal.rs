//! Append-only journals: one JSON object per line, synced before anyone acts on it.
//!
//! `Journal` owns the file and the line numbers; `line` defines the format of a line, `journal_scan` reads all lines of a file.
//! Opening a journal drops a torn end and keeps a copy of it. Any other damage is an error with its line number: nothing is
//! repaired. Knows nothing of searches; the caller decides what an event means.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::journal_scan::{JournalPosition, scan, scan_new};
use super::line::{JournalLine, LineFault, LineHead, LineSpan, ParseLine, read_line, write_line};
use crate::base::files;

/// A journal that is open for appending.
pub struct Journal {
    file: File,
    path: PathBuf,
    /// Number of the next line, from 1.
    next_seq: u64,
    /// Length of the file.
    bytes: u64,
    /// Lines that are not written yet.
    pending: Vec<u8>,
    /// A write or a sync failed, so the contents of the disk are unknown.
    broken: bool,
}

impl Journal {
    /// Opens a journal, or creates it, and passes each of its lines to `visit` in order.
    ///
    /// # Errors
    /// A damaged line before the end, a line of a newer format, an I/O error, or an error of `visit`.
    pub fn open<L: ParseLine>(
        path: &Path,
        mut visit: impl FnMut(&LineHead<'_>, L) -> Result<()>,
    ) -> Result<Self> {
        let file = files::open_for_append(path)?;
        let scan = scan(path, &file, &mut visit)?;
        if let Some(torn) = scan.torn {
            save_torn_line(path, &torn, scan.next_seq)?;
            files::shorten_durably(&file, path, scan.whole_bytes)?;
        } else if scan.whole_bytes > 0 {
            // A process that was killed may have appended lines without a sync.
            files::sync(&file, path)?;
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            next_seq: scan.next_seq,
            bytes: scan.whole_bytes,
            pending: Vec::new(),
            broken: false,
        })
    }

    /// Passes each line to `visit` without changing the file. Another process may be writing the journal, so an incomplete last
    /// line is skipped.
    ///
    /// # Errors
    /// See `open`; also if the file does not exist.
    pub(crate) fn read<L: ParseLine>(
        path: &Path,
        mut visit: impl FnMut(&LineHead<'_>, L) -> Result<()>,
    ) -> Result<()> {
        let file =
            File::open(path).map_err(|error| files::explain_io_error("open", path, error))?;
        scan(path, &file, &mut visit).map(|_| ())
    }

    /// Passes the lines after `position` to `visit`, and moves the position behind those that are complete. For a reader that follows a
    /// journal while another process writes it. `file`: the journal, which errors call `path`. See `read`.
    pub(crate) fn read_new<L: ParseLine>(
        path: &Path,
        file: &File,
        position: &mut JournalPosition,
        mut visit: impl FnMut(&LineHead<'_>, L) -> Result<()>,
    ) -> Result<()> {
        scan_new(path, file, position, &mut visit)
    }

    /// Whether the journal has no line yet.
    pub fn is_empty(&self) -> bool {
        self.next_seq == 1
    }

    /// Number of lines, those that are not durable yet included.
    pub(crate) fn line_count(&self) -> u64 {
        self.next_seq - 1
    }

    /// Adds a line, and returns where it will be in the file. It is durable only after `sync`.
    pub fn append(&mut self, event: &impl JournalLine) -> Result<LineSpan> {
        let start = self.pending.len();
        write_line(&mut self.pending, self.next_seq, event)?;
        self.next_seq += 1;
        let offset = self.bytes + start as u64;
        Ok(LineSpan::new(offset, self.pending.len() - start))
    }

    /// Reads a line again that was visited by `open`, or appended and synced.
    ///
    /// # Errors
    /// An I/O error, or a line that has changed since.
    pub(crate) fn read_again<L: ParseLine>(&self, span: LineSpan) -> Result<L> {
        let mut line = vec![0; span.length as usize];
        self.file
            .read_exact_at(&mut line, span.offset)
            .map_err(|error| files::explain_io_error("read", &self.path, error))?;
        match read_line(&line) {
            Ok((_, event)) => Ok(event),
            Err(LineFault::Newer(_) | LineFault::Invalid(_)) => bail!(
                "a line of `{}` at byte {} has changed since it was read",
                self.path.display(),
                span.offset
            ),
        }
    }

    /// Makes all lines durable that were added since the last call. After an error the journal accepts no more lines.
    pub fn sync(&mut self) -> Result<()> {
        if self.broken {
            bail!(
                "`{}` accepts no more lines because a write to it failed",
                self.path.display()
            );
        }
        if self.pending.is_empty() {
            return Ok(());
        }
        self.broken = true;
        files::append_durably(&mut self.file, &self.path, &self.pending)?;
        self.broken = false;
        self.bytes += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }
}

/// Saves a torn line next to the journal, under the number that the line would have had.
fn save_torn_line(path: &Path, line: &[u8], number: u64) -> Result<()> {
    let name = path
        .file_name()
        .with_context(|| format!("`{}` does not name a file", path.display()))?
        .to_string_lossy();
    let mut copy = path.with_file_name(format!("{name}.torn-{number}"));
    let mut attempt = 1;
    while copy.exists() {
        attempt += 1;
        copy = path.with_file_name(format!("{name}.torn-{number}-{attempt}"));
    }
    files::replace_durably(&copy, line)
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
