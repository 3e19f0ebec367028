//! Resolves a config: replaces every `auto`, fills in every default, draws the seed, and reads tasks and kernels.
//!
//! Every choice made for the user is reported in `choices` and recorded.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::gpus::{choose_gpus, keys_without_effect_on_cpu};
use super::lessons::{Lessons, find_lessons};
use super::resolved::ResolvedConfig;
use super::tasks::{NamedTask, find_tasks};
use super::warm_start::{WarmStarts, find_warm_starts};
use super::{Config, EvalConfig, NAIVE, ScreenChoice};
use crate::base::text::did_you_mean;
use crate::base::{Failure, random};
use crate::device::Cache;
use crate::llm::{BudgetLimits, LlmSettings, ModelList};
use crate::run::{RunDirectory, RunRecord};
use crate::search::{FeatureSources, FoldOrder, NearCopyAction, SearchMode, SearchSettings};
use crate::task::{Task, TaskFiles};
use crate::verdict::DeviceIdentity;

/// How many kernels are judged at once on the CPU: one is compiled while another is timed.
const IN_FLIGHT_ON_CPU: usize = 2;
/// How many kernels are judged at once for each GPU: some are compiled while another is timed.
const IN_FLIGHT_PER_GPU: usize = 3;
/// How many points a new kernel gets before it is judged, on a GPU. On a CPU each costs a compilation, which nothing hides.
const TUNE_FIRST_ON_GPU: u64 = 4;

/// Resolves the config of a new run. The default output directory is `outputs/NAME-TIME`.
pub fn resolve(config: &Config, name: &str, time: &str) -> Result<ResolvedConfig, Failure> {
    resolve_with(config, &format!("{name}-{time}"), None)
}

/// What a resumed run keeps from its record, whatever the config says now.
pub(crate) struct Recorded {
    pub(crate) warm_starts: WarmStarts,
    pub(crate) lessons: Lessons,
    pub(crate) order: FoldOrder,
}

/// Resolves the config of a run that is resumed.
pub(crate) fn resolve_for_resume(
    config: &Config,
    recorded: Recorded,
) -> Result<ResolvedConfig, Failure> {
    resolve_with(config, "run", Some(recorded))
}

fn resolve_with(
    config: &Config,
    name: &str,
    recorded: Option<Recorded>,
) -> Result<ResolvedConfig, Failure> {
    config.check()?;
    let mut choices = Vec::new();
    let gpus = choose_gpus(config, &mut choices)?;
    let backend = if gpus.is_empty() { "cpu" } else { "cuda" };
    if gpus.is_empty() {
        let keys = keys_without_effect_on_cpu(&config.eval).into_iter();
        choices.extend(keys.map(|key| format!("{key}: without effect (the device is a CPU)")));
    }
    let profile = choose_profile(config, &gpus, &mut choices);
    let (llm, llm_choices) = config.llm.resolved()?;
    llm.check_budget(config.budget.usd, config.budget.tokens)?;
    choices.extend(llm_choices);
    let in_flight = config.eval.in_flight.unwrap_or(match gpus.len() {
        0 => IN_FLIGHT_ON_CPU,
        count => count * IN_FLIGHT_PER_GPU,
    });
    let search = choose_search(config, backend, recorded.is_none(), &mut choices);
    let window = choose_window(&config.search, &llm, backend, in_flight);
    let seed = config.seed.unwrap_or_else(|| random::fresh_seed() >> 32);
    let default_output = || PathBuf::from("outputs").join(name);
    let output = config.output.clone().unwrap_or_else(default_output);
    let found = load_tasks(config, &profile)?;
    check_targets(&config.search, &found)?;
    choices.extend(without_effect(config, &llm, backend));
    let kept = recorded.map_or_else(|| choose_kept(config, &llm, &found), Ok)?;
    check_kernels_can_be_made(&config.search, &llm)?;
    let complete = Config {
        seed: Some(seed),
        search: SearchSettings {
            window: Some(window),
            ..search.clone()
        },
        eval: EvalConfig {
            in_flight: Some(in_flight),
            ..config.eval.clone()
        },
        llm: llm.clone(),
        ..config.clone()
    };
    let record = complete_record(&complete, backend, &profile, &found)?;
    Ok(ResolvedConfig {
        tasks: with_warm_starts(found, &kept.warm_starts, config.search.mode),
        from: kept.warm_starts,
        steps: config.steps,
        seed,
        output,
        output_is_default: config.output.is_none(),
        backend: backend.to_owned(),
        profile,
        in_flight,
        gpus,
        cache: config.eval.cache,
        screen: config.eval.screen == ScreenChoice::Cpu,
        counters: config.eval.counters,
        device_sanitize: config.eval.device_sanitize,
        launch_seconds: config.eval.launch_seconds,
        baseline: config.eval.baseline.clone(),
        racing: config.eval.racing,
        require_sandbox: config.eval.require_sandbox,
        window,
        order: kept.order,
        search,
        llm,
        lessons: kept.lessons,
        limits: BudgetLimits::new(config.budget.usd, config.budget.tokens),
        budget: config.budget.seconds.map(Duration::from_secs_f64),
        device_budget: config.budget.device_seconds.map(Duration::from_secs_f64),
        confirm_share: config.budget.confirm_share,
        choices,
        record,
    })
}

fn load_tasks(config: &Config, profile: &str) -> Result<Vec<(NamedTask, Task)>, Failure> {
    let named = find_tasks(config)?.into_iter();
    named
        .map(|named| {
            let task = load_task(&named.files, config, profile)?;
            Ok((named, task))
        })
        .collect()
}

/// What `run.yaml` has of the config: the complete one, with what was chosen.
fn complete_record(
    complete: &Config,
    backend: &str,
    profile: &str,
    found: &[(NamedTask, Task)],
) -> Result<Value, Failure> {
    let names: Vec<&str> = found.iter().map(|(named, _)| named.name.as_str()).collect();
    let mut record = record_of(complete)?;
    record["backend"] = json!(backend);
    record["profile"] = json!(profile);
    record["tasks"] = json!(names);
    Ok(record)
}

/// The settings of the search, with what was chosen.
fn choose_search(
    config: &Config,
    backend: &str,
    is_new: bool,
    choices: &mut Vec<String>,
) -> SearchSettings {
    let mut search = config.search.clone();
    // A run that is resumed keeps the axes that it began with.
    if is_new {
        choices.extend(drop_axes(&mut search, config, backend));
    }
    search.tune_first = Some(choose_tune_first(config, backend, choices));
    search
}

/// Drops the axes of the archive that the device cannot supply, and says so.
fn drop_axes(
    search: &mut SearchSettings,
    config: &Config,
    backend: &str,
) -> impl Iterator<Item = String> + use<> {
    let is_gpu = backend == "cuda";
    let dropped = search.drop_axes(FeatureSources {
        is_gpu,
        inspects: !is_gpu || config.eval.screen == ScreenChoice::Cpu,
    });
    dropped
        .into_iter()
        .map(|(axis, why)| format!("search.features.{axis}: left out ({why})"))
}

/// What a new run keeps in its record, whatever the config says later.
fn choose_kept(
    config: &Config,
    llm: &LlmSettings,
    found: &[(NamedTask, Task)],
) -> Result<Recorded, Failure> {
    let tasks: Vec<&str> = found.iter().map(|(_, task)| task.name.as_str()).collect();
    Ok(Recorded {
        warm_starts: find_warm_starts(&config.from, found)?,
        lessons: find_lessons(&llm.lessons, &tasks)?,
        order: choose_order(llm),
    })
}

/// Keys that have no effect on this run, with the reason.
fn without_effect(
    config: &Config,
    llm: &LlmSettings,
    backend: &str,
) -> impl Iterator<Item = String> + use<> {
    // Verdicts have no floor then.
    let lacks_floors = backend != "cuda" || config.eval.cache != Cache::Cold;
    let keys = [
        (
            "start: without effect (`tune` starts from a proposal or from `from`)",
            config.start.is_some() && config.search.mode == SearchMode::Tune,
        ),
        (
            "llm.lessons: without effect (no model is asked)",
            !llm.lessons.is_empty() && !has_models(llm),
        ),
        (
            "search.near_copies: without effect (no model is asked, and it refuses only their kernels)",
            config.search.near_copies.action == NearCopyAction::Refuse && !has_models(llm),
        ),
        (
            "search.target_roofline: without effect (no floor is known on a CPU or with hot caches)",
            config.search.target_roofline.is_some() && lacks_floors,
        ),
    ];
    let idle = keys.into_iter().filter(|(_, is_idle)| *is_idle);
    idle.map(|(text, _)| text.to_owned())
}

/// Fails if `search.targets` names a workload that no task has.
fn check_targets(search: &SearchSettings, found: &[(NamedTask, Task)]) -> Result<(), Failure> {
    let workloads = found.iter().flat_map(|(_, task)| &task.workloads);
    let names: Vec<&str> = workloads.map(|workload| workload.id.as_str()).collect();
    let mut targets = search.targets.keys();
    match targets.find(|name| !names.contains(&name.as_str())) {
        None => Ok(()),
        Some(unknown) => Err(Failure::usage(format!(
            "`search.targets`: no task of the config has the workload `{unknown}`"
        ))
        .hint(did_you_mean(unknown, names))),
    }
}

fn choose_profile(config: &Config, gpus: &[DeviceIdentity], choices: &mut Vec<String>) -> String {
    let named = config.profile.0.as_str();
    if named != "auto" {
        return named.to_owned();
    }
    let (profile, device) = if gpus.is_empty() {
        ("quick", "a CPU")
    } else {
        ("full", "a GPU")
    };
    choices.push(format!("profile: {profile} (the device is {device})"));
    profile.to_owned()
}

fn has_models(llm: &LlmSettings) -> bool {
    !matches!(&llm.models, ModelList::Listed(models) if models.is_empty())
}

/// Fails if there are neither models nor operators of kforge's own.
fn check_kernels_can_be_made(search: &SearchSettings, llm: &LlmSettings) -> Result<(), Failure> {
    if has_models(llm) {
        return Ok(());
    }
    if search.mode == SearchMode::Tune {
        return Err(Failure::usage("`tune` needs a model, and none is listed").hint(
            "set a provider's key in the environment, or name one with `--model PROVIDER/MODEL`, such as `--model mailbox`",
        ));
    }
    let own = &search.operators;
    if own.autotune + own.mutate + own.recombine == 0.0 {
        return Err(Failure::usage(
            "no model is listed, and `search.operators` switches off kforge's own operators",
        )
        .hint("name a model with `--model PROVIDER/MODEL`, or give `mutate` a weight"));
    }
    Ok(())
}

/// The number of steps in flight. Default: twice what runs at once; on a CPU without models no more than that; 1 for `tune`.
fn choose_window(
    search: &SearchSettings,
    llm: &LlmSettings,
    backend: &str,
    in_flight: usize,
) -> u64 {
    let default = match search.mode {
        // Own operators need no time worth hiding, and a brief that waits is decided without the results of the steps before it.
        SearchMode::Evolve if backend == "cpu" && !has_models(llm) => in_flight as u64,
        SearchMode::Evolve => {
            let requests = if has_models(llm) { llm.concurrency } else { 0 };
            2 * (in_flight + requests) as u64
        }
        // Each edit starts from the result of the one before.
        SearchMode::Tune => 1,
    };
    search.window.unwrap_or(default).max(1)
}

/// How many points a new kernel gets before it is judged. None with a screen: it must see every kernel before the GPU does.
fn choose_tune_first(config: &Config, backend: &str, choices: &mut Vec<String>) -> u64 {
    let is_screened = backend == "cuda" && config.eval.screen == ScreenChoice::Cpu;
    match config.search.tune_first {
        Some(count) if count > 0 && is_screened => {
            choices.push("search.tune_first: without effect (`eval.screen: cpu`)".to_owned());
            0
        }
        Some(count) => count,
        None if backend == "cuda" && !is_screened => TUNE_FIRST_ON_GPU,
        None => 0,
    }
}

/// The order of the fold of a new run. A run that replays another has the order of that one, because it must decide the same briefs.
fn choose_order(llm: &LlmSettings) -> FoldOrder {
    let replayed = llm.replayed_run().map(RunDirectory::new);
    // A directory that cannot be read is reported when the models are opened.
    let record = replayed.and_then(|directory| RunRecord::read(&directory).ok());
    record.map_or(FoldOrder::Journal, |record| record.order)
}

/// Loads a task, and sets the config's timing budget and precision in its profile.
fn load_task(files: &TaskFiles, config: &Config, profile: &str) -> Result<Task, Failure> {
    let mut task = files.load()?;
    let Some(settings) = task.settings.profiles.get_mut(profile) else {
        let known: Vec<&str> = task.settings.profiles.keys().map(String::as_str).collect();
        let message = format!("task `{}` has no profile `{profile}`", task.name);
        return Err(Failure::usage(message).hint(did_you_mean(profile, known)));
    };
    settings.seconds = config.eval.seconds.unwrap_or(settings.seconds);
    settings.precision = config.eval.precision.unwrap_or(settings.precision);
    if let Some(names) = &config.start {
        choose_starting_kernels(&mut task, names, config)?;
    }
    Ok(task)
}

/// Leaves only the starting kernels that `start` names.
fn choose_starting_kernels(
    task: &mut Task,
    names: &[String],
    config: &Config,
) -> Result<(), Failure> {
    let known = &task.settings.start;
    if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
        let message = format!(
            "`start`: task `{}` has no starting kernel `{unknown}`",
            task.name
        );
        let close = did_you_mean(unknown, known.iter().map(String::as_str));
        return Err(Failure::usage(message).hint(close));
    }
    if names.is_empty() && config.from.is_empty() {
        return Err(Failure::usage("`start: []` leaves no kernel to start from")
            .hint("name a starting kernel, or a warm start with `from`"));
    }
    task.settings.start.retain(|file| names.contains(file));
    Ok(())
}

/// The tasks with their warm starts before their starting kernels; `tune` uses the warm starts only.
fn with_warm_starts(
    found: Vec<(NamedTask, Task)>,
    from: &WarmStarts,
    mode: SearchMode,
) -> Vec<(TaskFiles, Task)> {
    let mut tasks = Vec::new();
    for (named, mut task) in found {
        let kernels = from.get(&task.name).into_iter().flatten();
        let sources = kernels.map(|kernel| (kernel.record.name.clone(), kernel.source.clone()));
        task.start_from(sources.collect(), mode == SearchMode::Tune);
        tasks.push((named.files, task));
    }
    tasks
}

/// The config for the record. It has no keys of islands, near-copies, the baseline or starting kernels where they have their defaults, like the records of
/// versions that had none.
fn record_of(config: &Config) -> Result<Value, Failure> {
    let mut record = serde_json::to_value(config)
        .map_err(|error| Failure::usage(format!("the config cannot be recorded: {error}")))?;
    let search = record.get_mut("search").and_then(Value::as_object_mut);
    if let Some(search) = search {
        if !config.search.islands.are_on() {
            search.shift_remove("islands");
        }
        if !config.search.near_copies.are_on() {
            search.shift_remove("near_copies");
        }
    }
    if config.start.is_none()
        && let Some(record) = record.as_object_mut()
    {
        record.shift_remove("start");
    }
    let eval = record.get_mut("eval").and_then(Value::as_object_mut);
    if let Some(eval) = eval.filter(|_| config.eval.baseline == NAIVE) {
        eval.shift_remove("baseline");
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_search_that_hides_waits_has_more_steps_in_flight_than_run_at_once() {
        let with = |models: &str, backend, window| {
            let llm: LlmSettings = serde_yaml::from_str(models).unwrap();
            let search = SearchSettings {
                window,
                ..SearchSettings::default()
            };
            choose_window(&search, &llm, backend, 3)
        };
        let no_models = "models: []";
        let models = "{models: [mailbox], concurrency: 4}";
        assert_eq!(with(no_models, "cpu", None), 3);
        assert_eq!(with(no_models, "cuda", None), 6);
        assert_eq!(with(models, "cpu", None), 14);
        assert_eq!(with(no_models, "cpu", Some(5)), 5);
    }

    #[test]
    fn islands_and_near_copies_are_recorded_only_if_they_are_set() {
        let section_of =
            |config: &Config, key: &str| record_of(config).unwrap()["search"][key].clone();
        let islands_of = |config: &Config| section_of(config, "islands");
        let mut config = Config::default();
        // A run that an earlier version began has the same record, so it can be resumed.
        assert_eq!(islands_of(&config), Value::Null);
        config.search.islands.count = 3;
        assert_eq!(islands_of(&config)["count"], 3);
        assert_eq!(section_of(&config, "near_copies"), Value::Null);
        config.search.near_copies.action = NearCopyAction::Refuse;
        assert_eq!(section_of(&config, "near_copies")["action"], "refuse");
    }
}
