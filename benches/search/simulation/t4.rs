//! T4, the results format of the auto-tuning community (schema 1.0.0).
//!
//! It has no list of tunables: they are those of the configurations, with the values that occur. Files in use say `compilation` where the
//! schema says `compilation_time`; both are read.

use anyhow::{Context, Result, bail};
use indexmap::IndexMap;
use serde_json::{Map, Value, json};

use super::space::{Invalidity, RecordedPoint, RecordedSpace};

/// The version of the schema.
const SCHEMA: &str = "1.0.0";

/// Reads the results of one kernel on one device.
pub(crate) fn read(text: &str) -> Result<RecordedSpace> {
    let file: Value = serde_json::from_str(text).context("not a T4 file")?;
    let results = file.get("results").and_then(Value::as_array);
    let results = results.context("no list `results`")?;
    let configurations = results.iter().enumerate().map(|(index, result)| {
        let configuration = result.get("configuration").and_then(Value::as_object);
        configuration.with_context(|| format!("`results`, {index}: no `configuration`"))
    });
    let configurations: Vec<&Map<String, Value>> = configurations.collect::<Result<_>>()?;
    let tunables = tunables(&configurations);
    let points = results.iter().zip(&configurations).enumerate();
    let points = points.map(|(index, (result, configuration))| {
        let at = format!("`results`, {index}");
        let indices = RecordedSpace::indices_of(&tunables, configuration, &at)?;
        point(indices, result, &at)
    });
    let points = points.collect::<Result<_>>()?;
    let metadata = |key: &str| file.get("metadata").and_then(|metadata| metadata.get(key));
    let text_of = |key: &str| {
        let text = metadata(key).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    Ok(RecordedSpace {
        device: text_of("device_name"),
        kernel: text_of("kernel_name"),
        problem_size: metadata("problem_size").cloned().unwrap_or(Value::Null),
        tunables,
        points,
    })
}

/// The text of a results file.
pub(crate) fn write(space: &RecordedSpace) -> Result<String> {
    let results: Vec<Value> = space
        .points
        .iter()
        .map(|point| result(space, point))
        .collect();
    let file = json!({
        "schema_version": SCHEMA,
        "results": results,
        "metadata": {
            "timeunit": "milliseconds",
            "device_name": space.device,
            "kernel_name": space.kernel,
            "problem_size": space.problem_size,
        },
    });
    Ok(serde_json::to_string(&file)? + "\n")
}

fn result(space: &RecordedSpace, point: &RecordedPoint) -> Value {
    let (invalidity, time) = match &point.time {
        Ok(time) => ("correct", json!(time)),
        Err(Invalidity::Constraints) => ("constraints", json!("InvalidConfig")),
        Err(Invalidity::Compile) => ("compile", json!("CompilationFailedConfig")),
        Err(Invalidity::Runtime) => ("runtime", json!("RuntimeFailedConfig")),
        Err(Invalidity::Timeout) => ("timeout", json!("RuntimeFailedConfig")),
        Err(Invalidity::Correctness) => ("correctness", json!("RuntimeFailedConfig")),
    };
    json!({
        "timestamp": point.timestamp,
        "configuration": space.configuration(point),
        "times": {
            "compilation_time": point.compile,
            "benchmark": point.benchmark,
            "framework": point.framework,
            "search_algorithm": point.strategy,
            "validation": point.verification,
            "runtimes": point.times,
        },
        "invalidity": invalidity,
        "correctness": u8::from(point.time.is_ok()),
        "objectives": ["time"],
        "measurements": [{"name": "time", "value": time, "unit": "milliseconds"}],
    })
}

/// The names of all configurations, with the values that occur: numbers in ascending order, others in order of appearance.
fn tunables(configurations: &[&Map<String, Value>]) -> IndexMap<String, Vec<Value>> {
    let mut tunables = IndexMap::<String, Vec<Value>>::new();
    for (name, value) in configurations.iter().flat_map(|one| one.iter()) {
        let values = tunables.entry(name.clone()).or_default();
        if !values.contains(value) {
            values.push(value.clone());
        }
    }
    for values in tunables.values_mut() {
        let number = |value: &Value| value.as_f64().unwrap_or(0.0);
        values.sort_by(|one, other| number(one).total_cmp(&number(other)));
    }
    tunables
}

fn point(indices: Vec<u16>, result: &Value, at: &str) -> Result<RecordedPoint> {
    let times = result.get("times").cloned().unwrap_or_default();
    let milliseconds = |keys: &[&str]| {
        let found = keys.iter().find_map(|key| times.get(*key)?.as_f64());
        found.unwrap_or(0.0)
    };
    let runtimes = times.get("runtimes").and_then(Value::as_array);
    let invalidity = result.get("invalidity").and_then(Value::as_str);
    let time = match invalidity.with_context(|| format!("{at}: no `invalidity`"))? {
        "correct" => Ok(measured(result).with_context(|| format!("{at}: no `time`"))?),
        "constraints" => Err(Invalidity::Constraints),
        "compile" => Err(Invalidity::Compile),
        "runtime" => Err(Invalidity::Runtime),
        "timeout" => Err(Invalidity::Timeout),
        "correctness" => Err(Invalidity::Correctness),
        other => bail!("{at}: unknown `invalidity` `{other}`"),
    };
    Ok(RecordedPoint {
        indices,
        time,
        times: runtimes
            .into_iter()
            .flatten()
            .filter_map(Value::as_f64)
            .collect(),
        compile: milliseconds(&["compilation_time", "compilation"]),
        verification: milliseconds(&["validation"]),
        benchmark: milliseconds(&["benchmark"]),
        framework: milliseconds(&["framework"]),
        strategy: milliseconds(&["search_algorithm"]),
        timestamp: result
            .get("timestamp")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
    })
}

/// The measurement that is the objective.
fn measured(result: &Value) -> Option<f64> {
    let objective = result.get("objectives").and_then(|names| names.get(0));
    let name = objective.and_then(Value::as_str).unwrap_or("time");
    let measurements = result.get("measurements")?.as_array()?;
    let found = measurements
        .iter()
        .find(|one| one.get("name").and_then(Value::as_str) == Some(name))?;
    found.get("value")?.as_f64()
}
