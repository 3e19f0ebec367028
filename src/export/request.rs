//! What is exported and in which form: plain data.

use indexmap::IndexMap;

use super::plan::HostPlan;
use super::provenance::Provenance;
use crate::kernel::Kernel;
use crate::task::Task;

/// A form of export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ExportFormat {
    /// A C header and a CUDA file with `extern "C"` functions.
    C,
    /// One CUDA file with `main`: random inputs, launches, times.
    Standalone,
    /// A Python package with an operator of `torch.ops` and a rule for its shapes.
    Torch,
    /// A Solution of FlashInfer-Bench.
    Flashinfer,
    /// A Python file with `ModelNew` of KernelBench.
    Kernelbench,
    /// A kernel of the Hugging Face Hub, as `kernel-builder` builds it.
    HfKernels,
    /// A Python module for CuPy.
    Cupy,
    /// A Python module for cuda.core.
    CudaCore,
    /// A Rust crate for cudarc.
    Rust,
}

/// How FlashInfer-Bench calls a solution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum FlashInferBinding {
    /// Through TVM FFI, as FlashInfer-Bench prefers.
    #[default]
    TvmFfi,
    /// As an extension of PyTorch.
    Torch,
}

impl ExportFormat {
    /// The name of the format on the command line.
    pub(crate) fn folder_suffix(self) -> &'static str {
        match self {
            Self::C => "c",
            Self::Standalone => "standalone",
            Self::Torch => "torch",
            Self::Flashinfer => "flashinfer",
            Self::Kernelbench => "kernelbench",
            Self::HfKernels => "hf-kernels",
            Self::Cupy => "cupy",
            Self::CudaCore => "cuda-core",
            Self::Rust => "rust",
        }
    }
}

/// What to export.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExportRequest<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) task: &'a Task,
    pub(crate) format: ExportFormat,
    pub(crate) provenance: &'a Provenance,
    /// What functions and files are called; `None`: as the task.
    pub(crate) name: Option<&'a str>,
    /// For `flashinfer`.
    pub(crate) binding: FlashInferBinding,
}

/// The texts of an export, by their path below the output folder.
pub(crate) type ExportedFiles = IndexMap<String, String>;

/// What every format is made from.
pub(super) struct Exporter<'p, 'a> {
    pub(super) plan: &'p HostPlan<'a>,
    pub(super) provenance: &'p Provenance,
}
