//! Devices: compile a kernel, bind it to memory, launch it, time it.
//!
//! This module holds the interface that all devices implement (`cpu`, `cuda`) and what they share: the cache of compiled
//! kernels, the numerics, the sandbox, the lock files and the watchdog for child processes.
//! It never decides what is correct or fast. The oracle, the tolerances and the statistics belong to `eval`.

mod aligned;
mod argument_checks;
mod bound_kernel;
mod cache;
mod code_hash;
mod compiler_log;
pub mod cpu;
pub mod cuda;
mod facts;
mod interface;
mod launches;
mod lock;
mod macro_collisions;
mod memory;
pub mod numerics;
mod program;
mod python;
mod refusal;
mod sandbox;
mod source_rewrite;
mod source_trace;
mod standard_headers;
mod thread_locals;
mod watchdog;

pub use bound_kernel::{
    AbsentRead, AccessSite, BoundKernel, BufferAccess, BufferChecks, ErasedMemory,
    ExchangedBuffers, KernelEvidence, LaunchOutcome, Launching, PersistentState, TimedLaunching,
    Transfer, TransferDirection,
};
pub use code_hash::code_hash;
pub(crate) use facts::DeviceFacts;
pub use interface::{
    Cache, Compile, CompulsoryWork, Device, Edge, Floor, Opened, Purpose, TimingProperties, Upload,
};
pub use lock::LockFile;
pub(crate) use lock::lock_scope;
pub use memory::{
    BufferContent, DeviceValues, ExpectedOutput, ExpectedValues, Mismatch, OutputComparison,
    Poison, PoisonCount,
};
pub use program::{
    Build, Compiled, CompiledEntry, CompiledParameter, FillKernels, ParameterKind, Program,
};
pub use python::PythonOracle;
pub(crate) use python::{PythonBaselines, UnavailableBaseline, find_python, has_pytorch};
pub use refusal::Refusal;
pub use source_trace::{SourceTrace, TraceDifference};
