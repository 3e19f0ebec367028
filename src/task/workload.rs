//! Workloads: FlashInfer-Bench lines, one binding of the variable axes and inputs each.

use indexmap::IndexMap;
use serde::Deserialize;

use super::{Binding, Definition};
use crate::base::Failure;
use crate::base::text::did_you_mean;

/// One line of `workloads.jsonl`, checked.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The line's `uuid`.
    pub id: String,
    pub binding: Binding,
    /// Only the inputs that the line names.
    pub inputs: IndexMap<String, InputSource>,
}

/// Where the values of an input come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum InputSource {
    /// From the distribution in `task.yaml`.
    Random,
    /// A scalar, the same in every run.
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
    /// Parses all lines; blank ones are skipped. `origin` names the file in errors.
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
                    "{origin}:{}: workload.uuid: `{}` is there twice",
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
            let source = match (input.kind.as_str(), input.value, &tensor.shape) {
                ("random", _, Some(_)) => InputSource::Random,
                ("scalar", Some(value), None) => InputSource::Scalar(value),
                ("scalar", None, _) => {
                    return Err(at(&key, "a `scalar` needs a `value`".to_owned()));
                }
                ("scalar", _, Some(_)) => {
                    return Err(at(
                        &key,
                        format!("expected a tensor of shape {expected:?}, found a `scalar`"),
                    ));
                }
                ("random", _, None) => {
                    return Err(at(
                        &key,
                        "expected a `scalar`, since the definition gives it no shape".to_owned(),
                    ));
                }
                ("safetensors", ..) => {
                    return Err(at(&key, "inputs from `safetensors` files are not read by this version".to_owned())
                        .hint("use `{\"type\": \"random\"}` and describe the values under `inputs` in task.yaml"));
                }
                (other, ..) => {
                    return Err(at(&key, format!("unknown type `{other}`"))
                        .hint("there are `random` and `scalar`"));
                }
            };
            inputs.insert(name.clone(), source);
        }
        Ok(Self {
            id: workload.uuid,
            binding,
            inputs,
        })
    }
}
