//! Tasks and verdicts in words and tables, for people.

use serde_json::{Value, json};

use super::profiling::profiling_text;
use super::results::device_note;
use crate::task::{CumulativeTotal, Distribution, DistributionKind, Task, Tensor, WorkloadChoice};
use crate::verdict::{TimeSummary, Verdict};

/// A line for each task.
pub(crate) fn task_table(tasks: &[(Task, String)]) -> String {
    let mut text = format!(
        "{:<14} {:<10} {:<30} {:>9}  {:<12} {}\n",
        "task", "operation", "definition", "workloads", "baseline", "found in"
    );
    for (task, origin) in tasks {
        text += &format!(
            "{:<14} {:<10} {:<30} {:>9}  {:<12} {origin}\n",
            task.name,
            task.definition.op_type,
            task.definition.name,
            task.workloads.len(),
            task.baseline().0
        );
    }
    text
}

/// Everything about one task.
pub(crate) fn describe_task(task: &Task, origin: &str) -> String {
    let definition = &task.definition;
    let mut text = format!("{} ({}), {origin}\n", task.name, definition.name);
    if let Some(description) = &definition.description {
        text += &format!("{description}\n");
    }
    text += "\naxes\n";
    for (name, axis) in &definition.axes {
        let value = axis
            .value
            .map_or_else(|| "variable".to_owned(), |value| value.to_string());
        text += &format!(
            "  {name:<14} {value:<9} {}\n",
            axis.description.as_deref().unwrap_or_default()
        );
    }
    text += "\ninputs\n";
    for (name, tensor) in &definition.inputs {
        let values = task
            .settings
            .inputs
            .get(name)
            .map_or_else(|| "default".to_owned(), distribution_text);
        text += &format!(
            "  {name:<14} {:<10} {:<52} {values}{}\n",
            tensor.dtype.to_string(),
            shape_text(tensor),
            if tensor.optional { ", optional" } else { "" }
        );
    }
    text += "\noutputs\n";
    for (name, tensor) in &definition.outputs {
        let tolerance = task
            .settings
            .tolerance
            .get(name)
            .map_or_else(String::new, |tolerance| {
                format!(
                    "|x - r| <= {:e} * rms(r) + {:e} * |r|",
                    tolerance.atol_rms, tolerance.rtol
                )
            });
        text += &format!(
            "  {name:<14} {:<10} {:<52} {tolerance}\n",
            tensor.dtype.to_string(),
            shape_text(tensor)
        );
    }
    text += &format!(
        "\n{:<16} {:<32} {:>14} {:>14}\n",
        "workload", "variable axes", "bytes", "flops"
    );
    for workload in &task.workloads {
        let axes: Vec<_> = definition
            .variables()
            .filter_map(|name| Some(format!("{name} = {}", workload.binding.axes.get(name)?)))
            .collect();
        let value_of = |name: &str| workload.binding.axes.get(name).copied();
        let cost = |value: Result<i64, _>| {
            value.map_or_else(
                |_: crate::base::expression::ExpressionError| "too large".to_owned(),
                |value| value.to_string(),
            )
        };
        let (bytes, flops) = (
            cost(task.bytes.evaluate(&value_of)),
            cost(task.flops.evaluate(&value_of)),
        );
        text += &format!(
            "{:<16} {:<32} {bytes:>14} {flops:>14}\n",
            workload.id,
            axes.join(", ")
        );
    }
    text += "\nregimes\n";
    for (name, regime) in task.regimes() {
        let inputs = regime.iter();
        let inputs =
            inputs.map(|(input, values)| format!("{input}: {}", distribution_text(values)));
        text += &format!("  {name:<14} {}\n", inputs.collect::<Vec<_>>().join("; "));
    }
    text += "\nprofiles\n";
    for (name, profile) in &task.settings.profiles {
        let workloads = match &profile.workloads {
            WorkloadChoice::All => "all workloads".to_owned(),
            WorkloadChoice::Named(ids) => ids.join(", "),
        };
        text += &format!(
            "  {name:<8} {workloads}; {}; {} of checks; timed for {} s a workload, or until the interval is ±{} %\n",
            pluralize(u64::from(profile.hidden_shapes), "hidden shape"),
            pluralize(u64::from(profile.rounds), "round"),
            profile.seconds,
            profile.precision * 100.0
        );
    }
    let starts: Vec<_> = task.starting_kernels().map(|(name, _)| name).collect();
    text + &format!(
        "\nbaseline  {}\nstarts    {}\n",
        task.baseline().0,
        starts.join(", ")
    )
}

/// Everything about one task, for scripts.
pub(crate) fn task_json(task: &Task, origin: &str) -> Value {
    let definition = &task.definition;
    let tensor = |tensor: &Tensor| json!({"shape": tensor.shape, "dtype": tensor.dtype.to_string(), "optional": tensor.optional, "description": tensor.description});
    let axes = definition.axes.iter().map(|(name, axis)| {
        let facts = json!({"value": axis.value, "description": axis.description});
        (name.clone(), facts)
    });
    let inputs = definition.inputs.iter().map(|(name, input)| {
        let mut facts = tensor(input);
        facts["values"] = json!(task.settings.inputs.get(name));
        (name.clone(), facts)
    });
    let outputs = definition.outputs.iter().map(|(name, output)| {
        let mut facts = tensor(output);
        facts["tolerance"] = json!(task.settings.tolerance.get(name));
        (name.clone(), facts)
    });
    let workloads = task.workloads.iter().map(|workload| {
        let value_of = |name: &str| workload.binding.axes.get(name).copied();
        let (bytes, flops) = (task.bytes.evaluate(&value_of), task.flops.evaluate(&value_of));
        json!({"id": workload.id, "axes": workload.binding.axes, "bytes": bytes.ok(), "flops": flops.ok()})
    });
    json!({
        "task": task.name,
        "operation": definition.op_type,
        "definition": definition.name,
        "description": definition.description,
        "found_in": origin,
        "axes": Value::Object(axes.collect()),
        "inputs": Value::Object(inputs.collect()),
        "outputs": Value::Object(outputs.collect()),
        "workloads": workloads.collect::<Vec<_>>(),
        "profiles": task.settings.profiles,
        "baseline": task.baseline().0,
        "starts": task.starting_kernels().map(|(name, _)| name).collect::<Vec<_>>(),
    })
}

fn shape_text(tensor: &Tensor) -> String {
    tensor.shape.as_ref().map_or_else(
        || "scalar".to_owned(),
        |axes| format!("[{}]", axes.join(", ")),
    )
}

fn distribution_text(distribution: &Distribution) -> String {
    let shape = match &distribution.kind {
        DistributionKind::Normal(deviation) => format!("normal, deviation {deviation}"),
        DistributionKind::Uniform([low, high]) => format!("uniform in [{low}, {high})"),
        DistributionKind::Value(value) => format!("{value}"),
        DistributionKind::Cumulative(CumulativeTotal::Axis(axis)) => {
            format!("cumulative, up to `{axis}`")
        }
        DistributionKind::Cumulative(CumulativeTotal::Size(total)) => {
            format!("cumulative, up to {total}")
        }
    };
    let mut parts = vec![shape];
    if distribution.levels != 0 {
        parts.push(format!("{} different values", distribution.levels));
    }
    if distribution.mean != 0.0 {
        parts.push(format!("mean {}", distribution.mean));
    }
    if distribution.zeros != 0.0 {
        parts.push(format!("{} % zeros", distribution.zeros * 100.0));
    }
    if distribution.one_hot {
        parts.push("one element of a row, the others 0".to_owned());
    }
    if distribution.large_rows != 1.0 {
        parts.push(format!("some rows times {}", distribution.large_rows));
    }
    if distribution.normalize.is_some() {
        parts.push("rows of length 1".to_owned());
    }
    parts.join(", ")
}

/// `1 round`, `2 rounds`.
pub(crate) fn pluralize(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The most lines on memory that a verdict prints.
const MAX_POOR_ACCESSES: usize = 5;

/// A verdict as a table, or with what went wrong.
pub(crate) fn describe_verdict(verdict: &Verdict) -> String {
    let mut text = format!("{}: {}", verdict.kernel, verdict.status);
    match (&verdict.speedup, &verdict.reason) {
        (Some(speedup), _) => {
            let baseline = verdict.baseline.as_ref();
            text += &format!(
                ", {:.3}x [{:.3}, {:.3}] over `{}`\n",
                speedup.geomean,
                speedup.ci95[0],
                speedup.ci95[1],
                baseline.map_or("", |baseline| &baseline.name)
            )
        }
        (None, Some(reason)) => text += &format!(": {reason}\n"),
        (None, None) => text.push('\n'),
    }
    let timed = || {
        let workloads = verdict.workloads.iter();
        workloads.filter_map(|workload| Some((workload, workload.speedup?, workload.ci95?)))
    };
    if timed().next().is_some() {
        text += &format!(
            "  {:<14} {:>9} {:>20} {:>12} {:>12} {:>8}\n",
            "workload", "speedup", "95 % interval", "kernel us", "baseline us", "margin"
        );
    }
    for (workload, speedup, ci95) in timed() {
        let time = |times: &Option<TimeSummary>| {
            times.map_or_else(String::new, |times| format!("{:.1}", times.median))
        };
        text += &format!(
            "  {:<14} {speedup:>8.3}x {:>20} {:>12} {:>12} {:>8}\n",
            workload.id,
            format!("[{:.3}, {:.3}]", ci95[0], ci95[1]),
            time(&workload.candidate_us),
            time(&workload.baseline_us),
            workload
                .tolerance_margin
                .map_or_else(String::new, |margin| format!("{margin:.3}"))
        );
    }
    for (name, unchecked) in [("precision", &verdict.precision), ("state", &verdict.state)] {
        if let Some(unchecked) = unchecked {
            text += &format!("  {name}: {unchecked}\n");
        }
    }
    for access in poor_accesses(verdict) {
        text += &format!("  {access}\n");
    }
    text += &profiling_text(verdict);
    let evidence = verdict.evidence.as_ref().filter(|_| !verdict.passed());
    if let Some(log) = evidence.and_then(|evidence| evidence.log.as_ref()) {
        log.lines()
            .for_each(|line| text += &format!("  | {line}\n"));
    }
    text
}

/// The loads and stores that use memory worst, in words; nothing where all are well.
fn poor_accesses(verdict: &Verdict) -> Vec<String> {
    let poor = verdict.accesses.iter().filter_map(|access| {
        let (line, bytes) = (access.line, access.bytes);
        let start = format!(
            "line {line}: this {} {} of {bytes} bytes",
            access.space, access.access
        );
        match (
            &access.pattern,
            access.sectors_per_request,
            access.bank_conflicts,
        ) {
            (Some(pattern), Some(sectors), _) if pattern != "coalesced" => Some(format!(
                "{start} touches {sectors:.1} sectors a request ({pattern})"
            )),
            (_, _, Some(conflicts)) if conflicts >= 1.5 => Some(format!(
                "{start} takes {conflicts:.1} times as many passes over the banks as it must"
            )),
            _ => None,
        }
    });
    poor.take(MAX_POOR_ACCESSES).collect()
}

/// What the times of these verdicts are times of; nothing where none was measured.
pub(crate) fn timing_note(verdicts: &[Verdict]) -> String {
    let measured = |verdict: &&Verdict| {
        verdict
            .workloads
            .iter()
            .any(|workload| workload.speedup.is_some())
    };
    let first = verdicts.iter().find(measured);
    first.map_or_else(String::new, |verdict| device_note(&verdict.device))
}
