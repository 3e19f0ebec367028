//! Sweeps: the runs of `--set` with several values, one after the other in one folder.
//!
//! All configs are checked and recorded before the first run starts, so a sweep that is killed at any point knows what is left. One run
//! works at a time: runs that shared the machine would disturb each other's timings. Each run is executed as a run of its own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::continue_run::{ResumeFlags, longer, resume_run};
use super::dry_run;
use super::execute::{create_run_directory, execute, require_machine};
use super::exit::{Exit, exit_for};
use super::model_flags::model_options;
use super::output::{Format, print, print_error, print_json, print_json_lines, print_run_results};
use super::recorded::recorded_config;
use super::report;
use super::run_args::{RunArgs, RunStart};
use super::run_end::{self, RESULTS_WAIT};
use crate::base::text::shell_quote;
use crate::base::{Failure, files, interrupt};
use crate::config::{self, Config, ResolvedConfig, SweepPoint};
use crate::history::{RunHistory, RunState};
use crate::page::{self, RunLine};
use crate::report as progress;
use crate::run::{
    RunDirectory, RunLock, RunRecord, SweepDirectory, SweepRecord, SweepRun, compact_timestamp,
    now_milliseconds,
};

/// What a resume changes in the configs of the runs.
struct Changes<'a> {
    is_resume: bool,
    flags: &'a ResumeFlags,
    apply: &'a dyn Fn(Config) -> Result<Config, Failure>,
}

/// Starts a sweep: checks each combination, records all, and makes the runs. `name`: what the folder is named after.
///
/// # Errors
/// If a combination cannot run: nothing has started then. A full disk.
pub(super) fn start_sweep(
    mut config: Config,
    points: &[SweepPoint],
    name: &str,
    arguments: &RunArgs,
) -> anyhow::Result<Exit> {
    let output = config.output.take();
    config.from = absolute_paths(config.from);
    let mut runs = Vec::new();
    let mut first = None;
    for point in points {
        let resolved = resolve_point(&config, point)?;
        if !point.varies("seed") {
            // Runs with the same seed can be compared in pairs.
            config.seed = Some(resolved.seed);
        }
        let mut record = resolved.record.clone();
        record["output"] = json!(null);
        runs.push(SweepRun {
            name: point.name.clone(),
            values: point.texts.clone(),
            config: record,
        });
        first.get_or_insert(resolved);
    }
    let time = compact_timestamp(now_milliseconds());
    let wanted = output.clone();
    let wanted = wanted.unwrap_or_else(|| Path::new("outputs").join(format!("{name}-{time}")));
    let record = SweepRecord::new(runs);
    if let Some(first) = first.filter(|_| arguments.dry_run) {
        return print_dry_run(&wanted, &record, &first, arguments.format);
    }
    let folder = match output {
        Some(folder) => folder,
        None => create_run_directory(&wanted)?,
    };
    let sweep = SweepDirectory::new(folder);
    let _lock = open_folder(&sweep)?;
    record.write(&sweep)?;
    let changes = Changes {
        is_resume: false,
        flags: &ResumeFlags {
            accept_changes: false,
        },
        apply: &Ok,
    };
    make_runs(&sweep, &record, &changes, arguments)
}

/// Continues a sweep: each run that has not finished, and each one that the flags change.
///
/// # Errors
/// If the folder is no sweep or is in use. A full disk.
pub(super) fn resume_sweep(
    directory: PathBuf,
    flags: &ResumeFlags,
    arguments: &RunArgs,
    apply: &dyn Fn(Config) -> Result<Config, Failure>,
) -> anyhow::Result<Exit> {
    let sweep = SweepDirectory::new(directory);
    let record = SweepRecord::read(&sweep)?;
    if arguments.dry_run {
        return Err(
            Failure::usage("`--dry-run` describes one run, and the folder is a sweep")
                .hint("name a run directory in it")
                .into(),
        );
    }
    let _lock = RunLock::acquire(&sweep.lock())?;
    let changes = Changes {
        is_resume: true,
        flags,
        apply,
    };
    make_runs(&sweep, &record, &changes, arguments)
}

/// The config of one combination, with everything that can be checked before it runs.
fn resolve_point(config: &Config, point: &SweepPoint) -> anyhow::Result<ResolvedConfig> {
    let config = point.apply(config)?;
    let in_run = |failure: Failure| Failure {
        message: format!("in the run `{}`: {}", point.name, failure.message),
        ..failure
    };
    let resolved = config::resolve(&config, "run", "").map_err(in_run)?;
    require_machine(&resolved)?;
    model_options(&resolved).map_err(in_run)?;
    Ok(resolved)
}

/// Warm starts as absolute paths: a later process may start runs from another folder.
fn absolute_paths(entries: Vec<String>) -> Vec<String> {
    let absolute = |entry: String| {
        let path = Path::new(&entry).canonicalize().ok();
        let path = path.filter(|_| entry != "best");
        path.and_then(|path| Some(path.to_str()?.to_owned()))
            .unwrap_or(entry)
    };
    entries.into_iter().map(absolute).collect()
}

fn print_dry_run(
    folder: &Path,
    record: &SweepRecord,
    first: &ResolvedConfig,
    format: Format,
) -> anyhow::Result<Exit> {
    let names = record.runs.iter().map(|run| run.name.as_str());
    let count = progress::pluralize(record.runs.len() as u64, "run");
    match format {
        Format::Human => {
            let names = names.map(|name| format!("  {name}\n")).collect::<String>();
            let described = dry_run::describe_run(first)?;
            print(&format!(
                "sweep of {count} into {}\n{names}\nThe first:\n\n{described}",
                folder.display()
            ))?;
        }
        Format::Json | Format::Jsonl => {
            let facts = json!({
                "sweep": folder.display().to_string(),
                "runs": names.collect::<Vec<_>>(),
                "first": dry_run::run_facts(first)?,
            });
            match format {
                Format::Json => print_json(&facts)?,
                _ => print_json_lines([facts])?,
            }
        }
    }
    Ok(Exit::Done)
}

/// Creates the folder of a new sweep and locks it.
fn open_folder(sweep: &SweepDirectory) -> anyhow::Result<RunLock> {
    files::create_folder_durably(sweep.root())?;
    let lock = RunLock::acquire(&sweep.lock())?;
    let holds_run = RunDirectory::new(sweep.root()).record().exists();
    if holds_run || sweep.exists() {
        let kind = if holds_run { "run" } else { "sweep" };
        let message = format!("`{}` already holds a {kind}", sweep.root().display());
        return Err(Failure::usage(message)
            .hint("continue it with `kforge resume`, or choose another directory with `--output`")
            .into());
    }
    Ok(lock)
}

/// Makes the runs that have not finished, and prints the results of all.
fn make_runs(
    sweep: &SweepDirectory,
    record: &SweepRecord,
    changes: &Changes<'_>,
    arguments: &RunArgs,
) -> anyhow::Result<Exit> {
    let arguments = &RunArgs {
        sweep: Some(sweep.root().to_owned()),
        ..arguments.clone()
    };
    let mut exits = Vec::new();
    for (index, run) in record.runs.iter().enumerate() {
        interrupt::set_last_message(run_end::interrupted_message(sweep.root()));
        let announce = |note: &str| {
            if arguments.format == Format::Human {
                let (number, count) = (index + 1, record.runs.len());
                let text = format!("\nrun {number} of {count}: {}{note}\n", run.name);
                progress::print_to_stderr(text);
            }
        };
        let made = match exit_if_finished(sweep, run, changes, arguments) {
            Ok(Some(exit)) => {
                announce(" has finished");
                Ok(exit)
            }
            Ok(None) => {
                announce("");
                make_run(sweep, run, changes, arguments)
            }
            Err(error) => Err(error),
        };
        let exit = match made {
            Ok(Exit::Interrupted) => return Ok(Exit::Interrupted),
            Ok(exit) => exit,
            Err(error) => {
                let exit = exit_for(&error);
                // The oracle of one task, or a run that is in use, says nothing about the next run. A full disk or a missing compiler does.
                if !matches!(exit, Exit::Usage | Exit::Reference) {
                    let command = progress::Continuation::default().command(sweep.root());
                    let text = format!("the sweep has stopped at the run `{}`", run.name);
                    return Err(error.context(format!("{text}; `{command}` continues it")));
                }
                print_error(&error);
                exit
            }
        };
        exits.push(exit);
        if arguments.format == Format::Jsonl {
            print_json_lines(lines_of(sweep, run))?;
        }
    }
    print_results(sweep, record, arguments)?;
    Ok(worst(&exits))
}

/// The exit code of a run that stays as it is: it has finished, and the flags do not change its config.
fn exit_if_finished(
    sweep: &SweepDirectory,
    run: &SweepRun,
    changes: &Changes<'_>,
    arguments: &RunArgs,
) -> anyhow::Result<Option<Exit>> {
    let directory = sweep.run(run);
    if !directory.record().exists() {
        return Ok(None);
    }
    let recorded = recorded_config(&RunRecord::read(&directory)?, directory.root())?;
    let adds_time = arguments.budget_seconds.is_some() || arguments.budget_device_seconds.is_some();
    if adds_time || (changes.apply)(recorded.clone())? != recorded {
        return Ok(None);
    }
    let history = RunHistory::read(directory.root())?;
    if history.state != RunState::Finished {
        return Ok(None);
    }
    let has_all = history.tasks.iter().all(|task| task.best().is_some());
    Ok(Some(if has_all { Exit::Done } else { Exit::NoResult }))
}

/// Starts or continues a run.
fn make_run(
    sweep: &SweepDirectory,
    run: &SweepRun,
    changes: &Changes<'_>,
    arguments: &RunArgs,
) -> anyhow::Result<Exit> {
    let directory = sweep.run(run);
    if !directory.record().exists() {
        let mut config: Config = serde_json::from_value(run.config.clone()).map_err(|error| {
            Failure::usage(format!(
                "{}: `{}`: {error}",
                sweep.record().display(),
                run.name
            ))
            .hint("restore the file as kforge wrote it")
        })?;
        if changes.is_resume {
            let budget = &mut config.budget;
            for (budget, more) in [
                (&mut budget.seconds, arguments.budget_seconds),
                (&mut budget.device_seconds, arguments.budget_device_seconds),
            ] {
                *budget = more
                    .map(|more| longer(*budget, Duration::ZERO, more))
                    .or(*budget);
            }
        }
        let mut config = (changes.apply)(config)?;
        config.output = Some(directory.root().to_owned());
        let resolved = config::resolve(&config, "run", "")?;
        return execute(resolved, RunStart::New, arguments);
    }
    let root = directory.root().to_owned();
    resume_run(root, changes.flags, arguments, changes.apply)
}

/// The lines of a run for tables and scripts. A run that has not started has one too.
pub(super) fn lines_of(sweep: &SweepDirectory, run: &SweepRun) -> Vec<RunLine> {
    let directory = sweep.run(run);
    if !directory.record().is_file() {
        let tasks = run.config["tasks"].as_array().into_iter().flatten();
        let tasks = tasks.filter_map(|task| task.as_str());
        return page::lines_of_open_run(directory.root(), tasks);
    }
    match RunHistory::read(directory.root()) {
        Ok(history) => page::run_lines(&history),
        Err(error) => {
            tracing::warn!("{error:#}");
            Vec::new()
        }
    }
}

/// Prints the table of all runs, writes the page about them, and names the command that compares them.
fn print_results(
    sweep: &SweepDirectory,
    record: &SweepRecord,
    arguments: &RunArgs,
) -> anyhow::Result<()> {
    let folder = shell_quote(sweep.root());
    let compare = (record.arms().len() > 1).then(|| format!("kforge compare {folder}"));
    let page = match report::write_sweep_page(sweep, record) {
        Ok(()) => Some(sweep.report().display().to_string()),
        Err(error) => {
            tracing::warn!("no report was written: {error:#}");
            None
        }
    };
    let results = match arguments.format {
        Format::Human => {
            let named = record.runs.iter().flat_map(|run| {
                let lines = lines_of(sweep, run).into_iter();
                lines.map(|line| line.named(&run.name))
            });
            let mut text = format!("\n{}", page::runs_table(&named.collect::<Vec<_>>()));
            if let Some(page) = page {
                text += &format!("\n  report: {page}\n");
            }
            if let Some(compare) = compare {
                text += &format!("\n  to compare:\n    {compare}\n");
            }
            text
        }
        Format::Json => {
            let runs = record.runs.iter().map(|run| {
                json!({
                    "name": run.name,
                    "values": run.values,
                    "tasks": lines_of(sweep, run),
                })
            });
            let results = json!({
                "sweep": sweep.root().display().to_string(),
                "runs": runs.collect::<Vec<_>>(),
                "report": page,
                "compare": compare,
            });
            serde_json::to_string_pretty(&results)? + "\n"
        }
        // Each run was printed when it ended.
        Format::Jsonl => return Ok(()),
    };
    print_run_results(&results, sweep.root(), RESULTS_WAIT)
}

/// The exit code of a sweep: that of the first run with an error, else that of a run that waits, else that of a run without a result.
fn worst(exits: &[Exit]) -> Exit {
    let is_error = |exit: &&Exit| matches!(exit, Exit::Usage | Exit::Reference);
    let first = exits.iter().find(is_error).copied();
    let has = |wanted: Exit| exits.contains(&wanted).then_some(wanted);
    first
        .or_else(|| has(Exit::Waiting))
        .or_else(|| has(Exit::NoResult))
        .unwrap_or(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_code_is_the_most_serious_one() {
        use Exit::{Done, NoResult, Reference, Usage, Waiting};
        for (exits, expected) in [
            (&[][..], Done),
            (&[Done, Done], Done),
            (&[Done, NoResult], NoResult),
            (&[NoResult, Waiting, Done], Waiting),
            (&[Waiting, Reference, Usage], Reference),
        ] {
            assert_eq!(worst(exits), expected, "{exits:?}");
        }
    }
}
