//! Run configs: what was typed, in `Config`; then what is meant, in `Resolved`. Nothing below sees an unresolved option.
//!
//! Reads YAML and applies overrides; starts nothing.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::base::Failure;
use crate::device::Cache;
use crate::{llm, search};

mod devices;
mod find;
mod overrides;
#[cfg(test)]
mod reference;
mod resolve;
mod tasks;
mod warm_start;

pub(crate) use devices::DeviceChoice;
pub(crate) use find::find_config;
pub use overrides::apply_overrides;
pub(crate) use resolve::resolve_for_resume;
pub use resolve::{ResolvedConfig, resolve};
pub(crate) use warm_start::{WarmStartKernel, check_from_unchanged, recorded_warm_starts};

/// A run config as it is typed. Every key has a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Names or folders of tasks, or task lists (`*.txt`).
    pub tasks: Vec<String>,
    /// Kernels to begin from, before the tasks' own starting kernels; `tune` begins from these alone. Each is a kernel file, the
    /// directory of a run (its best kernel for the task), or `best` (`kernels/TASK/best.cu`).
    pub from: Vec<String>,
    /// Steps per task.
    pub steps: u64,
    /// Every random choice of the search follows from it; drawn and recorded where it is not given.
    pub seed: Option<u64>,
    /// The run's directory; `outputs/NAME-TIME` where it is not given.
    pub output: Option<PathBuf>,
    pub backend: BackendChoice,
    pub profile: ProfileChoice,
    pub eval: EvalConfig,
    pub search: search::SearchSettings,
    pub llm: llm::LlmSettings,
    pub budget: BudgetConfig,
}

/// Which device judges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendChoice {
    /// CUDA where a GPU and NVRTC are found, else the CPU.
    #[default]
    Auto,
    Cpu,
    Cuda,
}

/// How much judging to do: the name of a profile that the tasks have, or `auto`: `full` on a GPU, `quick` on the CPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProfileChoice(pub String);

impl Default for ProfileChoice {
    fn default() -> Self {
        Self("auto".to_owned())
    }
}

/// How candidates are judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// Kernels with the judge at once; 2 on a CPU and 3 for each GPU where it is not given.
    pub in_flight: Option<usize>,
    /// Which GPUs judge: `all`, or a list of indices and names.
    pub devices: DeviceChoice,
    /// What a kernel finds in a GPU's caches when it is timed.
    pub cache: Cache,
    /// Whether a kernel for a GPU runs on the CPU first, at tiny shapes and with all checks.
    pub screen: ScreenChoice,
    /// Whether a profiler's counters of confirmed kernels go into their verdicts, where a GPU judges and lets them be read.
    pub counters: bool,
    /// Whether the GPU's own sanitizer looks at confirmed kernels, at the smallest hidden shapes.
    pub device_sanitize: bool,
    /// Deadline of one launch, in seconds.
    pub launch_seconds: f64,
    /// Timing budget per workload, in seconds; the task's profile says it where it is not given.
    pub seconds: Option<f64>,
    /// Half width of the speedup's 95 % interval at which timing stops; the task's profile says it where it is not given.
    pub precision: Option<f64>,
    /// Whether to judge nothing where a part of the sandbox is missing.
    pub require_sandbox: bool,
}

/// What a kernel must pass before it costs time on a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScreenChoice {
    #[default]
    None,
    /// The CPU's fast build and its inspected ones; what the CPU cannot run passes.
    Cpu,
}

/// What a run may cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BudgetConfig {
    /// Wall time per task, in seconds, confirmation aside.
    pub seconds: Option<f64>,
    /// Dollars for models, over all tasks. Nothing is sent that could cost more than is left.
    pub usd: Option<f64>,
    /// Tokens of models, over all tasks, those from a cache included.
    pub tokens: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            tasks: Vec::new(),
            from: Vec::new(),
            steps: 100,
            seed: None,
            output: None,
            backend: BackendChoice::Auto,
            profile: ProfileChoice::default(),
            eval: EvalConfig::default(),
            search: search::SearchSettings::default(),
            llm: llm::LlmSettings::default(),
            budget: BudgetConfig::default(),
        }
    }
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self {
            in_flight: None,
            devices: DeviceChoice::All,
            cache: Cache::Cold,
            screen: ScreenChoice::None,
            counters: false,
            device_sanitize: false,
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
        self.llm.check()?;
        if self.steps == 0 {
            return refuse("steps", "at least 1");
        }
        if self
            .eval
            .in_flight
            .is_some_and(|most| !(1..=64).contains(&most))
        {
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
        if self
            .budget
            .usd
            .is_some_and(|value| !(positive(value) && value <= 1e9))
        {
            return refuse("budget.usd", "dollars above 0 and up to 1e9");
        }
        if self.budget.tokens == Some(0) {
            return refuse("budget.tokens", "at least 1");
        }
        self.search.check()
    }
}
