//! Formats `cupy` and `cuda-core`: a Python module that compiles the kernel with NVRTC and launches it. Both have the same host code
//! for the launch plan; each has its own calls to compile, load and launch.

use anyhow::Result;
use serde_json::{Value, json};

use super::axes::{given_axes, required_input};
use super::names::identifier;
use super::nvrtc_source::{LaunchAbilities, NvrtcSource, nvrtc_options, nvrtc_source};
use super::refusal::refuse;
use super::request::{ExportedFiles, Exporter};
use super::template::{comment, quoted, render};
use super::view::{PlanView, ViewMaker};
use crate::base::expression::Language;
use crate::task::DType;

const HOST: &str = include_str!("templates/host.py.j2");

/// A Python tool that launches kernels.
#[derive(Clone, Copy)]
pub(super) enum PythonTool {
    Cupy,
    CudaCore,
}

impl PythonTool {
    fn abilities(self) -> LaunchAbilities {
        let is_core = matches!(self, Self::CudaCore);
        LaunchAbilities {
            form: if is_core { "cuda-core" } else { "cupy" },
            clusters: is_core,
            overlap: is_core,
            tensor_maps: false,
        }
    }

    fn template(self) -> &'static str {
        match self {
            Self::Cupy => include_str!("templates/cupy.py.j2"),
            Self::CudaCore => include_str!("templates/cuda_core.py.j2"),
        }
    }
}

pub(super) fn export(exporter: &Exporter<'_, '_>, tool: PythonTool) -> Result<ExportedFiles> {
    let plan = exporter.plan;
    let abilities = tool.abilities();
    let maker = ViewMaker::of_bytes(plan, Language::Python)?;
    let source = nvrtc_source(plan, &maker.constants, abilities)?;
    check_text(&source)?;
    let view = maker.view();
    let device_tensor = required_input(&view, abilities.form)?;
    let inputs = plan.task.definition.inputs.keys();
    let names: Vec<_> = inputs.map(|name| identifier(name)).collect();
    let outputs: Vec<_> = view.tensors.iter().filter(|one| one.is_output).collect();
    let mutated = view.tensors.iter().filter(|one| one.overwritten);
    let written = outputs.iter().map(|output| output.ident.clone());
    let launches = &plan.kernel.header.launches;
    let lines = exporter.provenance.lines();
    let mut values = json!({
        "p": typed_view(exporter, &view)?,
        "given": given_axes(&view, abilities.form)?,
        "banner": comment(&lines, "#"),
        "provenance": quoted(&lines.join("; ")),
        "source": source,
        "options": nvrtc_options(&view),
        "arch": &view.arch,
        "names": names,
        "parameters": names.iter().cloned().chain(written).collect::<Vec<_>>(),
        "outputs": outputs,
        "mutated": mutated.map(|one| &one.ident).collect::<Vec<_>>(),
        "device_tensor": device_tensor,
        "uses_cooperative": launches.iter().any(|launch| launch.cooperative),
        "uses_overlap": launches.iter().any(|launch| launch.overlap),
    });
    values["host"] = json!(render("host.py", HOST, &values)?);
    let text = render("module.py", tool.template(), &values)?;
    let form = abilities.form.replace('-', "_");
    Ok(ExportedFiles::from([(
        format!("{}_{form}.py", plan.name),
        text,
    )]))
}

/// Refuses what would end a raw text of Python.
fn check_text(source: &NvrtcSource) -> Result<()> {
    let ends = |text: &str| text.contains("'''") || text.ends_with(['\\', '\'']);
    if ends(&source.before) || ends(&source.behind) {
        let reason = "the source has three quotes in a row, which end a text of Python";
        return Err(refuse(reason).into());
    }
    Ok(())
}

/// The view with the types of NumPy at each tensor.
fn typed_view(exporter: &Exporter<'_, '_>, view: &PlanView) -> Result<Value> {
    let mut value = serde_json::to_value(view)?;
    let definition = &exporter.plan.task.definition;
    let tensors = value["tensors"].as_array_mut().into_iter().flatten();
    for (value, tensor) in tensors.zip(&view.tensors) {
        let own = definition.inputs.get(&tensor.name);
        let own = own.or_else(|| definition.outputs.get(&tensor.name));
        let names = numpy_types(own.map_or(DType::Float32, |tensor| tensor.dtype));
        let list: Vec<_> = names.iter().map(|name| quoted(name)).collect();
        value["dtypes"] = json!(format!("({},)", list.join(", ")));
        value["new_dtype"] = json!(names[0]);
    }
    Ok(value)
}

/// The names of NumPy's types that hold the elements of a dtype: the usual one first.
fn numpy_types(dtype: DType) -> &'static [&'static str] {
    match dtype {
        DType::Float64 => &["float64"],
        DType::Float32 => &["float32"],
        DType::Float16 => &["float16"],
        DType::BFloat16 => &["uint16", "int16", "bfloat16"],
        DType::Float8E4M3 => &["uint8", "int8", "float8_e4m3fn"],
        DType::Float8E5M2 => &["uint8", "int8", "float8_e5m2"],
        DType::Int64 => &["int64"],
        DType::Int32 => &["int32"],
        DType::Int16 => &["int16"],
        DType::Int8 => &["int8"],
        DType::Bool => &["bool"],
    }
}
