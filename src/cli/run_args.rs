//! Flags that `evolve`, `tune` and `resume` share, and the config that they result in.
//!
//! Each flag replaces one key of the config; `--set` comes last and wins. Reads no file and starts nothing.

use std::path::PathBuf;

use super::dataset_arg::DatasetArg;
use super::model_flags::{ModelArgs, NoModelArg};
use super::output::Format;
use crate::base::Failure;
use crate::config::{self, BackendChoice, Config, ProfileChoice};
use crate::driver::StartMode;

/// Flags of every command that works on a run.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct RunArgs {
    /// Steps per task, in total.
    #[arg(long, value_name = "NUMBER")]
    pub(super) steps: Option<u64>,
    /// Maximum seconds for each task (`budget.seconds`): search, confirmation and comparison. When a run is resumed, they are added to
    /// its budget.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true, value_parser = parse_seconds)]
    pub(super) budget_seconds: Option<f64>,
    /// Maximum seconds in which workers hold the device for each task (`budget.device_seconds`). When a run is resumed, they are added to
    /// its budget.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true, value_parser = parse_seconds)]
    pub(super) budget_device_seconds: Option<f64>,
    /// Profile of the task: how much to check and to time. `auto` is `quick` on a CPU and `full` on a GPU.
    #[arg(long, value_name = "NAME")]
    pub(super) profile: Option<String>,
    /// Device that judges. `auto` is `cuda` if a GPU and NVRTC are found.
    #[arg(long, value_name = "NAME", env = "KFORGE_BACKEND", value_parser = ["auto", "cpu", "cuda"])]
    pub(super) backend: Option<String>,
    /// Set any key of the config, e.g. `--set search.exploration=0.5`. Wins over everything else. Repeatable. Several values make a
    /// sweep, with a run for each combination: `--set search.strategy=map_elites,random --set seed=0..4`.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
    /// What targets are over: `naive` (the task's baseline), `strongest` or the name of a baseline (`eval.baseline`).
    #[arg(long, value_name = "NAME")]
    pub(super) baseline: Option<String>,
    /// Read GPU counters of the kernels that are confirmed at the end (`eval.counters`).
    #[arg(long)]
    pub(super) counters: bool,
    #[command(flatten)]
    pub(super) dataset: DatasetArg,
    /// Fail unless the full sandbox is available (`eval.require_sandbox`).
    #[arg(long)]
    pub(super) require_sandbox: bool,
    /// Print what would run, and stop.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    pub(super) format: Format,
    /// The folder of the sweep that the run is part of.
    #[arg(skip)]
    pub(super) sweep: Option<PathBuf>,
}

/// How a run starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunStart {
    New,
    Resume {
        accept_changes: bool,
        /// A flag raises a limit other than the number of steps.
        raises_limit: bool,
    },
}

impl RunStart {
    pub(super) fn mode(self) -> StartMode {
        match self {
            Self::New => StartMode::New,
            Self::Resume { accept_changes, .. } => StartMode::Resume { accept_changes },
        }
    }
}

/// The config with the flags applied, except `--budget-seconds` and `--budget-device-seconds`, whose meaning depends on whether a run is
/// resumed.
pub(super) fn apply_flags(
    mut config: Config,
    run: &RunArgs,
    models: &ModelArgs,
    no_model: &NoModelArg,
) -> Result<Config, Failure> {
    run.dataset.apply();
    config.steps = run.steps.unwrap_or(config.steps);
    if let Some(name) = run.profile.as_deref() {
        config.profile = ProfileChoice(name.to_owned());
    }
    if let Some(name) = run.backend.as_deref() {
        config.backend = parse_backend(name);
    }
    if let Some(name) = &run.baseline {
        config.eval.baseline.clone_from(name);
    }
    config.eval.require_sandbox |= run.require_sandbox;
    config.eval.counters |= run.counters;
    no_model.apply(&mut config);
    models.apply(&mut config)?;
    config::apply_overrides(&config, &run.set)
}

/// The value of a `--seed`: a number, also in the quotes in which JSON has it.
pub(super) fn parse_seed(text: &str) -> Result<u64, String> {
    let quoted = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    let number = quoted.unwrap_or(text).parse();
    number.map_err(|_| format!("a seed is a whole number from 0 to {}", u64::MAX))
}

/// The value of `--budget-seconds` and `--budget-device-seconds`.
fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok();
    seconds
        .filter(|seconds| *seconds > 0.0 && *seconds <= config::MAX_SECONDS)
        .ok_or_else(|| "expected a number above 0 and up to 1e9".to_owned())
}

/// A value of `--backend` that clap has checked.
pub(super) fn parse_backend(name: &str) -> BackendChoice {
    match name {
        "cpu" => BackendChoice::Cpu,
        "cuda" => BackendChoice::Cuda,
        _ => BackendChoice::Auto,
    }
}
