//! The config that a run has recorded in `run.yaml`, for commands that work on an existing run (`resume`, `promote`).
//!
//! Parses the record; `run::RunRecord` reads the file.

use std::path::Path;

use crate::base::Failure;
use crate::config::Config;
use crate::run::RunRecord;

/// Parses the config of a run's record.
///
/// # Errors
/// A usage failure if the file was edited and no longer parses.
pub(super) fn recorded_config(record: &RunRecord, directory: &Path) -> Result<Config, Failure> {
    serde_json::from_value(record.config.clone()).map_err(|error| {
        Failure::usage(format!("{}/run.yaml: config: {error}", directory.display()))
            .hint("restore the file as kforge wrote it")
    })
}
