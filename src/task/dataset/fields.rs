//! Refuses fields of a dataset that kforge does not know: they might change what a task means.
//!
//! Looks at names only; `definition_reader` and `workload` read the values.

use serde_json::{Map, Value};

use crate::base::Failure;
use crate::base::text::nearest_name;
use crate::base::value_reader::join_keys;
use crate::task::problems::{Problems, TaskFile};

const DEFINITION: &[&str] = &[
    "name",
    "description",
    "op_type",
    "tags",
    "axes",
    "constraints",
    "inputs",
    "outputs",
    "reference",
    // What SOL-ExecBench has besides. An input that a function makes has the type `custom`, which is refused.
    "hf_id",
    "custom_inputs_entrypoint",
];
const AXIS: &[&str] = &["type", "value", "expression", "expr", "description"];
const TENSOR: &[&str] = &["shape", "dtype", "optional", "description"];
const LINE: &[&str] = &["definition", "workload", "solution", "evaluation"];
/// The last two are of SOL-ExecBench: its own tolerance and times, which kforge does not use.
const WORKLOAD: &[&str] = &["uuid", "axes", "inputs", "tolerance", "latency"];
const INPUT: &[&str] = &["type", "value", "path", "tensor_key", "shape"];

/// Reports the unknown fields of a definition.
pub(super) fn check_definition(file: &TaskFile<'_>, problems: &mut Problems) {
    let Ok(Value::Object(root)) = serde_json::from_str(file.text) else {
        return;
    };
    let mut unknown = unknown_fields("", &root, DEFINITION);
    for (part, known) in [("axes", AXIS), ("inputs", TENSOR), ("outputs", TENSOR)] {
        let entries = root.get(part).and_then(Value::as_object);
        for (name, value) in entries.into_iter().flatten() {
            if let Value::Object(map) = value {
                unknown.extend(unknown_fields(&join_keys(part, name), map, known));
            }
        }
    }
    for (key, failure) in unknown {
        let place = file.problem(&key, &failure.message);
        problems.push(Failure {
            message: place.message,
            ..failure
        });
    }
}

/// Reports the unknown fields of workload lines.
pub(super) fn check_workloads(file: &TaskFile<'_>, problems: &mut Problems) {
    for (index, line) in file.text.lines().enumerate() {
        let Ok(Value::Object(root)) = serde_json::from_str(line) else {
            continue;
        };
        let mut unknown = Vec::new();
        let body = match root.get("workload") {
            Some(Value::Object(body)) => {
                unknown.extend(unknown_fields("", &root, LINE));
                unknown.extend(unknown_fields("workload", body, WORKLOAD));
                body
            }
            // A workload without the object around it.
            _ => {
                unknown.extend(unknown_fields("", &root, &[LINE, WORKLOAD].concat()));
                &root
            }
        };
        let inputs = body.get("inputs").and_then(Value::as_object);
        for (name, value) in inputs.into_iter().flatten() {
            if let Value::Object(map) = value {
                let key = format!("workload.inputs.{name}");
                unknown.extend(unknown_fields(&key, map, INPUT));
            }
        }
        for (key, failure) in unknown {
            let message = format!("{}:{}: {key}: {}", file.origin, index + 1, failure.message);
            problems.push(Failure { message, ..failure });
        }
    }
}

/// Each field that is not known, with its key.
fn unknown_fields(
    parent: &str,
    map: &Map<String, Value>,
    known: &[&str],
) -> Vec<(String, Failure)> {
    let names = map.keys().filter(|name| !known.contains(&name.as_str()));
    names
        .map(|name| {
            let hint = match nearest_name(name, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "kforge refuses a field that may change what the task means: delete it if it does not".to_owned(),
            };
            let failure = Failure::usage(format!("unknown field `{name}`")).hint(hint);
            (join_keys(parent, name), failure)
        })
        .collect()
}
