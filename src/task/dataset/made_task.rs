//! Makes the task of one definition of a dataset: finds its workloads and tensors, and writes its `task.yaml`.
//!
//! Reads files and writes none: `DatasetTask::files_to_write` gives the texts of a task folder that takes the task's place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::fields;
use super::folder::{files_below, is_problem, stem_of};
use crate::base::{Failure, yaml};
use crate::task::REFERENCE_ORACLE;
use crate::task::definition::Definition;
use crate::task::definition_reader::read_definition;
use crate::task::draft::{DraftChoices, FileNames, guess};
use crate::task::files::TaskFiles;
use crate::task::problems::{Problems, TaskFile};
use crate::task::shipped_twin::{shipped_twin, without_keys};
use crate::task::stored_tensor::NamedTensors;

/// The name of a definition's workloads where the dataset has none.
const CHOSEN_WORKLOADS: &str = "workloads.jsonl";

/// A definition of a dataset as a task.
pub(crate) struct DatasetTask {
    pub(crate) files: TaskFiles,
    /// The folder that paths of tensors are relative to.
    root: PathBuf,
    /// Names of the files of the definition and the workloads in `files`.
    definition: String,
    workloads: String,
    /// The shipped task whose kernels, inputs and tolerances it has.
    pub(crate) twin: Option<String>,
    /// Whether kforge chose the shapes, because the dataset has none.
    pub(crate) has_chosen_shapes: bool,
}

/// Makes the task of a definition's file.
///
/// # Errors
/// If the definition cannot be read or has unknown fields; the failure lists everything that is wrong.
pub(super) fn make_task(root: &Path, file: &Path) -> Result<DatasetTask, Failure> {
    let relative = |path: &Path| {
        let inside = path.strip_prefix(root).unwrap_or(path);
        inside.display().to_string()
    };
    let origin = root.display().to_string();
    let text = read(file)?;
    let definition = read_strictly(&format!("{origin}/{}", relative(file)), &text)?;
    let name = definition.name.clone();
    let found = find_workloads(root, &name, file);
    let workloads = match &found {
        Some(path) => read(path)?,
        None => String::new(),
    };
    if let Some(path) = &found {
        let place = format!("{origin}/{}", relative(path));
        let mut problems = Problems::default();
        fields::check_workloads(&TaskFile::new(&place, &workloads), &mut problems);
        if let Some(failure) = problems.into_failure(&name) {
            return Err(failure);
        }
    }
    let definition_name = relative(file);
    let workloads_name = found
        .as_deref()
        .map_or(CHOSEN_WORKLOADS.to_owned(), relative);
    let parts = Parts {
        definition: &definition,
        definition_text: &text,
        workloads: &workloads,
    };
    let names = FileNames {
        definition: &definition_name,
        workloads: &workloads_name,
        oracle: REFERENCE_ORACLE,
    };
    let made = parts.settings(&names)?;
    let workloads = if found.is_some() {
        workloads
    } else {
        made.chosen_workloads
    };
    let settings = with_wider_tolerances(&made.settings);
    let settings = without_given_scalars(&settings, &definition, &workloads);
    let mut files = TaskFiles {
        name: name.clone(),
        origin,
        files: BTreeMap::from([
            ("task.yaml".to_owned(), settings),
            (definition_name.clone(), text),
            (workloads_name.clone(), workloads),
        ]),
        kernels: made.kernels,
        tensors: NamedTensors::new(),
        baseline: None,
        baseline_tables: Vec::new(),
        place: file.canonicalize().ok(),
        kernels_folder: Path::new("kernels").join(&name),
    };
    files.baseline_tables = files.read_baseline_tables();
    files.find_tensors(root);
    Ok(DatasetTask {
        files,
        root: root.to_owned(),
        definition: definition_name,
        workloads: workloads_name,
        twin: made.twin,
        has_chosen_shapes: found.is_none(),
    })
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::unreadable(&format!("`{}`", path.display()), &error))
}

/// Reads a definition and refuses unknown fields.
fn read_strictly(origin: &str, text: &str) -> Result<Definition, Failure> {
    let file = TaskFile::new(origin, text);
    let mut problems = Problems::default();
    let definition = read_definition(&file, &mut problems);
    fields::check_definition(&file, &mut problems);
    let name = match &definition {
        Some(definition) if !definition.name.is_empty() => definition.name.clone(),
        _ => origin.to_owned(),
    };
    match (problems.into_failure(&name), definition) {
        (None, Some(definition)) => Ok(definition),
        (Some(failure), _) => Err(failure),
        (None, None) => Err(Failure::usage(format!("{origin}: cannot be read"))),
    }
}

/// The file with the workloads of a definition. Without a dataset around it: the file of the same name next to it, or that of the problem.
fn find_workloads(root: &Path, name: &str, definition: &Path) -> Option<PathBuf> {
    let beside = definition.with_file_name("workload.jsonl");
    if is_problem(definition) && beside.is_file() {
        return Some(beside);
    }
    let all = files_below(&root.join("workloads"), "jsonl");
    let found = all.into_iter().find(|file| stem_of(file) == name);
    found.or_else(|| Some(definition.with_extension("jsonl")).filter(|file| file.is_file()))
}

/// What `task.yaml` is made from.
struct Parts<'p> {
    definition: &'p Definition,
    definition_text: &'p str,
    /// Empty if the dataset has none.
    workloads: &'p str,
}

struct MadeSettings {
    settings: String,
    kernels: BTreeMap<String, String>,
    twin: Option<String>,
    chosen_workloads: String,
}

impl Parts<'_> {
    fn settings(&self, names: &FileNames<'_>) -> Result<MadeSettings, Failure> {
        let has_files = has_stored_inputs(self.workloads);
        let choices = DraftChoices::default();
        let guesses = guess(
            self.definition,
            self.definition_text,
            names,
            &choices,
            !has_files,
        );
        if let Some(twin) = shipped_twin(self.definition) {
            // Only the files and the workloads of the profiles have other names.
            let text = twin.files.get("task.yaml").map_or("", String::as_str);
            let keys = ["schema", "definition", "workloads", "oracle", "profiles"];
            return Ok(MadeSettings {
                settings: names.lines() + &without_keys(text, &keys),
                kernels: twin.kernels,
                twin: Some(twin.name),
                chosen_workloads: twin
                    .files
                    .get(CHOSEN_WORKLOADS)
                    .cloned()
                    .unwrap_or_default(),
            });
        }
        let own = Path::new("kernels")
            .join(&self.definition.name)
            .join("naive.cu");
        let kernel = if own.is_file() {
            read(&own)?
        } else {
            guesses.kernel
        };
        Ok(MadeSettings {
            settings: guesses.settings,
            kernels: BTreeMap::from([("naive.cu".to_owned(), kernel)]),
            twin: None,
            chosen_workloads: guesses.workloads,
        })
    }
}

/// How many times the tolerances are those for an oracle in double precision. The Python reference computes and rounds in the dtypes of the
/// definition, so its own error comes on top of that of a correct kernel.
const TOLERANCE_FACTOR: f64 = 2.0;

/// The text of `task.yaml` with wider tolerances.
fn with_wider_tolerances(text: &str) -> String {
    let root: Value = yaml::read(text, "task.yaml").unwrap_or_default();
    let outputs = root.get("tolerance").and_then(Value::as_object);
    let lines = outputs.into_iter().flatten().map(|(output, tolerance)| {
        let number = |key: &str| tolerance[key].as_f64().unwrap_or(0.0) * TOLERANCE_FACTOR;
        let (rtol, atol_rms) = (number("rtol"), number("atol_rms"));
        format!("  {output}: {{rtol: {rtol:?}, atol_rms: {atol_rms:?}}}\n")
    });
    let lines: String = lines.collect();
    format!(
        "{}# Twice the usual tolerances: the Python reference computes and rounds in the dtypes of the definition.\ntolerance:\n{lines}",
        without_keys(text, &["tolerance"])
    )
}

/// The text of `task.yaml` without the values of scalars that every workload gives, because each must have one place.
fn without_given_scalars(text: &str, definition: &Definition, workloads: &str) -> String {
    let lines: Vec<_> = inputs_of_lines(workloads).collect();
    let is_given = |name: &String| lines.iter().all(|inputs| inputs.contains_key(name));
    let scalars = definition.inputs.iter();
    let scalars = scalars.filter(|(name, tensor)| tensor.shape.is_none() && is_given(name));
    let given: Vec<String> = scalars.map(|(name, _)| format!("  {name}:")).collect();
    let mut key = "";
    let mut kept = String::new();
    for line in text.lines() {
        if !line.starts_with([' ', '#']) {
            key = line.split(':').next().unwrap_or_default();
        }
        if key != "inputs" || !given.iter().any(|start| line.starts_with(start)) {
            kept += line;
            kept.push('\n');
        }
    }
    kept
}

/// Whether a workload takes inputs from files.
fn has_stored_inputs(workloads: &str) -> bool {
    inputs_of_lines(workloads).any(|inputs| {
        let mut kinds = inputs.values().map(|input| input.get("type"));
        kinds.any(|kind| kind.and_then(Value::as_str) == Some("safetensors"))
    })
}

/// The inputs of each workload line that can be read.
fn inputs_of_lines(workloads: &str) -> impl Iterator<Item = Map<String, Value>> {
    let lines = workloads.lines();
    let values = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    values.map(|mut line| {
        let body = match line.get("workload") {
            Some(_) => line["workload"].take(),
            None => line,
        };
        match body.get("inputs") {
            Some(Value::Object(inputs)) => inputs.clone(),
            _ => Map::new(),
        }
    })
}

impl DatasetTask {
    /// The files of a task folder, by name. Paths of tensors are absolute there.
    pub(crate) fn files_to_write(&self) -> Vec<(String, String)> {
        let text = |name: &str| self.files.files.get(name).cloned().unwrap_or_default();
        let names = |definition, workloads| FileNames {
            definition,
            workloads,
            oracle: REFERENCE_ORACLE,
        };
        let [here, there] = [
            names(&self.definition, &self.workloads),
            names("definition.json", "workloads.jsonl"),
        ]
        .map(|names| names.lines());
        let settings = text("task.yaml").replacen(&here, &there, 1);
        let mut written = vec![
            ("definition.json".to_owned(), text(&self.definition)),
            (
                "workloads.jsonl".to_owned(),
                self.with_absolute_paths(&text(&self.workloads)),
            ),
            ("task.yaml".to_owned(), settings),
        ];
        let kernels = self.files.kernels.iter();
        written.extend(kernels.map(|(name, text)| (name.clone(), text.clone())));
        written
    }

    /// Workload lines whose tensors are named by absolute paths. Lines without tensors stay as they are.
    fn with_absolute_paths(&self, workloads: &str) -> String {
        let root = self.root.canonicalize().unwrap_or(self.root.clone());
        let mut text = String::new();
        for line in workloads.lines().filter(|line| !line.trim().is_empty()) {
            let parsed = serde_json::from_str::<Value>(line).ok();
            match parsed.filter(|_| has_stored_inputs(line)) {
                Some(mut value) => {
                    for input in inputs_of(&mut value) {
                        let path = input.get("path").and_then(Value::as_str);
                        if let Some(path) = path.map(|path| root.join(path)) {
                            input["path"] = path.display().to_string().into();
                        }
                    }
                    text += &value.to_string();
                }
                None => text += line,
            }
            text.push('\n');
        }
        text
    }
}

/// The inputs of a workload line.
fn inputs_of(line: &mut Value) -> impl Iterator<Item = &mut Value> {
    let body = if line.get("workload").is_some() {
        &mut line["workload"]
    } else {
        line
    };
    let inputs = body.get_mut("inputs").and_then(Value::as_object_mut);
    inputs.into_iter().flat_map(|map| map.values_mut())
}
