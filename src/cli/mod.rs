//! The command line: declarations, one file per command, exit codes. The only place that prints results.
//!
//! Results go to standard output, progress and logs to standard error.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::base::{Failure, FailureKind};

mod doctor;
mod dry_run;
mod eval;
mod evolve;
mod model_flags;
mod promote;
mod prompt;
mod resume;
mod tasks;

/// How a command ended, as documented in `--help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Done = 0,
    Unexpected = 1,
    Usage = 2,
    Environment = 3,
    Reference = 4,
    NothingPassed = 5,
    Waiting = 6,
    Interrupted = 130,
}

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    unexpected failure
  2    usage or configuration
  3    environment: no compiler, no device, no space, no sandbox where one is required
  4    the oracle or the baseline failed
  5    finished, and no candidate passed
  6    waiting for replies in the mailbox; `kforge resume DIR` goes on
  130  interrupted; `kforge resume DIR` goes on";

/// Search for fast GPU kernels: make them, compile them, prove them correct, time them, keep the best.
#[derive(Debug, Parser)]
#[command(name = "kforge", version, after_help = EXIT_CODES, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Say more on standard error; twice for everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Evolve kernels for the tasks of a run config.
    Evolve(evolve::EvolveArgs),
    /// Tune one kernel for each task: a model writes it, then edits it step after step.
    Tune(evolve::EvolveArgs),
    /// Go on with a run, from its directory.
    Resume(resume::ResumeArgs),
    /// Judge kernels outside a search.
    Eval(eval::EvalArgs),
    /// Make a run's best kernel the best that is known of its task, if it is.
    Promote(promote::PromoteArgs),
    /// Show what a model would be told, and how much each part of it takes.
    Prompt(prompt::PromptArgs),
    /// List tasks, or show one.
    Tasks(tasks::TasksArgs),
    /// Say what this machine has, what it lacks, and what to do about it.
    Doctor(doctor::DoctorArgs),
    /// Judge on behalf of another kforge process.
    #[command(name = "__worker", hide = true)]
    Worker,
    /// Launch a kernel once, for a tool that watches, on behalf of another kforge process.
    #[command(name = crate::worker::LAUNCH_COMMAND, hide = true)]
    Launch,
    /// Compile for a GPU on behalf of another kforge process.
    #[command(name = crate::device::cuda::NVRTC_COMMAND, hide = true)]
    Nvrtc,
}

/// The form of results on standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    #[default]
    Human,
    /// One JSON document at the end.
    Json,
    /// One JSON line for each result or event, as it happens.
    Jsonl,
}

/// Runs the program on the process's arguments.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are results; everything else is a mistake in the arguments. Nothing to do if printing fails.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() {
                Exit::Usage as u8
            } else {
                Exit::Done as u8
            });
        }
    };
    match run_command(cli) {
        Ok(exit) => ExitCode::from(exit as u8),
        // Whoever reads the results has seen enough.
        Err(error) if error.is::<StdoutClosed>() => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&error);
            ExitCode::from(exit_for(&error) as u8)
        }
    }
}

fn run_command(cli: Cli) -> anyhow::Result<Exit> {
    init_logging(cli.verbose)?;
    match cli.command {
        Command::Evolve(arguments) => evolve::run(arguments),
        Command::Tune(arguments) => evolve::tune(arguments),
        Command::Resume(arguments) => resume::run(arguments),
        Command::Eval(arguments) => eval::run(arguments),
        Command::Promote(arguments) => promote::run(arguments),
        Command::Prompt(arguments) => prompt::run(arguments),
        Command::Tasks(arguments) => tasks::run(arguments),
        Command::Doctor(arguments) => doctor::run(arguments),
        Command::Worker => crate::worker::serve().map(|()| Exit::Done),
        Command::Launch => crate::worker::serve_launch().map(|()| Exit::Done),
        Command::Nvrtc => crate::device::cuda::serve_nvrtc().map(|()| Exit::Done),
    }
}

fn exit_for(error: &anyhow::Error) -> Exit {
    match error.downcast_ref::<Failure>().map(|failure| failure.kind) {
        Some(FailureKind::Usage) => Exit::Usage,
        Some(FailureKind::Environment) => Exit::Environment,
        Some(FailureKind::Reference) => Exit::Reference,
        None if is_disk_full(error) => Exit::Environment,
        None => Exit::Unexpected,
    }
}

fn print_error(error: &anyhow::Error) {
    let mut stderr = std::io::stderr().lock();
    let label = if use_colour(&stderr) {
        "\x1b[1;31merror\x1b[0m"
    } else {
        "error"
    };
    // Standard error is the last resort: there is nobody left to tell.
    let _ = writeln!(stderr, "{label}: {error:#}");
}

/// Whether colours may be used on a stream: a terminal, and no `NO_COLOR`.
fn use_colour(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn is_disk_full(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| matches!(cause.kind(), StorageFull | QuotaExceeded))
}

/// Standard output was closed. Told apart from the pipes to workers, whose end is a fault.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the results")]
struct StdoutClosed;

/// Prints a result.
fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(StdoutClosed.into()),
        Err(error) => Err(
            Failure::environment(format!("failed to print the results: {error}"))
                .hint("see where standard output goes: that file or disk cannot be written")
                .into(),
        ),
    }
}

/// Prints results as JSON: one document.
fn print_json(results: &impl serde::Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(results)?))
}

/// Prints results as JSON: a line for each.
fn print_json_lines<T: serde::Serialize>(
    results: impl IntoIterator<Item = T>,
) -> anyhow::Result<()> {
    for result in results {
        print(&format!("{}\n", serde_json::to_string(&result)?))?;
    }
    Ok(())
}

/// Sends the log to standard error. `KFORGE_LOG` says what is logged, in the words of `tracing`'s filters.
fn init_logging(verbosity: u8) -> Result<(), Failure> {
    let level = match verbosity {
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
    // A second subscriber can only come from a test that calls this twice.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .try_init();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_argument_has_help() {
        Cli::command().help_expected(true).debug_assert();
    }

    #[test]
    fn a_closed_worker_pipe_is_an_error_and_a_closed_stdout_is_not() {
        let pipe = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let worker = anyhow::Error::new(pipe()).context("a worker has closed its pipe");
        assert!(!worker.is::<StdoutClosed>());
        assert_eq!(exit_for(&worker), Exit::Unexpected);
        assert!(anyhow::Error::new(StdoutClosed).is::<StdoutClosed>());
    }

    #[test]
    fn failure_kind_selects_the_exit_code() {
        for (failure, exit) in [
            (Failure::usage("x"), Exit::Usage),
            (Failure::environment("x"), Exit::Environment),
            (Failure::reference("x"), Exit::Reference),
        ] {
            assert_eq!(
                exit_for(&anyhow::Error::new(failure).context("while")),
                exit
            );
        }
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert_eq!(exit_for(&full.into()), Exit::Environment);
    }
}
