//! Writes imported tasks to `tasks/` and `kernels/`, and says what was written. Overwrites nothing.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde_json::{Value, json};

use super::exit::Exit;
use super::new_task::{check_name, write_texts};
use super::output::{Format, print, print_error, print_json, print_json_lines};
use crate::base::Failure;

/// A task that was written.
pub(super) struct Written {
    pub(super) task: String,
    pub(super) folder: PathBuf,
    pub(super) workloads: usize,
    /// What is worth saying about it.
    pub(super) notes: Vec<String>,
}

/// Writes files to `tasks/NAME`, which must not exist, and kernels to `kernels/NAME`, where none of them may exist.
pub(super) fn write_task(
    name: &str,
    files: &[(String, String)],
    kernels: &[(String, String)],
) -> Result<PathBuf, Failure> {
    let folder = Path::new("tasks").join(name);
    check_is_new(name, kernels.iter().map(|(file, _)| file.as_str()))?;
    write_all(&folder, files)?;
    if !kernels.is_empty() {
        write_all(&Path::new("kernels").join(name), kernels)?;
    }
    Ok(folder)
}

/// Fails if a task of this name cannot be written: it or one of these kernels exists.
pub(super) fn check_is_new<'k>(
    name: &str,
    kernels: impl IntoIterator<Item = &'k str>,
) -> Result<(), Failure> {
    check_name(name)?;
    let kernels_folder = Path::new("kernels").join(name);
    let kernels = kernels.into_iter().map(|file| kernels_folder.join(file));
    for path in [Path::new("tasks").join(name)].into_iter().chain(kernels) {
        if path.exists() {
            return Err(
                Failure::usage(format!("`{}` already exists", path.display()))
                    .hint("remove it to import the task again"),
            );
        }
    }
    Ok(())
}

fn write_all(folder: &Path, files: &[(String, String)]) -> Result<(), Failure> {
    let texts = files.iter();
    let texts = texts.map(|(file, text)| (file.as_str(), text.as_str()));
    write_texts(folder, texts).map_err(|error| Failure::environment(format!("{error:#}")))
}

/// The result of each task.
pub(super) struct Report {
    format: Format,
    results: Vec<Value>,
    has_failed: bool,
}

impl Report {
    pub(super) fn new(format: Format) -> Self {
        Self {
            format,
            results: Vec::new(),
            has_failed: false,
        }
    }

    pub(super) fn add(
        &mut self,
        name: &str,
        imported: Result<Written, Failure>,
    ) -> anyhow::Result<()> {
        let result = match imported {
            Ok(written) => {
                let folder = written.folder.display();
                let count = written.workloads;
                let workloads = if count == 1 { "workload" } else { "workloads" };
                if self.format == Format::Human {
                    let notes = written.notes.join("; ");
                    print(&format!("{folder}: {count} {workloads}; {notes}\n"))?;
                }
                json!({
                    "task": written.task, "folder": written.folder, "workloads": count,
                    "notes": written.notes, "error": null,
                })
            }
            Err(failure) => {
                self.has_failed = true;
                let result = json!({"task": name, "error": failure.to_string()});
                let message = format!("`{name}` is not imported: {}", failure.message);
                print_error(&Failure { message, ..failure }.into());
                result
            }
        };
        if self.format == Format::Jsonl {
            print_json_lines([&result])?;
        }
        self.results.push(result);
        Ok(())
    }

    /// Why tasks were not imported, by name.
    pub(super) fn errors(&self) -> IndexMap<String, String> {
        let pair = |result: &Value| {
            let text = |key: &str| Some(result[key].as_str()?.to_owned());
            Some((text("task")?, text("error")?))
        };
        self.results.iter().filter_map(pair).collect()
    }

    pub(super) fn finish(self) -> anyhow::Result<Exit> {
        if self.format == Format::Json {
            print_json(&self.results)?;
        }
        Ok(if self.has_failed {
            Exit::Usage
        } else {
            Exit::Done
        })
    }
}
