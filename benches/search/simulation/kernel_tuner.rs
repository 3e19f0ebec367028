//! Kernel Tuner's cache files, which its simulation mode reads: schema 1.1.0, and the files without a version of before.
//!
//! Newer releases write the kind of failure under `__error__`, older ones in the place of the time. Both are read; what is written has the
//! older form, because schema 1.1.0 demands a `time`.

use anyhow::{Context, Result, bail};
use indexmap::IndexMap;
use serde_json::{Map, Value, json};

use super::space::{Invalidity, RecordedPoint, RecordedSpace};

/// The version of the schema that is written.
const SCHEMA: &str = "1.1.0";

/// Reads a cache file. A file that Kernel Tuner has not closed yet is complete up to its last line.
pub(crate) fn read(text: &str) -> Result<RecordedSpace> {
    let file: Value = serde_json::from_str(text)
        .or_else(|error| serde_json::from_str(&closed(text)).map_err(|_| error))
        .context("not a cache file of Kernel Tuner")?;
    let keys = list(&file, "tune_params_keys")?;
    let values = file.get("tune_params").context("no `tune_params`")?;
    let mut tunables = IndexMap::new();
    for key in keys {
        let name = key.as_str().context("`tune_params_keys`: not a text")?;
        tunables.insert(name.to_owned(), list(values, name)?.clone());
    }
    let cache = file.get("cache").and_then(Value::as_object);
    let cache = cache.context("no `cache`")?;
    let points = cache.iter().map(|(key, entry)| {
        let at = format!("`cache`, `{key}`");
        let entry = entry.as_object();
        point(
            &tunables,
            entry.with_context(|| format!("{at}: not an object"))?,
            &at,
        )
    });
    let points = points.collect::<Result<_>>()?;
    Ok(RecordedSpace {
        device: text_of(&file, "device_name"),
        kernel: text_of(&file, "kernel_name"),
        problem_size: file.get("problem_size").cloned().unwrap_or(Value::Null),
        tunables,
        points,
    })
}

/// The text of a cache file.
pub(crate) fn write(space: &RecordedSpace) -> Result<String> {
    let keys: Vec<&String> = space.tunables.keys().collect();
    let mut cache = Map::new();
    for point in &space.points {
        let configuration = space.configuration(point);
        let values: Vec<String> = configuration.values().map(plain).collect();
        let mut entry: Map<String, Value> = configuration.into_iter().collect();
        let time = match &point.time {
            Ok(time) => json!(time),
            Err(Invalidity::Constraints) => json!("InvalidConfig"),
            Err(Invalidity::Compile) => json!("CompilationFailedConfig"),
            Err(Invalidity::Runtime | Invalidity::Timeout | Invalidity::Correctness) => {
                json!("RuntimeFailedConfig")
            }
        };
        entry.insert("time".to_owned(), time);
        if !point.times.is_empty() {
            entry.insert("times".to_owned(), json!(point.times));
        }
        for (key, milliseconds) in [
            ("compile_time", point.compile),
            ("verification_time", point.verification),
            ("benchmark_time", point.benchmark),
            ("strategy_time", point.strategy),
            ("framework_time", point.framework),
        ] {
            entry.insert(key.to_owned(), json!(milliseconds));
        }
        entry.insert("timestamp".to_owned(), json!(point.timestamp));
        cache.insert(values.join(","), Value::Object(entry));
    }
    let file = json!({
        "schema_version": SCHEMA,
        "device_name": space.device,
        "kernel_name": space.kernel,
        "problem_size": space.problem_size,
        "tune_params_keys": keys,
        "tune_params": space.tunables,
        "objective": "time",
        "cache": cache,
    });
    Ok(serde_json::to_string(&file)? + "\n")
}

/// Adds what is missing at the end of an open file.
fn closed(text: &str) -> String {
    format!("{}}}}}", text.trim_end().trim_end_matches(','))
}

fn point(
    tunables: &IndexMap<String, Vec<Value>>,
    entry: &Map<String, Value>,
    at: &str,
) -> Result<RecordedPoint> {
    let milliseconds = |key: &str| entry.get(key).and_then(Value::as_f64).unwrap_or(0.0);
    let failure = entry.get("__error__").or(entry.get("time"));
    let time = match failure {
        Some(Value::String(name)) => Err(match name.as_str() {
            "InvalidConfig" => Invalidity::Constraints,
            "CompilationFailedConfig" => Invalidity::Compile,
            "RuntimeFailedConfig" => runtime_failure(entry),
            other => bail!("{at}: unknown failure `{other}`"),
        }),
        Some(Value::Number(time)) => Ok(time.as_f64().unwrap_or(f64::INFINITY)),
        _ => bail!("{at}: no `time`"),
    };
    let times = entry.get("times").and_then(Value::as_array);
    let times = times.into_iter().flatten().filter_map(Value::as_f64);
    Ok(RecordedPoint {
        indices: RecordedSpace::indices_of(tunables, entry, at)?,
        time,
        times: times.collect(),
        compile: milliseconds("compile_time"),
        verification: milliseconds("verification_time"),
        benchmark: milliseconds("benchmark_time"),
        framework: milliseconds("framework_time"),
        strategy: milliseconds("strategy_time"),
        timestamp: entry
            .get("timestamp")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
    })
}

/// Kernel Tuner has one name for all failures of a kernel that compiles. kforge adds what it was.
fn runtime_failure(entry: &Map<String, Value>) -> Invalidity {
    match entry.get("invalidity").and_then(Value::as_str) {
        Some("timeout") => Invalidity::Timeout,
        Some("correctness") => Invalidity::Correctness,
        _ => Invalidity::Runtime,
    }
}

fn list<'v>(value: &'v Value, key: &str) -> Result<&'v Vec<Value>> {
    let list = value.get(key).and_then(Value::as_array);
    list.with_context(|| format!("no list `{key}`"))
}

fn text_of(value: &Value, key: &str) -> String {
    let text = value.get(key).and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}

/// A value as Kernel Tuner writes it into the key of a point.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        other => other.to_string(),
    }
}
