//! Format `rust`: a crate that launches the kernel through `cudarc`. NVRTC compiles the embedded source at its first launch.
//!
//! The crate uses the driver's own functions for launches, so it can do all that a header asks for.

use anyhow::Result;
use serde_json::{Value, json};

use super::nvrtc_source::{LaunchAbilities, nvrtc_options, nvrtc_source};
use super::request::{ExportedFiles, Exporter};
use super::template::{comment, quoted, render};
use super::view::{PlanView, TensorView, ViewMaker};
use crate::base::expression::Language;
use crate::task::DType;

const CARGO: &str = include_str!("templates/rust_cargo.toml.j2");
const LIBRARY: &str = include_str!("templates/rust_lib.rs.j2");
const HOST: &str = include_str!("templates/rust_host.rs.j2");
const EXAMPLE: &str = include_str!("templates/rust_example.rs.j2");
/// The checked arithmetic of expressions in Rust.
pub(super) const ARITHMETIC: &str = include_str!("templates/arithmetic.rs.j2");

const ABILITIES: LaunchAbilities = LaunchAbilities {
    form: "rust",
    clusters: true,
    overlap: true,
    tensor_maps: true,
};

pub(super) fn export(exporter: &Exporter<'_, '_>) -> Result<ExportedFiles> {
    let plan = exporter.plan;
    let maker = ViewMaker::of_bytes(plan, Language::Rust)?;
    let source = nvrtc_source(plan, &maker.constants, ABILITIES)?;
    let view = maker.view();
    let lines = exporter.provenance.lines();
    let code_banner = comment(&lines, "//") + "\n";
    let given: Vec<_> = view.axes.iter().filter(|axis| axis.is_given()).collect();
    let values = |mark: &str| -> Result<Value> {
        Ok(json!({
            "p": typed_view(exporter, &view)?,
            "given": given,
            "banner": comment(&lines, mark),
            "provenance": quoted(&lines.join("; ")),
            "crate_name": format!("kforge_{}", plan.name),
            "arithmetic": ARITHMETIC,
            "options": nvrtc_options(&view),
            "arch": view.arch,
            "written": written(exporter, &view),
        }))
    };
    let code = values("//")?;
    Ok(ExportedFiles::from([
        (
            "Cargo.toml".to_owned(),
            render("Cargo.toml", CARGO, values("#")?)?,
        ),
        ("src/lib.rs".to_owned(), render("lib.rs", LIBRARY, &code)?),
        ("src/host.rs".to_owned(), render("host.rs", HOST, &code)?),
        (
            "src/before.cu".to_owned(),
            code_banner.clone() + &source.before,
        ),
        ("src/kernel.cu".to_owned(), code_banner + &source.behind),
        (
            "examples/run.rs".to_owned(),
            render("run.rs", EXAMPLE, &code)?,
        ),
    ]))
}

/// The view with the types of Rust at each tensor and scalar.
fn typed_view(exporter: &Exporter<'_, '_>, view: &PlanView) -> Result<Value> {
    let mut value = serde_json::to_value(view)?;
    let tensors = value["tensors"].as_array_mut().into_iter().flatten();
    for (value, tensor) in tensors.zip(&view.tensors) {
        let element = element(dtype_of(exporter, &tensor.name));
        let is_written = tensor.is_output || tensor.overwritten;
        let view = if is_written {
            "CudaViewMut"
        } else {
            "CudaView"
        };
        let view = format!("{view}<'a, {element}>");
        value["element"] = json!(element);
        value["is_written"] = json!(is_written);
        value["view_type"] = json!(if tensor.optional {
            format!("Option<{view}>")
        } else {
            view
        });
    }
    let scalars = value["scalars"].as_array_mut().into_iter().flatten();
    for (value, scalar) in scalars.zip(&view.scalars) {
        value["rust_type"] = json!(match dtype_of(exporter, &scalar.name) {
            DType::Float64 => "f64",
            DType::Bool => "bool",
            dtype if dtype.is_float() => "f32",
            dtype => element(dtype),
        });
    }
    Ok(value)
}

fn dtype_of(exporter: &Exporter<'_, '_>, name: &str) -> DType {
    let definition = &exporter.plan.task.definition;
    let tensor = definition.inputs.get(name);
    let tensor = tensor.or_else(|| definition.outputs.get(name));
    tensor.map_or(DType::Float32, |tensor| tensor.dtype)
}

/// The type of an element: an integer of the same size where Rust has no such type.
fn element(dtype: DType) -> &'static str {
    match dtype {
        DType::Float64 => "f64",
        DType::Float32 => "f32",
        DType::Float16 | DType::BFloat16 => "u16",
        DType::Float8E4M3 | DType::Float8E5M2 | DType::Bool => "u8",
        DType::Int64 => "i64",
        DType::Int32 => "i32",
        DType::Int16 => "i16",
        DType::Int8 => "i8",
    }
}

/// The outputs: their names, and the slices of the example that hold them.
fn written(exporter: &Exporter<'_, '_>, view: &PlanView) -> Vec<Value> {
    let outputs = exporter.plan.task.definition.outputs.keys();
    let slice = |tensor: &TensorView| match tensor.optional {
        true => format!(
            "tensor_{}.as_ref().ok_or(\"`{}` is absent\")?",
            tensor.ident, tensor.name
        ),
        false => format!("&tensor_{}", tensor.ident),
    };
    outputs
        .map(|output| {
            let memory = exporter.plan.overwritten_by(output).unwrap_or(output);
            let tensor = view.tensors.iter().find(|one| one.name == memory);
            json!({"name": output, "slice": tensor.map(slice)})
        })
        .collect()
}
