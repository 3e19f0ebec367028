//! Run configs: [`Config`] as the user writes it, and [`ResolvedConfig`] with every choice made. Other modules see the resolved
//! config only.
//!
//! Reads YAML, applies `--set`, and finds tasks, GPUs and warm starts. Starts nothing and writes nothing.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::base::{Failure, exact};
use crate::device::Cache;
use crate::{llm, search};

mod devices;
mod find;
mod gpus;
mod keys;
mod lessons;
mod overrides;
#[cfg(test)]
mod reference;
mod resolve;
mod resolved;
mod schema;
mod sweep;
mod tasks;
mod warm_start;

pub(crate) use devices::DeviceChoice;
pub(crate) use find::find_config;
pub(crate) use lessons::{check_lessons_unchanged, recorded_lessons};
pub use overrides::apply_overrides;
pub use resolve::resolve;
pub(crate) use resolve::{Recorded, resolve_for_resume};
pub use resolved::ResolvedConfig;
pub(crate) use schema::config_schema;
pub(crate) use sweep::{SweepPoint, split_assignments, sweep_points};
pub(crate) use tasks::find_tasks;
pub(crate) use warm_start::{WarmStartKernel, check_from_unchanged, recorded_warm_starts};

/// The longest time that a config may name, in seconds: longer ones would overflow the system's clock.
pub(crate) const MAX_SECONDS: f64 = 1e9;

/// The value of `eval.baseline` that means the task's own baseline.
pub(crate) const NAIVE: &str = "naive";
/// The value of `eval.baseline` that means the fastest baseline that is known.
pub(crate) const STRONGEST: &str = "strongest";

/// A run config as the user writes it. Every key has a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Names or folders of tasks, or task lists (`*.txt`).
    pub tasks: Vec<String>,
    /// Warm starts, which come before the starting kernels of the tasks; `tune` uses only these. Each is a kernel file, the directory
    /// of a run (its best kernel for the task), or `best` (`kernels/TASK/best.cu`).
    pub from: Vec<String>,
    /// Names of the starting kernels to begin from, such as `naive.cu`. Default: all of the task's.
    pub start: Option<Vec<String>>,
    /// The number of steps for each task.
    pub steps: u64,
    /// The seed of every random choice of the search. Default: drawn at the start and recorded.
    #[serde(with = "exact::optional_number")]
    pub seed: Option<u64>,
    /// The run directory. Default: `outputs/NAME-TIME`.
    pub output: Option<PathBuf>,
    pub backend: BackendChoice,
    pub profile: ProfileChoice,
    pub eval: EvalConfig,
    pub search: search::SearchSettings,
    pub llm: llm::LlmSettings,
    pub budget: BudgetConfig,
}

/// Which device judges candidates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendChoice {
    /// CUDA if a GPU and NVRTC are found, else the CPU.
    #[default]
    Auto,
    Cpu,
    Cuda,
}

/// How thoroughly candidates are judged: the name of a profile of the tasks, or `auto`, which is `full` on a GPU and `quick` on the
/// CPU.
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
    /// How many kernels are judged at once. Default: 2 on the CPU, 3 for each GPU.
    pub in_flight: Option<usize>,
    /// The GPUs to use: `all`, or a list of indices and UUID prefixes.
    pub devices: DeviceChoice,
    /// The state of a GPU's caches when a kernel is timed.
    pub cache: Cache,
    /// Whether a kernel for a GPU runs on the CPU first, with tiny shapes and all checks.
    pub screen: ScreenChoice,
    /// Whether `ncu` counters of confirmed kernels go into their verdicts, if a GPU judges and permits reading them.
    pub counters: bool,
    /// Whether `compute-sanitizer` runs confirmed kernels, with the smallest hidden shapes.
    pub device_sanitize: bool,
    /// The deadline of one launch, in seconds.
    pub launch_seconds: f64,
    /// The timing budget of each workload, in seconds. Default: from the task's profile.
    pub seconds: Option<f64>,
    /// The half width of the speedup's 95 % interval at which timing stops. Default: from the task's profile.
    pub precision: Option<f64>,
    /// What the targets of a search are over: `naive`, the task's baseline; `strongest`, the fastest baseline that is known on the device;
    /// or the name of one.
    pub baseline: String,
    /// Whether a kernel that surely cannot reach the best of its kind is timed no further.
    pub racing: bool,
    /// Whether to fail if a part of the sandbox is missing.
    pub require_sandbox: bool,
}

/// What a kernel must pass before it runs on a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScreenChoice {
    #[default]
    None,
    /// The fast, bounds and race builds of the CPU. A kernel that the CPU cannot run passes.
    Cpu,
}

/// The limits of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BudgetConfig {
    /// Wall time for each task, in seconds: search, confirmation and comparison.
    pub seconds: Option<f64>,
    /// Device time for each task, in seconds: the time in which workers hold the device.
    pub device_seconds: Option<f64>,
    /// The share of both for confirmation and comparison. 0 confirms nothing.
    pub confirm_share: f64,
    /// Dollars for models, over all tasks. A request that could cost more than is left is not sent.
    pub usd: Option<f64>,
    /// Tokens of models, over all tasks, cached tokens included.
    pub tokens: Option<u64>,
}

impl Default for BudgetConfig {
    fn default() -> Self {
        Self {
            seconds: None,
            device_seconds: None,
            confirm_share: 0.2,
            usd: None,
            tokens: None,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            tasks: Vec::new(),
            from: Vec::new(),
            start: None,
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
            baseline: NAIVE.to_owned(),
            racing: true,
            require_sandbox: false,
        }
    }
}

impl Config {
    /// Checks the values. Errors name the key by its full path.
    pub fn check(&self) -> Result<(), Failure> {
        self.llm.check()?;
        if self.steps == 0 {
            return Err(expected("steps", "at least 1", 0));
        }
        self.check_eval()?;
        self.check_budget()?;
        self.search.check()
    }

    fn check_eval(&self) -> Result<(), Failure> {
        let eval = &self.eval;
        if let Some(count) = eval.in_flight.filter(|count| !(1..=64).contains(count)) {
            return Err(expected("eval.in_flight", "1 to 64", count));
        }
        let launch = eval.launch_seconds;
        if !is_positive(launch) || launch > 3600.0 {
            let range = "a number above 0 and up to 3600";
            return Err(expected("eval.launch_seconds", range, launch));
        }
        check_duration("eval.seconds", eval.seconds)?;
        if eval.baseline.trim().is_empty() {
            let range = "`naive`, `strongest` or the name of a baseline";
            return Err(expected("eval.baseline", range, &eval.baseline));
        }
        let is_half_width = |precision: f64| is_positive(precision) && precision < 1.0;
        if let Some(precision) = eval.precision.filter(|value| !is_half_width(*value)) {
            let range = "a number above 0 and below 1";
            return Err(expected("eval.precision", range, precision));
        }
        Ok(())
    }

    fn check_budget(&self) -> Result<(), Failure> {
        let budget = &self.budget;
        check_duration("budget.seconds", budget.seconds)?;
        check_duration("budget.device_seconds", budget.device_seconds)?;
        let share = budget.confirm_share;
        if !(0.0..=0.9).contains(&share) {
            let range = "a number from 0 to 0.9";
            return Err(expected("budget.confirm_share", range, share));
        }
        if let Some(usd) = budget.usd.filter(|usd| !is_positive(*usd) || *usd > 1e9) {
            let range = "dollars above 0 and up to 1e9";
            return Err(expected("budget.usd", range, usd));
        }
        if budget.tokens == Some(0) {
            return Err(expected("budget.tokens", "at least 1", 0));
        }
        Ok(())
    }
}

/// Checks a time in seconds. `None` is valid.
fn check_duration(key: &str, seconds: Option<f64>) -> Result<(), Failure> {
    match seconds.filter(|seconds| !is_duration(*seconds)) {
        Some(seconds) => Err(expected(key, "a number above 0 and up to 1e9", seconds)),
        None => Ok(()),
    }
}

fn is_positive(value: f64) -> bool {
    value > 0.0 && value.is_finite()
}

fn is_duration(seconds: f64) -> bool {
    seconds > 0.0 && seconds <= MAX_SECONDS
}

fn expected(key: &str, range: &str, found: impl std::fmt::Display) -> Failure {
    Failure::usage(format!("`{key}`: expected {range}, found `{found}`"))
}
