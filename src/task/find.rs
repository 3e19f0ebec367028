//! Finds tasks by name or path.
//!
//! A name is looked up as a path, then in `tasks/` of the working folder, then among the embedded tasks, then in the dataset that the user
//! names. `files` and `dataset` read what is found.

use std::collections::BTreeSet;
use std::path::Path;

use super::dataset;
use super::files::{TaskFiles, embedded_names, hint_start};
use crate::base::Failure;
use crate::base::text::did_you_mean;

impl TaskFiles {
    /// Finds a task by its name or folder and reads its files.
    pub fn find(name: &str) -> Result<Self, Failure> {
        let as_given = Path::new(name);
        for folder in [as_given.to_owned(), Path::new("tasks").join(name)] {
            if folder.join("task.yaml").is_file() {
                return Self::from_folder(&folder);
            }
        }
        let found = Self::embedded(name).or_else(|| dataset::find_by_path(as_given));
        if let Some(found) = found.or_else(|| dataset::find_by_name(name)) {
            return found;
        }
        if as_given.is_dir() {
            return Err(Failure::usage(format!("`{name}` contains no task.yaml"))
                .hint("`kforge tasks new NAME` writes a complete task"));
        }
        let mut others = local_names();
        others.extend(dataset::dataset_names()?);
        // A set, because a shipped task may be in the working folder too.
        let known: BTreeSet<_> = embedded_names()
            .into_iter()
            .chain(others.iter().map(String::as_str))
            .collect();
        Err(
            Failure::usage(format!("unknown task `{name}`")).hint(format!(
                "{} `kforge tasks list` lists all tasks",
                hint_start(&did_you_mean(name, known))
            )),
        )
    }
}

/// Names of the tasks in `tasks/` of the working folder, sorted.
pub fn local_names() -> Vec<String> {
    let entries = std::fs::read_dir("tasks").into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .filter(|entry| entry.path().join("task.yaml").is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    names
}
