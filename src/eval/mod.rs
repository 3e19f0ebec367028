//! The judge: compiles a kernel, checks it against the oracle, and times it against the baseline (DESIGN section 9).
//!
//! Written once, over the `device` traits. Never decides which kernels to keep, never writes a file, and never turns a
//! candidate's fault into an error: that is a [`Verdict`](crate::verdict::Verdict).
//!
//! `judge` runs the stages (`stages`): `context` compiles, `check` checks, `screen` and `inspection` look for faults that a fast
//! run hides, and `measure` times. `cases`, `hidden`, `shapes` and `inspected_cases` choose the cases. `case_kernel` and `kernel_set` bind
//! kernels to buffers, `oracle_pool` keeps oracles open for `open_oracle`; `unwritten` looks for poison in outputs. `stage_times` adds up where the time goes. `admission` tests a task with `corruption` on `admission_cases`, and its
//! cases with `mutants`; `probe`, `example` and `compiled` serve `kforge` commands that need a part of the
//! judge.

mod admission;
mod admission_cases;
mod admission_coverage;
mod admission_result;
mod case;
mod case_kernel;
mod cases;
mod check;
mod compiled;
mod compiled_kernel;
mod context;
mod corruption;
mod example;
mod features;
mod finding;
mod floor;
mod hidden;
mod inspected_cases;
mod inspection;
mod judge;
mod kernel_set;
mod measure;
mod mutants;
mod open_oracle;
mod oracle_pool;
mod probe;
mod run_spacing;
mod sampling;
mod screen;
mod shapes;
mod stage_times;
mod stages;
mod task_terms;
mod timing_lock;
mod timing_session;
mod unwritten;

pub(crate) use admission::{AdmissionProgress, AdmissionRequest, admit};
pub(crate) use admission_result::Admission;
pub(crate) use compiled::compile_only;
pub use context::JudgeOptions;
pub use example::{ExampleRequest, OracleExample, oracle_example};
pub(crate) use hidden::Coverage;
pub use judge::Judge;
pub use probe::{ProbeCases, ProbeRequest, ProbedLaunch, probe};
pub(crate) use screen::CpuScreen;
pub(crate) use timing_lock::{TimingLock, TimingLockGuard};
