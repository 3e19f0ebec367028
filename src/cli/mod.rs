//! The command line: declarations, one file per command, exit codes. The only place that prints results.
//!
//! Results go to standard output, progress and logs to standard error.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::base::{Failure, Kind};

mod doctor;
mod eval;
mod evolve;
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
    Interrupted = 130,
}

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    unexpected failure
  2    usage or configuration
  3    environment: no compiler, no device, no space
  4    the oracle or the baseline failed
  5    finished, and no candidate passed
  130  interrupted; `kforge resume DIR` goes on";

/// Search for fast GPU kernels: make them, compile them, prove them correct, time them, keep the best.
#[derive(Debug, Parser)]
#[command(name = "kforge", version, after_help = EXIT_CODES, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Say more on standard error; twice for everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Evolve kernels for the tasks of a run config.
    Evolve(evolve::Arguments),
    /// Go on with a run, from its directory.
    Resume(resume::Arguments),
    /// Judge kernels outside a search.
    Eval(eval::Arguments),
    /// List tasks, or show one.
    Tasks(tasks::Arguments),
    /// Say what this machine has, what it lacks, and what to do about it.
    Doctor(doctor::Arguments),
    /// Judge on behalf of another kforge process.
    #[command(name = "__worker", hide = true)]
    Worker,
}

/// The form of results on standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    #[default]
    Human,
    /// One JSON document at the end.
    Json,
    /// One JSON line for each event, as it happens.
    Jsonl,
}

/// Runs the program on the process's arguments.
pub fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
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
    log_to_stderr(arguments.verbose);
    let result = match arguments.command {
        Command::Evolve(arguments) => evolve::run(arguments),
        Command::Resume(arguments) => resume::run(arguments),
        Command::Eval(arguments) => eval::run(arguments),
        Command::Tasks(arguments) => tasks::run(arguments),
        Command::Doctor(arguments) => doctor::run(arguments),
        Command::Worker => crate::worker::serve().map(|()| Exit::Done),
    };
    match result {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(error) => {
            if is_broken_pipe(&error) {
                return ExitCode::SUCCESS;
            }
            complain(&error);
            ExitCode::from(exit_of(&error) as u8)
        }
    }
}

fn exit_of(error: &anyhow::Error) -> Exit {
    match error.downcast_ref::<Failure>().map(|failure| failure.kind) {
        Some(Kind::Usage) => Exit::Usage,
        Some(Kind::Environment) => Exit::Environment,
        Some(Kind::Reference) => Exit::Reference,
        None if is_full_disk(error) => Exit::Environment,
        None => Exit::Unexpected,
    }
}

fn complain(error: &anyhow::Error) {
    let mut stderr = std::io::stderr().lock();
    let label = if is_colourful(&stderr) {
        "\x1b[1;31merror\x1b[0m"
    } else {
        "error"
    };
    // Standard error is the last resort: there is nobody left to tell.
    let _ = writeln!(stderr, "{label}: {error:#}");
}

/// Whether colours may be used on a stream: a terminal, and no `NO_COLOR`.
fn is_colourful(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    io_kinds(error).any(|kind| kind == std::io::ErrorKind::BrokenPipe)
}

fn is_full_disk(error: &anyhow::Error) -> bool {
    io_kinds(error).any(|kind| {
        matches!(
            kind,
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
        )
    })
}

fn io_kinds(error: &anyhow::Error) -> impl Iterator<Item = std::io::ErrorKind> {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .map(std::io::Error::kind)
}

/// Prints a result. A closed pipe ends the program quietly.
fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

fn log_to_stderr(verbosity: u8) {
    let level = match verbosity {
        0 => "warn",
        1 => "kforge=info,warn",
        _ => "trace",
    };
    let filter = std::env::var("KFORGE_LOG").unwrap_or_else(|_| level.to_owned());
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    let colour = is_colourful(&std::io::stderr());
    // A second subscriber can only come from a test that calls this twice.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .try_init();
}
