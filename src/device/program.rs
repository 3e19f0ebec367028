//! Compiled kernels: the builds of a kernel, and what a compiler returns.

use std::path::PathBuf;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::cache::CacheLease;
use super::refusal::{DeviceError, Refusal};
use super::source_trace::SourceTrace;
use crate::verdict::Resources;

/// How a kernel is built: for speed, or with checks that run inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Build {
    /// The build that is checked against the oracle and timed.
    Fast,
    /// Stops at an out-of-bounds or misaligned access, and at undefined behavior of C++.
    Bounds,
    /// Stops at a race or at a read of memory that nothing wrote, under one schedule of many. Counts memory accesses.
    Race,
}

impl Build {
    /// The build's name in verdicts.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Bounds => "bounds",
            Self::Race => "race",
        }
    }
}

/// What a compiler returns for one translation unit.
#[derive(Debug)]
pub enum Compiled {
    Ready(Program),
    Refused(Refusal),
}

impl Compiled {
    /// Turns a refusal into a value. An error remains only where the machinery is broken.
    pub(super) fn from_result(result: Result<Program, DeviceError>) -> anyhow::Result<Self> {
        match result {
            Ok(program) => Ok(Self::Ready(program)),
            Err(DeviceError::Refused(refusal)) => Ok(Self::Refused(refusal)),
            Err(DeviceError::Broken(error)) => Err(error),
        }
    }
}

/// The judge's kernels that fill buffers of one dtype. Their arguments are those of `fill` in `numerics.cu`.
pub struct FillKernels {
    pub(super) program: Program,
    /// The entry that fills elements one by one.
    pub(super) by_element: String,
    /// The entry that fills whole rows, for distributions where an element depends on its row.
    pub(super) by_row: String,
}

/// A compiled kernel. It can be opened any number of times.
#[derive(Clone, Debug)]
pub struct Program {
    /// The executable (CPU) or the cubin (GPU).
    pub image: PathBuf,
    /// Keeps the image in the cache for as long as this value lives.
    pub lease: CacheLease,
    pub build: Build,
    /// The seed of the thread schedule (race build only).
    pub schedule: u64,
    pub resources: Resources,
    /// Wall time of the compiler; about 0 if the result came from the cache.
    pub compile_seconds: f64,
    /// The compiler's warnings: untrusted text, capped.
    pub log: String,
    /// The functions of `TranslationUnit::entry_points`, in their order (CUDA; empty elsewhere).
    pub entries: Vec<CompiledEntry>,
    /// What the compiler's preprocessor compiled of the source (CUDA; empty elsewhere). Boxed, because it is mostly unused.
    pub trace: Box<SourceTrace>,
    /// Features of the compiled code by name, such as `vector_load_bytes` and `mma` (CUDA; empty elsewhere).
    pub features: IndexMap<String, f64>,
}

/// A `__global__` function of a compiled kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompiledEntry {
    /// The mangled name.
    pub name: String,
    /// Its parameters, in their order; empty for kforge's own device code.
    pub parameters: Vec<CompiledParameter>,
    /// Whether it waits for the launch before it.
    pub waits: bool,
    /// Whether it can ask the cache to keep lines longer than others.
    pub keeps_lines: bool,
}

/// A parameter of a compiled kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompiledParameter {
    pub kind: ParameterKind,
    /// How many bytes the driver reads at the address of the argument.
    pub bytes: u32,
}

/// How a parameter of a compiled kernel represents a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ParameterKind {
    Float32,
    Float64,
    /// An integer, a pointer or a structure.
    #[default]
    Other,
}
