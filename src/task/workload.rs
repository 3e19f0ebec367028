//! `workloads.jsonl`: FlashInfer-Bench workloads, one per line. Each binds the variable axes and the inputs.
//!
//! Parses and validates them against the definition, and reports everything that is wrong; reads no other files. `stored_tensor` has
//! described the tensors that lines name.

use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::{Map, Value};

use super::definition::{Binding, Definition, Tensor};
use super::definition_reader::json_failure;
use super::problems::{Problems, TaskFile};
use super::stored_tensor::{NamedTensor, NamedTensors, StoredTensor, name_of};
use crate::base::Failure;
use crate::base::text::{did_you_mean, quote_list};
use crate::base::value_reader::show_value;

/// One validated line of `workloads.jsonl`.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The line's `uuid`.
    pub id: String,
    /// Its line in the file, from 1.
    pub(crate) line: usize,
    pub binding: Binding,
    /// The inputs that the line names.
    pub inputs: IndexMap<String, InputSource>,
}

/// The source of an input's values.
#[derive(Clone, Debug, PartialEq)]
pub enum InputSource {
    /// The distribution in `task.yaml`.
    Random,
    /// A fixed scalar.
    Scalar(f64),
    /// The values in a file.
    Stored(Arc<StoredTensor>),
}

impl Workload {
    /// Parses all lines and skips blank ones. `origin` names the file in errors. An error lists everything that is wrong.
    pub fn parse_all(
        text: &str,
        definition: &Definition,
        origin: &str,
    ) -> Result<Vec<Self>, Failure> {
        let mut problems = Problems::default();
        let file = TaskFile::new(origin, text);
        let workloads = Self::read_all(&file, definition, &NamedTensors::new(), &mut problems);
        match problems.into_failure(origin) {
            None => Ok(workloads),
            Some(failure) => Err(failure),
        }
    }

    /// Reads all lines. The result has the workloads that could be read; their axes may lack sizes. `tensors`: those that lines name.
    pub(super) fn read_all(
        file: &TaskFile<'_>,
        definition: &Definition,
        tensors: &NamedTensors,
        problems: &mut Problems,
    ) -> Vec<Self> {
        let mut workloads: Vec<Self> = Vec::new();
        let lines = file.text.lines().enumerate();
        let mut is_empty = true;
        for (index, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
            is_empty = false;
            let mut reader = LineReader {
                origin: file.origin,
                line: index + 1,
                definition,
                tensors,
                problems,
            };
            let map = match serde_json::from_str(line) {
                Ok(Value::Object(map)) => map,
                Ok(other) => {
                    let found = show_value(&other);
                    reader.report("", format!("expected a JSON object, found {found}"));
                    continue;
                }
                Err(error) => {
                    let failure = json_failure(file.origin, Some(index + 1), &error);
                    let is_whole_file = serde_json::from_str::<Value>(file.text).is_ok();
                    reader.problems.push(if is_whole_file {
                        failure.hint("write each workload on a line of its own, as one JSON object")
                    } else {
                        failure
                    });
                    if is_whole_file {
                        break;
                    }
                    continue;
                }
            };
            let Some(workload) = reader.workload(&map) else {
                continue;
            };
            if workloads.iter().any(|earlier| earlier.id == workload.id) {
                let message = format!("duplicate uuid `{}`", workload.id);
                reader.report("workload.uuid", message);
            }
            workloads.push(workload);
        }
        if is_empty {
            problems.push(Failure::usage(format!(
                "{}: expected at least one workload, found none",
                file.origin
            )));
        }
        workloads
    }
}

/// Reads one line.
struct LineReader<'r> {
    origin: &'r str,
    /// 1-based.
    line: usize,
    definition: &'r Definition,
    tensors: &'r NamedTensors,
    problems: &'r mut Problems,
}

impl LineReader<'_> {
    fn failure(&self, key: &str, message: impl AsRef<str>) -> Failure {
        let (origin, line, message) = (self.origin, self.line, message.as_ref());
        if key.is_empty() {
            return Failure::usage(format!("{origin}:{line}: {message}"));
        }
        Failure::usage(format!("{origin}:{line}: {key}: {message}"))
    }

    fn report(&mut self, key: &str, message: impl AsRef<str>) {
        let failure = self.failure(key, message);
        self.problems.push(failure);
    }

    fn report_failure(&mut self, key: &str, failure: Failure) {
        let place = self.failure(key, "").message;
        let message = format!("{place}{}", failure.message);
        self.problems.push(Failure { message, ..failure });
    }

    fn workload(&mut self, map: &Map<String, Value>) -> Option<Workload> {
        // A FlashInfer-Bench trace has the workload under a key; other tools write it alone.
        let is_bare = !map.contains_key("workload") && map.contains_key("axes");
        let body = match map.get("workload") {
            Some(Value::Object(body)) => body,
            None if is_bare => map,
            Some(other) => {
                let found = show_value(other);
                self.report("workload", format!("expected an object, found {found}"));
                return None;
            }
            None => {
                let failure = self
                    .failure("", "`workload` is missing")
                    .hint("a line is `{\"definition\": NAME, \"workload\": {\"uuid\": ID, \"axes\": {…}, \"inputs\": {…}}}`");
                self.problems.push(failure);
                return None;
            }
        };
        let expected = &self.definition.name;
        match map.get("definition") {
            Some(Value::String(name)) if name == expected => {}
            None if is_bare => {}
            None => self.report("", "`definition` is missing"),
            Some(other) => {
                let found = show_value(other);
                let message = format!("expected `{expected}`, found {found}");
                self.report("definition", message);
            }
        }
        let binding = self.binding(body);
        Some(Workload {
            id: self.id(body),
            line: self.line,
            inputs: self.inputs(body, &binding),
            binding,
        })
    }

    fn id(&mut self, body: &Map<String, Value>) -> String {
        match body.get("uuid") {
            Some(Value::String(id)) => return id.clone(),
            Some(Value::Number(number)) => return number.to_string(),
            None => self.report("workload", "`uuid` is missing"),
            Some(other) => {
                let found = show_value(other);
                self.report("workload.uuid", format!("expected text, found {found}"));
            }
        }
        format!("line {}", self.line)
    }

    fn binding(&mut self, body: &Map<String, Value>) -> Binding {
        let mut sizes = IndexMap::new();
        let mut is_complete = true;
        match body.get("axes") {
            Some(Value::Object(axes)) => {
                for (name, value) in axes {
                    match value.as_i64() {
                        Some(size) => {
                            sizes.insert(name.clone(), size);
                        }
                        None => {
                            let found = show_value(value);
                            let message =
                                format!("axis `{name}`: expected a whole number, found {found}");
                            self.report("workload.axes", message);
                            is_complete = false;
                        }
                    }
                }
            }
            // A definition may have constant axes only.
            None | Some(Value::Null) => {}
            Some(other) => {
                let found = show_value(other);
                let message =
                    format!("expected an object, such as `{{\"rows\": 64}}`, found {found}");
                self.report("workload.axes", message);
                is_complete = false;
            }
        }
        let mut wrong = Vec::new();
        let binding = self.definition.bind_sizes(&sizes, &mut wrong);
        if is_complete {
            for failure in wrong {
                self.report_failure("workload.axes", failure);
            }
        }
        binding
    }

    fn inputs(
        &mut self,
        body: &Map<String, Value>,
        binding: &Binding,
    ) -> IndexMap<String, InputSource> {
        let mut inputs = IndexMap::new();
        let given = match body.get("inputs") {
            Some(Value::Object(given)) => given,
            None | Some(Value::Null) => return inputs,
            Some(other) => {
                let found = show_value(other);
                self.report(
                    "workload.inputs",
                    format!("expected an object, found {found}"),
                );
                return inputs;
            }
        };
        for (name, value) in given {
            let key = format!("workload.inputs.{name}");
            let Some(tensor) = self.definition.inputs.get(name) else {
                let known = self.definition.inputs.keys().map(String::as_str);
                let hint = did_you_mean(name, known);
                let failure = Failure::usage(format!("unknown input `{name}`"));
                self.report_failure("workload.inputs", failure.hint(hint));
                continue;
            };
            let Value::Object(input) = value else {
                let found = show_value(value);
                let message = format!("expected an object, found {found}");
                let hint = "for example `{\"type\": \"random\"}` or `{\"type\": \"scalar\", \"value\": 0.5}`";
                self.report_failure(&key, Failure::usage(message).hint(hint));
                continue;
            };
            self.check_shape(&key, input, tensor, binding);
            let source = match input.get("type").and_then(Value::as_str) {
                Some("safetensors") => self.stored_tensor(input, tensor, binding),
                _ => input_source(input, tensor),
            };
            match source {
                Ok(source) => {
                    inputs.insert(name.clone(), source);
                }
                Err(failure) => self.report_failure(&key, failure),
            }
        }
        inputs
    }

    /// The tensor of a file. Its dtype and shape must be those of the definition, exactly.
    fn stored_tensor(
        &self,
        input: &Map<String, Value>,
        tensor: &Tensor,
        binding: &Binding,
    ) -> Result<InputSource, Failure> {
        let text = |key: &str| {
            input.get(key).and_then(Value::as_str).ok_or_else(|| {
                Failure::usage(format!("a tensor of a file needs a `{key}`")).hint(
                    "for example `{\"type\": \"safetensors\", \"path\": \"blob/a.safetensors\", \"tensor_key\": \"q\"}`",
                )
            })
        };
        let (path, key) = (text("path")?, text("tensor_key")?);
        if tensor.shape.is_none() {
            return Err(Failure::usage(
                "expected a `scalar`: the definition gives this input no shape",
            )
            .hint("for example `{\"type\": \"scalar\", \"value\": 0.5}`"));
        }
        let stored = match self.tensors.get(&name_of(path, key)) {
            Some(NamedTensor::Found(stored)) => stored,
            Some(NamedTensor::Wrong { message, hint }) => {
                return Err(Failure::usage(message.as_str()).hint(hint.as_str()));
            }
            None => return Err(Failure::usage(format!("no such file: `{path}`"))),
        };
        let place = format!("`{key}` of `{}`", stored.file.display());
        if stored.dtype != tensor.dtype {
            return Err(Failure::usage(format!(
                "expected {}, found {} ({place})",
                tensor.dtype, stored.dtype
            ))
            .hint("write the tensor again with the dtype of the definition"));
        }
        // A size that is missing or wrong is reported already.
        let is_bound = |axis: &String| binding.axes.contains_key(axis);
        if tensor.shape.iter().flatten().all(is_bound) {
            let expected = binding.shape(tensor)?;
            if expected != stored.shape {
                return Err(Failure::usage(format!(
                    "expected the shape {expected:?}, found {:?} ({place})",
                    stored.shape
                ))
                .hint("the sizes of `axes` on this line and the shape in the file must agree"));
            }
        }
        Ok(InputSource::Stored(Arc::new(stored.clone())))
    }

    /// Checks the `shape` that a line may give for an input.
    fn check_shape(
        &mut self,
        key: &str,
        input: &Map<String, Value>,
        tensor: &Tensor,
        binding: &Binding,
    ) {
        let axes = || tensor.shape.iter().flatten();
        if !axes().all(|axis| binding.axes.contains_key(axis)) {
            return;
        }
        let expected = match binding.shape(tensor) {
            Ok(expected) => expected,
            Err(failure) => return self.report(key, failure.message),
        };
        let Some(found) = input.get("shape").filter(|shape| !shape.is_null()) else {
            return;
        };
        let sizes = found
            .as_array()
            .map(|sizes| sizes.iter().map(Value::as_u64));
        if !sizes.is_some_and(|sizes| sizes.eq(expected.iter().map(|size| Some(*size)))) {
            let message = format!("expected {expected:?}, found {found}");
            self.report(&format!("{key}.shape"), message);
        }
    }
}

/// The source of an input's values.
fn input_source(input: &Map<String, Value>, tensor: &Tensor) -> Result<InputSource, Failure> {
    let shape = || match &tensor.shape {
        Some(axes) => format!("[{}]", axes.join(", ")),
        None => String::new(),
    };
    let kind = match input.get("type") {
        Some(Value::String(kind)) => kind.as_str(),
        None => {
            return Err(Failure::usage("`type` is missing")
                .hint("the types are `random`, `scalar` and `safetensors`"));
        }
        Some(other) => {
            let found = show_value(other);
            return Err(
                Failure::usage(format!("`type`: expected text, found {found}"))
                    .hint("the types are `random`, `scalar` and `safetensors`"),
            );
        }
    };
    let value = match input.get("value") {
        None | Some(Value::Null) => None,
        Some(Value::Bool(value)) => Some(f64::from(u8::from(*value))),
        Some(value) => match value.as_f64() {
            Some(number) => Some(number),
            None => {
                let found = show_value(value);
                return Err(Failure::usage(format!(
                    "`value`: expected a number, found {found}"
                )));
            }
        },
    };
    match (kind, value, &tensor.shape) {
        ("random", _, Some(_)) => Ok(InputSource::Random),
        ("scalar", Some(value), None) => Ok(InputSource::Scalar(value)),
        ("scalar", None, None) => Err(Failure::usage("a `scalar` needs a `value`")),
        ("scalar", _, Some(_)) => Err(Failure::usage(format!(
            "expected a tensor of shape {}, found a `scalar`",
            shape()
        ))
        .hint("use `{\"type\": \"random\"}`; for the same value everywhere add `value: NUMBER` under `inputs` in task.yaml")),
        ("random", _, None) => Err(Failure::usage(
            "expected a `scalar`: the definition gives this input no shape",
        )
        .hint("for example `{\"type\": \"scalar\", \"value\": 0.5}`")),
        ("custom", ..) => Err(Failure::usage(
            "a function of the reference makes the values (`custom`), and kforge calls none",
        )
        .hint("write the values to a safetensors file and name it here; or use `random`, and say under `inputs` in task.yaml how to draw them")),
        (other, ..) => Err(Failure::usage(format!("unknown type `{other}`")).hint(format!(
            "the types are {}",
            quote_list(["random", "scalar", "safetensors"])
        ))),
    }
}
