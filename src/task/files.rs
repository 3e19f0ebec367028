//! Finds task folders and turns their files into a validated [`Task`].
//!
//! A task name is looked up as a path, then in `tasks/` of the working folder, then among the embedded tasks. Workers receive the
//! contents of the files, never paths. `check` does the validation.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::Task;
use super::check::{TaskParts, check, check_derived};
use super::defaults::{add_profiles, traffic};
use super::definition::Definition;
use super::definition_reader::read_definition;
use super::problems::{Problems, TaskFile};
use super::settings::{Baseline, TaskSettings};
use super::settings_reader::read_settings;
use super::workload::Workload;
use crate::base::expression::Expression;
use crate::base::text::{did_you_mean, nearest_name};
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
            return Err(Failure::usage(format!("`{name}` contains no task.yaml"))
                .hint("`kforge tasks new NAME` writes a complete task"));
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
        Self::collect(name.clone(), origin, kernels_folder, &read, &kernel)
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
            baseline: None,
            kernels_folder,
        };
        let mut problems = Problems::default();
        let Some(settings) = task_files.settings(&mut problems) else {
            return Err(task_files.load_failure());
        };
        let mut is_complete = problems.is_empty();
        for file in [&settings.definition, &settings.workloads, &settings.oracle] {
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
    fn load_failure(&self) -> Failure {
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
                Failure::usage(format!("failed to read the baseline `{baseline}`: {error}"))
                    .hint("check that the kernel file is UTF-8 text and that you may read it")
            })?;
            self.kernels.insert(baseline.to_owned(), text);
        }
        self.baseline = Some(baseline.to_owned());
        Ok(self)
    }

    /// Parses `task.yaml` and puts the chosen baseline first. `None` if nothing of it can be read.
    fn settings(&self, problems: &mut Problems) -> Option<TaskSettings> {
        let origin = format!("{}/task.yaml", self.origin);
        let Some(text) = self.files.get("task.yaml") else {
            problems.push(Failure::usage(format!("{origin}: cannot be read")));
            return None;
        };
        let mut settings = read_settings(&TaskFile::new(&origin, text), problems)?;
        if let Some(name) = &self.baseline {
            let named = settings.baselines.shift_remove(name);
            let baseline = named.unwrap_or_else(|| Baseline {
                kernel: name.clone(),
            });
            settings.baselines.shift_insert(0, name.clone(), baseline);
        }
        Some(settings)
    }

    /// Parses and validates all files.
    ///
    /// # Errors
    /// A usage failure that lists everything that is missing or wrong, with its file, line and key.
    pub fn load(&self) -> Result<Task, Failure> {
        let mut problems = Problems::default();
        let task = self.read_task(&mut problems);
        match (problems.into_failure(&self.name), task) {
            (None, Some(task)) => Ok(task),
            (Some(failure), _) => Err(failure),
            (None, None) => Err(Failure::usage(format!("{}: cannot be read", self.origin))),
        }
    }

    /// Reads as much of the task as possible, and reports everything that is wrong.
    fn read_task(&self, problems: &mut Problems) -> Option<Task> {
        let Some(mut settings) = self.settings(problems) else {
            self.read_other_files(problems);
            return None;
        };
        let definition = self.definition(&settings.definition, problems);
        let before = problems.count();
        let workloads = self.workloads(&settings.workloads, definition.as_ref(), problems);
        let has_all_workloads = definition.is_some() && problems.count() == before;
        let oracle = self.text("oracle", &settings.oracle, problems);
        // A missing oracle is reported; the rest can be validated without it.
        let oracle = oracle.unwrap_or_default().to_owned();
        self.check_kernels(&settings, problems);
        let definition = definition?;
        add_profiles(&mut settings, &definition, &workloads);
        let parts = TaskParts {
            settings: &settings,
            definition: &definition,
            workloads: &workloads,
            has_all_workloads,
        };
        for (key, failure) in check(&parts) {
            self.report(&key, failure, problems);
        }
        let traffic = || traffic(&definition);
        let bytes = settings.bytes.clone().unwrap_or_else(traffic);
        let flops = settings.flops.clone().unwrap_or_else(|| "0".to_owned());
        let bytes = self.expression("bytes", &bytes, &definition, problems);
        let flops = self.expression("flops", &flops, &definition, problems);
        let derived = self.derived(&settings, &definition, problems);
        let task = Task {
            name: self.name.clone(),
            derived,
            oracle,
            bytes: bytes?,
            flops: flops?,
            digest: self.digest(),
            kernels: self.named_kernels(&settings),
            definition,
            workloads,
            settings,
        };
        if has_all_workloads {
            for (key, failure) in check_derived(&task) {
                self.report(&key, failure, problems);
            }
        }
        Some(task)
    }

    /// Where `task.yaml` cannot be read: the problems of the files under their usual names.
    fn read_other_files(&self, problems: &mut Problems) {
        let usual = |file: &str| self.files.contains_key(file);
        if usual("definition.json") {
            let definition = self.definition("definition.json", problems);
            if usual("workloads.jsonl") {
                self.workloads("workloads.jsonl", definition.as_ref(), problems);
            }
        }
    }

    /// Reports a problem with a key of `task.yaml`.
    fn report(&self, key: &str, failure: Failure, problems: &mut Problems) {
        let origin = format!("{}/task.yaml", self.origin);
        let text = self.files.get("task.yaml").map_or("", String::as_str);
        let message = TaskFile::new(&origin, text).problem(key, failure.message);
        problems.push(Failure {
            message: message.message,
            ..failure
        });
    }

    /// The text of a file that `task.yaml` names. Reports a missing file.
    fn text(&self, key: &str, file: &str, problems: &mut Problems) -> Option<&str> {
        let text = self.files.get(file);
        // A key that is missing is reported already.
        if text.is_none() && self.has_key(key) {
            let failure = missing_file(&self.origin, file);
            self.report(key, failure, problems);
        }
        text.map(String::as_str)
    }

    fn has_key(&self, key: &str) -> bool {
        let settings = self.files.get("task.yaml");
        settings.is_some_and(|text| yaml::line_of(text, key).is_some())
    }

    fn definition(&self, file: &str, problems: &mut Problems) -> Option<Definition> {
        let text = self.text("definition", file, problems)?;
        let origin = format!("{}/{file}", self.origin);
        read_definition(&TaskFile::new(&origin, text), problems)
    }

    fn workloads(
        &self,
        file: &str,
        definition: Option<&Definition>,
        problems: &mut Problems,
    ) -> Vec<Workload> {
        let Some(text) = self.text("workloads", file, problems) else {
            return Vec::new();
        };
        let Some(definition) = definition else {
            return Vec::new();
        };
        let origin = format!("{}/{file}", self.origin);
        Workload::read_all(&TaskFile::new(&origin, text), definition, problems)
    }

    /// Reports kernels that are missing, each once.
    fn check_kernels(&self, settings: &TaskSettings, problems: &mut Problems) {
        let baselines = settings.baselines.iter();
        let baselines =
            baselines.map(|(name, baseline)| (format!("baselines.{name}"), &baseline.kernel));
        let starts = settings.start.iter().map(|file| ("start".to_owned(), file));
        let mut reported: Vec<&str> = Vec::new();
        for (key, file) in baselines.chain(starts) {
            if self.kernels.contains_key(file) || reported.contains(&file.as_str()) {
                continue;
            }
            reported.push(file);
            let failure = match settings.baselines.get(file) {
                Some(baseline) if key == "start" => {
                    Failure::usage(format!("expected the name of a file, found `{file}`"))
                        .hint(format!("did you mean `{}`?", baseline.kernel))
                }
                _ => Failure::usage(format!("no such file: `{file}`")).hint(format!(
                    "kernels are looked for in `{}` and `{}`",
                    self.origin,
                    self.kernels_folder.display()
                )),
            };
            self.report(&key, failure, problems);
        }
    }

    fn expression(
        &self,
        key: &str,
        text: &str,
        definition: &Definition,
        problems: &mut Problems,
    ) -> Option<Expression> {
        match parse_axis_expression(text, definition) {
            Ok(expression) => Some(expression),
            Err(failure) => {
                self.report(key, failure, problems);
                None
            }
        }
    }

    /// The axes that are computed from others: those of `task.yaml`, and those of the definition.
    fn derived(
        &self,
        settings: &TaskSettings,
        definition: &Definition,
        problems: &mut Problems,
    ) -> IndexMap<String, Expression> {
        let mut derived = IndexMap::new();
        for (axis, text) in &settings.derived {
            let key = format!("derived.{axis}");
            let size = self.expression(&key, text, definition, problems);
            derived.extend(size.map(|size| (axis.clone(), size)));
        }
        let computed = definition.computed_axes();
        derived.extend(computed.map(|(axis, size)| (axis.to_owned(), size.clone())));
        derived
    }

    fn named_kernels(&self, settings: &TaskSettings) -> IndexMap<String, String> {
        let baselines = settings.baselines.values();
        let files = baselines
            .map(|baseline| &baseline.kernel)
            .chain(&settings.start);
        let named = files.filter_map(|file| Some((file.clone(), self.kernels.get(file)?.clone())));
        named.collect()
    }

    fn digest(&self) -> Digest {
        let contents = self.files.iter().chain(&self.kernels);
        Digest::of_parts(contents.flat_map(|(name, text)| [name.as_bytes(), text.as_bytes()]))
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

/// The failure for a file of a task folder that cannot be read.
fn missing_file(folder: &str, file: &str) -> Failure {
    if Path::new(folder).join(file).exists() {
        return Failure::usage(format!("`{file}` cannot be read"))
            .hint("check that the file is UTF-8 text and that you may read it");
    }
    let failure = Failure::usage(format!("no such file: `{folder}/{file}`"));
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    // Only files of the same kind: every kernel has a short name.
    let (stem, extension) = file.rsplit_once('.').unwrap_or((file, ""));
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let stems: Vec<String> = names
        .filter_map(|name| {
            let (stem, other) = name.rsplit_once('.')?;
            (other == extension).then(|| stem.to_owned())
        })
        .collect();
    match nearest_name(stem, stems.iter().map(String::as_str)) {
        Some(near) => failure.hint(format!("did you mean `{near}.{extension}`?")),
        None => failure,
    }
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
                "task.yaml:3: schema: expected 1, found 2",
            ),
            (
                "task.yaml",
                "bytes: \"",
                "bytes: \"rwos + ",
                "task.yaml:32: bytes: unknown axis `rwos`",
            ),
            (
                "task.yaml",
                "in_place: {}",
                "derived: {colums: rows + 1}",
                "task.yaml:35: derived.colums: no such variable axis\n\nhint: did you mean `columns`?",
            ),
            (
                "task.yaml",
                "in_place: {}",
                "derived: {columns: rows + 1}",
                "task.yaml:35: derived.columns: the axis also has a range under `hidden`",
            ),
            (
                "task.yaml",
                "x: {uniform: [90.0, 98.0]}",
                "x: {cumulative: rows}",
                "task.yaml:17: inputs.x: `cumulative` applies only to integer inputs",
            ),
            (
                "definition.json",
                "\"columns\": {",
                "\"colums\": {",
                "unknown axis `columns`\n      hint: did you mean `colums`?",
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
