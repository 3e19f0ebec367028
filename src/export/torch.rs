//! Format `torch`: a Python package that builds an extension and offers the kernel as an operator of `torch.ops`, with a rule for
//! its shapes, so that `torch.compile` and `torch.export` can use it.

use anyhow::Result;
use serde_json::json;

use super::binding::{Binding, BindingKind};
use super::c::chooses_target;
use super::request::{ExportedFiles, Exporter};
use super::template::{comment, quoted, render};

const PACKAGE: &str = include_str!("templates/torch_init.py.j2");

pub(super) fn export(exporter: &Exporter<'_, '_>) -> Result<ExportedFiles> {
    let binding = Binding::new(exporter, "torch", false)?;
    let name = exporter.plan.name;
    let interface = format!("#include \"{name}.h\"");
    let package = package(&binding, false)?;
    let source = binding.source(BindingKind::Operator, &interface)?;
    let folder = binding.library();
    Ok(ExportedFiles::from([
        (format!("{folder}/__init__.py"), package),
        (format!("{folder}/binding.cpp"), source),
        (format!("{folder}/{name}.h"), binding.code.header),
        (format!("{folder}/{name}.cu"), binding.code.source),
    ]))
}

/// The Python file of an operator: its rule for shapes, and a function. `is_hub`: kernel-builder builds and loads the extension,
/// otherwise the file does.
pub(super) fn package(binding: &Binding<'_, '_, '_>, is_hub: bool) -> Result<String> {
    let lines = binding.exporter.provenance.lines();
    let flags: Vec<_> = cuda_flags(binding)
        .iter()
        .map(|flag| quoted(flag))
        .collect();
    render(
        "__init__.py",
        PACKAGE,
        json!({
            "p": binding.code.view,
            "is_hub": is_hub,
            "banner": comment(&lines, "#"),
            "library": binding.library(),
            "cuda_flags": format!("[{}]", flags.join(", ")),
            "provenance": quoted(&lines.join("; ")),
            "names": binding.names(),
            "outputs": binding.outputs,
            "mutated": binding.mutated(),
            "device_tensor": binding.device_tensor,
        }),
    )
}

/// The options of nvcc for PyTorch's builds, which choose the C++ standard and, unless the header does, the architecture. They take
/// operators away from device code; here they are given back.
pub(super) fn cuda_flags(binding: &Binding<'_, '_, '_>) -> Vec<String> {
    let wanted = binding.code.flags.iter();
    let mut flags: Vec<String> = wanted
        .filter(|flag| !chooses_target(flag))
        .cloned()
        .collect();
    if let Some(arch) = &binding.code.view.arch {
        let number = arch.trim_start_matches("sm_");
        flags.push(format!("-gencode=arch=compute_{number},code=sm_{number}"));
    }
    for part in [
        "HALF_OPERATORS",
        "HALF_CONVERSIONS",
        "HALF2_OPERATORS",
        "BFLOAT16_CONVERSIONS",
    ] {
        flags.push(format!("-U__CUDA_NO_{part}__"));
    }
    flags
}
