//! `kforge evolve` and `kforge tune`: from a run config to a finished run.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;

use super::{Exit, Format, dry_run, print, print_json, print_json_lines};
use crate::base::{Digest, Failure, files, yaml};
use crate::config::{self, BackendChoice, Config, ProfileChoice, ResolvedConfig};
use crate::device::cpu;
use crate::driver::{self, Operators, RunEnd, RunOptions, StartMode};
use crate::report::{self, ProgressFormat, ProgressView};
use crate::run::{self, RECORD_SCHEMA, RunDirectory, RunRecord, TaskRecord};
use crate::search::SearchMode;
use crate::worker::{Profiling, WorkerPools};

#[derive(Debug, clap::Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct EvolveArgs {
    /// Tasks, by name or folder, or task lists, in place of the config's.
    #[arg(value_name = "TASK", conflicts_with = "resume")]
    tasks: Vec<String>,
    /// The run config: a file, or the name of one in `config/` or within the program.
    #[arg(
        long,
        value_name = "FILE",
        env = "KFORGE_CONFIG",
        required_unless_present_any = ["resume", "tasks"]
    )]
    config: Option<String>,
    /// Begin from this kernel: a file, the best of a run's directory, or `best`, the best that is known of the task; may be
    /// repeated. `evolve` tries it before the task's own, `tune` in place of them.
    #[arg(long, value_name = "KERNEL|RUN|best", conflicts_with = "resume")]
    from: Vec<String>,
    /// Go on with the run in this directory instead, as `kforge resume DIR` does.
    #[arg(long, value_name = "DIR")]
    resume: Option<PathBuf>,
    /// Where to put the run. Default: `outputs/`, the config's name and the time.
    #[arg(long, value_name = "DIR", env = "KFORGE_OUTPUT")]
    output: Option<PathBuf>,
    /// Seed of the search. Default: drawn, shown and recorded.
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    #[command(flatten)]
    common: RunArgs,
}

/// What `evolve`, `tune` and `resume` share.
#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    /// Steps per task, those made before a resume included.
    #[arg(long, value_name = "NUMBER")]
    pub(super) steps: Option<u64>,
    /// How much judging to do: a profile of the task; `auto` is `quick` on a CPU and `full` on a GPU.
    #[arg(long, value_name = "NAME")]
    pub(super) profile: Option<String>,
    /// Which device judges; `auto` is CUDA where a GPU and NVRTC are found.
    #[arg(long, value_name = "NAME", env = "KFORGE_BACKEND", value_parser = ["auto", "cpu", "cuda"])]
    pub(super) backend: Option<String>,
    /// Override any key of the config, such as `--set search.exploration=0.5`; may be repeated, and wins over everything else.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
    /// Read a profiler's counters of the kernels that are confirmed at the end (`eval.counters`).
    #[arg(long)]
    pub(super) counters: bool,
    /// Refuse where candidates and compilers cannot be held by all that `kforge doctor` knows.
    #[arg(long)]
    pub(super) require_sandbox: bool,
    /// On resume, go on although the task, the config, kforge or the device has changed.
    #[arg(long)]
    pub(super) accept_changes: bool,
    #[command(flatten)]
    pub(super) models: super::model_flags::ModelArgs,
    /// Show what would run, where and on what, and stop.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// The form of the results.
    #[arg(long, value_enum, default_value_t)]
    pub(super) format: Format,
}

/// `evolve` as the config says it.
pub(super) fn run(arguments: EvolveArgs) -> anyhow::Result<Exit> {
    start_run(arguments, None)
}

/// The same search with one kernel, edited step after step.
pub(super) fn tune(arguments: EvolveArgs) -> anyhow::Result<Exit> {
    start_run(arguments, Some(SearchMode::Tune))
}

fn start_run(arguments: EvolveArgs, mode: Option<SearchMode>) -> anyhow::Result<Exit> {
    if let Some(directory) = arguments.resume {
        return super::resume::resume_run(directory, arguments.common);
    }
    let (text, origin) = match &arguments.config {
        Some(name) => config::find_config(name)?,
        None => (String::new(), String::new()),
    };
    let file_config: Config = match &arguments.config {
        Some(_) => yaml::read(&text, &origin)?,
        None => Config::default(),
    };
    let named_by = arguments.config.or(arguments.tasks.first().cloned());
    let mut config = file_config.clone();
    config.output = arguments.output.or(config.output);
    config.seed = arguments.seed.or(config.seed);
    if !arguments.tasks.is_empty() {
        config.tasks = arguments.tasks;
    }
    if !arguments.from.is_empty() {
        config.from = arguments.from;
    }
    let mut config = apply_flags(config, &arguments.common)?;
    config.search.mode = mode.unwrap_or(config.search.mode);
    config.check().map_err(|failure| {
        let same_failure = |checked: Result<(), Failure>| {
            checked.is_err_and(|other| other.message == failure.message)
        };
        let flags = apply_flags(Config::default(), &arguments.common);
        // What a flag says stands in no file, though the file may be wrong there too.
        match same_failure(file_config.check())
            && !same_failure(flags.and_then(|flags| flags.check()))
        {
            true => yaml::with_location(failure, &text, &origin),
            false => failure,
        }
    })?;
    let stem = named_by
        .as_deref()
        .and_then(|name| Path::new(name).file_stem());
    let stem = stem.map_or_else(
        || "run".to_owned(),
        |stem| stem.to_string_lossy().into_owned(),
    );
    let resolved = config::resolve(
        &config,
        &stem,
        &run::compact_timestamp(run::now_milliseconds()),
    )?;
    execute(resolved, StartMode::New, &arguments.common)
}

/// The config under the flags that both commands know; `--set` is nearest to whoever types, and comes last.
pub(super) fn apply_flags(mut config: Config, common: &RunArgs) -> Result<Config, Failure> {
    config.steps = common.steps.unwrap_or(config.steps);
    if let Some(name) = common.profile.as_deref() {
        config.profile = ProfileChoice(name.to_owned());
    }
    if let Some(name) = common.backend.as_deref() {
        config.backend = parse_backend(name);
    }
    config.eval.require_sandbox |= common.require_sandbox;
    config.eval.counters |= common.counters;
    common.models.apply(&mut config)?;
    config::apply_overrides(&config, &common.set)
}

/// What `--backend` says.
pub(super) fn parse_backend(name: &str) -> BackendChoice {
    match name {
        "cpu" => BackendChoice::Cpu,
        "cuda" => BackendChoice::Cuda,
        _ => BackendChoice::Auto,
    }
}

/// Runs, or shows what would run.
pub(super) fn execute(
    mut resolved: ResolvedConfig,
    start: StartMode,
    common: &RunArgs,
) -> anyhow::Result<Exit> {
    if common.dry_run {
        match common.format {
            Format::Human => print(&dry_run::describe_run(&resolved)?)?,
            Format::Json => print_json(&dry_run::run_facts(&resolved)?)?,
            Format::Jsonl => print_json_lines([dry_run::run_facts(&resolved)?])?,
        }
        return Ok(Exit::Done);
    }
    // Before a directory comes into being.
    if resolved.gpus.is_empty() {
        cpu::find_compiler()?;
    }
    if resolved.require_sandbox {
        cpu::require_sandbox()?;
    }
    let models = super::model_flags::request_options(&resolved)?;
    if start == StartMode::New && resolved.output_is_default {
        resolved.output = create_run_directory(&resolved.output)?;
    }
    let options = RunOptions {
        directory: resolved.output.clone(),
        start,
        record: run_record(
            &resolved,
            models.as_ref().map(|models| models.prompts_version.clone()),
        ),
        tasks: resolved
            .tasks
            .iter()
            .map(|(_, task)| Arc::new(task.clone()))
            .collect(),
        search: resolved.search.clone(),
        steps: resolved.steps,
        in_flight: resolved.in_flight,
        budget: resolved.budget,
        models,
    };
    let pools = build_pools(&resolved);
    let mut sink = ProgressView::new(match common.format {
        Format::Human => ProgressFormat::Human,
        Format::Json => ProgressFormat::Quiet,
        Format::Jsonl => ProgressFormat::JsonLines,
    });
    sink.print(&dry_run::summary_line(&resolved));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let ended = runtime.block_on(async {
        let interrupt = driver::watch_signals()?;
        driver::run(
            options,
            Arc::new(Operators::new(
                resolved.gpus.is_empty().then(cpu::host_lock),
            )?),
            &pools,
            &mut sink,
            interrupt,
        )
        .await
    });
    // Children of an interrupted run are killed as their handles go; nothing else needs to be waited for.
    runtime.shutdown_background();
    sink.close();
    if let Ok(ended) = &ended {
        let finished = ended.tasks.iter().filter(|task| task.already_finished);
        for task in finished {
            let best_kernel = common.counters.then(|| task.directory.join("best.cu"));
            sink.print_always(&nothing_left_message(
                &task.progress.task,
                best_kernel.as_deref(),
            ));
        }
    }
    report_end(&resolved, &ended?, &sink, common.format)
}

/// The judges of all tasks.
pub(super) fn build_pools(resolved: &ResolvedConfig) -> WorkerPools {
    WorkerPools {
        files: resolved
            .tasks
            .iter()
            .map(|(files, task)| (task.name.clone(), files.clone()))
            .collect(),
        profile: resolved.profile.clone(),
        launch_seconds: resolved.launch_seconds,
        gpus: resolved.gpus.clone(),
        cache: resolved.cache,
        screen: resolved.screen,
        profiling: Profiling {
            counters: resolved.counters,
            sanitize: resolved.device_sanitize,
        },
    }
}

/// To whoever resumes what is finished. `unread`: the kernel whose counters were asked for.
fn nothing_left_message(task: &str, unprofiled: Option<&Path>) -> String {
    let mut text = format!("{task}: nothing was left to do; `--steps` with more steps goes on\n");
    if let Some(kernel) = unprofiled {
        text += &format!(
            "{task}: `--counters` reads those of kernels while they are confirmed, and none was; for the best one:\n\n    kforge eval {task} {} --counters\n\n",
            shell_quote(kernel)
        );
    }
    text
}

/// Makes the folder, or one of the same name with a number behind it where several runs begin in one second.
fn create_run_directory(wanted: &Path) -> anyhow::Result<PathBuf> {
    if let Some(parent) = wanted.parent() {
        files::create_folder(parent)?;
    }
    for number in 1.. {
        let folder = match number {
            1 => wanted.to_owned(),
            _ => PathBuf::from(format!("{}-{number}", wanted.display())),
        };
        match std::fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(files::explain_io_error("create", &folder, error)),
        }
    }
    anyhow::bail!("every name for the run's directory is taken")
}

fn report_end(
    resolved: &ResolvedConfig,
    ended: &RunEnd,
    sink: &ProgressView,
    format: Format,
) -> anyhow::Result<Exit> {
    let printed = print_results(resolved, ended, format);
    // Also to somebody who closed standard output.
    if ended.interrupted {
        sink.print_always(&format!(
            "\ninterrupted; nothing is lost. To go on:\n\n    kforge resume {}\n",
            shell_quote(&resolved.output)
        ));
    }
    if ended.waiting {
        sink.print_always(&format!(
            "\nwaiting for replies: each `ask-N` folder below `{}` with a `prompt.md` and no `response.md` is a question.\nWrite the reply as `response.md` beside it (as another file first, then renamed), and go on:\n\n    kforge resume {}\n",
            resolved.output.display(),
            shell_quote(&resolved.output)
        ));
    }
    printed?;
    if ended.interrupted {
        return Ok(Exit::Interrupted);
    }
    if ended.waiting {
        return Ok(Exit::Waiting);
    }
    if let Some(failure) = ended.tasks.iter().find_map(|task| task.failure.as_ref()) {
        return Err(Failure::reference(failure).into());
    }
    Ok(if ended.tasks.iter().any(|task| task.best().is_none()) {
        Exit::NothingPassed
    } else {
        Exit::Done
    })
}

fn print_results(resolved: &ResolvedConfig, ended: &RunEnd, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Human => {
            let tasks = ended.tasks.iter().map(|task| task.results.clone());
            print(&report::results_tables(&tasks.collect::<Vec<_>>()))
        }
        Format::Json => print(&files::read(
            &RunDirectory::new(&resolved.output).summary(),
        )?),
        Format::Jsonl => Ok(()),
    }
}

/// A path as a shell takes it.
pub(super) fn shell_quote(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+=:,@%".contains(letter);
    match !text.is_empty() && text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

/// What the run's results depend on.
fn run_record(resolved: &ResolvedConfig, prompts: Option<String>) -> RunRecord {
    let tasks = resolved.tasks.iter().map(|(_, task)| {
        let record = TaskRecord {
            folder: task.digest,
            oracle: Digest::of(&task.oracle),
            baseline: Digest::of(task.baseline().1),
            from: resolved
                .from
                .get(&task.name)
                .into_iter()
                .flatten()
                .map(|begin| begin.record.clone())
                .collect(),
        };
        (task.name.clone(), record)
    });
    RunRecord {
        schema: RECORD_SCHEMA,
        kforge: env!("CARGO_PKG_VERSION").to_owned(),
        host: run::host_name(),
        seed: resolved.seed,
        window: resolved.window,
        backend: resolved.backend.clone(),
        device: resolved.gpus.first().cloned().unwrap_or_else(cpu::identity),
        tasks: tasks.collect(),
        prompts,
        config: resolved.record.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_started_in_the_same_second_get_distinct_directories() {
        let root = tempfile::tempdir().unwrap();
        let wanted = root.path().join("outputs/x-1");
        let names = [(); 3].map(|()| create_run_directory(&wanted).unwrap());
        assert_eq!(names[0], wanted);
        assert!(names[1].ends_with("x-1-2") && names[2].ends_with("x-1-3"));
        std::fs::write(root.path().join("file"), "").unwrap();
        let error = create_run_directory(&root.path().join("file/x")).unwrap_err();
        assert!(error.downcast_ref::<Failure>().unwrap().hint.is_some());
    }

    #[test]
    fn shell_quote_protects_spaces_and_quotes() {
        assert_eq!(shell_quote(Path::new("outputs/a-1")), "outputs/a-1");
        assert_eq!(shell_quote(Path::new("my runs/it's")), r"'my runs/it'\''s'");
    }
}
