//! Standard output and standard error: results in the requested form, errors, colours, the log.
//!
//! Results go to standard output, everything else to standard error. Never decides what is printed.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::ValueEnum;

use crate::base::Failure;
use crate::base::descriptors::write_stderr_unless_blocked;
use crate::report::{self, StdoutEnd};

/// The form of results on standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Text for people.
    #[default]
    Human,
    /// One JSON document at the end.
    Json,
    /// One JSON line for each result or event, as it happens.
    Jsonl,
}

/// How long a command waits for a reader of standard error that reads nothing.
pub(super) const STDERR_WAIT: Duration = Duration::from_millis(500);

/// Standard output was closed by its reader. Differs from a closed pipe of a worker, which is an error.
#[derive(Debug, thiserror::Error)]
#[error("standard output is closed")]
pub(super) struct StdoutClosed;

/// Prints a result.
///
/// # Errors
/// [`StdoutClosed`] where the reader has closed it; an environment failure where the file or disk cannot be written.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(StdoutClosed.into()),
        Err(error) => Err(
            Failure::environment(format!("failed to print the results: {error}"))
                .hint("check the file or disk that standard output goes to")
                .into(),
        ),
    }
}

/// Prints the results of a run, after all earlier output. A reader that reads nothing is waited for at most `wait`, because the results
/// are on disk too. A reader that has closed standard output is no error.
///
/// # Errors
/// An environment failure where the results cannot be written, or nothing reads them.
pub(super) fn print_run_results(
    results: &str,
    directory: &Path,
    wait: Duration,
) -> anyhow::Result<()> {
    // On a terminal, progress comes before results.
    report::flush_stderr(wait.min(STDERR_WAIT));
    let place = || format!("the results are in `{}`", directory.display());
    match report::finish_stdout(results, wait) {
        StdoutEnd::Done => Ok(()),
        StdoutEnd::NotRead => Err(Failure::environment(format!(
            "failed to print the results: nothing read standard output for {} s",
            wait.as_secs_f64()
        ))
        .hint(place())
        .into()),
        StdoutEnd::Failed(error) => Err(Failure::environment(format!(
            "failed to print the results: {error}"
        ))
        .hint(format!(
            "check the file or disk that standard output goes to; {}",
            place()
        ))
        .into()),
    }
}

/// Prints results as one JSON document.
pub(super) fn print_json(results: &impl serde::Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(results)?))
}

/// Prints each result as a line of JSON.
pub(super) fn print_json_lines<T: serde::Serialize>(
    results: impl IntoIterator<Item = T>,
) -> anyhow::Result<()> {
    for result in results {
        print(&format!("{}\n", serde_json::to_string(&result)?))?;
    }
    Ok(())
}

/// Prints an error and its causes on standard error.
pub(super) fn print_error(error: &anyhow::Error) {
    let label = if use_colour(&std::io::stderr()) {
        "\x1b[1;31merror\x1b[0m"
    } else {
        "error"
    };
    let text = format!("{label}: {error:#}");
    report::print_to_stderr(report::message_for_stderr(&text));
}

/// Whether to use colours on a stream: it is a terminal, and `NO_COLOR` is not set.
pub(super) fn use_colour(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// How the log gets to standard error. Where nothing reads it, lines are dropped: the log never holds up a run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum LogRoute {
    /// With all other output, written by a thread.
    Queue,
    /// Written here, for processes that must not start a thread before they are confined.
    Direct,
}

/// How long a line that is written directly waits for a reader.
const DIRECT_WAIT: Duration = Duration::from_millis(100);

impl Write for LogRoute {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Queue => report::problem_to_stderr(String::from_utf8_lossy(bytes).into_owned()),
            Self::Direct => {
                static IS_BLOCKED: AtomicBool = AtomicBool::new(false);
                // Only the first line waits.
                let limit = if IS_BLOCKED.load(Ordering::Relaxed) {
                    Duration::ZERO
                } else {
                    DIRECT_WAIT
                };
                let is_written = write_stderr_unless_blocked(bytes, limit);
                IS_BLOCKED.store(!is_written, Ordering::Relaxed);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Sends the log to standard error. `KFORGE_LOG` overrides the level with the syntax of `tracing`'s filters.
pub(super) fn init_logging(verbosity: u8, route: LogRoute) -> Result<(), Failure> {
    let level = match verbosity {
        0 if report::is_quiet() => "error",
        0 => "warn",
        1 => "kforge=info,warn",
        _ => "trace",
    };
    let filter = match std::env::var("KFORGE_LOG") {
        Ok(directives) if !directives.is_empty() => {
            tracing_subscriber::EnvFilter::try_new(&directives).map_err(|error| {
                Failure::usage(format!("`KFORGE_LOG={directives}`: {error}"))
                    .hint("for example `KFORGE_LOG=debug` or `KFORGE_LOG=kforge::driver=trace`")
            })?
        }
        _ => tracing_subscriber::EnvFilter::new(level),
    };
    let colour = use_colour(&std::io::stderr());
    // Fails only where a test has already set a subscriber.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || route)
        .with_ansi(colour)
        .try_init();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit::{Exit, exit_for};

    #[test]
    fn a_closed_worker_pipe_is_an_error_and_a_closed_stdout_is_not() {
        let pipe = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let worker = anyhow::Error::new(pipe).context("a worker has closed its pipe");
        assert!(!worker.is::<StdoutClosed>());
        assert_eq!(exit_for(&worker), Exit::Unexpected);
        assert!(anyhow::Error::new(StdoutClosed).is::<StdoutClosed>());
    }
}
