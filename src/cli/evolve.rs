//! `kforge evolve` and `kforge tune`: start a new run from arguments and a config file.
//!
//! Both commands start the same kind of run, with another `search.mode`. Runs nothing itself: `execute` does.

use std::path::{Path, PathBuf};

use super::continue_run::ResumeFlags;
use super::execute::execute;
use super::exit::{self, Exit};
use super::model_flags::{ModelArgs, NoModelArg};
use super::resume::resume_any;
use super::run_args::{RunArgs, RunStart, apply_flags, parse_seed};
use super::sweep::start_sweep;
use crate::base::{Failure, yaml};
use crate::config::{self, Config};
use crate::run;
use crate::search::SearchMode;

/// Arguments of `kforge evolve`.
#[derive(Debug, clap::Args)]
#[command(after_help = evolve_help())]
pub(super) struct EvolveArgs {
    #[command(flatten)]
    new: NewRunArgs,
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten, next_help_heading = "Models")]
    no_model: NoModelArg,
    #[command(flatten, next_help_heading = "Models")]
    models: ModelArgs,
}

/// Arguments of `kforge tune`: as for `evolve`, without `--no-model`, because tuning always asks a model.
#[derive(Debug, clap::Args)]
#[command(after_help = tune_help())]
pub(super) struct TuneArgs {
    #[command(flatten)]
    new: NewRunArgs,
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten, next_help_heading = "Models")]
    models: ModelArgs,
}

/// Arguments that describe a new run.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).multiple(true).args(["tasks", "config", "resume"])))]
struct NewRunArgs {
    /// Tasks by name or folder, or task lists. Default: the config's.
    #[arg(value_name = "TASK", conflicts_with = "resume")]
    tasks: Vec<String>,
    /// Run config: a file, or the name of one in `config/` or built into kforge.
    #[arg(long, value_name = "FILE", env = "KFORGE_CONFIG")]
    config: Option<String>,
    /// Start from this kernel: a file, a run directory (its best kernel) or `best` (kernels/TASK/best.cu). `evolve` tries it before
    /// the task's kernels, `tune` instead of them. Repeatable.
    #[arg(long, value_name = "KERNEL|RUN|best", conflicts_with = "resume")]
    from: Vec<String>,
    /// Directory of the run. Default: `outputs/`, the config's name and the time.
    #[arg(long, value_name = "DIR", env = "KFORGE_OUTPUT")]
    output: Option<PathBuf>,
    /// Seed of the search. Default: random; it is printed and recorded.
    #[arg(long, value_name = "NUMBER", value_parser = parse_seed)]
    seed: Option<u64>,
    /// Continue the run in this directory, as `kforge resume DIR` does.
    #[arg(long, value_name = "DIR")]
    resume: Option<PathBuf>,
    /// With --resume: continue although the task, the config, kforge or the device has changed.
    #[arg(long, requires = "resume")]
    accept_changes: bool,
}

fn evolve_help() -> String {
    exit::help(
        "",
        &[
            (
                "kforge evolve --config gdn_decode.yaml",
                "search with a config; ends within two minutes",
            ),
            (
                "kforge evolve softmax --from my_kernel.cu --model openai/gpt-5 --budget-tokens 2000000",
                "search a task from your own kernel, and ask a model too",
            ),
            (
                "kforge evolve softmax --set search.strategy=map_elites,random --set seed=0..4",
                "a sweep: ten runs in one folder, to be compared",
            ),
        ],
        exit::RUN_CODES,
    )
}

fn tune_help() -> String {
    exit::help(
        "",
        &[
            (
                "kforge tune gdn_decode",
                "edit one kernel with the model whose key is in the environment",
            ),
            (
                "kforge tune softmax --from best --model mailbox",
                "edit the best known kernel; you are the model",
            ),
        ],
        exit::RUN_CODES,
    )
}

/// Runs `kforge evolve`; the config may set `search.mode: tune`.
pub(super) fn run(arguments: EvolveArgs) -> anyhow::Result<Exit> {
    start_run(RunRequest {
        new: arguments.new,
        run: arguments.run,
        models: arguments.models,
        no_model: arguments.no_model,
        mode: None,
    })
}

/// Runs `kforge tune`: one kernel, edited step after step.
pub(super) fn tune(arguments: TuneArgs) -> anyhow::Result<Exit> {
    start_run(RunRequest {
        new: arguments.new,
        run: arguments.run,
        models: arguments.models,
        no_model: NoModelArg::default(),
        mode: Some(SearchMode::Tune),
    })
}

/// The arguments of both commands in one form.
struct RunRequest {
    new: NewRunArgs,
    run: RunArgs,
    models: ModelArgs,
    no_model: NoModelArg,
    /// Replaces the config's `search.mode`.
    mode: Option<SearchMode>,
}

fn start_run(request: RunRequest) -> anyhow::Result<Exit> {
    let RunRequest {
        new,
        run: mut run_args,
        models,
        no_model,
        mode,
    } = request;
    if let Some(directory) = new.resume {
        let resume = ResumeFlags {
            accept_changes: new.accept_changes,
        };
        let flags = |config| apply_flags(config, &run_args, &models, &no_model);
        return resume_any(directory, &resume, &run_args, &flags);
    }
    let (fixed, varied) = config::split_assignments(&run_args.set)?;
    run_args.set = fixed;
    let points = config::sweep_points(&varied)?;
    let flags = |config| apply_flags(config, &run_args, &models, &no_model);
    let (text, origin) = match &new.config {
        Some(name) => config::find_config(name)?,
        None => (String::new(), String::new()),
    };
    let file_config: Config = match &new.config {
        Some(_) => yaml::read(&text, &origin)?,
        None => Config::default(),
    };
    let named_by = new.config.or(new.tasks.first().cloned());
    let mut config = file_config.clone();
    config.output = new.output.or(config.output);
    config.seed = new.seed.or(config.seed);
    config.budget.seconds = run_args.budget_seconds.or(config.budget.seconds);
    let device_seconds = run_args.budget_device_seconds;
    config.budget.device_seconds = device_seconds.or(config.budget.device_seconds);
    if !new.tasks.is_empty() {
        config.tasks = new.tasks;
    }
    if !new.from.is_empty() {
        config.from = new.from;
    }
    let mut config = flags(config)?;
    config.search.mode = mode.unwrap_or(config.search.mode);
    config.check().map_err(|failure| {
        let same_failure = |checked: Result<(), Failure>| {
            checked.is_err_and(|other| other.message == failure.message)
        };
        let by_flags = flags(Config::default()).and_then(|config| config.check());
        // Show a line of the file only where the wrong value comes from the file alone.
        if same_failure(file_config.check()) && !same_failure(by_flags) {
            yaml::with_location(failure, &text, &origin)
        } else {
            failure
        }
    })?;
    let stem = named_by
        .as_deref()
        .and_then(|name| Path::new(name).file_stem());
    let stem = stem.map_or("run".into(), |stem| stem.to_string_lossy());
    if !varied.is_empty() {
        return start_sweep(config, &points, &stem, &run_args);
    }
    let time = run::compact_timestamp(run::now_milliseconds());
    let resolved = config::resolve(&config, &stem, &time)?;
    execute(resolved, RunStart::New, &run_args)
}
