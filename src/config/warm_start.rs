//! Warm starts: kernels from elsewhere that a search starts from. Each is a file, the best of an earlier run, or the best known
//! kernel of a task (`from:` in a config).
//!
//! A new run reads them once and keeps copies. A resumed run reads its own copies only.

use std::path::Path;

use indexmap::IndexMap;
use serde_json::Value;

use super::tasks::NamedTask;
use crate::base::{Digest, Failure, files};
use crate::kernel::{self, Kernel};
use crate::run::{self, RunDirectory, RunRecord, WarmStart};
use crate::task::Task;

/// A warm start, and its entry in the record of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarmStartKernel {
    pub record: WarmStart,
    pub source: String,
}

/// The warm starts of each task, in order.
pub(crate) type WarmStarts = IndexMap<String, Vec<WarmStartKernel>>;

/// A kernel that an entry of `from` names.
struct FoundKernel {
    /// The name for the journal: `from best`.
    name: String,
    source: String,
    /// Where it was found, for errors and the record.
    origin: String,
}

/// Finds the kernels that the entries of `from` name, for each task of the config. Each must have a header that fits its task;
/// repeated sources are dropped.
pub(super) fn find_warm_starts(
    entries: &[String],
    tasks: &[(NamedTask, Task)],
) -> Result<WarmStarts, Failure> {
    let mut warm_starts = WarmStarts::new();
    for (named, task) in tasks {
        let mut kernels: Vec<WarmStartKernel> = Vec::new();
        for entry in entries {
            let found = find_warm_start(entry, named, task, tasks.len())?;
            Kernel::parse(&found.source, &task.definition)
                .map_err(|error| error.into_failure(&found.origin))?;
            let name = free_name(&found.name, task, &kernels);
            let kernel = Digest::of(&found.source);
            if kernels.iter().any(|other| other.record.kernel == kernel) {
                continue;
            }
            kernels.push(WarmStartKernel {
                record: WarmStart {
                    name,
                    kernel,
                    origin: found.origin,
                },
                source: found.source,
            });
        }
        if !kernels.is_empty() {
            warm_starts.insert(task.name.clone(), kernels);
        }
    }
    Ok(warm_starts)
}

/// The name itself, or with the first number that makes it unique: `from best (2)`.
fn free_name(name: &str, task: &Task, others: &[WarmStartKernel]) -> String {
    let is_taken = |name: &str| {
        task.kernels.contains_key(name) || others.iter().any(|other| other.record.name == name)
    };
    let mut free = name.to_owned();
    let mut number = 2;
    while is_taken(&free) {
        free = format!("{name} ({number})");
        number += 1;
    }
    free
}

fn find_warm_start(
    entry: &str,
    named: &NamedTask,
    task: &Task,
    task_count: usize,
) -> Result<FoundKernel, Failure> {
    let path = Path::new(entry);
    if entry == "best" {
        return best_known_kernel(named, task);
    }
    if path.is_dir() {
        return best_kernel_of_run(entry, task);
    }
    if !path.is_file() {
        return Err(
            Failure::usage(format!("`from`: no such kernel or run: `{entry}`"))
                .hint("name a kernel file, a run directory, or `best`"),
        );
    }
    if task_count > 1 {
        return Err(Failure::usage(format!(
            "`from: {entry}` is one kernel, and the config has {task_count} tasks"
        ))
        .hint("name one task, or start from a run directory or from `best`"));
    }
    let source = files::read(path).map_err(|error| {
        Failure::usage(format!("`from`: {error:#}")).hint("a kernel must be a readable UTF-8 file")
    })?;
    let file_name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(FoundKernel {
        name: format!("from {file_name}"),
        // `best.cu` of a run may have a note, which is not part of the kernel.
        source: kernel::without_note(&source).into_owned(),
        origin: entry.to_owned(),
    })
}

/// `kernels/TASK/best.cu`.
fn best_known_kernel(named: &NamedTask, task: &Task) -> Result<FoundKernel, Failure> {
    let Some(best) = named.files.best_known()? else {
        let path = named.files.best_source();
        return Err(Failure::usage(format!(
            "`from: best`: task `{}` has no best known kernel: `{}` does not exist",
            task.name,
            path.display()
        ))
        .hint("`kforge promote RUN` puts a run's best kernel there"));
    };
    Ok(FoundKernel {
        name: "from best".to_owned(),
        source: best.source,
        origin: best.origin,
    })
}

fn best_kernel_of_run(entry: &str, task: &Task) -> Result<FoundKernel, Failure> {
    let path = Path::new(entry);
    let directory = RunDirectory::new(path);
    let as_usage = |error: anyhow::Error| match error.downcast::<Failure>() {
        Ok(failure) => failure,
        Err(error) => Failure::usage(format!("{error:#}")).hint("is it a run directory?"),
    };
    RunRecord::read(&directory).map_err(as_usage)?;
    let baseline = Digest::of(task.baseline().1);
    let best = run::best_kernel(&directory, &task.name, baseline).map_err(as_usage)?;
    let Some(best) = best else {
        return Err(Failure::usage(format!(
            "`from`: no kernel of `{}` has passed in `{entry}`",
            task.name
        ))
        .hint("name another run, a kernel file, or `best`; `kforge resume` continues that run"));
    };
    // A path such as `.` has no name of its own.
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = whole.file_name().map_or_else(
        || entry.to_owned(),
        |name| name.to_string_lossy().into_owned(),
    );
    Ok(FoundKernel {
        name: format!("from {name}"),
        source: best.source,
        origin: format!("{entry}, step {}", best.step),
    })
}

/// The warm starts of a run, read from its own copies.
pub(crate) fn recorded_warm_starts(
    directory: &RunDirectory,
    record: &RunRecord,
) -> anyhow::Result<WarmStarts> {
    let mut warm_starts = WarmStarts::new();
    for (task, recorded) in &record.tasks {
        let folder = directory.task_for_reading(task)?;
        for (index, warm_start) in recorded.from.iter().enumerate() {
            let path = folder.warm_start(index + 1);
            if !path.is_file() {
                return Err(Failure::usage(format!(
                    "`{}` is missing: a warm start of `{task}`",
                    path.display()
                ))
                .hint("restore the file; the first warm start may also be in `steps/000001/kernel.cu`")
                .into());
            }
            let source = files::read(&path)?;
            let kernels = warm_starts.entry(task.clone()).or_default();
            kernels.push(WarmStartKernel {
                record: WarmStart {
                    kernel: Digest::of(&source),
                    ..warm_start.clone()
                },
                source,
            });
        }
    }
    Ok(warm_starts)
}

/// Checks that the config of a resumed run has the recorded `from`, which cannot change after the start.
pub(crate) fn check_from_unchanged(recorded: &Value, now: &[String]) -> Result<(), Failure> {
    let was: Vec<&str> = recorded["from"]
        .as_array()
        .map(|entries| entries.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    if was == now {
        return Ok(());
    }
    Err(
        Failure::usage("`from`: the warm starts of a run cannot be changed after its start")
            .hint("start another run from these kernels"),
    )
}
