//! From a resolved config to a finished run: check the machine, create the directory, run the driver, print results.
//!
//! New and resumed runs are executed in the same way. `driver` runs the search, and `report` makes the text. Never reads config
//! files: `evolve` and `resume` do.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::dry_run;
use super::exit::Exit;
use super::model_flags::model_options;
use super::output::{Format, print, print_json, print_json_lines, print_run_results};
use super::run_args::RunArgs;
use crate::base::{Digest, Failure, files, interrupt};
use crate::config::ResolvedConfig;
use crate::device::cpu;
use crate::driver::{self, Operators, RunEnd, RunOptions, StartMode};
use crate::event::FailedReason;
use crate::report::{self, ProgressFormat, ProgressView};
use crate::run::{self, RECORD_SCHEMA, RunDirectory, RunRecord, TaskRecord};
use crate::worker::{Profiling, WorkerPools};

/// How long the results of a run wait for a reader that reads nothing.
const RESULTS_WAIT: Duration = Duration::from_secs(5);

/// The same where the run was interrupted.
const INTERRUPTED_WAIT: Duration = Duration::from_millis(300);

/// Runs, or prints what would run.
pub(super) fn execute(
    mut resolved: ResolvedConfig,
    start: StartMode,
    arguments: &RunArgs,
) -> anyhow::Result<Exit> {
    if arguments.dry_run {
        print_dry_run(&resolved, arguments.format)?;
        return Ok(Exit::Done);
    }
    // Everything that can fail comes first, so that a failure leaves no directory.
    require_machine(&resolved)?;
    let models = model_options(&resolved)?;
    if start == StartMode::New && resolved.output_is_default {
        resolved.output = create_run_directory(&resolved.output)?;
    }
    let tasks = resolved.tasks.iter();
    let prompts_version = models.as_ref().map(|models| models.prompts_version.clone());
    let options = RunOptions {
        directory: resolved.output.clone(),
        start,
        record: run_record(&resolved, prompts_version),
        tasks: tasks.map(|(_, task)| Arc::new(task.clone())).collect(),
        search: resolved.search.clone(),
        steps: resolved.steps,
        in_flight: resolved.in_flight,
        budget: resolved.budget,
        models,
    };
    let mut view = ProgressView::new(match arguments.format {
        Format::Human => ProgressFormat::Human,
        Format::Json => ProgressFormat::Quiet,
        Format::Jsonl => ProgressFormat::JsonLines,
    });
    view.print(&dry_run::summary_line(&resolved));
    interrupt::set_last_message(interrupted_message(&resolved));
    let ended = run_driver(&resolved, options, &mut view);
    view.close();
    let ended = ended?;
    for task in ended.tasks.iter().filter(|task| task.already_finished) {
        let best = arguments.counters.then(|| task.directory.join("best.cu"));
        view.print_always(&nothing_left_message(&task.progress.task, best.as_deref()));
    }
    report_end(&resolved, &ended, &view, arguments.format)
}

fn print_dry_run(resolved: &ResolvedConfig, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Human => print(&dry_run::describe_run(resolved)?),
        Format::Json => print_json(&dry_run::run_facts(resolved)?),
        Format::Jsonl => print_json_lines([dry_run::run_facts(resolved)?]),
    }
}

/// Checks for a compiler where the CPU judges, and for the full sandbox where it is required.
pub(super) fn require_machine(resolved: &ResolvedConfig) -> anyhow::Result<()> {
    if resolved.gpus.is_empty() {
        cpu::find_compiler()?;
    }
    if resolved.require_sandbox {
        cpu::require_sandbox()?;
    }
    Ok(())
}

fn run_driver(
    resolved: &ResolvedConfig,
    options: RunOptions,
    view: &mut ProgressView,
) -> anyhow::Result<RunEnd> {
    let pools = build_pools(resolved);
    let host_lock = resolved.gpus.is_empty().then(cpu::host_lock);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let ended = runtime.block_on(async {
        let interrupt = driver::watch_signals()?;
        let operators = Arc::new(Operators::new(host_lock)?);
        driver::run(options, operators, &pools, view, interrupt).await
    });
    // Children of an interrupted run are killed when their handles are dropped; nothing else needs waiting for.
    runtime.shutdown_background();
    ended
}

/// Worker pools for all tasks of a run.
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

/// The message for a resumed task that was already finished. `unprofiled`: the best kernel, if `--counters` was given.
fn nothing_left_message(task: &str, unprofiled: Option<&Path>) -> String {
    let mut text =
        format!("{task}: nothing was left to do; `--steps` with a larger number continues\n");
    if let Some(kernel) = unprofiled {
        text += &format!(
            "{task}: `--counters` reads counters while kernels are confirmed, and\nnone was. For the best kernel:\n\n    kforge eval {task} {} --counters\n\n",
            shell_quote(kernel)
        );
    }
    text
}

/// Creates the folder, with a number appended to its name where several runs start in the same second.
fn create_run_directory(wanted: &Path) -> anyhow::Result<PathBuf> {
    if let Some(parent) = wanted.parent() {
        files::create_folder(parent)?;
    }
    for number in 1.. {
        let folder = if number == 1 {
            wanted.to_owned()
        } else {
            PathBuf::from(format!("{}-{number}", wanted.display()))
        };
        match std::fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(files::explain_io_error("create", &folder, error)),
        }
    }
    anyhow::bail!("every name for the run's directory is taken")
}

/// Prints the results and what is left to do, and picks the exit code.
fn report_end(
    resolved: &ResolvedConfig,
    ended: &RunEnd,
    view: &ProgressView,
    format: Format,
) -> anyhow::Result<Exit> {
    if ended.interrupted {
        if let Err(error) = print_results(resolved, ended, format, INTERRUPTED_WAIT) {
            tracing::warn!("{error:#}");
        }
        interrupt::set_last_message(String::new());
        view.print_always(&interrupted_message(resolved));
        return Ok(Exit::Interrupted);
    }
    let printed = print_results(resolved, ended, format, RESULTS_WAIT);
    // Standard error, so it is shown even where standard output is closed.
    let directory = shell_quote(&resolved.output);
    if ended.waiting {
        view.print_always(&format!(
            "\nwaiting for replies: in `{}`, each `ask-N` folder\nwith a `prompt.md` and no `response.md` is a request. Write the reply next to it\nas `response.md` (write another file first, then rename it). To continue:\n\n    kforge resume {directory}\n",
            resolved.output.display()
        ));
    }
    printed?;
    if ended.waiting {
        return Ok(Exit::Waiting);
    }
    if let Some(failure) = ended.tasks.iter().find_map(|task| task.failure.as_ref()) {
        return Err(Failure::reference(failure).into());
    }
    if let Some(failure) = no_reply_failure(ended) {
        return Err(failure.into());
    }
    Ok(if ended.tasks.iter().any(|task| task.best().is_none()) {
        Exit::NothingPassed
    } else {
        Exit::Done
    })
}

/// The failure of a run in which no model has replied and nothing else made a candidate: as for a model that cannot be used.
fn no_reply_failure(ended: &RunEnd) -> Option<Failure> {
    if ended.tasks.iter().any(|task| task.progress.judged > 0) {
        return None;
    }
    let mut unanswered = ended.tasks.iter().flat_map(|task| &task.results.unanswered);
    let missing = unanswered.find(|missing| missing.reason == FailedReason::NoReply)?;
    let failure = Failure::environment(format!("no model has replied: {}", missing.detail));
    Some(
        failure.hint(
            "check the model's settings and its server; each `ask-N` folder has what arrived",
        ),
    )
}

fn print_results(
    resolved: &ResolvedConfig,
    ended: &RunEnd,
    format: Format,
    wait: Duration,
) -> anyhow::Result<()> {
    let results = match format {
        Format::Human => {
            let tasks = ended.tasks.iter().map(|task| task.results.clone());
            report::results_tables(&tasks.collect::<Vec<_>>())
        }
        Format::Json => files::read(&RunDirectory::new(&resolved.output).summary())?,
        // Every event was printed when it happened.
        Format::Jsonl => String::new(),
    };
    print_run_results(&results, &resolved.output, wait)
}

/// The message of an interrupted run.
fn interrupted_message(resolved: &ResolvedConfig) -> String {
    let directory = shell_quote(&resolved.output);
    format!("\ninterrupted; nothing is lost. To continue:\n\n    kforge resume {directory}\n")
}

/// A path that can be pasted into a shell.
fn shell_quote(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+=:,@%".contains(letter);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// Everything that the run's results depend on, for `run.yaml`.
fn run_record(resolved: &ResolvedConfig, prompts: Option<String>) -> RunRecord {
    let tasks = resolved.tasks.iter().map(|(_, task)| {
        let warm_starts = resolved.from.get(&task.name).into_iter().flatten();
        let record = TaskRecord {
            folder: task.digest,
            oracle: Digest::of(&task.oracle),
            baseline: Digest::of(task.baseline().1),
            from: warm_starts.map(|start| start.record.clone()).collect(),
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
