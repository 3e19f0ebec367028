//! `kforge resume`: a run's directory says all that is needed to go on.

use std::path::PathBuf;

use super::Exit;
use super::evolve::{Common, apply, begin};
use crate::base::Failure;
use crate::config::{self, Config};
use crate::driver::Start;
use crate::run::{Record, RunDirectory};

#[derive(Debug, clap::Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct Arguments {
    /// The run's directory.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    go_on(arguments.directory, arguments.common)
}

pub(super) fn go_on(directory: PathBuf, common: Common) -> anyhow::Result<Exit> {
    let place = RunDirectory::new(&directory);
    let record = Record::read(&place)?;
    let kept = config::kept(&place, &record)?;
    let recorded: Config = serde_json::from_value(record.config.clone()).map_err(|error| {
        Failure::usage(format!("{}/run.yaml: config: {error}", directory.display()))
            .hint("put the file back as kforge wrote it")
    })?;
    let mut config = apply(recorded, &common)?;
    config::check_unchanged(&record.config, &config.from)?;
    config.output = Some(directory);
    let resolved = config::resolve_again(&config, kept)?;
    begin(
        resolved,
        Start::Resume {
            accept_changes: common.accept_changes,
        },
        &common,
    )
}
