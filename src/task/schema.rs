//! The JSON Schema (draft-07) of `task.yaml`, for editors.
//!
//! The parser checks more: names against the definition, ranges, expressions. The schema is never stricter than the parser; tests
//! compare its keys with those of the parser, and try wrong ones. Validates nothing itself.

use serde_json::{Value, json};

/// The schema of `task.yaml`.
pub(crate) fn task_schema() -> Value {
    let mut schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "kforge task.yaml",
        "type": "object",
        "additionalProperties": false,
        "required": super::settings_reader::REQUIRED.map(|(key, _)| key),
        "definitions": {"distribution": distribution()},
    });
    schema["properties"] = properties();
    schema
}

fn properties() -> Value {
    let distributions = || map_of(json!({"$ref": "#/definitions/distribution"}));
    let expression = || json!({"type": ["string", "number"]});
    let about = |mut schema: Value, text: &str| {
        schema["description"] = text.into();
        schema
    };
    json!({
        "schema": about(json!({"const": 1}), "Version of the format."),
        "definition": about(json!({"type": "string"}), "Name of the definition's file."),
        "workloads": about(json!({"type": "string"}), "Name of the file with the timed shapes."),
        "oracle": about(json!({"type": "string"}), "Name of the oracle's kernel file."),
        "baselines": about(baselines(), "Kernels that speed is measured against; the first one is the default."),
        "start": about(names(), "Kernels that a search starts from."),
        "tolerance": about(map_of(tolerance()), "How far each output may be from the oracle's."),
        "inputs": about(distributions(), "The distribution of each input. Default: a standard normal, 0 for integers."),
        "regimes": about(map_of(distributions()), "Other inputs, on which candidates must be correct too."),
        "fixed": about(names(), "Inputs with one value that never changes, so a kernel may contain the value."),
        "hidden": about(map_of(range()), "The range of each variable axis for hidden shapes."),
        "derived": about(map_of(expression()), "Axes that are computed from others."),
        "bytes": about(expression(), "The least memory traffic of a workload in bytes, as an expression of the axes."),
        "flops": about(expression(), "The number of arithmetic operations, as an expression of the axes."),
        "in_place": about(map_of(json!({"type": "string"})), "Outputs that may use the memory of an input."),
        "precision": about(json!({"enum": ["checked", "unchecked"]}), "`unchecked` if the tolerances cannot detect lower precision."),
        "profiles": about(map_of(profile()), "How much is checked and timed: `quick`, `full`, and others."),
    })
}

fn map_of(value: Value) -> Value {
    json!({"type": "object", "additionalProperties": value})
}

/// A list of names, or one name.
fn names() -> Value {
    json!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
}

fn object(properties: &Value, required: &[&str]) -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
        "required": required,
    })
}

fn baselines() -> Value {
    let kernel = object(&json!({"kernel": {"type": "string"}}), &["kernel"]);
    let mut schema = map_of(json!({"anyOf": [{"type": "string"}, kernel]}));
    schema["minProperties"] = 1.into();
    schema
}

fn tolerance() -> Value {
    object(
        &json!({
            "rtol": {"type": "number", "minimum": 0, "exclusiveMaximum": 0.5, "description": "Share of the oracle's value."},
            "atol_rms": {"type": "number", "minimum": 0, "exclusiveMaximum": 0.5, "description": "Share of the root mean square of the output's elements that are not 0."},
        }),
        &["rtol", "atol_rms"],
    )
}

fn range() -> Value {
    json!({"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2})
}

/// Exactly one of the first four keys, and modifiers.
fn distribution() -> Value {
    let mut schema = object(
        &json!({
            "normal": {"type": "number", "exclusiveMinimum": 0, "description": "Standard deviation; the mean is 0."},
            "uniform": {
                "type": "array",
                "items": [{"type": "number"}, {"type": ["number", "string"]}],
                "minItems": 2, "maxItems": 2,
                "description": "[LOW, HIGH]; HIGH may be an expression of axes, which is excluded.",
            },
            "value": {"type": "number", "description": "The same everywhere."},
            "cumulative": {"type": ["string", "integer"], "description": "Integers: ascending offsets from 0 to this axis."},
            "levels": {"type": ["integer", "null"], "minimum": 1, "description": "Only so many different values."},
            "mean": {"type": ["number", "null"], "description": "Added to every value."},
            "zeros": {"type": ["number", "null"], "minimum": 0, "exclusiveMaximum": 1, "description": "This share of the elements is 0."},
            "one_hot": {"type": ["boolean", "null"], "description": "All elements of a row but one are 0."},
            "large_rows": {"type": ["number", "null"], "exclusiveMinimum": 0, "description": "About one row in four is this many times as large."},
            "normalize": {"enum": ["l2", null], "description": "Every row has length 1."},
        }),
        &[],
    );
    schema["oneOf"] =
        json!(["normal", "uniform", "value", "cumulative"].map(|key| json!({"required": [key]})));
    schema
}

fn profile() -> Value {
    object(
        &json!({
            "workloads": {"anyOf": [{"const": "all"}, {"type": "array", "items": {"type": "string"}}], "description": "`all`, or ids of workloads."},
            "rounds": {"type": "integer", "minimum": 0, "description": "Rounds of checks for each workload."},
            "seconds": {"type": "number", "minimum": 0, "description": "Timing budget for each workload, in seconds."},
            "precision": {"type": "number", "minimum": 0, "description": "Half width of the 95 % interval at which timing stops."},
            "hidden_shapes": {"type": "integer", "minimum": 0, "description": "Random hidden shapes."},
            "regimes": {"enum": ["once", "all"], "description": "How many small hidden shapes each regime is checked on."},
            "blocks": {"type": "integer", "minimum": 0, "description": "Least number of timing blocks."},
        }),
        &[],
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::value_reader::read_value;
    use crate::base::yaml;
    use crate::task::settings::{Baseline, Profile, Tolerance};
    use crate::task::{Distribution, problems};

    /// What the parser says about a `task.yaml`, without the other files.
    fn problems_of(settings: &Value) -> Option<String> {
        let mut found = problems::Problems::default();
        let text = settings.to_string();
        let file = problems::TaskFile::new("task.yaml", &text);
        super::super::settings_reader::read_settings(&file, &mut found);
        found
            .into_failure("task.yaml")
            .map(|failure| failure.message)
    }

    fn example() -> Value {
        let text = include_str!("../../tasks/gdn_prefill/task.yaml");
        yaml::read(text, "task.yaml").unwrap()
    }

    fn is_valid(settings: &Value) -> bool {
        let mut schemas = boon::Schemas::new();
        let mut compiler = boon::Compiler::new();
        compiler.add_resource("task.json", task_schema()).unwrap();
        let index = compiler.compile("task.json", &mut schemas).unwrap();
        schemas.validate(settings, index).is_ok()
    }

    #[test]
    fn every_shipped_task_is_valid() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tasks");
        let mut count = 0;
        for entry in std::fs::read_dir(root).unwrap() {
            let path = entry.unwrap().path().join("task.yaml");
            if let Ok(text) = std::fs::read_to_string(&path) {
                count += 1;
                assert!(is_valid(&yaml::read(&text, "x").unwrap()), "{path:?}");
            }
        }
        assert!(count >= 8);
    }

    #[test]
    fn the_keys_are_those_of_the_parser() {
        let keys = |schema: &Value| -> Vec<String> {
            let map = schema["properties"].as_object().unwrap();
            map.keys().cloned().collect()
        };
        let schema = task_schema();
        assert_eq!(keys(&schema), super::super::settings_reader::ALL_KEYS);
        for (schema, accepted) in [
            (profile(), accepted_keys::<Profile>()),
            (distribution(), accepted_keys::<Distribution>()),
            (tolerance(), accepted_keys::<Tolerance>()),
        ] {
            let mut keys = keys(&schema);
            let mut accepted = accepted;
            keys.sort_unstable();
            accepted.sort_unstable();
            assert_eq!(keys, accepted);
        }
        let mut problems = Vec::new();
        read_value::<Baseline>(&json!({"kernel": "a.cu"}), "b", &mut problems).unwrap();
        assert!(problems.is_empty());
    }

    /// The fields that serde lists in its error about an unknown one.
    fn accepted_keys<T: serde::de::DeserializeOwned>() -> Vec<String> {
        let error = serde_json::from_value::<T>(json!({"unknown": 1}))
            .err()
            .unwrap();
        let error = error.to_string();
        let (_, listed) = error.split_once("expected ").unwrap();
        let names = listed.split('`').skip(1).step_by(2);
        names.map(str::to_owned).collect()
    }

    /// A value of every type under every key, at every depth of the example.
    #[test]
    fn schema_and_parser_agree_on_types() {
        let samples: Vec<Value> = serde_json::from_str(
            r#"[true, 7, -0.5, "zzz", [], [7], [1, 2], {}, {"zzz": 1}, {"zzz": "x"}, {"zzz": {"normal": 1}}, {"zzz": {"normal": "x"}}, {"zzz": {"value": 1, "zeros": "x"}}]"#,
        )
        .unwrap();
        let mut wrong = Vec::new();
        assert_eq!(problems_of(&example()), None);
        for key in super::super::settings_reader::ALL_KEYS {
            let mut refused = 0;
            for sample in &samples {
                let mut settings = example();
                settings[key] = sample.clone();
                let (is_valid, problem) = (is_valid(&settings), problems_of(&settings));
                refused += usize::from(!is_valid);
                // The version is checked later.
                if key == "schema" && sample.is_u64() {
                    continue;
                }
                if is_valid == problem.is_some() {
                    wrong.push(format!(
                        "{key}: {sample}: schema {is_valid}, parser {problem:?}"
                    ));
                }
            }
            assert!(refused > 0, "{key}");
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        let mut settings = example();
        settings["tolerence"] = json!({});
        assert!(!is_valid(&settings));
        settings = example();
        settings.as_object_mut().unwrap().shift_remove("oracle");
        assert!(!is_valid(&settings));
    }
}
