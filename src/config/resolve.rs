//! From what was typed to what is meant: every `auto` decided, every seed drawn, every file read.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Backend, Config, Models, ProfileChoice, tasks};
use crate::base::{Failure, random};
use crate::search;
use crate::task::{Task, TaskFiles};

/// A config in which nothing is left to decide.
#[derive(Clone, Debug)]
pub struct Resolved {
    pub tasks: Vec<(TaskFiles, Task)>,
    pub steps: u64,
    pub seed: u64,
    pub output: PathBuf,
    /// Whether nobody asked for that very directory, so that another will do where it is taken.
    pub output_is_free: bool,
    /// `cpu`.
    pub backend: String,
    /// `quick` or `full`.
    pub profile: String,
    pub in_flight: usize,
    pub launch_seconds: f64,
    pub require_sandbox: bool,
    pub window: u64,
    pub search: search::Settings,
    pub budget: Option<Duration>,
    /// What was decided for the user, one line each.
    pub choices: Vec<String>,
    /// The config with its decisions, as `run.yaml` keeps it.
    pub record: Value,
}

/// Decides. `name` is what the default output directory is called after, `time` when the run begins.
pub fn resolve(config: &Config, name: &str, time: &str) -> Result<Resolved, Failure> {
    config.check()?;
    let mut choices = Vec::new();
    let backend = match config.backend {
        Backend::Auto => {
            choices.push(
                "backend: cpu (this version judges on the CPU only: times are CPU times)"
                    .to_owned(),
            );
            "cpu"
        }
        Backend::Cpu | Backend::Cuda => "cpu",
    };
    let profile = match config.profile {
        ProfileChoice::Auto => {
            choices.push("profile: quick (the device is a CPU)".to_owned());
            "quick"
        }
        ProfileChoice::Quick => "quick",
        ProfileChoice::Full => "full",
    };
    choices.extend(config.llm.models.choice());
    let seed = config.seed.unwrap_or_else(|| random::fresh_seed() >> 32);
    let output = config
        .output
        .clone()
        .unwrap_or_else(|| PathBuf::from("outputs").join(format!("{name}-{time}")));
    let mut tasks = Vec::new();
    let mut names = Vec::new();
    for named in tasks::find(config)? {
        let task = with_overrides(&named.files, config, profile)?;
        names.push(named.name);
        tasks.push((named.files, task));
    }
    let window = config
        .search
        .window
        .unwrap_or(2 * config.eval.in_flight as u64)
        .max(1);
    let mut typed = config.clone();
    typed.seed = Some(seed);
    typed.search.window = Some(window);
    let mut record = serde_json::to_value(&typed)
        .map_err(|error| Failure::usage(format!("the config cannot be recorded: {error}")))?;
    record["backend"] = json!(backend);
    record["profile"] = json!(profile);
    record["llm"]["models"] = json!(Models::Listed(Vec::new()));
    record["tasks"] = json!(names);
    Ok(Resolved {
        tasks,
        steps: config.steps,
        seed,
        output,
        output_is_free: config.output.is_none(),
        backend: backend.to_owned(),
        profile: profile.to_owned(),
        in_flight: config.eval.in_flight,
        launch_seconds: config.eval.launch_seconds,
        require_sandbox: config.eval.require_sandbox,
        window,
        search: config.search.clone(),
        budget: config.budget.seconds.map(Duration::from_secs_f64),
        choices,
        record,
    })
}

/// The task with the config's own budget and precision in its profile.
fn with_overrides(files: &TaskFiles, config: &Config, profile: &str) -> Result<Task, Failure> {
    let mut task = files.load()?;
    if let Some(profile) = task.settings.profiles.get_mut(profile) {
        profile.seconds = config.eval.seconds.unwrap_or(profile.seconds);
        profile.precision = config.eval.precision.unwrap_or(profile.precision);
    }
    Ok(task)
}
