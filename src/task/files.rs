//! Reads the files of tasks, from a folder or from those built in.
//!
//! `find` says where a task is looked for. Workers receive the contents of the files; only the values of tensors are read again (`stored_tensor`). `load`
//! turns the files into a `Task`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};
use serde::{Deserialize, Serialize};

use super::REFERENCE_ORACLE;
use super::problems::Problems;
use super::stored_tensor::{self, NamedTensor, NamedTensors};
use crate::base::Failure;
use crate::base::text::did_you_mean;

static TASKS: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/tasks");
pub(super) static KERNELS: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/kernels");

/// The texts of a task's files: everything that a judge needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskFiles {
    /// Name of the folder.
    pub name: String,
    /// The folder's name in errors: its path, or `NAME (embedded)`.
    pub origin: String,
    /// `task.yaml` and the files that it names, by file name.
    pub files: BTreeMap<String, String>,
    /// The kernels that `task.yaml` names, by file name.
    pub kernels: BTreeMap<String, String>,
    /// The tensors that workloads name.
    #[serde(default)]
    pub(crate) tensors: NamedTensors,
    /// Replaces the first baseline of `task.yaml`: the name of another baseline, or of a kernel in `kernels`.
    #[serde(default)]
    pub baseline: Option<String>,
    /// The path by which it is found again from any working folder. `None` if its name is enough. It is not sent to workers.
    #[serde(skip)]
    pub(crate) place: Option<PathBuf>,
    /// The task's kernels folder in the working tree, which may not exist yet. It is not sent to workers.
    #[serde(skip)]
    pub kernels_folder: PathBuf,
    /// The texts of the tables of baselines. They are not sent to workers.
    #[serde(skip)]
    pub baseline_tables: Vec<String>,
}

/// Names of the embedded tasks, sorted.
pub fn embedded_names() -> Vec<&'static str> {
    let mut names: Vec<_> = TASKS
        .dirs()
        .filter_map(|folder| folder.path().file_name()?.to_str())
        .collect();
    names.sort_unstable();
    names
}

/// File name and text of the embedded task lists.
pub fn embedded_lists() -> Vec<(&'static str, &'static str)> {
    let lists = TASKS.files();
    lists
        .filter_map(|file| Some((file.path().to_str()?, file.contents_utf8()?)))
        .filter(|(name, _)| name.ends_with(".txt"))
        .collect()
}

impl TaskFiles {
    /// A task that is built in. `None` if there is none of this name.
    pub(super) fn embedded(name: &str) -> Option<Result<Self, Failure>> {
        let folder = TASKS.get_dir(name)?;
        let text = |folder: &Dir<'_>, file: &str| {
            let file = folder.get_file(format!("{name}/{file}"))?;
            file.contents_utf8().map(str::to_owned)
        };
        Some(Self::collect(
            name.to_owned(),
            format!("{name} (embedded)"),
            Path::new("kernels").join(name),
            &|file| text(folder, file),
            &|file| text(&KERNELS, file),
        ))
    }

    pub(super) fn from_folder(folder: &Path) -> Result<Self, Failure> {
        let resolved = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        let name = resolved.file_name().map_or_else(
            || "task".to_owned(),
            |name| name.to_string_lossy().into_owned(),
        );
        let in_tree = resolved
            .ancestors()
            .nth(2)
            .map(|root| root.join("kernels").join(&name));
        let folders: Vec<PathBuf> = in_tree
            .into_iter()
            .chain([Path::new("kernels").join(&name)])
            .collect();
        let read = |file: &str| std::fs::read_to_string(folder.join(file)).ok();
        let kernel = |file: &str| {
            let embedded = || {
                KERNELS
                    .get_file(format!("{name}/{file}"))?
                    .contents_utf8()
                    .map(str::to_owned)
            };
            // A task may keep its kernels next to `task.yaml`.
            [folder.to_owned()]
                .iter()
                .chain(&folders)
                .find_map(|folder| std::fs::read_to_string(folder.join(file)).ok())
                .or_else(embedded)
        };
        let kernels_folder = choose_kernels_folder(&folders);
        let origin = folder.display().to_string();
        let mut files = Self::collect(name.clone(), origin, kernels_folder, &read, &kernel)?;
        files.find_tensors(&resolved);
        files.place = Some(resolved);
        if files.tensors.values().any(NamedTensor::is_wrong) {
            return Err(files.load_failure());
        }
        Ok(files)
    }

    /// Looks for the tensors that the workloads name, with paths relative to a folder.
    pub(super) fn find_tensors(&mut self, root: &Path) {
        if let Some(settings) = self.settings(&mut Problems::default())
            && let Some(workloads) = self.files.get(&settings.workloads)
        {
            self.tensors = stored_tensor::describe(workloads, root);
        }
    }

    /// Reads the files that `task.yaml` names.
    ///
    /// # Errors
    /// If `task.yaml` cannot be read, or a file is missing. The failure lists everything that is wrong with the task.
    fn collect(
        name: String,
        origin: String,
        kernels_folder: PathBuf,
        read: &dyn Fn(&str) -> Option<String>,
        kernel: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Failure> {
        let settings_text = read("task.yaml").ok_or_else(|| {
            Failure::usage(format!("{origin}/task.yaml: cannot be read"))
                .hint("check that the file is UTF-8 text and that you may read it")
        })?;
        let mut task_files = Self {
            name,
            origin,
            files: BTreeMap::from([("task.yaml".to_owned(), settings_text)]),
            kernels: BTreeMap::new(),
            tensors: NamedTensors::new(),
            baseline: None,
            place: None,
            kernels_folder,
            baseline_tables: Vec::new(),
        };
        task_files.baseline_tables = task_files.read_baseline_tables();
        let mut problems = Problems::default();
        let Some(settings) = task_files.settings(&mut problems) else {
            return Err(task_files.load_failure());
        };
        let mut is_complete = problems.is_empty();
        let oracle = Some(&settings.oracle).filter(|oracle| *oracle != REFERENCE_ORACLE);
        for file in [&settings.definition, &settings.workloads]
            .into_iter()
            .chain(oracle)
        {
            match read(file) {
                Some(text) => {
                    task_files.files.insert(file.clone(), text);
                }
                None => is_complete = false,
            }
        }
        let baselines = settings.baselines.values().map(|baseline| &baseline.kernel);
        for file in baselines.chain(&settings.start) {
            match kernel(file) {
                Some(text) => {
                    task_files.kernels.insert(file.clone(), text);
                }
                None => is_complete = false,
            }
        }
        if is_complete {
            Ok(task_files)
        } else {
            Err(task_files.load_failure())
        }
    }

    /// The failure of a task that cannot be loaded.
    pub(super) fn load_failure(&self) -> Failure {
        match self.load() {
            Err(failure) => failure,
            Ok(_) => Failure::usage(format!("{}: cannot be read", self.origin)),
        }
    }

    /// The same task with another baseline: the name of a baseline in `task.yaml`, or a kernel file.
    pub(crate) fn with_baseline(mut self, baseline: &str) -> Result<Self, Failure> {
        let mut problems = Problems::default();
        let Some(settings) = self.settings(&mut problems) else {
            return Err(self.load_failure());
        };
        if !settings.baselines.contains_key(baseline) {
            let path = Path::new(baseline);
            if !path.is_file() {
                let known: Vec<_> = settings.baselines.keys().map(String::as_str).collect();
                return Err(
                    Failure::usage(format!("unknown baseline `{baseline}`")).hint(format!(
                        "{} the path of a kernel file also works",
                        hint_start(&did_you_mean(baseline, known))
                    )),
                );
            }
            let text = std::fs::read_to_string(path).map_err(|error| {
                Failure::unreadable(&format!("the baseline `{baseline}`"), &error)
            })?;
            self.kernels.insert(baseline.to_owned(), text);
        }
        self.baseline = Some(baseline.to_owned());
        Ok(self)
    }
}

/// The first folder that exists. The last one, relative to the working folder, is used if it is the same folder or none exists.
fn choose_kernels_folder(folders: &[PathBuf]) -> PathBuf {
    let whole = |folder: &PathBuf| folder.canonicalize().ok();
    let here = folders.last().cloned().unwrap_or_default();
    match folders.iter().find(|folder| folder.is_dir()) {
        Some(first) if whole(first) != whole(&here) => first.clone(),
        _ => here,
    }
}

pub(super) fn hint_start(text: &str) -> String {
    if text.ends_with('?') {
        text.to_owned()
    } else {
        format!("{text};")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_baseline_becomes_the_first() {
        let files = TaskFiles::find("softmax").unwrap();
        let own = files.load().unwrap().baseline().1.to_owned();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.cu").display().to_string();
        std::fs::write(&path, "/* kforge */").unwrap();
        let task = files.clone().with_baseline(&path).unwrap().load().unwrap();
        assert_eq!(task.baseline(), (path.as_str(), "/* kforge */"));
        assert_eq!(task.settings.baselines.get_index(0).unwrap().0, &path);
        let named = files
            .clone()
            .with_baseline("naive")
            .unwrap()
            .load()
            .unwrap();
        assert_eq!(named.baseline().1, own);
        let message = files.with_baseline("naiv").unwrap_err().to_string();
        assert!(
            message.contains("unknown baseline `naiv`")
                && message.contains("did you mean `naive`?"),
            "{message}"
        );
    }

    #[test]
    fn missing_file_is_named_in_the_error() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("task.yaml"),
            TaskFiles::find("softmax").unwrap().files["task.yaml"].as_bytes(),
        )
        .unwrap();
        let message = TaskFiles::find(&folder.path().display().to_string())
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("task.yaml:4: definition: no such file: `"),
            "{message}"
        );
        let message = TaskFiles::find("sofmax").unwrap_err().to_string();
        assert!(
            message.contains("unknown task `sofmax`")
                && message.contains("did you mean `softmax`?"),
            "{message}"
        );
    }
}
