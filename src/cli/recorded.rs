//! The config that a run has recorded in `run.yaml`, for commands that work on an existing run (`resume`, `promote`, `compare`).
//!
//! Parses the record; `run::RunRecord` reads the file.

use std::path::Path;

use crate::base::Failure;
use crate::config::{BudgetConfig, Config};
use crate::llm::{LlmSettings, ModelList};
use crate::run::RunRecord;
use crate::search::SearchSettings;

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

/// The recorded config without what judging does not need: search, models, budget, warm starts.
///
/// # Errors
/// As [`recorded_config`].
pub(super) fn judging_config(record: &RunRecord, directory: &Path) -> Result<Config, Failure> {
    Ok(Config {
        search: SearchSettings::default(),
        llm: LlmSettings {
            models: ModelList::Listed(Vec::new()),
            ..LlmSettings::default()
        },
        budget: BudgetConfig::default(),
        from: Vec::new(),
        ..recorded_config(record, directory)?
    })
}
