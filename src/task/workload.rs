//! `workloads.jsonl`: FlashInfer-Bench workloads, one per line. Each binds the variable axes and the inputs.
//!
//! Parses and validates them against the definition; reads no other files.

use indexmap::IndexMap;
use serde::Deserialize;

use super::{Binding, Definition, Tensor};
use crate::base::Failure;
use crate::base::text::did_you_mean;

/// One validated line of `workloads.jsonl`.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The line's `uuid`.
    pub id: String,
    pub binding: Binding,
    /// The inputs that the line names.
    pub inputs: IndexMap<String, InputSource>,
}

/// The source of an input's values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum InputSource {
    /// The distribution in `task.yaml`.
    Random,
    /// A fixed scalar.
    Scalar(f64),
}

#[derive(Deserialize)]
struct WorkloadLine {
    definition: String,
    workload: WorkloadBody,
}

#[derive(Deserialize)]
struct WorkloadBody {
    uuid: String,
    axes: IndexMap<String, i64>,
    #[serde(default)]
    inputs: IndexMap<String, WorkloadInput>,
}

#[derive(Deserialize)]
struct WorkloadInput {
    #[serde(rename = "type")]
    kind: String,
    value: Option<f64>,
    shape: Option<Vec<i64>>,
}

impl Workload {
    /// Parses all lines and skips blank ones. `origin` names the file in errors.
    pub fn parse_all(
        text: &str,
        definition: &Definition,
        origin: &str,
    ) -> Result<Vec<Self>, Failure> {
        let mut workloads: Vec<Self> = Vec::new();
        for (index, line) in text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
        {
            let workload = Self::parse(line, definition, &format!("{origin}:{}", index + 1))?;
            if workloads.iter().any(|earlier| earlier.id == workload.id) {
                return Err(Failure::usage(format!(
                    "{origin}:{}: workload.uuid: duplicate uuid `{}`",
                    index + 1,
                    workload.id
                )));
            }
            workloads.push(workload);
        }
        if workloads.is_empty() {
            return Err(Failure::usage(format!(
                "{origin}: expected at least one workload, found none"
            )));
        }
        Ok(workloads)
    }

    fn parse(line: &str, definition: &Definition, origin: &str) -> Result<Self, Failure> {
        let at = |key: &str, message: String| Failure::usage(format!("{origin}: {key}: {message}"));
        let WorkloadLine {
            definition: name,
            workload,
        } = serde_json::from_str(line).map_err(|error| {
            let message = error.to_string();
            let plain = message
                .rsplit_once(" at line ")
                .map_or(message.as_str(), |(plain, _)| plain);
            Failure::usage(format!("{origin}:{}: {plain}", error.column()))
        })?;
        if name != definition.name {
            return Err(at(
                "definition",
                format!("expected `{}`, found `{name}`", definition.name),
            ));
        }
        let binding = definition.bind(&workload.axes).map_err(|failure| Failure {
            message: format!("{origin}: workload.axes: {}", failure.message),
            ..failure
        })?;
        let mut inputs = IndexMap::new();
        for (name, input) in &workload.inputs {
            let key = format!("workload.inputs.{name}");
            let Some(tensor) = definition.inputs.get(name) else {
                return Err(
                    at("workload.inputs", format!("unknown input `{name}`")).hint(did_you_mean(
                        name,
                        definition.inputs.keys().map(String::as_str),
                    )),
                );
            };
            let expected = binding
                .shape(tensor)
                .map_err(|failure| at(&key, failure.message))?;
            if let Some(found) = &input.shape
                && !expected
                    .iter()
                    .map(|size| *size as i64)
                    .eq(found.iter().copied())
            {
                return Err(at(
                    &format!("{key}.shape"),
                    format!("expected {expected:?}, found {found:?}"),
                ));
            }
            let source = input_source(input, tensor, &expected).map_err(|failure| Failure {
                message: format!("{origin}: {key}: {}", failure.message),
                ..failure
            })?;
            inputs.insert(name.clone(), source);
        }
        Ok(Self {
            id: workload.uuid,
            binding,
            inputs,
        })
    }
}

/// The source of an input's values. `expected`: the sizes of the tensor's axes.
fn input_source(
    input: &WorkloadInput,
    tensor: &Tensor,
    expected: &[u64],
) -> Result<InputSource, Failure> {
    match (input.kind.as_str(), input.value, &tensor.shape) {
        ("random", _, Some(_)) => Ok(InputSource::Random),
        ("scalar", Some(value), None) => Ok(InputSource::Scalar(value)),
        ("scalar", None, _) => Err(Failure::usage("a `scalar` needs a `value`")),
        ("scalar", _, Some(_)) => Err(Failure::usage(format!(
            "expected a tensor of shape {expected:?}, found a `scalar`"
        ))),
        ("random", _, None) => Err(Failure::usage(
            "expected a `scalar`: the definition gives this input no shape",
        )),
        ("safetensors", ..) => Err(Failure::usage(
            "inputs from `safetensors` files are not supported",
        )
        .hint("use `{\"type\": \"random\"}` and describe the values under `inputs` in task.yaml")),
        (other, ..) => Err(Failure::usage(format!("unknown type `{other}`"))
            .hint("the types are `random` and `scalar`")),
    }
}
