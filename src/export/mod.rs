//! A kernel in the form that other tools load: its device code as it was judged, and host code for its launch plan.
//!
//! `plan` collects what host code needs, `view` writes it in a language, `nvcc_source` or `nvrtc_source` makes the device code, and the
//! templates put them together, one file of this folder for each format. Every export says where the kernel comes from (`provenance`).
//! What a format cannot express is refused with the line of the kernel file. Compiles nothing and writes no file: the result is texts.

use crate::base::Failure;

mod argument_text;
mod axes;
mod binding;
mod c;
mod constant_types;
mod flashinfer;
mod hf_kernels;
mod kernelbench;
mod kernelbench_problem;
mod names;
mod nvcc_source;
mod nvrtc_source;
mod plan;
mod provenance;
mod python;
mod refusal;
mod request;
mod rust;
mod standalone;
mod template;
mod torch;
mod view;

pub(crate) use provenance::{JudgedAs, Provenance};
pub(crate) use request::{ExportFormat, ExportRequest, ExportedFiles, FlashInferBinding};

use names::plain_name;
use plan::HostPlan;
use python::PythonTool;
use request::Exporter;

/// Makes the files of an export.
///
/// # Errors
/// A usage failure if the format cannot express the kernel. It names the line or the key.
pub(crate) fn export(request: &ExportRequest<'_>) -> anyhow::Result<ExportedFiles> {
    let name = plain_name(request.name.unwrap_or(&request.task.name));
    let plan = HostPlan::new(request.kernel, request.task, &name)?;
    let exporter = Exporter {
        plan: &plan,
        provenance: request.provenance,
    };
    match request.format {
        ExportFormat::C => c::export(&exporter),
        ExportFormat::Standalone => standalone::export(&exporter),
        ExportFormat::Torch => torch::export(&exporter),
        ExportFormat::Flashinfer => flashinfer::export(&exporter, request.binding),
        ExportFormat::Kernelbench => kernelbench::export(&exporter),
        ExportFormat::Cupy => python::export(&exporter, PythonTool::Cupy),
        ExportFormat::CudaCore => python::export(&exporter, PythonTool::CudaCore),
        ExportFormat::Rust => rust::export(&exporter),
        ExportFormat::HfKernels => hf_kernels::export(&exporter),
    }
}

/// A name that may be given to an export.
///
/// # Errors
/// A usage failure with a name that would do.
pub(crate) fn check_name(name: &str) -> Result<(), Failure> {
    if plain_name(name) == name {
        return Ok(());
    }
    Err(
        Failure::usage(format!("`{name}` is no name of a function in C and Python"))
            .hint(format!("for example `{}`", plain_name(name))),
    )
}

#[cfg(test)]
mod host_plan_tests;
#[cfg(test)]
mod tests;
