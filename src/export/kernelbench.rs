//! Format `kernelbench`: a Python file with `ModelNew`, which builds the kernel with `load_inline`.
//!
//! KernelBench casts every tensor to one precision and compares one output. What does not fit is refused. `ModelNew` of a problem of
//! KernelBench has the problem's constructor, so it holds the parameters itself. For other tasks it takes all inputs.

use anyhow::Result;
use serde_json::json;

use super::binding::{Binding, BindingKind};
use super::kernelbench_problem::Problem;
use super::refusal::refuse;
use super::request::{ExportedFiles, Exporter};
use super::template::{comment, quoted, render};
use super::torch::cuda_flags;
use crate::base::Failure;
use crate::task::{Definition, Tensor};

const MODEL: &str = include_str!("templates/kernelbench.py.j2");

pub(super) fn export(exporter: &Exporter<'_, '_>) -> Result<ExportedFiles> {
    let problem = Problem::of(exporter.plan.task)?;
    let definition = &exporter.plan.task.definition;
    let given = problem
        .as_ref()
        .map_or(definition.inputs.len(), |problem| problem.given);
    check_task(definition, given)?;
    let binding = Binding::new(exporter, "kernelbench", true)?;
    binding.refuse_in_place("kernelbench")?;
    let name = exporter.plan.name;
    let source = binding.source(BindingKind::PybindReturns, &binding.code.header)?;
    let lines = exporter.provenance.lines();
    let flags: Vec<_> = cuda_flags(&binding)
        .iter()
        .map(|flag| quoted(flag))
        .collect();
    for text in [&source, &binding.code.source] {
        if text.contains("'''") {
            return Err(
                refuse("the source has three quotes in a row, which end a text of Python").into(),
            );
        }
    }
    let inputs = definition.inputs.values().take(given);
    let names: Vec<_> = binding.names().into_iter().take(given).collect();
    let calls = names.iter().zip(inputs);
    let calls: Vec<_> = calls.map(|(name, tensor)| passed(name, tensor)).collect();
    let state = problem.as_ref().map_or(&[][..], |problem| &problem.state);
    let model = render(
        "kernelbench.py",
        MODEL,
        json!({
            "p": binding.code.view,
            "banner": comment(&lines, "#"),
            "about": about(problem.as_ref()),
            "provenance": quoted(&lines.join("; ")),
            "binding": source,
            "kernel": binding.code.source,
            "library": binding.library(),
            "cuda_flags": format!("[{}]", flags.join(", ")),
            "names": names,
            "calls": calls,
            "state": state.iter().map(|entry| &entry.name).collect::<Vec<_>>(),
            "constructor": problem.as_ref().map_or("", |problem| &problem.constructor),
            "modes_differ": problem.as_ref().is_some_and(|problem| problem.modes_differ),
            "reshape": reshape(problem.as_ref()),
        }),
    )?;
    Ok(ExportedFiles::from([(
        format!("{name}_model_new.py"),
        model,
    )]))
}

/// What the file says of its inputs.
fn about(problem: Option<&Problem>) -> String {
    match problem {
        Some(problem) => format!("Inputs and parameters are {}.", problem.precision),
        None => "Inputs are those of the task, in the order of its definition.".to_owned(),
    }
}

/// An input as the binding takes it.
fn passed(name: &str, tensor: &Tensor) -> String {
    match (&tensor.shape, tensor.optional) {
        (Some(_), false) => format!("_plain({name})"),
        _ => name.to_owned(),
    }
}

/// What makes a number of an output with one element, where PyTorch gives a tensor without sizes.
fn reshape(problem: Option<&Problem>) -> &'static str {
    let shape = problem.and_then(|problem| problem.shapes.first());
    if shape.is_some_and(Vec::is_empty) {
        ".reshape(())"
    } else {
        ""
    }
}

/// Refuses a task that KernelBench cannot state. `given`: how many of its inputs KernelBench passes.
fn check_task(definition: &Definition, given: usize) -> Result<(), Failure> {
    if definition.outputs.len() != 1 {
        let count = definition.outputs.len();
        return Err(refuse(format!(
            "definition.json: {count} outputs: KernelBench compares a single one"
        ))
        .hint("export `torch` or `flashinfer`"));
    }
    let inputs = definition.inputs.iter().take(given);
    let inputs = inputs.filter(|(_, tensor)| tensor.shape.is_some());
    let mut wanted = None;
    for (name, tensor) in inputs {
        if *wanted.get_or_insert(tensor.dtype) != tensor.dtype || !tensor.dtype.is_float() {
            return Err(refuse(format!(
                "definition.json: `{name}` is {}: KernelBench casts all inputs, whole numbers too, to one floating-point type",
                tensor.dtype
            ))
            .hint("export `torch` or `flashinfer`"));
        }
    }
    Ok(())
}
