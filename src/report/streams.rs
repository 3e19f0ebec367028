//! Standard error and standard output, each behind an `OutputQueue`.
//!
//! Everything on standard error goes through here, with the live view of a run: messages, errors and the log. On standard output it
//! is what a run prints, line by line. Commands that print once write to standard output themselves.

use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::output_queue::OutputQueue;
use super::terminal_block::{TerminalBlock, TerminalSize};
use crate::base::descriptors::wait_until_ready;

/// Size of the lines that wait for standard error.
const MAX_STDERR_BYTES: usize = 1 << 20;

/// Size of the lines that wait for standard output.
const MAX_STDOUT_BYTES: usize = 32 << 20;

/// How much is written at once. A reader that takes as much is seen to read.
const CHUNK_BYTES: usize = 4096;

/// How many times a thread that has room to write is waited for.
const MAX_WAITS: usize = 20;

/// The shortest time between two drawings of the block.
const MIN_DRAW_INTERVAL: Duration = Duration::from_millis(100);

/// Makes the lines of a block for the size that the terminal has.
type MakeLines = Box<dyn Fn(TerminalSize) -> Vec<String> + Send>;

/// What the thread of standard error owns: the block at the bottom of the terminal.
#[derive(Default)]
struct LiveBlock {
    /// `None` if there is no block.
    make_lines: Option<MakeLines>,
    block: TerminalBlock,
    last_drawn: Option<Instant>,
}

static STDERR: LazyLock<OutputQueue<LiveBlock>> = LazyLock::new(|| {
    let owned = LiveBlock::default();
    OutputQueue::new("stderr", owned, MAX_STDERR_BYTES, |dropped| {
        let text = format!("({dropped} lines were not shown: nothing read standard error)\n");
        Box::new(move |live: &mut LiveBlock| live.write_above(&text))
    })
});

static STDOUT: LazyLock<OutputQueue<()>> = LazyLock::new(|| {
    OutputQueue::new("stdout", (), MAX_STDOUT_BYTES, |dropped| {
        let text = format!("{{\"event\":\"output_dropped\",\"lines\":{dropped}}}\n");
        Box::new(move |_: &mut ()| write_stdout(text.as_bytes()))
    })
});

/// The first error of standard output. Nothing more is written after it.
static STDOUT_ERROR: Mutex<Option<std::io::Error>> = Mutex::new(None);

/// Whether progress is left out (`--quiet`).
static IS_QUIET: AtomicBool = AtomicBool::new(false);

/// How printing to standard output ended.
#[derive(Debug)]
pub(crate) enum StdoutEnd {
    /// Everything was written, or the reader did not want the rest.
    Done,
    /// Nothing was read for the whole limit.
    NotRead,
    /// It cannot be written, because a disk is full for example.
    Failed(std::io::Error),
}

/// Leaves out all progress from now on. Problems are still shown.
pub(crate) fn be_quiet() {
    IS_QUIET.store(true, Ordering::Relaxed);
}

/// Whether progress is left out.
pub(crate) fn is_quiet() -> bool {
    IS_QUIET.load(Ordering::Relaxed)
}

/// Writes progress to standard error. It is dropped if nothing reads the texts before it, and with `--quiet`.
pub(crate) fn log_to_stderr(text: String) {
    if !is_quiet() {
        problem_to_stderr(text);
    }
}

/// Writes a line of the log to standard error. It is dropped if nothing reads the texts before it.
pub(crate) fn problem_to_stderr(text: String) {
    STDERR.push(text.len(), move |live| live.write_above(&text));
}

/// Writes a text to standard error that is never dropped.
pub(crate) fn print_to_stderr(text: String) {
    STDERR.push_always(text.len(), move |live| live.write_above(&text));
}

/// Waits until standard error is written, as long as something reads it: up to `limit` without progress.
pub(crate) fn flush_stderr(limit: Duration) {
    wait_for_reader(&STDERR, libc::STDERR_FILENO, limit);
}

/// Shows a block below all other texts, or changes it. A later change replaces a change that is not shown yet.
pub(super) fn show_block(make_lines: impl Fn(TerminalSize) -> Vec<String> + Send + 'static) {
    STDERR.replace_latest(move |live| {
        live.make_lines = Some(Box::new(make_lines));
        let is_due = |last: Instant| last.elapsed() >= MIN_DRAW_INTERVAL;
        if live.last_drawn.is_none_or(is_due) {
            live.draw("");
        }
    });
}

/// Leaves the block on the screen as it is. Texts that follow come below it.
pub(super) fn close_block() {
    STDERR.push_always(0, |live| {
        live.draw("");
        *live = LiveBlock::default();
    });
}

/// Writes a line to standard output. It is dropped if nothing reads the lines before it; a line then says how many were.
pub(super) fn line_to_stdout(mut line: String) {
    line.push('\n');
    STDOUT.push(line.len(), move |()| write_stdout(line.as_bytes()));
}

/// Writes results to standard output and waits for the end of all output, as long as something reads it: up to `limit` without
/// progress.
pub(crate) fn finish_stdout(results: &str, limit: Duration) -> StdoutEnd {
    for chunk in results.as_bytes().chunks(CHUNK_BYTES) {
        let chunk = chunk.to_vec();
        STDOUT.push_always(chunk.len(), move |()| write_stdout(&chunk));
    }
    if !wait_for_reader(&STDOUT, libc::STDOUT_FILENO, limit) {
        return StdoutEnd::NotRead;
    }
    let error = STDOUT_ERROR.lock().unwrap_or_else(PoisonError::into_inner);
    match error.as_ref() {
        None => StdoutEnd::Done,
        Some(error) if error.kind() == ErrorKind::BrokenPipe => StdoutEnd::Done,
        Some(error) => StdoutEnd::Failed(match error.raw_os_error() {
            Some(code) => std::io::Error::from_raw_os_error(code),
            None => error.kind().into(),
        }),
    }
}

/// Waits until a queue is empty. Returns false if nothing was written for `limit` and the descriptor has no room. On a busy machine the
/// thread may only have had no time yet: then the wait is longer.
fn wait_for_reader<T: Send + 'static>(
    queue: &OutputQueue<T>,
    descriptor: libc::c_int,
    limit: Duration,
) -> bool {
    (0..MAX_WAITS).any(|_| {
        queue.wait_until_empty(limit)
            || !wait_until_ready(descriptor, libc::POLLOUT, Duration::ZERO)
    }) && queue.wait_until_empty(Duration::ZERO)
}

impl LiveBlock {
    /// Writes a text that stays on the screen.
    fn write_above(&mut self, text: &str) {
        if self.make_lines.is_some() {
            self.draw(text);
        } else {
            write_stderr(text);
        }
    }

    /// Draws the block below `above`, in one write, so that it does not flicker.
    fn draw(&mut self, above: &str) {
        let size = terminal_size();
        let lines = self.make_lines.as_ref().map(|make| make(size));
        let text = self
            .block
            .draw(above, &lines.unwrap_or_default(), size.columns);
        write_stderr(&text);
        self.last_drawn = Some(Instant::now());
    }
}

/// The size of the terminal that standard error is.
fn terminal_size() -> TerminalSize {
    let size = console::Term::stderr().size_checked();
    let (rows, columns) = size.unwrap_or((24, 80));
    TerminalSize {
        columns: usize::from(columns),
        rows: usize::from(rows),
    }
}

/// Errors are ignored: nothing is left to report to.
fn write_stderr(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

fn write_stdout(bytes: &[u8]) {
    // Not locked while it writes: the end of the command looks at it.
    let has_failed = STDOUT_ERROR.lock().is_ok_and(|error| error.is_some());
    if has_failed {
        return;
    }
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    if let Err(failed) = written {
        *STDOUT_ERROR.lock().unwrap_or_else(PoisonError::into_inner) = Some(failed);
    }
}
