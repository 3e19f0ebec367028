//! The judge: compiles a kernel, checks it against the oracle, and times it against the baseline (`docs/trust.md`).
//!
//! Written once, over the `device` traits. Never decides which kernels to keep, never writes a file, and never turns a
//! candidate's fault into an error: that is a [`Verdict`](crate::verdict::Verdict).
//!
//! `judge` compiles with `context`, and `stages` runs the other stages: `check` and `case_checks` check, `screen` and `inspection` look
//! for faults that a fast run hides, `measure` and `timed_cases` time, `anchor` relates times to the baseline's if another kernel takes its
//! place, `baselines` times a kernel against baselines in Python, `sample_plan` and `known_opponents` decide how many runs a sample has, and `racing` dismisses what cannot reach its incumbents. `cases`,
//! `hidden`, `shapes`, `late_cases` and `inspected_cases` choose the cases. `case_kernel` and `kernel_set` bind kernels to buffers, `open_oracle` and
//! `oracle_pool` keep oracles open; `unwritten` looks for poison in outputs. `code_identity` says which kernels compile to the same code. `stage_times` adds
//! up where the time goes. `admission` tests a task with `corruption` on `admission_cases`, and its
//! cases with `mutants`. `space_judge` measures the points of a recorded space, which `point` describes. `probe`, `example` and `compiled` serve `kforge` commands that need a part of the
//! judge.

mod admission;
mod admission_cases;
mod admission_coverage;
mod admission_result;
mod anchor;
mod baselines;
mod case;
mod case_checks;
mod case_kernel;
mod cases;
mod check;
mod checked_kernels;
mod code_identity;
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
mod judged_kernel;
mod kernel_set;
mod known_opponents;
mod late_cases;
mod measure;
mod mutants;
mod open_oracle;
mod opening;
mod oracle_pool;
mod point;
mod probe;
mod racing;
mod request;
mod run_spacing;
mod sample_plan;
mod sampling;
mod screen;
mod shapes;
#[cfg(test)]
mod simulated_machine;
mod space_judge;
mod stage_times;
mod stages;
mod stored_values;
mod task_terms;
mod timed_cases;
mod timed_outputs;
mod timing_lock;
mod timing_session;
mod unwritten;

pub(crate) use admission::{AdmissionProgress, AdmissionRequest, admit};
pub(crate) use admission_result::Admission;
pub(crate) use baselines::{BaselineFault, BaselineOpponent, BaselineRequest, BaselineResult};
pub(crate) use compiled::compile_only;
pub use context::JudgeOptions;
pub use example::{ExampleRequest, OracleExample, oracle_example};
pub(crate) use hidden::Coverage;
pub use judge::Judge;
pub(crate) use known_opponents::OpponentTimes;
pub(crate) use point::{
    Invalidity, POINT_CHECKS, PointFault, PointRequest, PointResult, PointSeconds, SpaceFacts,
    SpaceSettings, SpaceWorkloads, check_header,
};
pub use probe::{ProbeCases, ProbeRequest, ProbedLaunch, probe};
pub use request::DuelPurpose;
pub(crate) use request::{JudgeRequest, Judgement};
pub(crate) use screen::CpuScreen;
pub(crate) use space_judge::SpaceJudge;
pub(crate) use timing_lock::{TimingLock, TimingLockGuard};
