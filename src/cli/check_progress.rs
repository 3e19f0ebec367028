//! Shows how far `kforge tasks check` is: a spinner on a terminal, else a line on standard error every few seconds.
//!
//! Shows and decides nothing else.

use std::cell::Cell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use crate::eval::AdmissionProgress;
use crate::report::{self, Spinner};

/// The time between two lines where standard error is not a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

pub(super) struct CheckProgress {
    spinner: Spinner,
    tasks: usize,
    /// Number of tasks that are finished.
    finished: Cell<usize>,
    last_line: Cell<Instant>,
    is_terminal: bool,
}

impl CheckProgress {
    pub(super) fn new(tasks: usize) -> Self {
        Self {
            spinner: Spinner::new(),
            tasks,
            finished: Cell::new(0),
            last_line: Cell::new(Instant::now()),
            is_terminal: std::io::stderr().is_terminal(),
        }
    }

    /// A task begins: its kernels are compiled.
    pub(super) fn start(&self, task: &str) {
        let position = self.position();
        self.spinner
            .set_message(&format!("{task}{position}: compiling its kernels"));
    }

    /// A part of a test begins.
    pub(super) fn show(&self, task: &str, step: &AdmissionProgress<'_>) {
        let AdmissionProgress {
            done,
            all,
            subject,
            case,
        } = step;
        let position = self.position();
        let text = format!("{task}{position}: {done} of {all} tests done, {subject} on {case}");
        if self.is_terminal {
            self.spinner.update_message(&text);
        } else if self.last_line.get().elapsed() >= LINE_INTERVAL {
            self.last_line.set(Instant::now());
            report::log_to_stderr(format!("{text}\n"));
        }
    }

    pub(super) fn finish_task(&self) {
        self.finished.set(self.finished.get() + 1);
        self.last_line.set(Instant::now());
    }

    /// Hides the spinner while `print` runs.
    pub(super) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.spinner.suspend(print)
    }

    /// Which task of several this is.
    fn position(&self) -> String {
        if self.tasks < 2 {
            return String::new();
        }
        format!(" ({}/{})", self.finished.get() + 1, self.tasks)
    }
}
