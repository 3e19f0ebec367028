//! `kforge resume`: continues a run from what its directory records.
//!
//! Reads `run.yaml` and the copies of warm starts in the directory, never the config file that the run started with.

use std::path::PathBuf;

use super::execute::execute;
use super::exit::{self, Exit};
use super::model_flags::{ModelArgs, NoModelArg};
use super::recorded::recorded_config;
use super::run_args::{RunArgs, apply_flags};
use crate::base::Failure;
use crate::config::{self, Config};
use crate::driver::StartMode;
use crate::run::{RunDirectory, RunRecord};

/// Arguments of `kforge resume`.
#[derive(Debug, clap::Args)]
#[command(after_help = help())]
pub(super) struct ResumeArgs {
    /// The run's directory.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    #[command(flatten)]
    resume: ResumeFlags,
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten, next_help_heading = "Models")]
    no_model: NoModelArg,
    #[command(flatten, next_help_heading = "Models")]
    models: ModelArgs,
}

/// Flags that apply only where a run is continued.
#[derive(Debug, clap::Args)]
pub(super) struct ResumeFlags {
    /// Continue although the task, the config, kforge or the device has changed.
    #[arg(long)]
    pub(super) accept_changes: bool,
}

fn help() -> String {
    exit::help(
        "Flags replace the values that the run has recorded.",
        &[
            (
                "kforge resume outputs/first",
                "continue after an interruption",
            ),
            ("kforge resume outputs/first --steps 300", "add steps"),
            (
                "kforge resume outputs/first --budget-usd 10",
                "raise a budget that is spent",
            ),
        ],
        exit::RUN_CODES,
    )
}

pub(super) fn run(arguments: ResumeArgs) -> anyhow::Result<Exit> {
    let ResumeArgs {
        directory,
        resume,
        run,
        no_model,
        models,
    } = arguments;
    let flags = |config| apply_flags(config, &run, &models, &no_model);
    resume_run(directory, &resume, &run, flags)
}

/// Continues the run in a directory. `apply_flags` changes the recorded config.
pub(super) fn resume_run(
    directory: PathBuf,
    flags: &ResumeFlags,
    run_args: &RunArgs,
    apply_flags: impl Fn(Config) -> Result<Config, Failure>,
) -> anyhow::Result<Exit> {
    let run_directory = RunDirectory::new(&directory);
    let record = RunRecord::read(&run_directory)?;
    let warm_starts = config::recorded_warm_starts(&run_directory, &record)?;
    let mut config = apply_flags(recorded_config(&record, &directory)?)?;
    config::check_from_unchanged(&record.config, &config.from)?;
    config.output = Some(directory);
    let resolved = config::resolve_for_resume(&config, warm_starts)?;
    let start = StartMode::Resume {
        accept_changes: flags.accept_changes,
    };
    execute(resolved, start, run_args)
}
