//! A FlashInfer-Bench dataset: a folder with `definitions/`, `workloads/` and files of tensors. Each definition is a task. Problems of
//! SOL-ExecBench are folders with `definition.json` and `workload.jsonl`, which say the same.
//!
//! The oracle is the definition's Python `reference`. `task.yaml` is made here: from the shipped task of the same definition, or from names
//! and constraints as for a draft. `fields` refuses what kforge does not know. Writes no files; `kforge tasks import` does.

mod fields;
mod folder;
mod made_task;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;

use super::files::TaskFiles;
use crate::base::Failure;
use folder::{files_below, is_problem, stem_of};
pub(crate) use made_task::DatasetTask;

/// The variable that names a dataset, as FlashInfer-Bench itself uses it.
pub(crate) const DATASET_VARIABLE: &str = "FIB_DATASET_PATH";

/// The dataset that the command line names.
static NAMED: OnceLock<PathBuf> = OnceLock::new();

/// Uses this folder in the place of `$FIB_DATASET_PATH`, for the rest of the process. Only the first call counts.
pub(crate) fn use_dataset(folder: PathBuf) {
    // A command names one dataset, so there is no second call.
    let _ = NAMED.set(folder);
}

/// A dataset folder.
pub(crate) struct Dataset {
    root: PathBuf,
}

/// A definition of a dataset: its name and its file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FoundDefinition {
    pub(crate) name: String,
    pub(crate) file: PathBuf,
}

impl Dataset {
    /// The folder of a dataset.
    ///
    /// # Errors
    /// If it has no folder `definitions`, and no `definition.json` in it or below.
    pub(crate) fn open(root: &Path) -> Result<Self, Failure> {
        let dataset = Self {
            root: root.to_owned(),
        };
        if root.join("definitions").is_dir() || !dataset.definition_files().is_empty() {
            return Ok(dataset);
        }
        let folder = root.display();
        let message = if root.is_dir() {
            format!(
                "`{folder}` is no FlashInfer-Bench dataset: it has no folder `definitions`, and no `definition.json` in a folder below"
            )
        } else {
            format!("no such folder: `{folder}`")
        };
        Err(Failure::usage(message).hint(
            "name the folder that has `definitions` and `workloads`, with `--dataset` or in `FIB_DATASET_PATH`",
        ))
    }

    /// The dataset of `--dataset`, else that of `$FIB_DATASET_PATH`.
    ///
    /// # Errors
    /// If the folder is none.
    pub(crate) fn named() -> Result<Option<Self>, Failure> {
        let variable = || std::env::var_os(DATASET_VARIABLE).filter(|value| !value.is_empty());
        match NAMED
            .get()
            .cloned()
            .or_else(|| variable().map(PathBuf::from))
        {
            Some(root) => Self::open(&root).map(Some),
            None => Ok(None),
        }
    }

    /// The files of all definitions: those below `definitions`, or, without such a folder, each `definition.json`.
    fn definition_files(&self) -> Vec<PathBuf> {
        let folder = self.root.join("definitions");
        if folder.is_dir() {
            return files_below(&folder, "json");
        }
        let mut files = files_below(&self.root, "json");
        files.retain(|file| is_problem(file));
        files
    }

    /// All definitions, sorted by name. A file that is no JSON object with a `name` has the name of the file, or of its folder.
    pub(crate) fn definitions(&self) -> Vec<FoundDefinition> {
        let files = self.definition_files().into_iter();
        let named = files.map(|file| {
            let place = file.parent().filter(|_| is_problem(&file));
            FoundDefinition {
                name: definition_name(&file).unwrap_or_else(|| stem_of(place.unwrap_or(&file))),
                file,
            }
        });
        let mut found: Vec<_> = named.collect();
        found.sort();
        found
    }

    /// The file of a definition.
    pub(crate) fn find(&self, name: &str) -> Option<PathBuf> {
        let all = self.definitions().into_iter();
        let mut named = all.filter(|definition| definition.name == name);
        named.next().map(|definition| definition.file)
    }

    /// The task of a definition's file, which lies in this dataset.
    ///
    /// # Errors
    /// If the definition cannot be read or has unknown fields; the failure lists everything that is wrong.
    pub(crate) fn task(&self, definition: &Path) -> Result<DatasetTask, Failure> {
        made_task::make_task(&self.root, definition)
    }
}

/// A task by the path of its definition, such as `dataset/definitions/gdn/a.json`. `None` if the path is not that of a JSON file.
pub(super) fn find_by_path(path: &Path) -> Option<Result<TaskFiles, Failure>> {
    if path.extension().is_none_or(|extension| extension != "json") || !path.is_file() {
        return None;
    }
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let is_definitions = |folder: &&Path| {
        let name = folder.file_name();
        name.is_some_and(|name| name == "definitions")
    };
    let root = path.ancestors().find(is_definitions).and_then(Path::parent);
    // A definition alone is a task too: kforge chooses its shapes.
    let root = root.or(path.parent()).unwrap_or(Path::new("."));
    Some(made_task::make_task(root, &path).map(|task| task.files))
}

/// A task of the dataset that the command line or the environment names. `None` if there is no such dataset or definition.
pub(super) fn find_by_name(name: &str) -> Option<Result<TaskFiles, Failure>> {
    let dataset = match Dataset::named() {
        Ok(dataset) => dataset?,
        Err(failure) => return Some(Err(failure)),
    };
    let file = dataset.find(name)?;
    Some(dataset.task(&file).map(|task| task.files))
}

/// The names of all definitions of the dataset that the command line or the environment names; empty without one.
///
/// # Errors
/// If the folder is no dataset.
pub(crate) fn dataset_names() -> Result<Vec<String>, Failure> {
    let dataset = Dataset::named()?;
    let definitions = dataset.iter().flat_map(Dataset::definitions);
    Ok(definitions.map(|definition| definition.name).collect())
}

fn definition_name(file: &Path) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let root: Value = serde_json::from_str(&text).ok()?;
    Some(root.get("name")?.as_str()?.to_owned())
}
