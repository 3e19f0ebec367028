//! Tasks as text and as JSON.
//!
//! Pure: from a task to text.

use serde_json::{Value, json};

use super::text::{TERMINAL_WIDTH, pluralize, wrap};
use crate::base::expression::ExpressionError;
use crate::task::{
    CumulativeTotal, Distribution, DistributionKind, Task, Tensor, Workload, WorkloadChoice,
};

/// A table with a line per task, for 80 columns. Each task comes with the place where it was found.
pub(crate) fn task_table(tasks: &[(Task, String)]) -> String {
    let lengths = tasks.iter().map(|(task, _)| task.definition.op_type.len());
    let width = lengths.max().unwrap_or(0).clamp(9, 30);
    let names = tasks.iter().map(|(task, _)| task.name.len());
    let name_width = names.max().unwrap_or(0).clamp(14, 40);
    let mut text = format!(
        "{:<name_width$} {:<width$} {:<30} {:>9}  {}\n",
        "task", "operation", "definition", "workloads", "found in"
    );
    for (task, origin) in tasks {
        text += &format!(
            "{:<name_width$} {:<width$} {:<30} {:>9}  {}\n",
            task.name,
            task.definition.op_type,
            task.definition.name,
            task.workloads.len(),
            place(task, origin)
        );
    }
    text
}

/// Where a task was found, without its name: a folder, or `embedded`.
fn place<'o>(task: &Task, origin: &'o str) -> &'o str {
    if origin == format!("{} (embedded)", task.name) {
        "embedded"
    } else {
        origin
    }
}

/// Everything about a task. `origin`: where it was found.
pub(crate) fn describe_task(task: &Task, origin: &str) -> String {
    let definition = &task.definition;
    let mut text = format!(
        "{} ({}), {}\n",
        task.name,
        definition.name,
        place(task, origin)
    );
    if let Some(description) = &definition.description {
        text += &wrap(description, TERMINAL_WIDTH, 0);
    }
    text += &axes_table(task);
    text += &inputs_table(task);
    text += &outputs_table(task);
    text += &workloads_table(task);
    text += &regimes_table(task);
    text += &profiles_table(task);
    let starts: Vec<_> = task.starting_kernels().map(|(name, _)| name).collect();
    text + &format!(
        "\nbaseline  {}\nstarts    {}\n",
        task.baseline().0,
        starts.join(", ")
    )
}

fn axes_table(task: &Task) -> String {
    let sizes = task.definition.axes.iter().map(|(name, axis)| {
        let computed = || match task.derived.get(name) {
            Some(size) => size.text().to_owned(),
            None => "variable".to_owned(),
        };
        axis.value.map_or_else(computed, |value| value.to_string())
    });
    let sizes: Vec<String> = sizes.collect();
    let width = sizes.iter().map(String::len).max().unwrap_or(0).min(30);
    let mut text = "\naxes\n".to_owned();
    for ((name, axis), size) in task.definition.axes.iter().zip(&sizes) {
        let description = axis.description.as_deref().unwrap_or_default();
        text += &table_line(&format!("  {name:<14} {size:<width$}  "), description);
    }
    text
}

/// A line of a table. Its last column is wrapped to 80 columns.
fn table_line(start: &str, last: &str) -> String {
    let column = start.chars().count();
    let wrapped = wrap(last, TERMINAL_WIDTH.max(column + 30), column);
    let line = format!("{start}{}", wrapped.trim_start());
    format!("{}\n", line.trim_end())
}

/// A line of a table of tensors. The last column is below the shape if the line would be longer than 80 columns.
fn tensor_line(name: &str, tensor: &Tensor, last: &str) -> String {
    let start = format!("  {name:<14} {:<10} ", tensor.dtype.to_string());
    let column = start.chars().count();
    let shape = shape_text(tensor);
    let line = format!("{start}{shape:<20} {last}");
    let line = line.trim_end();
    if line.chars().count() <= TERMINAL_WIDTH {
        format!("{line}\n")
    } else {
        format!("{start}{shape}\n{}", wrap(last, TERMINAL_WIDTH, column))
    }
}

fn inputs_table(task: &Task) -> String {
    let mut text = "\ninputs\n".to_owned();
    for (name, tensor) in &task.definition.inputs {
        let values = task.settings.inputs.get(name);
        let is_float = tensor.dtype.is_float();
        let values = values.map_or_else(
            || "default".to_owned(),
            |distribution| distribution_text(distribution, is_float),
        );
        let optional = if tensor.optional { ", optional" } else { "" };
        text += &tensor_line(name, tensor, &format!("{values}{optional}"));
    }
    text
}

fn outputs_table(task: &Task) -> String {
    let mut text = "\noutputs\n".to_owned();
    for (name, tensor) in &task.definition.outputs {
        let tolerance = task.settings.tolerance.get(name);
        let tolerance = tolerance.map_or_else(String::new, |tolerance| {
            format!(
                "|x - r| <= {:e} * rms(r) + {:e} * |r|",
                tolerance.atol_rms, tolerance.rtol
            )
        });
        text += &tensor_line(name, tensor, &tolerance);
    }
    text
}

fn workloads_table(task: &Task) -> String {
    let mut text = format!(
        "\n{:<16} {:<32} {:>14} {:>14}\n",
        "workload", "variable axes", "bytes", "flops"
    );
    let cost = |value: Result<i64, ExpressionError>| {
        value.map_or_else(|_| "too large".to_owned(), |value| value.to_string())
    };
    for workload in &task.workloads {
        let axes: Vec<_> = task
            .definition
            .variables()
            .filter_map(|name| Some(format!("{name} = {}", workload.binding.axes.get(name)?)))
            .collect();
        let (bytes, flops) = costs(task, workload);
        text += &format!(
            "{:<16} {:<32} {:>14} {:>14}\n",
            workload.id,
            axes.join(", "),
            cost(bytes),
            cost(flops)
        );
    }
    text
}

/// Bytes and flops of a workload.
fn costs(
    task: &Task,
    workload: &Workload,
) -> (Result<i64, ExpressionError>, Result<i64, ExpressionError>) {
    let value_of = |name: &str| workload.binding.axes.get(name).copied();
    (
        task.bytes.evaluate(&value_of),
        task.flops.evaluate(&value_of),
    )
}

fn regimes_table(task: &Task) -> String {
    let mut text = "\nregimes\n".to_owned();
    for (name, regime) in task.regimes() {
        let inputs: Vec<_> = regime
            .iter()
            .map(|(input, values)| {
                let tensor = task.definition.inputs.get(input);
                let is_float = tensor.is_none_or(|tensor| tensor.dtype.is_float());
                format!("{input}: {}", distribution_text(values, is_float))
            })
            .collect();
        text += &table_line(&format!("  {name:<14} "), &inputs.join("; "));
    }
    text
}

fn profiles_table(task: &Task) -> String {
    let mut text = "\nprofiles\n".to_owned();
    for (name, profile) in &task.settings.profiles {
        let workloads = match &profile.workloads {
            WorkloadChoice::All => "all workloads".to_owned(),
            WorkloadChoice::Named(ids) => ids.join(", "),
        };
        let facts = format!(
            "{workloads}; {}; {} of checks; timed for {} s per workload, or until the interval is ±{} %",
            pluralize(u64::from(profile.hidden_shapes), "hidden shape"),
            pluralize(u64::from(profile.rounds), "round"),
            profile.seconds,
            profile.precision * 100.0
        );
        text += &table_line(&format!("  {name:<8} "), &facts);
    }
    text
}

/// Everything about a task, as JSON for scripts.
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
        let (bytes, flops) = costs(task, workload);
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

/// `is_float`: whether the elements are floating-point numbers. Integers include the upper bound.
fn distribution_text(distribution: &Distribution, is_float: bool) -> String {
    let shape = match &distribution.kind {
        DistributionKind::Normal(deviation) => format!("normal, deviation {deviation}"),
        DistributionKind::Uniform([low, high]) if is_float => format!("uniform in [{low}, {high})"),
        DistributionKind::Uniform([low, high]) => format!("integers from {low} to {high}"),
        DistributionKind::UniformBelow(low, high) => {
            let kind = if is_float { "uniform" } else { "integers" };
            format!("{kind} from {low} to below `{}`", high.text())
        }
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
        parts.push("one element per row, the others 0".to_owned());
    }
    if distribution.large_rows != 1.0 {
        parts.push(format!("some rows times {}", distribution.large_rows));
    }
    if distribution.normalize.is_some() {
        parts.push("rows of length 1".to_owned());
    }
    parts.join(", ")
}
