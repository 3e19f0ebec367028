//! Lessons from earlier runs (`llm.lessons`): files that a person may have edited, and run directories (`TASK/lessons.md` in them).
//!
//! A new run reads them once, and its record keeps the text. A resumed run reads its record only.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde_json::Value;

use crate::base::{Failure, files};
use crate::run::{RunDirectory, RunRecord};

/// The longest lessons of one task, in bytes: they are in every prompt.
const MAX_BYTES: usize = 16 << 10;

/// The text of each task that has lessons.
pub(crate) type Lessons = IndexMap<String, String>;

/// Reads the files that the entries of `llm.lessons` name, for each task. A file is for all tasks.
pub(super) fn find_lessons(entries: &[PathBuf], tasks: &[&str]) -> Result<Lessons, Failure> {
    let mut lessons = Lessons::new();
    for task in tasks {
        let mut text = String::new();
        for entry in entries {
            let lesson = read_lesson(entry, task)?;
            if !text.is_empty() {
                text.push('\n');
            }
            text += lesson.trim_end();
            text.push('\n');
        }
        if text.len() > MAX_BYTES {
            return Err(Failure::usage(format!(
                "`llm.lessons`: {} bytes for `{task}`, and at most {MAX_BYTES} fit into a prompt",
                text.len()
            ))
            .hint("shorten the files, or name fewer"));
        }
        if !text.trim().is_empty() {
            lessons.insert((*task).to_owned(), text);
        }
    }
    Ok(lessons)
}

fn read_lesson(entry: &Path, task: &str) -> Result<String, Failure> {
    let mut path = entry.to_owned();
    if entry.is_dir() {
        let directory = RunDirectory::new(entry).task_for_reading(task);
        let directory = directory.map_err(|error| Failure::usage(format!("{error:#}")))?;
        path = directory.lessons();
    }
    if !path.is_file() {
        return Err(Failure::usage(format!(
            "`llm.lessons`: no such file: `{}`",
            path.display()
        ))
        .hint(
            "name a text file, or the directory of a run that has found a faster kernel and so has `TASK/lessons.md`",
        ));
    }
    let text = files::read(&path).map_err(|error| {
        Failure::usage(format!("`llm.lessons`: {error:#}")).hint("it must be readable UTF-8 text")
    })?;
    // The mark of a file that kforge wrote says nothing to a model.
    let lines = text.lines().filter(|line| !line.starts_with("<!--"));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// The lessons of a run, from its record.
pub(crate) fn recorded_lessons(record: &RunRecord) -> Lessons {
    let tasks = record.tasks.iter();
    tasks
        .filter_map(|(task, recorded)| Some((task.clone(), recorded.lessons.clone()?)))
        .collect()
}

/// Checks that the config of a resumed run has the recorded `llm.lessons`, which cannot change after the start.
pub(crate) fn check_lessons_unchanged(recorded: &Value, now: &[PathBuf]) -> Result<(), Failure> {
    let was: Vec<&Path> = recorded["llm"]["lessons"]
        .as_array()
        .map(|entries| {
            let entries = entries.iter().filter_map(Value::as_str);
            entries.map(Path::new).collect()
        })
        .unwrap_or_default();
    if was == now {
        return Ok(());
    }
    Err(
        Failure::usage("`llm.lessons`: the lessons of a run cannot be changed after its start")
            .hint("start another run with these lessons"),
    )
}
