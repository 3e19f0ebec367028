//! Run configs: what was typed, in `Config`; then what is meant, in `Resolved`. Nothing below sees an unresolved option.
//!
//! Reads YAML and applies overrides; starts nothing.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::base::Failure;
use crate::search;

mod find;
mod models;
mod overrides;
mod resolve;
mod tasks;

pub use find::find;
pub use models::{Models, keys as model_keys};
pub use overrides::apply;
pub use resolve::{Resolved, resolve};

/// A run config as it is typed. Every key has a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Names or folders of tasks, or task lists (`*.txt`).
    pub tasks: Vec<String>,
    /// Steps per task.
    pub steps: u64,
    /// Every random choice of the search follows from it; drawn and recorded where it is not given.
    pub seed: Option<u64>,
    /// The run's directory; `outputs/NAME-TIME` where it is not given.
    pub output: Option<PathBuf>,
    pub backend: Backend,
    pub profile: ProfileChoice,
    pub eval: Eval,
    pub search: search::Settings,
    pub llm: Llm,
    pub budget: Budget,
}

/// Which device judges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// The best device that there is; in this version the CPU.
    #[default]
    Auto,
    Cpu,
    /// Refused by this version, in words.
    Cuda,
}

/// How much judging to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProfileChoice {
    /// `full` on a GPU, `quick` on the CPU.
    #[default]
    Auto,
    Quick,
    Full,
}

/// How candidates are judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Eval {
    /// Kernels with the judge at once.
    pub in_flight: usize,
    /// Deadline of one launch, in seconds.
    pub launch_seconds: f64,
    /// Timing budget per workload, in seconds; the task's profile says it where it is not given.
    pub seconds: Option<f64>,
    /// Half width of the speedup's 95 % interval at which timing stops; the task's profile says it where it is not given.
    pub precision: Option<f64>,
    /// Whether to judge nothing where a part of the sandbox is missing.
    pub require_sandbox: bool,
}

/// Which models are asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Llm {
    pub models: Models,
}

/// What a run may cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// Wall time per task, in seconds, confirmation aside.
    pub seconds: Option<f64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            tasks: Vec::new(),
            steps: 100,
            seed: None,
            output: None,
            backend: Backend::Auto,
            profile: ProfileChoice::Auto,
            eval: Eval::default(),
            search: search::Settings::default(),
            llm: Llm::default(),
            budget: Budget::default(),
        }
    }
}

impl Default for Eval {
    fn default() -> Self {
        Self {
            in_flight: 2,
            launch_seconds: 10.0,
            seconds: None,
            precision: None,
            require_sandbox: false,
        }
    }
}

impl Config {
    /// Whether the values mean something.
    pub fn check(&self) -> Result<(), Failure> {
        let refuse = |key: &str, expected: &str| {
            Err(Failure::usage(format!("`{key}`: expected {expected}")))
        };
        let positive = |value: f64| value > 0.0 && value.is_finite();
        // What is longer is no time that could be waited for, and none that the system's clock could hold.
        let seconds = |value: f64| value > 0.0 && value <= 1e9;
        if self.backend == Backend::Cuda {
            return Err(Failure::usage(
                "`backend: cuda`: this version judges on the CPU only",
            )
            .hint("say `cpu` or `auto`: CUDA sources then run on the CPU, and their times rank them for this machine"));
        }
        self.llm.models.check()?;
        if self.steps == 0 {
            return refuse("steps", "at least 1");
        }
        if !(1..=64).contains(&self.eval.in_flight) {
            return refuse("eval.in_flight", "1 to 64");
        }
        if !positive(self.eval.launch_seconds) || self.eval.launch_seconds > 3600.0 {
            return refuse("eval.launch_seconds", "a number above 0 and up to 3600");
        }
        if self.eval.seconds.is_some_and(|value| !seconds(value)) {
            return refuse("eval.seconds", "a number above 0 and up to 1e9");
        }
        if self
            .eval
            .precision
            .is_some_and(|precision| !(positive(precision) && precision < 1.0))
        {
            return refuse("eval.precision", "a number above 0 and below 1");
        }
        if self.budget.seconds.is_some_and(|value| !seconds(value)) {
            return refuse("budget.seconds", "a number above 0 and up to 1e9");
        }
        self.search.check()
    }
}
