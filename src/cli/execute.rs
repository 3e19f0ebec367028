//! Executes a resolved config: checks the machine, creates the run directory, and runs the driver.
//!
//! New and resumed runs are executed in the same way. `driver` runs the search, and `run_end` prints the results. Never reads config
//! files: `evolve` and `resume` do.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;

use super::contenders::contenders;
use super::dry_run;
use super::exit::Exit;
use super::model_flags::model_options;
use super::output::{Format, print, print_json, print_json_lines};
use super::report;
use super::report_refresh::ReportRefresh;
use super::run_args::{RunArgs, RunStart};
use super::run_end::{self, RunReport};
use super::yardstick::yardsticks;
use crate::base::text::shell_quote;
use crate::base::{Digest, Failure, FailureKind, files, interrupt};
use crate::config::ResolvedConfig;
use crate::device::cpu;
use crate::driver::{self, Operators, RunEnd, RunOptions};
use crate::report::{ProgressFormat, ProgressView};
use crate::run::{self, RECORD_SCHEMA, RunDirectory, RunRecord, TaskRecord, YardstickRecord};
use crate::verdict::Yardstick;
use crate::worker::{Profiling, WorkerPools};

/// The longest journals that are read after an interruption, in bytes.
const MAX_JOURNAL_AT_INTERRUPT: u64 = 32 << 20;

/// Explains the mark of the figures that are shown while a run works.
const PROVISIONAL_NOTE: &str =
    "speedups with `~` are provisional: the fastest kernels are confirmed at the end";

/// Runs, or prints what would run.
pub(super) fn execute(
    mut resolved: ResolvedConfig,
    start: RunStart,
    arguments: &RunArgs,
) -> anyhow::Result<Exit> {
    if arguments.dry_run {
        print_dry_run(&resolved, arguments.format)?;
        return Ok(Exit::Done);
    }
    // Everything that can fail comes first, so that a failure leaves no directory.
    for (_, task) in &resolved.tasks {
        task.check_is_written()?;
    }
    require_machine(&resolved)?;
    // Prompts show the table that is measured here.
    let yardsticks = yardsticks(&mut resolved)?;
    let models = model_options(&resolved)?;
    if start == RunStart::New && resolved.output_is_default {
        resolved.output = create_run_directory(&resolved.output)?;
    }
    let tasks = resolved.tasks.iter();
    let prompts_version = models.as_ref().map(|models| models.prompts_version.clone());
    let options = RunOptions {
        directory: resolved.output.clone(),
        start: start.mode(),
        record: run_record(&resolved, prompts_version, &yardsticks),
        tasks: tasks.map(|(_, task)| Arc::new(task.clone())).collect(),
        search: resolved.search.clone(),
        steps: resolved.steps,
        in_flight: resolved.in_flight,
        racing: resolved.racing,
        budget: resolved.budget,
        device_budget: resolved.device_budget,
        confirm_share: resolved.confirm_share,
        contenders: contenders(&resolved, &yardsticks),
        yardsticks,
        models,
    };
    let format = match arguments.format {
        Format::Human => ProgressFormat::Human,
        Format::Json => ProgressFormat::Quiet,
        // The events of several runs would be mixed.
        Format::Jsonl if arguments.sweep.is_some() => ProgressFormat::Quiet,
        Format::Jsonl => ProgressFormat::JsonLines,
    };
    let mut view = ProgressView::new(format, resolved.in_flight);
    view.print(&dry_run::summary_line(&resolved));
    view.print(PROVISIONAL_NOTE);
    let resumed = arguments.sweep.as_deref().unwrap_or(&resolved.output);
    interrupt::set_last_message(run_end::interrupted_message(resumed));
    let host_lock = resolved.gpus.is_empty().then(cpu::host_lock);
    let refresh = ReportRefresh::start(&resolved.output, host_lock)?;
    let ended = run_driver(&resolved, options, &mut view);
    refresh.stop();
    view.close();
    let was_refused = ended.as_ref().is_err_and(is_usage_failure);
    if !was_refused {
        let was_interrupted = ended.as_ref().is_ok_and(|ended| ended.interrupted);
        write_report(&resolved.output, &view, was_interrupted);
    }
    let ended = ended.map_err(|error| run_end::with_resume_hint(error, &resolved.output))?;
    RunReport {
        directory: &resolved.output,
        ended: &ended,
        view: &view,
        start,
        arguments,
    }
    .finish()
}

/// Whether a run was refused before it changed anything.
fn is_usage_failure(error: &anyhow::Error) -> bool {
    let failure = error.downcast_ref::<Failure>();
    failure.is_some_and(|failure| failure.kind == FailureKind::Usage)
}

/// Writes the report of a run. A run whose report cannot be written has its results all the same.
///
/// An interrupted command ends within two seconds, so the report of a long run is then left to `kforge report`.
fn write_report(directory: &Path, view: &ProgressView, was_interrupted: bool) {
    let path = RunDirectory::new(directory).report();
    if was_interrupted && report::journal_bytes(directory) > MAX_JOURNAL_AT_INTERRUPT {
        let command = shell_quote(directory);
        view.print(&format!("`kforge report {command}` writes the report"));
        return;
    }
    match report::write_page(directory, &path) {
        Ok(()) => view.print(&format!("report: {}", path.display())),
        Err(error) => tracing::warn!("no report was written: {error:#}"),
    }
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

/// Creates the folder, with a number appended to its name where several runs start in the same second.
pub(super) fn create_run_directory(wanted: &Path) -> anyhow::Result<PathBuf> {
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

/// Everything that the run's results depend on, for `run.yaml`.
fn run_record(
    resolved: &ResolvedConfig,
    prompts: Option<String>,
    yardsticks: &HashMap<String, Yardstick>,
) -> RunRecord {
    let tasks = resolved.tasks.iter().map(|(_, task)| {
        let warm_starts = resolved.from.get(&task.name).into_iter().flatten();
        let record = TaskRecord {
            folder: task.digest,
            oracle: Digest::of(&task.oracle),
            baseline: Digest::of(task.baseline().1),
            from: warm_starts.map(|start| start.record.clone()).collect(),
            lessons: resolved.lessons.get(&task.name).cloned(),
            yardstick: yardsticks.get(&task.name).map(|over| YardstickRecord {
                baseline: over.label(),
                measured: over.measured.clone(),
                figures: over.figures,
            }),
        };
        (task.name.clone(), record)
    });
    RunRecord {
        schema: RECORD_SCHEMA,
        kforge: env!("CARGO_PKG_VERSION").to_owned(),
        host: run::host_name(),
        seed: resolved.seed,
        window: resolved.window,
        order: resolved.order,
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
}
