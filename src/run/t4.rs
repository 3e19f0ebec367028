//! Recorded spaces as T4, the results format of the auto-tuning community (schema 1.0.0).
//!
//! Made from the entries of a cache file. Reads and writes no file.

use serde_json::{Map, Value, json};

use super::space_entry::WORKLOAD_KEY;
use super::space_header::SpaceHeader;

/// The version of the schema.
const SCHEMA: &str = "1.0.0";

/// The text of a T4 file with these entries.
pub(super) fn write<'e>(
    header: &SpaceHeader,
    entries: impl Iterator<Item = &'e Value>,
) -> anyhow::Result<String> {
    let results: Vec<Value> = entries.map(|entry| result(header, entry)).collect();
    let metadata = json!({
        "timeunit": "milliseconds",
        "device_name": header.device,
        "kernel_name": header.kernel,
        "problem_size": header.problem_size,
        "kforge": header.identity,
    });
    let mut text =
        format!("{{\"schema_version\":\"{SCHEMA}\",\"metadata\":{metadata},\"results\":[\n");
    for (index, result) in results.iter().enumerate() {
        let separator = if index + 1 < results.len() { "," } else { "" };
        text += &format!("{result}{separator}\n");
    }
    text += "]}\n";
    Ok(text)
}

fn result(header: &SpaceHeader, entry: &Value) -> Value {
    let names = header.tunables.keys();
    let configuration: Map<String, Value> = names
        .map(|name| (name.clone(), entry[name.as_str()].clone()))
        .collect();
    let invalidity = entry.get("invalidity").and_then(Value::as_str);
    let mut measurements = vec![measurement("time", &entry["time"], "milliseconds")];
    if invalidity.is_none() {
        measurements.push(measurement("speedup", &entry["speedup"], ""));
        let members = entry.as_object().into_iter().flatten();
        for (key, ends) in members.filter(|(key, _)| key.starts_with(WORKLOAD_KEY)) {
            measurements.push(measurement(key, ends, "milliseconds"));
        }
    }
    let no_runs = json!([]);
    json!({
        "timestamp": entry["timestamp"],
        "configuration": configuration,
        "times": {
            "compilation_time": entry["compile_time"],
            "benchmark": entry["benchmark_time"],
            "framework": entry["framework_time"],
            "search_algorithm": entry["strategy_time"],
            "validation": entry["verification_time"],
            "runtimes": entry.get("times").unwrap_or(&no_runs),
        },
        "invalidity": invalidity.unwrap_or("correct"),
        "correctness": u8::from(invalidity.is_none()),
        "objectives": ["time"],
        "measurements": measurements,
    })
}

fn measurement(name: &str, value: &Value, unit: &str) -> Value {
    json!({"name": name, "value": value, "unit": unit})
}
