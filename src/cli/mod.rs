//! The command line: clap declarations, one file for each command, exit codes. The only module that prints results.
//!
//! `evolve`, `tune` and `resume` share `run_args`, `sweep` and `execute`; `output` prints; `exit` has the exit codes. Commands read arguments, call
//! `config`, `driver` and `report`, and decide nothing about a search or a verdict.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

mod arms;
mod baselines;
mod bench;
mod bench_kernelbench;
mod check_progress;
mod compare;
mod completions;
mod contenders;
mod continue_run;
mod dataset_arg;
mod described_function;
mod doctor;
mod dry_run;
mod eval;
mod evolve;
mod execute;
mod exit;
mod export;
mod grid;
mod import;
mod import_gpu_mode;
mod import_kernel_tuner;
mod import_kernelbench;
mod import_report;
mod import_torch;
mod init;
mod judge_kernels;
mod kernelbench_problems;
mod kernelbench_results;
mod log;
mod measure_arms;
mod measure_points;
mod model_flags;
mod new_task;
mod output;
mod output_schema;
mod promote;
mod promotion_result;
mod prompt;
mod python_script;
mod python_signature;
mod recorded;
mod report;
mod report_refresh;
mod resume;
mod run_args;
mod run_end;
mod runs;
mod schema;
mod sweep;
mod tasks;
mod watch;
mod yardstick;

use crate::base::{guardian, interrupt, temporary};
use crate::report as progress;
use exit::{Exit, exit_for};
use output::{LogRoute, STDERR_WAIT, StdoutClosed};

/// Search for fast GPU kernels: generate, compile, check, time, keep the best.
#[derive(Debug, Parser)]
#[command(name = "kforge", version = completions::VERSION, after_help = help())]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Increase verbosity on standard error (-vv for trace).
    #[arg(short, long, global = true, display_order = 900, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Print only results and errors: no progress, no warnings.
    #[arg(
        short,
        long,
        global = true,
        display_order = 901,
        conflicts_with = "verbose"
    )]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Search for faster kernels, and keep the fastest of each kind.
    Evolve(evolve::EvolveArgs),
    /// Search for a faster kernel by editing one with a model.
    Tune(evolve::TuneArgs),
    /// Continue a run, or each run of a sweep, from its directory.
    Resume(resume::ResumeArgs),
    /// Follow a run from its files until it ends.
    Watch(watch::WatchArgs),
    /// Judge kernels outside a search.
    Eval(eval::EvalArgs),
    /// Time a kernel against PyTorch and libraries, and keep a table.
    Baselines(baselines::BaselinesArgs),
    /// Judge a set of kernels for problems of another benchmark.
    Bench(bench::BenchArgs),
    /// Write the report of runs: one HTML file, Markdown or JSON.
    Report(report::ReportArgs),
    /// Whether runs differ: paired differences with intervals.
    Compare(compare::CompareArgs),
    /// Append a run to an experiment log, with blanks for what only you know.
    Log(log::LogArgs),
    /// List the runs in a folder: task, best kernel, state, cost, age.
    Runs(runs::RunsArgs),
    /// Promote a run's best kernel if it beats the current best.
    Promote(promote::PromoteArgs),
    /// Write a kernel as a program or library for other tools.
    Export(export::ExportArgs),
    /// Print the prompt of a task and the tokens of each part.
    Prompt(prompt::PromptArgs),
    /// Create a task and a config for your own kernel.
    Init(init::InitArgs),
    /// List, show, check and write tasks.
    Tasks(tasks::TasksArgs),
    /// Check what this machine has and what it lacks.
    Doctor(doctor::DoctorArgs),
    /// Print the JSON Schema of run configs, task.yaml or a command's output.
    Schema(schema::SchemaArgs),
    /// Print a shell's completion script.
    Completions(completions::CompletionsArgs),
    /// Write man pages.
    Man(completions::ManArgs),
    /// Judge on behalf of another kforge process.
    #[command(name = "__worker", hide = true)]
    Worker,
    /// Launch a kernel once under a profiler, on behalf of another kforge process.
    #[command(name = crate::worker::LAUNCH_COMMAND, hide = true)]
    Launch,
    /// Compile for a GPU on behalf of another kforge process.
    #[command(name = crate::device::cuda::NVRTC_COMMAND, hide = true)]
    Nvrtc,
    /// End what another kforge process leaves behind if it is killed.
    #[command(name = guardian::GUARDIAN_COMMAND, hide = true)]
    Guardian,
}

impl Command {
    /// Whether another kforge process has started this one to work for it.
    fn is_hidden(&self) -> bool {
        matches!(
            self,
            Self::Worker | Self::Launch | Self::Nvrtc | Self::Guardian
        )
    }
}

fn help() -> String {
    exit::help(
        "",
        &[
            ("kforge doctor", "what this machine can do"),
            (
                "kforge evolve --config gdn_decode.yaml",
                "a search of less than two minutes",
            ),
            ("kforge eval softmax my_kernel.cu", "judge one kernel"),
        ],
        exit::ANY_CODES,
    )
}

/// Runs the program on the process's arguments.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version arrive here too. Nothing can be done if printing fails.
            let _ = error.print();
            let exit = if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Done
            };
            return ExitCode::from(exit as u8);
        }
    };
    if cli.command.is_hidden() {
        temporary::inherit();
    } else {
        guardian::enable();
    }
    let ended = run_command(cli);
    let exit = match ended {
        Ok(exit) => exit,
        // The reader of standard output has seen enough.
        Err(error) if error.is::<StdoutClosed>() => Exit::Done,
        Err(error) => {
            output::print_error(&error);
            exit_for(&error)
        }
    };
    progress::flush_stderr(STDERR_WAIT);
    temporary::remove();
    ExitCode::from(exit as u8)
}

fn run_command(cli: Cli) -> anyhow::Result<Exit> {
    if cli.quiet {
        progress::be_quiet();
    }
    if cli.command.is_hidden() {
        output::init_logging(cli.verbose, LogRoute::Direct)?;
    } else {
        output::init_logging(cli.verbose, LogRoute::Queue)?;
        // Hidden commands end with the process that started them.
        interrupt::start()?;
    }
    match cli.command {
        Command::Evolve(arguments) => evolve::run(arguments),
        Command::Tune(arguments) => evolve::tune(arguments),
        Command::Resume(arguments) => resume::run(arguments),
        Command::Watch(arguments) => watch::run(arguments),
        Command::Eval(arguments) => eval::run(arguments),
        Command::Baselines(arguments) => baselines::run(arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Report(arguments) => report::run(arguments),
        Command::Compare(arguments) => compare::run(arguments),
        Command::Log(arguments) => log::run(arguments),
        Command::Runs(arguments) => runs::run(arguments),
        Command::Promote(arguments) => promote::run(arguments),
        Command::Export(arguments) => export::run(arguments),
        Command::Prompt(arguments) => prompt::run(arguments),
        Command::Init(arguments) => init::run(&arguments),
        Command::Tasks(arguments) => tasks::run(arguments),
        Command::Doctor(arguments) => doctor::run(arguments),
        Command::Schema(arguments) => schema::run(&arguments),
        Command::Completions(arguments) => completions::completions(&arguments, &Cli::command()),
        Command::Man(arguments) => completions::man(&arguments, &Cli::command()),
        Command::Worker => crate::worker::serve().map(|()| Exit::Done),
        Command::Launch => crate::worker::serve_launch().map(|()| Exit::Done),
        Command::Nvrtc => crate::device::cuda::serve_nvrtc().map(|()| Exit::Done),
        Command::Guardian => {
            guardian::serve();
            Ok(Exit::Done)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_argument_has_help() {
        Cli::command().help_expected(true).debug_assert();
    }
}
