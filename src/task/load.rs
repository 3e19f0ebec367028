//! Turns the files of a task into a validated [`Task`], and reports everything that is wrong with them at once.
//!
//! Reads only the texts that `files` has collected; only for the hint about a missing file it lists the folder. `check` validates the parts
//! against each other.

use std::path::Path;

use indexmap::IndexMap;

use super::check::{TaskCheckInput, check, check_derived};
use super::check_constants::check_constants;
use super::constraints::broken_constraints;
use super::defaults::{add_profiles, traffic};
use super::definition::Definition;
use super::definition_reader::read_definition;
use super::files::TaskFiles;
use super::problems::{Problems, TaskFile};
use super::settings::{Baseline, TaskSettings};
use super::settings_reader::read_settings;
use super::stored_tensor::NamedTensor;
use super::workload::Workload;
use super::{REFERENCE_ORACLE, Task};
use crate::base::expression::Expression;
use crate::base::text::{did_you_mean, nearest_name};
use crate::base::{Digest, Failure, yaml};

impl TaskFiles {
    /// Parses `task.yaml` and puts the chosen baseline first. `None` if nothing of it can be read.
    pub(super) fn settings(&self, problems: &mut Problems) -> Option<TaskSettings> {
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
        // A missing oracle is reported; the rest can be validated without it.
        let oracle = if settings.oracle == REFERENCE_ORACLE {
            definition
                .as_ref()
                .map(|definition| definition.reference.as_str())
        } else {
            self.text("oracle", &settings.oracle, problems)
        };
        let oracle = oracle.unwrap_or_default().to_owned();
        self.check_kernels(&settings, problems);
        let definition = definition?;
        add_profiles(&mut settings, &definition, &workloads);
        let parts = TaskCheckInput {
            settings: &settings,
            definition: &definition,
            workloads: &workloads,
            has_all_workloads,
        };
        for (key, failure) in check(&parts).into_iter().chain(check_constants(&parts)) {
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
            self.check_constraints(&task, problems);
        }
        Some(task)
    }

    /// Reports workloads that break a constraint of the definition.
    fn check_constraints(&self, task: &Task, problems: &mut Problems) {
        let text = self.files.get(&task.settings.definition);
        let text = text.map_or("", String::as_str);
        let (origin, file) = (&self.origin, &task.settings.workloads);
        for broken in broken_constraints(text, &task.definition, &task.workloads) {
            let message = format!(
                "{origin}/{file}:{}: {}",
                broken.line, broken.failure.message
            );
            problems.push(Failure {
                message,
                ..broken.failure
            });
        }
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
        let file = TaskFile::new(&origin, text);
        Workload::read_all(&file, definition, &self.tensors, problems)
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
        let tensors = self
            .tensors
            .iter()
            .filter_map(|(name, tensor)| match tensor {
                NamedTensor::Found(tensor) => Some((name, tensor.fingerprint.to_string())),
                NamedTensor::Wrong { .. } => None,
            });
        let tensors: Vec<_> = tensors.collect();
        let mut parts: Vec<&[u8]> = Vec::new();
        for (name, text) in self.files.iter().chain(&self.kernels) {
            parts.extend([name.as_bytes(), text.as_bytes()]);
        }
        for (name, fingerprint) in &tensors {
            parts.extend([name.as_bytes(), fingerprint.as_bytes()]);
        }
        Digest::of_parts(parts)
    }
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
    use super::super::files::embedded_names;
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
                "task.yaml:34: bytes: unknown axis `rwos`",
            ),
            (
                "task.yaml",
                "in_place: {}",
                "derived: {colums: rows + 1}",
                "task.yaml:37: derived.colums: no such variable axis\n\nhint: did you mean `columns`?",
            ),
            (
                "task.yaml",
                "in_place: {}",
                "derived: {columns: rows + 1}",
                "task.yaml:37: derived.columns: the axis also has a range under `hidden`",
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
}
