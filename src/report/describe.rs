//! Tasks and verdicts in words and tables, for people.

use super::results::caveat;
use crate::task::{Distribution, Shape, Task, Tensor, WorkloadChoice};
use crate::verdict::Verdict;

/// A line for each task.
pub fn tasks(tasks: &[(Task, String)]) -> String {
    let mut text = format!(
        "{:<14} {:<9} {:<30} {:<10} {}\n",
        "task", "operation", "definition", "workloads", "found in"
    );
    for (task, origin) in tasks {
        text += &format!(
            "{:<14} {:<9} {:<30} {:<10} {origin}\n",
            task.name,
            task.definition.op_type,
            task.definition.name,
            task.workloads.len()
        );
    }
    text
}

/// Everything about one task.
pub fn task(task: &Task, origin: &str) -> String {
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
            .map_or_else(|| "default".to_owned(), distribution);
        text += &format!(
            "  {name:<14} {:<10} {:<46} {values}{}\n",
            tensor.dtype.to_string(),
            shape(tensor),
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
            "  {name:<14} {:<10} {:<46} {tolerance}\n",
            tensor.dtype.to_string(),
            shape(tensor)
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
    text += "\nprofiles\n";
    for (name, profile) in &task.settings.profiles {
        let workloads = match &profile.workloads {
            WorkloadChoice::All => "all workloads".to_owned(),
            WorkloadChoice::Named(ids) => ids.join(", "),
        };
        text += &format!(
            "  {name:<8} {workloads}; {} hidden shapes; {} rounds of checks; timed for {} s a workload, or until the interval is ±{} %\n",
            profile.hidden_shapes,
            profile.rounds,
            profile.seconds,
            profile.precision * 100.0
        );
    }
    let starts: Vec<_> = task.starts().map(|(name, _)| name).collect();
    text + &format!(
        "\nbaseline  {}\nstarts    {}\n",
        task.baseline().0,
        starts.join(", ")
    )
}

fn shape(tensor: &Tensor) -> String {
    tensor.shape.as_ref().map_or_else(
        || "scalar".to_owned(),
        |axes| format!("[{}]", axes.join(", ")),
    )
}

fn distribution(distribution: &Distribution) -> String {
    let shape = match distribution.shape {
        Shape::Normal(deviation) => format!("normal, deviation {deviation}"),
        Shape::Uniform([low, high]) => format!("uniform in [{low}, {high})"),
        Shape::Value(value) => format!("{value}"),
    };
    if distribution.normalize.is_some() {
        format!("{shape}, rows of length 1")
    } else {
        shape
    }
}

/// Verdicts as a table, with what went wrong below each.
pub fn verdicts(verdicts: &[Verdict]) -> String {
    let mut text = String::new();
    for verdict in verdicts {
        text += &format!("{}: {}", verdict.kernel, verdict.status);
        match (&verdict.speedup, &verdict.reason) {
            (Some(speedup), _) => {
                text += &format!(
                    ", {:.3}x [{:.3}, {:.3}] over `{}`\n",
                    speedup.geomean,
                    speedup.ci95[0],
                    speedup.ci95[1],
                    verdict
                        .baseline
                        .as_ref()
                        .map_or("", |baseline| &baseline.name)
                )
            }
            (None, Some(reason)) => text += &format!(": {reason}\n"),
            (None, None) => text.push('\n'),
        }
        if verdict.passed() {
            text += &format!(
                "  {:<14} {:>9} {:>20} {:>14} {:>14} {:>9}\n",
                "workload", "speedup", "95 % interval", "kernel us", "baseline us", "margin"
            );
        }
        for workload in &verdict.workloads {
            let (Some(speedup), Some(ci95)) = (workload.speedup, workload.ci95) else {
                continue;
            };
            let time = |times: &Option<crate::verdict::Times>| {
                times.map_or_else(String::new, |times| format!("{:.1}", times.median))
            };
            text += &format!(
                "  {:<14} {speedup:>8.3}x {:>20} {:>14} {:>14} {:>9}\n",
                workload.id,
                format!("[{:.3}, {:.3}]", ci95[0], ci95[1]),
                time(&workload.candidate_us),
                time(&workload.baseline_us),
                workload
                    .tolerance_margin
                    .map_or_else(String::new, |margin| format!("{margin:.3}"))
            );
        }
        if let Some(log) = verdict
            .evidence
            .as_ref()
            .and_then(|evidence| evidence.log.as_ref())
            .filter(|_| !verdict.passed())
        {
            log.lines()
                .for_each(|line| text += &format!("  | {line}\n"));
        }
    }
    if let Some(verdict) = verdicts.iter().find(|verdict| verdict.passed()) {
        text += &caveat(&verdict.device);
    }
    text
}
