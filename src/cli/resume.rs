//! `kforge resume`: a run's directory says all that is needed to go on.

use std::path::PathBuf;

use super::Exit;
use super::evolve::{RunArgs, apply_flags, execute};
use crate::base::Failure;
use crate::config::{self, Config};
use crate::driver::StartMode;
use crate::run::{RunDirectory, RunRecord};

#[derive(Debug, clap::Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct ResumeArgs {
    /// The run's directory.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    #[command(flatten)]
    common: RunArgs,
}

pub(super) fn run(arguments: ResumeArgs) -> anyhow::Result<Exit> {
    resume_run(arguments.directory, arguments.common)
}

pub(super) fn resume_run(directory: PathBuf, common: RunArgs) -> anyhow::Result<Exit> {
    let run_directory = RunDirectory::new(&directory);
    let record = RunRecord::read(&run_directory)?;
    let warm_starts = config::recorded_warm_starts(&run_directory, &record)?;
    let recorded: Config = serde_json::from_value(record.config.clone()).map_err(|error| {
        Failure::usage(format!("{}/run.yaml: config: {error}", directory.display()))
            .hint("put the file back as kforge wrote it")
    })?;
    let mut config = apply_flags(recorded, &common)?;
    config::check_from_unchanged(&record.config, &config.from)?;
    config.output = Some(directory);
    let resolved = config::resolve_for_resume(&config, warm_starts)?;
    execute(
        resolved,
        StartMode::Resume {
            accept_changes: common.accept_changes,
        },
        &common,
    )
}
