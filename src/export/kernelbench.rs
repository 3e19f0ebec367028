//! Format `kernelbench`: a Python file with `ModelNew`, which builds the kernel with `load_inline`.
//!
//! KernelBench casts every tensor to one precision and compares one output. What does not fit is refused.

use anyhow::Result;
use serde_json::json;

use super::binding::{Binding, BindingKind};
use super::refusal::refuse;
use super::request::{ExportedFiles, Exporter};
use super::template::{comment, quoted, render};
use super::torch::cuda_flags;
use crate::base::Failure;

const MODEL: &str = include_str!("templates/kernelbench.py.j2");

pub(super) fn export(exporter: &Exporter<'_, '_>) -> Result<ExportedFiles> {
    check_task(exporter)?;
    let binding = Binding::new(exporter, "kernelbench", true)?;
    binding.refuse_in_place("kernelbench")?;
    let name = exporter.plan.name;
    let source = binding.source(BindingKind::PybindReturns, &binding.code.header)?;
    let lines = exporter.provenance.lines();
    let flags: Vec<_> = cuda_flags(&binding)
        .iter()
        .map(|flag| quoted(flag))
        .collect();
    let inputs = exporter.plan.task.definition.inputs.values();
    // KernelBench's inputs may have any strides; the kernel reads rows that are next to each other.
    let calls = binding
        .names()
        .into_iter()
        .zip(inputs)
        .map(
            |(name, tensor)| match (tensor.shape.is_some(), tensor.optional) {
                (true, false) => format!("{name}.contiguous()"),
                _ => name,
            },
        );
    let calls: Vec<_> = calls.collect();
    for text in [&source, &binding.code.source] {
        if text.contains("'''") {
            return Err(
                refuse("the source has three quotes in a row, which end a text of Python").into(),
            );
        }
    }
    let model = render(
        "kernelbench.py",
        MODEL,
        json!({
            "p": binding.code.view,
            "banner": comment(&lines, "#"),
            "provenance": quoted(&lines.join("; ")),
            "binding": source,
            "kernel": binding.code.source,
            "library": binding.library(),
            "cuda_flags": format!("[{}]", flags.join(", ")),
            "names": binding.names(),
            "calls": calls,
        }),
    )?;
    Ok(ExportedFiles::from([(
        format!("{name}_model_new.py"),
        model,
    )]))
}

/// Refuses a task that KernelBench cannot state.
fn check_task(exporter: &Exporter<'_, '_>) -> Result<(), Failure> {
    let definition = &exporter.plan.task.definition;
    if definition.outputs.len() != 1 {
        let count = definition.outputs.len();
        return Err(refuse(format!(
            "definition.json: {count} outputs: KernelBench compares a single one"
        ))
        .hint("export `torch` or `flashinfer`"));
    }
    let tensors = definition.inputs.iter().chain(&definition.outputs);
    let mut tensors = tensors.filter(|(_, tensor)| tensor.shape.is_some());
    let first = tensors.next().map(|(_, tensor)| tensor.dtype);
    match tensors.find(|(_, tensor)| Some(tensor.dtype) != first) {
        None => Ok(()),
        Some((name, tensor)) => Err(refuse(format!(
            "definition.json: `{name}` is {}: KernelBench casts all tensors to one type",
            tensor.dtype
        ))
        .hint("export `torch` or `flashinfer`")),
    }
}
