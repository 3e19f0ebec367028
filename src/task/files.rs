//! Finds task folders and turns their files into a validated [`Task`].
//!
//! A task name is looked up as a path, then in `tasks/` of the working folder, then among the embedded tasks. Workers receive the
//! contents of the files, never paths. `check` does the validation.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::check::{check, check_derived};
use super::{Baseline, Definition, Task, TaskSettings, Workload};
use crate::base::expression::Expression;
use crate::base::text::did_you_mean;
use crate::base::{Digest, Failure, yaml};

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
    /// Replaces the first baseline of `task.yaml`: the name of another baseline, or of a kernel in `kernels`.
    #[serde(default)]
    pub baseline: Option<String>,
    /// The task's kernels folder in the working tree, which may not exist yet. It is not sent to workers.
    #[serde(skip)]
    pub kernels_folder: PathBuf,
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
    /// Finds a task by its name or folder and reads its files.
    pub fn find(name: &str) -> Result<Self, Failure> {
        let as_given = Path::new(name);
        for folder in [as_given.to_owned(), Path::new("tasks").join(name)] {
            if folder.join("task.yaml").is_file() {
                return Self::from_folder(&folder);
            }
        }
        if let Some(folder) = TASKS.get_dir(name) {
            let read = |file: &str| {
                folder
                    .get_file(format!("{name}/{file}"))?
                    .contents_utf8()
                    .map(str::to_owned)
            };
            let kernel = |file: &str| {
                KERNELS
                    .get_file(format!("{name}/{file}"))?
                    .contents_utf8()
                    .map(str::to_owned)
            };
            return Self::collect(
                name.to_owned(),
                format!("{name} (embedded)"),
                Path::new("kernels").join(name),
                &read,
                &kernel,
            );
        }
        if as_given.is_dir() {
            return Err(Failure::usage(format!("`{name}` contains no task.yaml")));
        }
        let local = local_names();
        // A set, because a shipped task may be in the working folder too.
        let known: BTreeSet<_> = embedded_names()
            .into_iter()
            .chain(local.iter().map(String::as_str))
            .collect();
        Err(
            Failure::usage(format!("unknown task `{name}`")).hint(format!(
                "{} `kforge tasks list` lists all tasks",
                hint_start(&did_you_mean(name, known))
            )),
        )
    }

    fn from_folder(folder: &Path) -> Result<Self, Failure> {
        let resolved = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        let name = resolved.file_name().map_or_else(
            || "task".to_owned(),
            |name| name.to_string_lossy().into_owned(),
        );
        let beside = resolved
            .ancestors()
            .nth(2)
            .map(|root| root.join("kernels").join(&name));
        let folders: Vec<PathBuf> = beside
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
            folders
                .iter()
                .find_map(|folder| std::fs::read_to_string(folder.join(file)).ok())
                .or_else(embedded)
        };
        let kernels_folder = choose_kernels_folder(&folders);
        let origin = folder.display().to_string();
        Self::collect(name.clone(), origin, kernels_folder, &read, &kernel)
    }

    fn collect(
        name: String,
        origin: String,
        kernels_folder: PathBuf,
        read: &dyn Fn(&str) -> Option<String>,
        kernel: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Failure> {
        let mut files = BTreeMap::new();
        let settings_text = read("task.yaml")
            .ok_or_else(|| Failure::usage(format!("{origin}/task.yaml: cannot be read")))?;
        let settings: TaskSettings = yaml::read(&settings_text, &format!("{origin}/task.yaml"))?;
        files.insert("task.yaml".to_owned(), settings_text);
        for (key, file) in [
            ("definition", &settings.definition),
            ("workloads", &settings.workloads),
            ("oracle", &settings.oracle),
        ] {
            let text = read(file)
                .ok_or_else(|| missing_file(&origin, key, &format!("{origin}/{file}")))?;
            files.insert(file.clone(), text);
        }
        let mut kernels = BTreeMap::new();
        let baselines = settings
            .baselines
            .iter()
            .map(|(name, baseline)| (format!("baselines.{name}.kernel"), &baseline.kernel));
        let starts = settings.start.iter().map(|file| ("start".to_owned(), file));
        for (key, file) in baselines.chain(starts) {
            let text = kernel(file)
                .ok_or_else(|| missing_file(&origin, &key, &format!("kernels/{name}/{file}")))?;
            kernels.insert(file.clone(), text);
        }
        Ok(Self {
            name,
            origin,
            files,
            kernels,
            baseline: None,
            kernels_folder,
        })
    }

    /// The same task with another baseline: the name of a baseline in `task.yaml`, or a kernel file.
    pub(crate) fn with_baseline(mut self, baseline: &str) -> Result<Self, Failure> {
        let settings = self.settings()?;
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
                Failure::usage(format!("failed to read the baseline `{baseline}`: {error}"))
                    .hint("check that the kernel file is UTF-8 text and that you may read it")
            })?;
            self.kernels.insert(baseline.to_owned(), text);
        }
        self.baseline = Some(baseline.to_owned());
        Ok(self)
    }

    /// Parses `task.yaml` and puts the chosen baseline first.
    fn settings(&self) -> Result<TaskSettings, Failure> {
        let origin = format!("{}/task.yaml", self.origin);
        let text = self.files.get("task.yaml");
        let text = text.ok_or_else(|| Failure::usage(format!("{origin}: cannot be read")))?;
        let mut settings: TaskSettings = yaml::read(text, &origin)?;
        if let Some(name) = &self.baseline {
            let named = settings.baselines.shift_remove(name);
            let baseline = named.unwrap_or_else(|| Baseline {
                kernel: name.clone(),
            });
            settings.baselines.shift_insert(0, name.clone(), baseline);
        }
        Ok(settings)
    }

    /// Parses and validates all files.
    ///
    /// # Errors
    /// A usage failure that names the file, the line or key, and the expected value.
    pub fn load(&self) -> Result<Task, Failure> {
        let origin = |file: &str| format!("{}/{file}", self.origin);
        let text = |file: &str| {
            self.files
                .get(file)
                .map(String::as_str)
                .ok_or_else(|| missing_file(&self.origin, file, &origin(file)))
        };
        let settings = self.settings()?;
        let definition =
            Definition::parse(text(&settings.definition)?, &origin(&settings.definition))?;
        let workloads = Workload::parse_all(
            text(&settings.workloads)?,
            &definition,
            &origin(&settings.workloads),
        )?;
        let at = |key: &str, failure: Failure| Failure {
            message: format!("{}: {key}: {}", origin("task.yaml"), failure.message),
            ..failure
        };
        check(&settings, &definition, &workloads).map_err(|(key, failure)| at(&key, failure))?;
        let expression = |key: &str, text: &str| {
            parse_axis_expression(text, &definition).map_err(|failure| at(key, failure))
        };
        let derived = settings.derived.iter().map(|(axis, text)| {
            let size = expression(&format!("derived.{axis}"), text)?;
            Ok((axis.clone(), size))
        });
        let derived = derived.collect::<Result<_, Failure>>()?;
        let kernels = settings
            .baselines
            .values()
            .map(|baseline| &baseline.kernel)
            .chain(&settings.start)
            .filter_map(|file| Some((file.clone(), self.kernels.get(file)?.clone())))
            .collect::<IndexMap<_, _>>();
        let contents = self
            .files
            .iter()
            .chain(&self.kernels)
            .flat_map(|(name, text)| [name.as_bytes(), text.as_bytes()]);
        let task = Task {
            name: self.name.clone(),
            derived,
            oracle: text(&settings.oracle)?.to_owned(),
            bytes: expression("bytes", &settings.bytes)?,
            flops: expression("flops", &settings.flops)?,
            digest: Digest::of_parts(contents),
            definition,
            workloads,
            settings,
            kernels,
        };
        check_derived(&task).map_err(|(key, failure)| at(&key, failure))?;
        Ok(task)
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

fn missing_file(origin: &str, key: &str, path: &str) -> Failure {
    Failure::usage(format!("{origin}/task.yaml: {key}: no such file: `{path}`"))
}

fn hint_start(text: &str) -> String {
    if text.ends_with('?') {
        text.to_owned()
    } else {
        format!("{text};")
    }
}

fn parse_axis_expression(text: &str, definition: &Definition) -> Result<Expression, Failure> {
    let expression = Expression::parse(text)
        .map_err(|error| Failure::usage(format!("column {}: {error}", error.offset + 1)))?;
    for (name, _) in expression.names() {
        if !definition.axes.contains_key(name) {
            return Err(
                Failure::usage(format!("unknown axis `{name}`")).hint(did_you_mean(
                    name,
                    definition.axes.keys().map(String::as_str),
                )),
            );
        }
    }
    Ok(expression)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_task_loads() {
        for name in embedded_names() {
            let task = TaskFiles::find(name).and_then(|files| files.load());
            assert!(task.is_ok(), "{name}: {}", task.unwrap_err());
        }
    }

    #[test]
    fn errors_name_the_file_the_key_and_the_expected_value() {
        let files = TaskFiles::find("softmax").unwrap();
        let failure = |file: &str, from: &str, to: &str| {
            let mut files = files.clone();
            let text = files.files.get_mut(file).unwrap();
            assert!(text.contains(from), "{file} has no `{from}`");
            *text = text.replacen(from, to, 1);
            files.load().unwrap_err().to_string()
        };
        for (file, from, to, words) in [
            (
                "workloads.jsonl",
                "\"rows\"",
                "\"rwos\"",
                "workloads.jsonl:1: workload.axes: unknown axis `rwos`\n\nhint: did you mean `rows`?",
            ),
            (
                "workloads.jsonl",
                "\"type\": \"random\"",
                "\"type\": \"random\", \"shape\": [3, 5]",
                "workload.inputs.x.shape: expected [",
            ),
            (
                "workloads.jsonl",
                "{\"definition\"",
                "{\"definition\" 1",
                "workloads.jsonl:1:15: expected `:`",
            ),
            (
                "workloads.jsonl",
                "\"definition\": \"",
                "\"definition\": \"x",
                "workloads.jsonl:1: definition: expected `",
            ),
            (
                "task.yaml",
                "tolerance:",
                "tolerances:",
                "unknown key `tolerances`\n",
            ),
            (
                "task.yaml",
                "schema: 1",
                "schema: 2",
                "task.yaml: schema: expected 1, found 2",
            ),
            (
                "task.yaml",
                "bytes: \"",
                "bytes: \"rwos + ",
                "task.yaml: bytes: unknown axis `rwos`",
            ),
            (
                "task.yaml",
                "in_place: {}",
                "derived: {colums: rows + 1}",
                "task.yaml: derived.colums: no such variable axis\n\nhint: did you mean `columns`?",
            ),
            (
                "task.yaml",
                "in_place: {}",
                "derived: {columns: rows + 1}",
                "task.yaml: derived.columns: the axis also has a range under `hidden`",
            ),
            (
                "task.yaml",
                "x: {uniform: [90.0, 98.0]}",
                "x: {cumulative: rows}",
                "task.yaml: inputs.x: `cumulative` applies only to integer inputs",
            ),
            (
                "definition.json",
                "\"columns\": {",
                "\"colums\": {",
                "unknown axis `columns`\n\nhint: did you mean `colums`?",
            ),
        ] {
            let message = failure(file, from, to);
            assert!(message.contains(words), "{to}: {message}");
        }
    }

    #[test]
    fn derived_axes_are_checked() {
        let files = TaskFiles::find("gdn_prefill").unwrap();
        let failure = |file: &str, from: &str, to: &str| {
            let mut files = files.clone();
            let text = files.files.get_mut(file).unwrap();
            assert!(text.contains(from), "{file} has no `{from}`");
            *text = text.replacen(from, to, 1);
            files.load().unwrap_err().to_string()
        };
        for (file, from, to, words) in [
            (
                "task.yaml",
                "len_cu_seqlens: num_seqs + 1",
                "len_cu_seqlens: num_seqs + 2",
                "derived.len_cu_seqlens: `num_seqs + 2` is 3 on `t6n1`, expected 2",
            ),
            (
                "task.yaml",
                "len_cu_seqlens: num_seqs + 1",
                "len_cu_seqlens: num_seqs - 1",
                "derived.len_cu_seqlens: `num_seqs - 1` is 0 on `low`, expected at least 1",
            ),
            (
                "task.yaml",
                "len_cu_seqlens: num_seqs + 1",
                "len_cu_seqlens: len_cu_seqlens",
                "derived.len_cu_seqlens: `len_cu_seqlens` is itself a derived axis",
            ),
            (
                "workloads.jsonl",
                "\"num_seqs\": 1, \"len_cu_seqlens\": 2",
                "\"num_seqs\": 1, \"len_cu_seqlens\": 3",
                "derived.len_cu_seqlens: `num_seqs + 1` is 2 on `t6n1`, expected 3",
            ),
            (
                "task.yaml",
                "{cumulative: total_seq_len}",
                "{cumulative: total_seq_length}",
                "inputs.cu_seqlens: `cumulative`: unknown axis `total_seq_length`",
            ),
        ] {
            let message = failure(file, from, to);
            assert!(message.contains(words), "{to}: {message}");
        }
    }

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
            message.contains("task.yaml: definition: no such file: `"),
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
