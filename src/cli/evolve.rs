//! `kforge evolve` and `kforge tune`: from a run config to a finished run.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;

use super::{Exit, Format, dry_run, print, print_json, print_json_lines};
use crate::base::{Digest, Failure, files, yaml};
use crate::config::{self, Backend, Config, ProfileChoice, Resolved};
use crate::device::cpu;
use crate::driver::{self, Ended, Operators, Options, Start};
use crate::report::{self, Form, Sink};
use crate::run::{self, RECORD_SCHEMA, Record, RunDirectory, TaskRecord};
use crate::search::Mode;
use crate::worker::{Looks, Pools};

#[derive(Debug, clap::Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct Arguments {
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
    common: Common,
}

/// What `evolve`, `tune` and `resume` share.
#[derive(Debug, clap::Args)]
pub(super) struct Common {
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
    pub(super) models: super::asking::Flags,
    /// Show what would run, where and on what, and stop.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// The form of the results.
    #[arg(long, value_enum, default_value_t)]
    pub(super) format: Format,
}

/// `evolve` as the config says it.
pub(super) fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    start(arguments, None)
}

/// The same search with one kernel, edited step after step.
pub(super) fn tune(arguments: Arguments) -> anyhow::Result<Exit> {
    start(arguments, Some(Mode::Tune))
}

fn start(arguments: Arguments, mode: Option<Mode>) -> anyhow::Result<Exit> {
    if let Some(directory) = arguments.resume {
        return super::resume::go_on(directory, arguments.common);
    }
    let (text, origin) = match &arguments.config {
        Some(name) => config::find(name)?,
        None => (String::new(), String::new()),
    };
    let typed: Config = match &arguments.config {
        Some(_) => yaml::read(&text, &origin)?,
        None => Config::default(),
    };
    let named = arguments.config.or(arguments.tasks.first().cloned());
    let mut config = typed.clone();
    config.output = arguments.output.or(config.output);
    config.seed = arguments.seed.or(config.seed);
    if !arguments.tasks.is_empty() {
        config.tasks = arguments.tasks;
    }
    if !arguments.from.is_empty() {
        config.from = arguments.from;
    }
    let mut config = apply(config, &arguments.common)?;
    config.search.mode = mode.unwrap_or(config.search.mode);
    config.check().map_err(|failure| {
        let is_of = |checked: Result<(), Failure>| {
            checked.is_err_and(|other| other.message == failure.message)
        };
        let flags = apply(Config::default(), &arguments.common);
        // What a flag says stands in no file, though the file may be wrong there too.
        match is_of(typed.check()) && !is_of(flags.and_then(|flags| flags.check())) {
            true => yaml::placed(failure, &text, &origin),
            false => failure,
        }
    })?;
    let stem = named
        .as_deref()
        .and_then(|name| Path::new(name).file_stem());
    let stem = stem.map_or_else(
        || "run".to_owned(),
        |stem| stem.to_string_lossy().into_owned(),
    );
    let resolved = config::resolve(&config, &stem, &run::compact_timestamp(run::now()))?;
    begin(resolved, Start::New, &arguments.common)
}

/// The config under the flags that both commands know; `--set` is nearest to whoever types, and comes last.
pub(super) fn apply(mut config: Config, common: &Common) -> Result<Config, Failure> {
    config.steps = common.steps.unwrap_or(config.steps);
    if let Some(name) = common.profile.as_deref() {
        config.profile = ProfileChoice(name.to_owned());
    }
    if let Some(name) = common.backend.as_deref() {
        config.backend = backend(name);
    }
    config.eval.require_sandbox |= common.require_sandbox;
    config.eval.counters |= common.counters;
    common.models.apply(&mut config)?;
    config::apply(&config, &common.set)
}

/// What `--backend` says.
pub(super) fn backend(name: &str) -> Backend {
    match name {
        "cpu" => Backend::Cpu,
        "cuda" => Backend::Cuda,
        _ => Backend::Auto,
    }
}

/// Runs, or shows what would run.
pub(super) fn begin(mut resolved: Resolved, start: Start, common: &Common) -> anyhow::Result<Exit> {
    if common.dry_run {
        match common.format {
            Format::Human => print(&dry_run::describe(&resolved)?)?,
            Format::Json => print_json(&dry_run::facts(&resolved)?)?,
            Format::Jsonl => print_json_lines([dry_run::facts(&resolved)?])?,
        }
        return Ok(Exit::Done);
    }
    // Before a directory comes into being.
    if resolved.cards.is_empty() {
        cpu::find_compiler()?;
    }
    if resolved.require_sandbox {
        cpu::require_sandbox()?;
    }
    let models = super::asking::options(&resolved)?;
    if start == Start::New && resolved.output_is_free {
        resolved.output = claim(&resolved.output)?;
    }
    let options = Options {
        directory: resolved.output.clone(),
        start,
        record: record(
            &resolved,
            models.as_ref().map(|models| models.version.clone()),
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
    let pools = pools(&resolved);
    let mut sink = Sink::new(match common.format {
        Format::Human => Form::Human,
        Format::Json => Form::Quiet,
        Format::Jsonl => Form::Lines,
    });
    sink.say(&dry_run::opening(&resolved));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let ended = runtime.block_on(async {
        let interrupt = driver::watch_signals()?;
        driver::run(
            options,
            Arc::new(Operators::new(resolved.cards.is_empty().then(cpu::lock))?),
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
        let finished = ended.tasks.iter().filter(|task| task.was_finished);
        for task in finished {
            let looked_at = common.counters.then(|| task.directory.join("best.cu"));
            sink.insist(&nothing_left(&task.progress.task, looked_at.as_deref()));
        }
    }
    finish(&resolved, &ended?, &sink, common.format)
}

/// The judges of all tasks.
pub(super) fn pools(resolved: &Resolved) -> Pools {
    Pools {
        files: resolved
            .tasks
            .iter()
            .map(|(files, task)| (task.name.clone(), files.clone()))
            .collect(),
        profile: resolved.profile.clone(),
        launch_seconds: resolved.launch_seconds,
        cards: resolved.cards.clone(),
        cache: resolved.cache,
        screen: resolved.screen,
        looks: Looks {
            counters: resolved.counters,
            sanitize: resolved.device_sanitize,
        },
    }
}

/// To whoever resumes what is finished. `unread`: the kernel whose counters were asked for.
fn nothing_left(task: &str, unread: Option<&Path>) -> String {
    let mut text = format!("{task}: nothing was left to do; `--steps` with more steps goes on\n");
    if let Some(kernel) = unread {
        text += &format!(
            "{task}: `--counters` reads those of kernels while they are confirmed, and none was; for the best one:\n\n    kforge eval {task} {} --counters\n\n",
            quoted(kernel)
        );
    }
    text
}

/// Makes the folder, or one of the same name with a number behind it where several runs begin in one second.
fn claim(wanted: &Path) -> anyhow::Result<PathBuf> {
    if let Some(above) = wanted.parent() {
        files::create_folder(above)?;
    }
    for number in 1.. {
        let folder = match number {
            1 => wanted.to_owned(),
            _ => PathBuf::from(format!("{}-{number}", wanted.display())),
        };
        match std::fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(files::explain("create", &folder, error)),
        }
    }
    anyhow::bail!("every name for the run's directory is taken")
}

fn finish(resolved: &Resolved, ended: &Ended, sink: &Sink, format: Format) -> anyhow::Result<Exit> {
    let printed = show(resolved, ended, format);
    // Also to somebody who closed standard output.
    if ended.interrupted {
        sink.insist(&format!(
            "\ninterrupted; nothing is lost. To go on:\n\n    kforge resume {}\n",
            quoted(&resolved.output)
        ));
    }
    if ended.waiting {
        sink.insist(&format!(
            "\nwaiting for replies: each `ask-N` folder below `{}` with a `prompt.md` and no `response.md` is a question.\nWrite the reply as `response.md` beside it (as another file first, then renamed), and go on:\n\n    kforge resume {}\n",
            resolved.output.display(),
            quoted(&resolved.output)
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

fn show(resolved: &Resolved, ended: &Ended, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Human => {
            let tasks = ended.tasks.iter().map(|task| task.results.clone());
            print(&report::results(&tasks.collect::<Vec<_>>()))
        }
        Format::Json => print(&files::read(
            &RunDirectory::new(&resolved.output).summary(),
        )?),
        Format::Jsonl => Ok(()),
    }
}

/// A path as a shell takes it.
pub(super) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+=:,@%".contains(letter);
    match !text.is_empty() && text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

/// What the run's results depend on.
fn record(resolved: &Resolved, prompts: Option<String>) -> Record {
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
    Record {
        schema: RECORD_SCHEMA,
        kforge: env!("CARGO_PKG_VERSION").to_owned(),
        host: run::host_name(),
        seed: resolved.seed,
        window: resolved.window,
        backend: resolved.backend.clone(),
        device: resolved
            .cards
            .first()
            .cloned()
            .unwrap_or_else(cpu::identity),
        tasks: tasks.collect(),
        prompts,
        config: resolved.record.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_one_second_get_folders_of_their_own() {
        let root = tempfile::tempdir().unwrap();
        let wanted = root.path().join("outputs/x-1");
        let names = [(); 3].map(|()| claim(&wanted).unwrap());
        assert_eq!(names[0], wanted);
        assert!(names[1].ends_with("x-1-2") && names[2].ends_with("x-1-3"));
        std::fs::write(root.path().join("file"), "").unwrap();
        let error = claim(&root.path().join("file/x")).unwrap_err();
        assert!(error.downcast_ref::<Failure>().unwrap().hint.is_some());
    }

    #[test]
    fn a_path_can_be_pasted_into_a_shell() {
        assert_eq!(quoted(Path::new("outputs/a-1")), "outputs/a-1");
        assert_eq!(quoted(Path::new("my runs/it's")), r"'my runs/it'\''s'");
    }
}
