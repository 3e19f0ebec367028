//! From what was typed to what is meant: every `auto` decided, every seed drawn, every file read.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::warm_start::{self, WarmStarts};
use super::{BackendChoice, Config, DeviceChoice, EvalConfig, ScreenChoice, tasks};
use crate::base::text::did_you_mean;
use crate::base::{Failure, random};
use crate::device::{Cache, cuda};
use crate::task::{Task, TaskFiles};
use crate::verdict::DeviceIdentity;
use crate::{llm, search};

/// Kernels with the judge at once: the compilers of some work while another is timed.
const IN_FLIGHT_ON_CPU: usize = 2;
const IN_FLIGHT_PER_GPU: usize = 3;

/// A config in which nothing is left to decide.
#[derive(Clone, Debug)]
pub struct ResolvedConfig {
    /// With the starting kernels that are meant.
    pub tasks: Vec<(TaskFiles, Task)>,
    /// Those among them that come from elsewhere.
    pub from: WarmStarts,
    pub steps: u64,
    pub seed: u64,
    pub output: PathBuf,
    /// Whether nobody asked for that very directory, so that another will do where it is taken.
    pub output_is_default: bool,
    /// `cpu` or `cuda`.
    pub backend: String,
    /// `quick` or `full`.
    pub profile: String,
    pub in_flight: usize,
    /// The GPUs that judge; empty: the CPU does.
    pub gpus: Vec<DeviceIdentity>,
    pub cache: Cache,
    /// Whether kernels run on the CPU before they cost time on a GPU.
    pub screen: bool,
    /// Whether counters of confirmed kernels are read, and whether the GPU's sanitizer looks at them.
    pub counters: bool,
    pub device_sanitize: bool,
    pub launch_seconds: f64,
    pub require_sandbox: bool,
    pub window: u64,
    pub search: search::SearchSettings,
    /// Which models are asked, and how; nothing left to decide.
    pub llm: llm::LlmSettings,
    /// What they may cost, over all tasks.
    pub limits: llm::BudgetLimits,
    pub budget: Option<Duration>,
    /// What was decided for the user, one line each.
    pub choices: Vec<String>,
    /// The config with its decisions, as `run.yaml` keeps it.
    pub record: Value,
}

/// Decides. `name` is what the default output directory is called after, `time` when the run begins.
pub fn resolve(config: &Config, name: &str, time: &str) -> Result<ResolvedConfig, Failure> {
    resolve_with(config, name, time, None)
}

/// Decides for a run that goes on, which has the kernels that it began from.
pub(crate) fn resolve_for_resume(
    config: &Config,
    kept: WarmStarts,
) -> Result<ResolvedConfig, Failure> {
    resolve_with(config, "run", "", Some(kept))
}

fn resolve_with(
    config: &Config,
    name: &str,
    time: &str,
    kept: Option<WarmStarts>,
) -> Result<ResolvedConfig, Failure> {
    config.check()?;
    let mut choices = Vec::new();
    let cards = choose_gpus(config, &mut choices)?;
    let backend = if cards.is_empty() { "cpu" } else { "cuda" };
    if cards.is_empty() {
        let idle = keys_without_effect_on_cpu(&config.eval).into_iter();
        choices.extend(idle.map(|key| format!("{key}: without effect (the device is a CPU)")));
    }
    let profile = match (config.profile.0.as_str(), backend) {
        ("auto", "cpu") => {
            choices.push("profile: quick (the device is a CPU)".to_owned());
            "quick"
        }
        ("auto", _) => {
            choices.push("profile: full (the device is a GPU)".to_owned());
            "full"
        }
        (named, _) => named,
    };
    let usual = match cards.len() {
        0 => IN_FLIGHT_ON_CPU,
        cards => cards * IN_FLIGHT_PER_GPU,
    };
    let in_flight = config.eval.in_flight.unwrap_or(usual);
    let (llm, said) = config.llm.resolved()?;
    llm.check_budget(config.budget.usd, config.budget.tokens)?;
    choices.extend(said);
    let seed = config.seed.unwrap_or_else(|| random::fresh_seed() >> 32);
    let output = config
        .output
        .clone()
        .unwrap_or_else(|| PathBuf::from("outputs").join(format!("{name}-{time}")));
    let mut found = Vec::new();
    for named in tasks::find_tasks(config)? {
        let task = with_overrides(&named.files, config, profile)?;
        found.push((named, task));
    }
    let from = match kept {
        Some(kept) => kept,
        None => warm_start::find_warm_starts(&config.from, &found)?,
    };
    let mut tasks = Vec::new();
    let mut names = Vec::new();
    for (named, mut task) in found {
        let warm = from.get(&task.name).into_iter().flatten();
        let warm = warm.map(|begin| (begin.record.name.clone(), begin.source.clone()));
        task.start_from(
            warm.collect(),
            config.search.mode == search::SearchMode::Tune,
        );
        names.push(named.name);
        tasks.push((named.files, task));
    }
    let asks = !matches!(&llm.models, llm::ModelList::Listed(models) if models.is_empty());
    if !asks {
        let own = &config.search.operators;
        if config.search.mode == search::SearchMode::Tune {
            return Err(Failure::usage("tuning asks a model, and none is listed").hint(
                "set a provider's key in the environment, or name one with `--model PROVIDER/MODEL`, such as `--model mailbox`",
            ));
        }
        if own.autotune + own.mutate + own.recombine == 0.0 {
            return Err(Failure::usage(
                "no model is listed, and kforge's own operators are switched off by `search.operators`",
            )
            .hint("name a model with `--model PROVIDER/MODEL`, or give `mutate` a weight"));
        }
    }
    let at_once = in_flight + if asks { llm.concurrency } else { 0 };
    let usual = match config.search.mode {
        search::SearchMode::Evolve => 2 * at_once as u64,
        // Each edit is of what the last one left.
        search::SearchMode::Tune => 1,
    };
    let window = config.search.window.unwrap_or(usual).max(1);
    let mut typed = config.clone();
    typed.seed = Some(seed);
    typed.search.window = Some(window);
    typed.eval.in_flight = Some(in_flight);
    typed.llm = llm.clone();
    let mut record = serde_json::to_value(&typed)
        .map_err(|error| Failure::usage(format!("the config cannot be recorded: {error}")))?;
    record["backend"] = json!(backend);
    record["profile"] = json!(profile);
    record["tasks"] = json!(names);
    Ok(ResolvedConfig {
        tasks,
        from,
        steps: config.steps,
        seed,
        output,
        output_is_default: config.output.is_none(),
        backend: backend.to_owned(),
        profile: profile.to_owned(),
        in_flight,
        gpus: cards,
        cache: config.eval.cache,
        screen: config.eval.screen == ScreenChoice::Cpu,
        counters: config.eval.counters,
        device_sanitize: config.eval.device_sanitize,
        launch_seconds: config.eval.launch_seconds,
        require_sandbox: config.eval.require_sandbox,
        window,
        search: config.search.clone(),
        llm,
        limits: llm::BudgetLimits::new(config.budget.usd, config.budget.tokens),
        budget: config.budget.seconds.map(Duration::from_secs_f64),
        choices,
        record,
    })
}

/// The task with the config's own budget and precision in its profile.
fn with_overrides(files: &TaskFiles, config: &Config, profile: &str) -> Result<Task, Failure> {
    let mut task = files.load()?;
    if !task.settings.profiles.contains_key(profile) {
        let known: Vec<&str> = task.settings.profiles.keys().map(String::as_str).collect();
        let near = did_you_mean(profile, known);
        return Err(
            Failure::usage(format!("task `{}` has no profile `{profile}`", task.name)).hint(near),
        );
    }
    if let Some(profile) = task.settings.profiles.get_mut(profile) {
        profile.seconds = config.eval.seconds.unwrap_or(profile.seconds);
        profile.precision = config.eval.precision.unwrap_or(profile.precision);
    }
    Ok(task)
}

/// The GPUs that judge, or none where the CPU does.
fn choose_gpus(config: &Config, choices: &mut Vec<String>) -> Result<Vec<DeviceIdentity>, Failure> {
    let found = match config.backend {
        BackendChoice::Cpu => return Ok(Vec::new()),
        BackendChoice::Cuda => {
            cuda::compiler::find_toolkit()?;
            cuda::list_gpus()?
        }
        BackendChoice::Auto => match cuda::list_gpus() {
            Ok(cards) if !cards.is_empty() => match cuda::compiler::find_toolkit() {
                Ok(_) => cards,
                Err(failure) => {
                    choices.push(format!("backend: cpu (a GPU is there, and {failure})"));
                    return Ok(Vec::new());
                }
            },
            _ => {
                choices.push("backend: cpu (no GPU was found: times are CPU times)".to_owned());
                return Ok(Vec::new());
            }
        },
    };
    if found.is_empty() {
        return Err(
            Failure::environment("no GPU was found").hint("`kforge doctor` says what is there")
        );
    }
    let chosen = config.eval.devices.select(&found)?;
    let chosen = gpus_of_one_kind(&config.eval.devices, chosen, choices)?;
    let names: Vec<&str> = chosen.iter().map(|card| card.name.as_str()).collect();
    if config.backend == BackendChoice::Auto {
        choices.push(format!("backend: cuda ({})", names.join(", ")));
    }
    Ok(chosen)
}

/// GPUs of one kind: a run compares times, and confirms on one card what was measured on another.
fn gpus_of_one_kind(
    devices: &DeviceChoice,
    chosen: Vec<DeviceIdentity>,
    choices: &mut Vec<String>,
) -> Result<Vec<DeviceIdentity>, Failure> {
    let Some(first) = chosen.first().cloned() else {
        return Ok(chosen);
    };
    let is_alike = |card: &DeviceIdentity| card.name == first.name && card.arch == first.arch;
    let (alike, others): (Vec<_>, Vec<_>) = chosen.into_iter().partition(is_alike);
    let Some(other) = others.first() else {
        return Ok(alike);
    };
    if *devices != DeviceChoice::All {
        return Err(Failure::usage(format!(
            "`eval.devices`: `{}` and `{}` are GPUs of two kinds: their times cannot be compared",
            first.name, other.name
        ))
        .hint("name GPUs of one kind; `kforge doctor` lists them"));
    }
    let names: Vec<&str> = others.iter().map(|card| card.name.as_str()).collect();
    choices.push(format!(
        "devices: {} of {} ({} left out: `eval.devices` names others)",
        alike.len(),
        first.name,
        names.join(", ")
    ));
    Ok(alike)
}

/// The keys that somebody has set and that say something of GPUs only.
fn keys_without_effect_on_cpu(eval: &EvalConfig) -> Vec<&'static str> {
    let keys = [
        ("eval.devices", eval.devices != DeviceChoice::All),
        ("eval.cache", eval.cache != Cache::default()),
        ("eval.screen", eval.screen != ScreenChoice::None),
        ("eval.counters", eval.counters),
        ("eval.device_sanitize", eval.device_sanitize),
    ];
    let set = keys.into_iter().filter(|(_, is_set)| *is_set);
    set.map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(name: &str, uuid: &str) -> DeviceIdentity {
        DeviceIdentity {
            name: name.to_owned(),
            uuid: Some(uuid.to_owned()),
            ..DeviceIdentity::default()
        }
    }

    #[test]
    fn a_run_uses_gpus_of_one_kind() {
        let mixed = vec![gpu("A", "1"), gpu("B", "2"), gpu("A", "3")];
        let mut choices = Vec::new();
        let alike = gpus_of_one_kind(&DeviceChoice::All, mixed.clone(), &mut choices).unwrap();
        assert_eq!(alike, [gpu("A", "1"), gpu("A", "3")]);
        assert_eq!(
            choices,
            ["devices: 2 of A (B left out: `eval.devices` names others)"]
        );
        let named = DeviceChoice::Listed(vec!["0".to_owned(), "1".to_owned()]);
        let failure = gpus_of_one_kind(&named, mixed, &mut choices).unwrap_err();
        assert!(failure.message.contains("`A` and `B`"), "{failure}");
        let alike = gpus_of_one_kind(&named, alike, &mut choices).unwrap();
        assert_eq!((alike.len(), choices.len()), (2, 1));
    }

    #[test]
    fn keys_without_effect_on_a_cpu_are_listed() {
        assert!(keys_without_effect_on_cpu(&EvalConfig::default()).is_empty());
        let eval = EvalConfig {
            screen: ScreenChoice::Cpu,
            counters: true,
            ..EvalConfig::default()
        };
        assert_eq!(
            keys_without_effect_on_cpu(&eval),
            ["eval.screen", "eval.counters"]
        );
    }
}
