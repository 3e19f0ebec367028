//! Kernels from elsewhere that a search begins from: files, the best of earlier runs, the best that is known of a task.

use std::path::Path;

use indexmap::IndexMap;
use serde_json::Value;

use super::tasks::NamedTask;
use crate::base::{Digest, Failure, files};
use crate::kernel::Kernel;
use crate::run::{self, RunDirectory, RunRecord, WarmStart};
use crate::task::Task;

/// A kernel to begin from, and what the record says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarmStartKernel {
    pub record: WarmStart,
    pub source: String,
}

/// Of each task, in order.
pub(crate) type WarmStarts = IndexMap<String, Vec<WarmStartKernel>>;

/// What the words of `from` mean for the config's tasks.
pub(super) fn find_warm_starts(
    words: &[String],
    tasks: &[(NamedTask, Task)],
) -> Result<WarmStarts, Failure> {
    let mut beginnings = WarmStarts::new();
    for (named, task) in tasks {
        let mut found: Vec<WarmStartKernel> = Vec::new();
        for word in words {
            let (name, source, origin) = find_warm_start(word, named, task, tasks.len())?;
            let parsed = Kernel::parse(&source, &task.definition);
            parsed.map_err(|error| error.into_failure(&origin))?;
            let is_taken = |name: &str| {
                task.kernels.contains_key(name)
                    || found.iter().any(|other| other.record.name == name)
            };
            let mut free = name.clone();
            for number in 2.. {
                if !is_taken(&free) {
                    break;
                }
                free = format!("{name} ({number})");
            }
            let kernel = Digest::of(&source);
            if found.iter().any(|other| other.record.kernel == kernel) {
                continue;
            }
            found.push(WarmStartKernel {
                record: WarmStart {
                    name: free,
                    kernel,
                    origin,
                },
                source,
            });
        }
        if !found.is_empty() {
            beginnings.insert(task.name.clone(), found);
        }
    }
    Ok(beginnings)
}

/// A name for the journal, the kernel, and where it was found.
fn find_warm_start(
    word: &str,
    named: &NamedTask,
    task: &Task,
    tasks: usize,
) -> Result<(String, String, String), Failure> {
    let path = Path::new(word);
    let last = || path.file_name().map(|name| name.to_string_lossy());
    if word == "best" {
        let Some(best) = named.files.best_known()? else {
            let path = named.files.best_source();
            return Err(Failure::usage(format!(
                "`from: best`: no best kernel of `{}` is known: there is no `{}`",
                task.name,
                path.display()
            ))
            .hint("`kforge promote RUN` puts a run's best kernel there"));
        };
        return Ok(("from best".to_owned(), best.source, best.origin));
    }
    if path.is_dir() {
        let best = best_of_run(path, &task.name)?;
        // `.` has no name of its own.
        let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let name = whole.file_name().map_or_else(
            || word.to_owned(),
            |name| name.to_string_lossy().into_owned(),
        );
        let origin = format!("{word}, step {}", best.step);
        return Ok((format!("from {name}"), best.source, origin));
    }
    if !path.is_file() {
        return Err(
            Failure::usage(format!("`from`: no such kernel or run: `{word}`"))
                .hint("name a kernel file, a run's directory, or `best`"),
        );
    }
    if tasks > 1 {
        return Err(Failure::usage(format!(
            "`from: {word}` is one kernel, and there are {tasks} tasks"
        ))
        .hint("name one task, or begin from a run's directory or from `best`"));
    }
    let source = files::read(path)
        .map_err(|error| Failure::usage(format!("`from`: {error:#}")).hint("a kernel is text"))?;
    let name = format!("from {}", last().unwrap_or_default());
    Ok((name, source, word.to_owned()))
}

fn best_of_run(path: &Path, task: &str) -> Result<run::BestOfRun, Failure> {
    let directory = RunDirectory::new(path);
    let as_usage = |error: anyhow::Error| match error.downcast::<Failure>() {
        Ok(failure) => failure,
        Err(error) => Failure::usage(format!("{error:#}")).hint("is it the directory of a run?"),
    };
    RunRecord::read(&directory).map_err(as_usage)?;
    let best = run::best_kernel(&directory, task).map_err(as_usage)?;
    best.ok_or_else(|| {
        Failure::usage(format!(
            "`from`: no kernel of `{task}` has passed in `{}`",
            path.display()
        ))
        .hint("name another run, a kernel file, or `best`; `kforge resume` goes on with that run")
    })
}

/// The run's own copies, as they are now. Nothing outside the run is looked at.
pub(crate) fn recorded_warm_starts(
    directory: &RunDirectory,
    record: &RunRecord,
) -> anyhow::Result<WarmStarts> {
    let mut beginnings = WarmStarts::new();
    for (task, recorded) in &record.tasks {
        let folder = directory.task_for_reading(task)?;
        for (index, begun) in recorded.from.iter().enumerate() {
            let path = folder.warm_start(index + 1);
            if !path.is_file() {
                return Err(Failure::usage(format!(
                    "`{}` is gone: the kernel that the search of `{task}` began from",
                    path.display()
                ))
                .hint("put it back; `steps/000001/kernel.cu` beside it may still have the first")
                .into());
            }
            let source = files::read(&path)?;
            beginnings
                .entry(task.clone())
                .or_default()
                .push(WarmStartKernel {
                    record: WarmStart {
                        kernel: Digest::of(&source),
                        ..begun.clone()
                    },
                    source,
                });
        }
    }
    Ok(beginnings)
}

/// Whether a run that goes on still says where it began: that cannot change any more.
pub(crate) fn check_from_unchanged(recorded: &Value, now: &[String]) -> Result<(), Failure> {
    let was: Vec<&str> = recorded["from"]
        .as_array()
        .map(|words| words.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    match was == now {
        true => Ok(()),
        false => Err(Failure::usage(
            "`from`: where a search begins from cannot be changed once it has begun",
        )
        .hint("begin another run from there")),
    }
}
