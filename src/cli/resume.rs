//! `kforge resume`: continues a run or a sweep.
//!
//! Finds out which of the two the directory has; `continue_run` and `sweep` do the rest.

use std::path::PathBuf;

use super::continue_run::{ResumeFlags, resume_run};
use super::exit::{self, Exit};
use super::model_flags::{ModelArgs, NoModelArg};
use super::run_args::{RunArgs, apply_flags};
use super::sweep::resume_sweep;
use crate::base::Failure;
use crate::config::{self, Config};
use crate::run::SweepDirectory;

/// Arguments of `kforge resume`.
#[derive(Debug, clap::Args)]
#[command(after_help = help())]
pub(super) struct ResumeArgs {
    /// Directory of a run or of a sweep.
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

fn help() -> String {
    exit::help(
        "Flags replace the values that the run has recorded. `--budget-seconds` and\n`--budget-device-seconds` add to them. Where a run ends, it prints the flags\nthat continue it.",
        &[
            (
                "kforge resume outputs/first",
                "continue after an interruption",
            ),
            (
                "kforge resume outputs/first --steps 300 --budget-seconds 600",
                "up to 300 steps, and ten more minutes for each task",
            ),
            (
                "kforge resume outputs/sweep",
                "continue each run of a sweep that has not finished",
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
    resume_any(directory, &resume, &run, &flags)
}

/// Continues the run or the sweep in a directory.
pub(super) fn resume_any(
    directory: PathBuf,
    flags: &ResumeFlags,
    run_args: &RunArgs,
    apply_flags: &dyn Fn(Config) -> Result<Config, Failure>,
) -> anyhow::Result<Exit> {
    let (_, varied) = config::split_assignments(&run_args.set)?;
    if !varied.is_empty() {
        return Err(
            Failure::usage("`--set`: a run that is continued has one value for each key")
                .hint("start a sweep with `kforge evolve`")
                .into(),
        );
    }
    if SweepDirectory::new(&directory).exists() {
        resume_sweep(directory, flags, run_args, apply_flags)
    } else {
        resume_run(directory, flags, run_args, apply_flags)
    }
}
