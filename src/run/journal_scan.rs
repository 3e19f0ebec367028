//! Reading a journal: every complete line in order, parsed on all cores.
//!
//! A journal of a long run has gigabytes of verdicts, and parsing is most of the work of a resume. The file is read in blocks. The
//! lines of a block are parsed by several threads, then visited in order by the caller's thread. Memory is limited to one block.
//! Never changes the file; `journal` decides what happens to a torn line.

use std::fs::File;
use std::io::{BufRead, Read, Seek, SeekFrom};
use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::Result;

use super::line::{
    LineFault, LineHead, LineSpan, ParseLine, is_complete_line, read_line, wrong_number,
};
use crate::base::{Failure, files};
use crate::event::SCHEMA;

/// How much is read at once. A longer line makes its block longer.
const BLOCK_BYTES: usize = 16 << 20;

/// The most bytes at the end of a journal that may be torn: more than is ever appended at once.
const MAX_TORN_BYTES: usize = 16 << 20;

/// The smallest block of a file system.
const MIN_DISK_BLOCK_BYTES: usize = 512;

/// The smallest part of a block that is worth a thread, as a share of a full block.
const MIN_PART: usize = 64;

/// Maximum number of threads that parse.
const MAX_SCAN_THREADS: usize = 16;

/// How far a journal could be read.
pub(super) struct JournalScan {
    /// Number of the line after the last complete one.
    pub(super) next_seq: u64,
    /// Length of all complete lines.
    pub(super) whole_bytes: u64,
    /// What follows the complete lines, if it was not written completely.
    pub(super) torn: Option<Vec<u8>>,
}

/// How far a journal was read: its complete lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct JournalPosition {
    lines: u64,
    bytes: u64,
}

impl JournalPosition {
    /// How many lines were read.
    pub(crate) fn lines(self) -> u64 {
        self.lines
    }

    /// Their length.
    pub(crate) fn bytes(self) -> u64 {
        self.bytes
    }
}

/// A line of a block: its length with the newline, and what it says.
type ParsedLine<'b, L> = (usize, Result<(LineHead<'b>, L), LineFault>);

/// Passes each complete line to `visit`, in order.
pub(super) fn scan<L: ParseLine>(
    path: &Path,
    file: &File,
    visit: &mut impl FnMut(&LineHead<'_>, L) -> Result<()>,
) -> Result<JournalScan> {
    scan_blocks(path, Blocks::new(file, BLOCK_BYTES), visit)
}

/// Passes each complete line after `position` to `visit`, in order, and moves the position behind it. An incomplete last line is left for
/// the next call.
pub(super) fn scan_new<L: ParseLine>(
    path: &Path,
    mut file: &File,
    position: &mut JournalPosition,
    visit: &mut impl FnMut(&LineHead<'_>, L) -> Result<()>,
) -> Result<()> {
    let start = *position;
    file.seek(SeekFrom::Start(start.bytes))
        .map_err(|error| files::explain_io_error("read", path, error))?;
    let mut blocks = Blocks::new(file, BLOCK_BYTES);
    blocks.start = start.bytes;
    let scan = JournalScan {
        next_seq: start.lines + 1,
        whole_bytes: start.bytes,
        torn: None,
    };
    let mut visit = |head: &LineHead<'_>, event: L| {
        visit(head, event)?;
        *position = JournalPosition {
            lines: head.seq,
            bytes: head.span.offset + u64::from(head.span.length),
        };
        Ok(())
    };
    scan_on(path, blocks, scan, &mut visit).map(|_| ())
}

fn scan_blocks<L: ParseLine>(
    path: &Path,
    blocks: Blocks<'_>,
    visit: &mut impl FnMut(&LineHead<'_>, L) -> Result<()>,
) -> Result<JournalScan> {
    let start = JournalScan {
        next_seq: 1,
        whole_bytes: 0,
        torn: None,
    };
    scan_on(path, blocks, start, visit)
}

/// `scan`: how far the journal was read before.
fn scan_on<L: ParseLine>(
    path: &Path,
    mut blocks: Blocks<'_>,
    mut scan: JournalScan,
    visit: &mut impl FnMut(&LineHead<'_>, L) -> Result<()>,
) -> Result<JournalScan> {
    let read_error = |error| files::explain_io_error("read", path, error);
    loop {
        let is_end = blocks.fill().map_err(read_error)?;
        let whole = blocks.whole_lines(is_end);
        for (length, line) in parse_lines::<L>(&blocks.bytes[..whole], blocks.size / MIN_PART) {
            let start = scan.block_offset(blocks.start);
            let line = line.and_then(|(mut head, event)| {
                head.span = LineSpan::new(scan.whole_bytes, length);
                wrong_number(&head, scan.next_seq).map_or(Ok((head, event)), Err)
            });
            match line {
                Ok((head, event)) => visit(&head, event)?,
                Err(LineFault::Newer(schema)) => {
                    return Err(newer_schema(path, scan.next_seq, schema).into());
                }
                Err(LineFault::Invalid(reason)) => {
                    let line = &blocks.bytes[start..start + length];
                    let is_last = is_end && start + length == whole;
                    let is_torn = if is_last {
                        !is_complete_line(line)
                    } else {
                        has_unwritten_block(line, scan.whole_bytes)
                    };
                    if is_torn {
                        scan.torn = blocks.read_torn_end(start).map_err(read_error)?;
                    }
                    if scan.torn.is_none() {
                        return Err(damaged_line(path, scan.next_seq, &reason).into());
                    }
                    return Ok(scan);
                }
            }
            scan.next_seq += 1;
            scan.whole_bytes += length as u64;
        }
        if is_end {
            return Ok(scan);
        }
        blocks.remove(whole);
    }
}

impl JournalScan {
    /// Where the next line starts in a block that starts at `block_start` of the file.
    fn block_offset(&self, block_start: u64) -> usize {
        // A block is in memory, so the difference fits.
        (self.whole_bytes - block_start) as usize
    }
}

/// A file that is read block by block.
struct Blocks<'f> {
    file: &'f File,
    bytes: Vec<u8>,
    /// Where `bytes` starts in the file.
    start: u64,
    /// Size of a block.
    size: usize,
    /// Number of bytes after which `fill` stops.
    wanted: usize,
}

impl<'f> Blocks<'f> {
    fn new(file: &'f File, size: usize) -> Self {
        Self {
            file,
            bytes: Vec::new(),
            start: 0,
            size,
            wanted: size,
        }
    }

    /// Reads until the block is full and has the end of a line. Returns true at the end of the file.
    fn fill(&mut self) -> std::io::Result<bool> {
        loop {
            // One byte more than the block, so that a block that ends where the file ends is known to be the last one.
            let missing = (self.wanted + 1).saturating_sub(self.bytes.len()) as u64;
            let read = self.file.take(missing).read_to_end(&mut self.bytes)? as u64;
            if read < missing {
                return Ok(true);
            }
            if self.bytes.contains(&b'\n') {
                return Ok(false);
            }
            self.wanted *= 2;
        }
    }

    /// Length of the lines to parse: those that end in the block, and at the end of the file also a last line without a newline.
    fn whole_lines(&self, is_end: bool) -> usize {
        if is_end {
            return self.bytes.len();
        }
        let last = self.bytes.iter().rposition(|byte| *byte == b'\n');
        last.map_or(0, |last| last + 1)
    }

    /// Everything from `start` of the block to the end of the file. `None` if it is more than is ever appended at once.
    ///
    /// After a loss of power, blocks of the last append may be missing in its middle too.
    fn read_torn_end(&self, start: usize) -> std::io::Result<Option<Vec<u8>>> {
        let mut torn = self.bytes[start..].to_vec();
        let missing = (MAX_TORN_BYTES + 1).saturating_sub(torn.len());
        let mut rest = self.file.take(missing as u64);
        rest.read_to_end(&mut torn)?;
        Ok((torn.len() <= MAX_TORN_BYTES).then_some(torn))
    }

    /// Drops the lines that were visited.
    fn remove(&mut self, length: usize) {
        self.bytes.drain(..length);
        self.start += length as u64;
        self.wanted = self.size;
    }
}

/// Parses all lines of a block. After a line that cannot be parsed the rest of its part is missing.
fn parse_lines<L: ParseLine>(block: &[u8], min_part: usize) -> Vec<ParsedLine<'_, L>> {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = cores
        .min(MAX_SCAN_THREADS)
        .min(block.len() / min_part.max(1))
        .max(1);
    let parts = split_at_lines(block, threads);
    if let [part] = parts[..] {
        return parse_part(part);
    }
    std::thread::scope(|scope| {
        let parsing: Vec<_> = parts
            .into_iter()
            .map(|part| scope.spawn(|| parse_part::<L>(part)))
            .collect();
        let parts = parsing.into_iter().map(|part| match part.join() {
            Ok(lines) => lines,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        parts.flatten().collect()
    })
}

/// Splits a block into at most `count` parts of about the same length, each of whole lines.
fn split_at_lines(block: &[u8], count: usize) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let mut rest = block;
    for left in (1..=count).rev() {
        let mut tail = &rest[rest.len() / left..];
        if left == 1 {
            tail = &[];
        } else {
            skip_line(&mut tail);
        }
        let (part, after) = rest.split_at(rest.len() - tail.len());
        parts.push(part);
        rest = after;
    }
    parts
}

fn parse_part<L: ParseLine>(part: &[u8]) -> Vec<ParsedLine<'_, L>> {
    let mut lines = Vec::new();
    let mut rest = part;
    while !rest.is_empty() {
        let mut after = rest;
        skip_line(&mut after);
        let (line, after) = rest.split_at(rest.len() - after.len());
        let parsed = read_line::<L>(line);
        let is_faulty = parsed.is_err();
        lines.push((line.len(), parsed));
        if is_faulty {
            break;
        }
        rest = after;
    }
    lines
}

/// Moves to the start of the next line.
fn skip_line(rest: &mut &[u8]) {
    // Reading from memory cannot fail.
    let _ = rest.skip_until(b'\n');
}

/// Whether a line has a block that never reached the disk: zeros from the line's start or a block's start to a block's end.
/// `offset`: where the line starts in the file. The last line that is durable ends before such a block.
fn has_unwritten_block(line: &[u8], offset: u64) -> bool {
    let Some(first) = line.iter().position(|byte| *byte == 0) else {
        return false;
    };
    let zeros = line[first..].iter().take_while(|byte| **byte == 0).count();
    let is_block_edge =
        |position: usize| (offset + position as u64).is_multiple_of(MIN_DISK_BLOCK_BYTES as u64);
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

#[cfg(test)]
mod tests {
    use super::super::line::write_line;
    use super::*;
    use crate::event::{Event, Failed, FailedReason};

    /// A journal of `count` lines of different lengths.
    fn journal(count: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for step in 1..=count {
            let detail = "x".repeat(step as usize * 37 % 500);
            let event = Event::Failed(Failed::new(step, FailedReason::NoOp, detail));
            write_line(&mut bytes, step, &event).unwrap();
        }
        bytes
    }

    /// The steps and the lines of a journal that is read in blocks of `size` bytes, and how far it was read.
    fn scan_in_blocks(bytes: &[u8], size: usize) -> (Vec<u64>, Vec<Vec<u8>>, Result<JournalScan>) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("events.jsonl");
        std::fs::write(&path, bytes).unwrap();
        let file = File::open(&path).unwrap();
        let (mut steps, mut lines) = (Vec::new(), Vec::new());
        let mut visit = |head: &LineHead<'_>, event: Event| {
            let start = head.span.offset as usize;
            lines.push(bytes[start..start + head.span.length as usize].to_vec());
            steps.extend(event.step());
            Ok(())
        };
        let scan = scan_blocks(&path, Blocks::new(&file, size), &mut visit);
        (steps, lines, scan)
    }

    #[test]
    fn every_line_is_visited_in_order_at_any_block_size() {
        let bytes = journal(40);
        for size in [
            1,
            7,
            100,
            1000,
            1024,
            5000,
            bytes.len() - 1,
            bytes.len(),
            1 << 20,
        ] {
            let (steps, lines, scan) = scan_in_blocks(&bytes, size);
            let scan = scan.unwrap();
            assert_eq!(steps, (1..=40).collect::<Vec<_>>(), "blocks of {size}");
            assert_eq!(lines.concat(), bytes, "blocks of {size}");
            assert_eq!((scan.next_seq, scan.whole_bytes), (41, bytes.len() as u64));
            assert!(scan.torn.is_none());
        }
    }

    #[test]
    fn damage_is_reported_with_its_line_and_a_torn_end_is_returned_at_any_block_size() {
        let bytes = journal(40);
        let starts: Vec<usize> = std::iter::once(0)
            .chain((1..bytes.len()).filter(|index| bytes[index - 1] == b'\n'))
            .collect();
        for size in [1, 100, 1000, 5000, 1 << 20] {
            for line in [1, 2, 20, 39, 40] {
                let mut damaged = bytes.clone();
                damaged[starts[line - 1]] = b'[';
                let (steps, _, scan) = scan_in_blocks(&damaged, size);
                assert_eq!(steps.len(), line - 1, "line {line}, blocks of {size}");
                // A last line that is no JSON may be a torn write.
                if line == 40 {
                    assert_eq!(scan.unwrap().torn.as_deref(), Some(&damaged[starts[39]..]));
                    continue;
                }
                let error = scan.err().unwrap().to_string();
                assert!(error.contains(&format!("events.jsonl:{line}: ")), "{error}");
            }
            let torn = &bytes[..bytes.len() - 9];
            let (steps, _, scan) = scan_in_blocks(torn, size);
            assert_eq!(steps.len(), 39);
            assert_eq!(scan.unwrap().torn.as_deref(), Some(&torn[starts[39]..]));
        }
    }

    #[test]
    fn growing_journal_is_read_bit_by_bit_and_every_line_once() {
        let bytes = journal(40);
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("events.jsonl");
        for growth in [1, 50, 333, 2000, bytes.len()] {
            let (mut position, mut steps) = (JournalPosition::default(), Vec::new());
            for end in (growth..bytes.len()).step_by(growth).chain([bytes.len()]) {
                std::fs::write(&path, &bytes[..end]).unwrap();
                let file = File::open(&path).unwrap();
                let mut visit = |_: &LineHead<'_>, event: Event| {
                    steps.extend(event.step());
                    Ok(())
                };
                scan_new(&path, &file, &mut position, &mut visit).unwrap();
                let whole = bytes[..end].iter().rposition(|byte| *byte == b'\n');
                assert_eq!(position.bytes(), whole.map_or(0, |at| at as u64 + 1));
            }
            assert_eq!(
                steps,
                (1..=40).collect::<Vec<_>>(),
                "{growth} bytes at once"
            );
            assert_eq!(position.lines(), 40);
        }
    }

    /// A line of which only the head is parsed.
    struct HeadOnly;

    impl ParseLine for HeadOnly {
        fn parse(_: &str, _: &str) -> Option<serde_json::Result<Self>> {
            Some(Ok(Self))
        }
    }

    #[test]
    fn lines_that_a_lost_block_joins_are_torn_for_every_reader() {
        let bytes = journal(40);
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("events.jsonl");
        for block in 1..bytes.len() / MIN_DISK_BLOCK_BYTES {
            let mut lost = bytes.clone();
            let start = block * MIN_DISK_BLOCK_BYTES;
            lost[start..start + MIN_DISK_BLOCK_BYTES].fill(0);
            std::fs::write(&path, &lost).unwrap();
            let file = File::open(&path).unwrap();
            let scan = scan(&path, &file, &mut |_, HeadOnly| Ok(())).unwrap();
            let whole = bytes[..start].iter().rposition(|byte| *byte == b'\n');
            assert_eq!(scan.whole_bytes, whole.map_or(0, |at| at as u64 + 1));
            assert!(scan.torn.is_some());
        }
    }

    #[test]
    fn parts_are_whole_lines_and_lose_nothing() {
        let block = b"aa\nb\n\ncccccccccccc\nd\nee";
        for count in 1..12 {
            let parts = split_at_lines(block, count);
            assert_eq!(parts.concat(), block, "{count}");
            let inner = &parts[..parts.len() - 1];
            let ends_at_line = |part: &&[u8]| part.is_empty() || part.ends_with(b"\n");
            // The last line has no newline, so the part with it is followed by empty ones only.
            let last = inner.iter().rposition(|part| !part.is_empty());
            assert!(
                inner[..last.unwrap_or(0)].iter().all(ends_at_line),
                "{count}"
            );
        }
    }
}
