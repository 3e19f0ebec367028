//! Format `flashinfer`: a Solution of FlashInfer-Bench in CUDA. Outputs are passed behind the inputs.
//!
//! FlashInfer-Bench compiles a solution with its own options, so a kernel that needs others is refused.

use anyhow::Result;
use serde_json::json;

use super::binding::{Binding, BindingKind};
use super::refusal::refuse_line;
use super::request::{ExportedFiles, Exporter, FlashInferBinding};
use crate::base::Failure;

pub(super) fn export(
    exporter: &Exporter<'_, '_>,
    kind: FlashInferBinding,
) -> Result<ExportedFiles> {
    check_options(exporter)?;
    let binding = Binding::new(exporter, "flashinfer", false)?;
    binding.refuse_in_place("flashinfer")?;
    let name = exporter.plan.name;
    let interface = format!("#include \"{name}.h\"");
    let (file, label, source) = match kind {
        FlashInferBinding::Torch => ("binding.cpp", "torch", BindingKind::PybindInto),
        FlashInferBinding::TvmFfi => ("binding.cu", "tvm-ffi", BindingKind::TvmFfi),
    };
    let source = binding.source(source, &interface)?;
    let judged = exporter.provenance.judged.as_ref();
    let judged = judged.filter(|judged| judged.arch.starts_with("sm_"));
    let hardware = judged.map_or("cuda", |judged| judged.device.as_str());
    let step = exporter.provenance.step.map(|step| format!("_step{step}"));
    let solution = json!({
        "name": format!("kforge_{name}{}_{label}", step.unwrap_or_default()),
        "definition": exporter.plan.task.definition.name,
        "author": "kforge",
        "spec": {
            "language": "cuda",
            "target_hardware": [hardware],
            "entry_point": format!("{file}::run"),
            "dependencies": [],
            "destination_passing_style": true,
            "binding": label,
        },
        "sources": [
            {"path": file, "content": source},
            {"path": format!("{name}.cu"), "content": binding.code.source},
            {"path": format!("{name}.h"), "content": binding.code.header},
        ],
        "description": exporter.provenance.summary(),
    });
    let text = serde_json::to_string_pretty(&solution)? + "\n";
    Ok(ExportedFiles::from([(
        format!("{name}_{label}.json"),
        text,
    )]))
}

/// Refuses what needs options of the compiler.
fn check_options(exporter: &Exporter<'_, '_>) -> Result<(), Failure> {
    let kernel = exporter.plan.kernel;
    let compile = &kernel.header.compile;
    let needed = [
        ("fast_math", compile.fast_math),
        ("max_registers", compile.max_registers.is_some()),
        ("arch", compile.arch.is_some()),
    ];
    let Some((key, _)) = needed.iter().find(|(_, is_needed)| *is_needed) else {
        return Ok(());
    };
    let mut lines = kernel.text.lines();
    let line = lines.position(|line| line.contains(&format!("{key}:")));
    Err(refuse_line(
        line.map_or(1, |line| line as u32 + 1),
        format!(
            "`compile: {key}`: a solution of FlashInfer-Bench cannot choose options of the compiler"
        ),
    )
    .hint("export `torch` or `c`"))
}
