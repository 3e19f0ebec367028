//! Append-only journals: one JSON object per line, synced before anyone acts on it.
//!
//! `Journal` owns the file and the line numbers; `line` defines the format of a line. Opening a journal drops a torn end
//! and keeps a copy of it. Any other damage is an error with its line number: nothing is repaired.
//! Knows nothing of searches; the caller decides what an event means.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::line::{JournalLine, LineFault, LineHead, is_complete_line, read_line, write_line};
use crate::base::{Failure, files};
use crate::event::SCHEMA;

/// The most bytes at the end of a journal that may be torn: more than is ever appended at once.
const MAX_TORN_BYTES: usize = 16 << 20;

/// The smallest block of a file system.
const MIN_BLOCK_BYTES: usize = 512;

/// A journal that is open for appending.
pub struct Journal {
    file: File,
    path: PathBuf,
    /// Number of the next line, from 1.
    next_seq: u64,
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
    pub fn open<L: JournalLine>(
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
            pending: Vec::new(),
            broken: false,
        })
    }

    /// Passes each line to `visit` without changing the file. Another process may be writing the journal, so an incomplete last
    /// line is skipped.
    ///
    /// # Errors
    /// As for `open`; also if the file does not exist.
    pub(crate) fn read<L: JournalLine>(
        path: &Path,
        mut visit: impl FnMut(&LineHead<'_>, L) -> Result<()>,
    ) -> Result<()> {
        let file =
            File::open(path).map_err(|error| files::explain_io_error("open", path, error))?;
        scan(path, &file, &mut visit).map(|_| ())
    }

    /// Whether the journal has no line yet.
    pub fn is_empty(&self) -> bool {
        self.next_seq == 1
    }

    /// Number of lines, those that are not durable yet included.
    pub(crate) fn lines(&self) -> u64 {
        self.next_seq - 1
    }

    /// Adds a line. It is durable only after `sync`.
    pub fn append(&mut self, event: &impl JournalLine) -> Result<()> {
        write_line(&mut self.pending, self.next_seq, event)?;
        self.next_seq += 1;
        Ok(())
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
        self.pending.clear();
        Ok(())
    }
}

/// How far a journal could be read.
struct JournalScan {
    /// Number of the line after the last complete one.
    next_seq: u64,
    /// Length of all complete lines.
    whole_bytes: u64,
    /// What follows the complete lines, if it was not written completely.
    torn: Option<Vec<u8>>,
}

/// Passes each complete line to `visit`, in order.
fn scan<L: JournalLine>(
    path: &Path,
    file: &File,
    visit: &mut impl FnMut(&LineHead<'_>, L) -> Result<()>,
) -> Result<JournalScan> {
    let fault = |error: std::io::Error| files::explain_io_error("read", path, error);
    let mut reader = BufReader::with_capacity(1 << 18, file);
    let mut line = Vec::new();
    let mut scan = JournalScan {
        next_seq: 1,
        whole_bytes: 0,
        torn: None,
    };
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line).map_err(fault)?;
        if length == 0 {
            return Ok(scan);
        }
        match read_line::<L>(&line, scan.next_seq) {
            Ok((head, event)) => visit(&head, event)?,
            Err(LineFault::Newer(schema)) => {
                return Err(newer_schema(path, scan.next_seq, schema).into());
            }
            Err(LineFault::Invalid(reason)) => {
                let is_last = reader.fill_buf().map_err(fault)?.is_empty();
                let is_torn = if is_last {
                    !is_complete_line(&line)
                } else {
                    has_unwritten_block(&line, scan.whole_bytes)
                };
                if is_torn {
                    // After a loss of power, blocks of the last append may be missing in its middle too.
                    let limit = MAX_TORN_BYTES - line.len().min(MAX_TORN_BYTES);
                    let mut rest = reader.by_ref().take(limit as u64);
                    rest.read_to_end(&mut line).map_err(fault)?;
                }
                if !is_torn || !reader.fill_buf().map_err(fault)?.is_empty() {
                    return Err(damaged_line(path, scan.next_seq, &reason).into());
                }
                scan.torn = Some(line);
                return Ok(scan);
            }
        }
        scan.next_seq += 1;
        scan.whole_bytes += length as u64;
    }
}

/// Whether a line has a block that never reached the disk: zeros from the line's start or a block's start to a block's end.
/// `offset`: where the line starts in the file. The last line that is durable ends before such a block.
fn has_unwritten_block(line: &[u8], offset: u64) -> bool {
    let Some(first) = line.iter().position(|byte| *byte == 0) else {
        return false;
    };
    let zeros = line[first..].iter().take_while(|byte| **byte == 0).count();
    let is_block_edge =
        |position: usize| (offset + position as u64).is_multiple_of(MIN_BLOCK_BYTES as u64);
    (first == 0 || is_block_edge(first)) && is_block_edge(first + zeros)
}

fn newer_schema(path: &Path, line: u64, schema: u32) -> Failure {
    Failure::usage(format!(
        "{}:{line}: written by a newer kforge (schema {schema}; this version reads up to {SCHEMA})",
        path.display()
    ))
    .hint("use the kforge version that wrote the journal, or a later one")
}

/// The error for a line that was changed after it was written.
pub(crate) fn damaged_line(path: &Path, line: u64, reason: &str) -> Failure {
    Failure::usage(format!("{}:{line}: {reason}", path.display())).hint(
        "the journal was edited or damaged: restore a backup copy; kforge has changed nothing",
    )
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
