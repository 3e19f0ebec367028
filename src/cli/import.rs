//! `kforge tasks import`: tasks from the formats of other tools, as folders in `tasks/`.
//!
//! `task` reads the formats and makes the texts. A task that cannot be imported is reported, and the others are imported. Overwrites
//! nothing.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::exit::{self, Exit};
use super::new_task::{check_name, write_texts};
use super::output::{Format, print, print_error, print_json, print_json_lines};
use crate::base::Failure;
use crate::base::text::did_you_mean;
use crate::task::{Dataset, DatasetTask};

/// Arguments of `kforge tasks import`.
#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// Folder of a FlashInfer-Bench dataset.
    #[arg(value_name = "DATASET")]
    dataset: PathBuf,
    /// Name of a definition to import. Repeatable. Default: all.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const NOTE: &str = "\
Writes each definition of a FlashInfer-Bench dataset as a task to `tasks/NAME`.
Its oracle is the `reference` of the definition, in Python. Tensors stay in the
files of the dataset. Where kforge has kernels for a definition, the task has
them; otherwise `naive.cu` is to be written. Overwrites nothing.

A dataset can also be used in place: `--dataset DIR` or FIB_DATASET_PATH.";

pub(super) fn help() -> String {
    exit::help(
        NOTE,
        &[
            ("kforge tasks import flashinfer_trace", "all definitions"),
            (
                "kforge tasks import flashinfer_trace --only gemm_n4096_k4096",
                "one definition",
            ),
            (
                "kforge eval gemm_n4096_k4096 a.cu --dataset flashinfer_trace",
                "without an import",
            ),
        ],
        exit::WRITE_CODES,
    )
}

/// A task that was written.
struct Written {
    task: String,
    folder: PathBuf,
    workloads: usize,
    /// What is worth saying about it.
    notes: Vec<String>,
}

/// Imports the definitions and prints the result of each. Returns the exit code of usage if one of them failed.
pub(super) fn import(arguments: &ImportArgs) -> anyhow::Result<Exit> {
    let dataset = Dataset::open(&arguments.dataset)?;
    let mut report = Report::new(arguments.format);
    for (name, file) in chosen_definitions(arguments, &dataset)? {
        let imported = dataset
            .task(&file)
            .and_then(|task| import_definition(&task));
        report.add(&name, imported)?;
    }
    report.finish()
}

/// The definitions that `--only` names, or all.
fn chosen_definitions(
    arguments: &ImportArgs,
    dataset: &Dataset,
) -> Result<Vec<(String, PathBuf)>, Failure> {
    let all = dataset.definitions();
    let names = || all.iter().map(|definition| definition.name.as_str());
    if let Some(unknown) = arguments
        .only
        .iter()
        .find(|only| !names().any(|name| name == *only))
    {
        return Err(
            Failure::usage(format!("the dataset has no definition `{unknown}`"))
                .hint(did_you_mean(unknown, names())),
        );
    }
    if all.is_empty() {
        let folder = arguments.dataset.display();
        return Err(
            Failure::usage(format!("`{folder}/definitions` has no definitions"))
                .hint("a definition is a JSON file in it or in a folder below it"),
        );
    }
    let is_chosen = |name: &String| arguments.only.is_empty() || arguments.only.contains(name);
    let all = all
        .into_iter()
        .map(|definition| (definition.name, definition.file));
    Ok(all.filter(|(name, _)| is_chosen(name)).collect())
}

fn import_definition(task: &DatasetTask) -> Result<Written, Failure> {
    let workloads = task.files.load()?.workloads.len();
    let folder = write_task(&task.files.name, &task.files_to_write())?;
    let mut notes = Vec::new();
    if task.has_chosen_shapes {
        notes.push("the dataset has no workloads for it: kforge chose shapes".to_owned());
    }
    notes.push(match &task.twin {
        Some(twin) => format!("kernels, inputs and tolerances of `{twin}`"),
        None => "naive.cu is to be written; check the guesses in task.yaml".to_owned(),
    });
    Ok(Written {
        task: task.files.name.clone(),
        folder,
        workloads,
        notes,
    })
}

/// Writes the files of a task to `tasks/NAME`, which must not exist.
fn write_task(name: &str, files: &[(String, String)]) -> Result<PathBuf, Failure> {
    check_name(name)?;
    let folder = Path::new("tasks").join(name);
    if folder.exists() {
        return Err(
            Failure::usage(format!("`{}` already exists", folder.display()))
                .hint("remove the folder to import the task again"),
        );
    }
    let texts = files
        .iter()
        .map(|(file, text)| (file.as_str(), text.as_str()));
    write_texts(&folder, texts).map_err(|error| Failure::environment(format!("{error:#}")))?;
    Ok(folder)
}

/// The result of each task.
struct Report {
    format: Format,
    results: Vec<serde_json::Value>,
    has_failed: bool,
}

impl Report {
    fn new(format: Format) -> Self {
        Self {
            format,
            results: Vec::new(),
            has_failed: false,
        }
    }

    fn add(&mut self, name: &str, imported: Result<Written, Failure>) -> anyhow::Result<()> {
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

    fn finish(self) -> anyhow::Result<Exit> {
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
