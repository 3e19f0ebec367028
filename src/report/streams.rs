//! Standard error and standard output, each behind an `OutputQueue`.
//!
//! Everything on standard error goes through here, with the progress bar: messages, errors and the log. On standard output it is
//! what a run prints, line by line. Commands that print once write to standard output themselves.

use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use indicatif::ProgressBar;

use super::output_queue::OutputQueue;
use crate::base::descriptors::wait_until_ready;

/// Size of the lines that wait for standard error.
const MAX_STDERR_BYTES: usize = 1 << 20;

/// Size of the lines that wait for standard output.
const MAX_STDOUT_BYTES: usize = 32 << 20;

/// How much is written at once. A reader that takes as much is seen to read.
const CHUNK_BYTES: usize = 4096;

/// How many times a thread that has room to write is waited for.
const MAX_WAITS: usize = 20;

/// What the thread of standard error owns: the bar on the terminal.
type Bar = Option<ProgressBar>;

static STDERR: LazyLock<OutputQueue<Bar>> = LazyLock::new(|| {
    OutputQueue::new("stderr", None, MAX_STDERR_BYTES, |dropped| {
        let text = format!("({dropped} lines were not shown: nothing read standard error)\n");
        Box::new(move |bar: &mut Bar| write_stderr(bar, &text))
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
    STDERR.push(text.len(), move |bar| write_stderr(bar, &text));
}

/// Writes a text to standard error that is never dropped.
pub(crate) fn print_to_stderr(text: String) {
    STDERR.push_always(text.len(), move |bar| write_stderr(bar, &text));
}

/// Waits until standard error is written, as long as something reads it: up to `limit` without progress.
pub(crate) fn flush_stderr(limit: Duration) {
    wait_for_reader(&STDERR, libc::STDERR_FILENO, limit);
}

/// Shows a bar below all other texts.
pub(super) fn open_bar(make: impl FnOnce() -> ProgressBar + Send + 'static) {
    STDERR.push_always(0, move |bar| *bar = Some(make()));
}

/// Changes the bar. A later change replaces a change that is not shown yet.
pub(super) fn update_bar(update: impl FnOnce(&ProgressBar) + Send + 'static) {
    STDERR.replace_latest(move |bar| {
        if let Some(bar) = bar {
            update(bar);
        }
    });
}

/// Leaves the bar on the screen as it is.
pub(super) fn close_bar() {
    STDERR.push_always(0, |bar| {
        if let Some(bar) = bar.take() {
            bar.abandon();
        }
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

/// Errors are ignored: nothing is left to report to.
fn write_stderr(bar: &Bar, text: &str) {
    let write = || {
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    };
    match bar {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
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
