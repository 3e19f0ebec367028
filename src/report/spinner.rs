//! A line with a spinner for a command that takes a while. Shown on a terminal only, and removed at the end.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::streams;

/// The spinner. Dropping it removes its line.
pub(crate) struct Spinner {
    line: ProgressBar,
}

impl Default for Spinner {
    fn default() -> Self {
        Self::new()
    }
}

impl Spinner {
    /// A spinner that is invisible until it has a message.
    pub(crate) fn new() -> Self {
        let target = if std::io::stderr().is_terminal() && !streams::is_quiet() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let line = ProgressBar::with_draw_target(None, target);
        let style = ProgressStyle::with_template("{spinner} {msg}, {elapsed}");
        line.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        Self { line }
    }

    /// Shows what the command is doing now.
    pub(crate) fn set_message(&self, message: &str) {
        self.line.reset_elapsed();
        self.line.set_message(message.to_owned());
        self.line.enable_steady_tick(Duration::from_millis(200));
    }

    /// Like `set_message`, without a new start of the clock.
    pub(crate) fn update_message(&self, message: &str) {
        self.line.set_message(message.to_owned());
    }

    /// Hides the line while `print` runs.
    pub(crate) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.line.suspend(print)
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.line.finish_and_clear();
    }
}
