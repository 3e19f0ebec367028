//! The CPU screen: a kernel for a GPU first runs on the CPU, at tiny shapes and in all builds, before it takes time on the GPU.
//!
//! Times nothing. A kernel that the CPU cannot run, cannot compile or does not finish passes: that says nothing about the kernel.
//! Neither does a fault in code that the source has only for a CPU.

use std::time::Instant;

use super::case::{Case, derive_seed};
use super::cases::{CaseRequest, select_cases};
use super::check::check_case;
use super::context::{JudgeContext, JudgeOptions};
use super::finding::{Finding, JudgeError, JudgeResult};
use super::hidden::Coverage;
use super::inspection::{self, InspectionInput};
use crate::device::Device;
use crate::device::cpu::has_cpu_code;
use crate::kernel::{DeviceLimits, Kernel};
use crate::task::{Profile, Task, WorkloadChoice};
use crate::verdict::{Status, Verdict};

/// Maximum size of the buffers of a case, in bytes. If all cases are larger, the smallest one is tried.
const TINY_BYTES: u64 = 2 << 20;
/// Number of random hidden shapes to draw. The smallest cases are tried.
const HIDDEN_SHAPES: u32 = 6;
/// Maximum number of cases to try.
const MAX_CASES: usize = 3;
/// Maximum deadline of one launch, in seconds.
const LAUNCH_SECONDS: f64 = 2.0;

/// Checks kernels on the CPU at tiny shapes.
pub(crate) struct CpuScreen<'a> {
    context: JudgeContext<'a>,
}

/// The result of the screen.
enum ScreenOutcome {
    Passed,
    /// The CPU cannot run the kernel, so the result says nothing about it.
    Unsupported,
    Found(Finding),
}

impl<'a> CpuScreen<'a> {
    /// `limits`: the GPU's, so that a header is evaluated as on the GPU.
    pub(crate) fn new(
        host: &'a dyn Device,
        task: &'a Task,
        options: JudgeOptions,
        limits: DeviceLimits,
    ) -> anyhow::Result<Self> {
        let options = JudgeOptions {
            profile: Profile {
                workloads: WorkloadChoice::Named(Vec::new()),
                hidden_shapes: HIDDEN_SHAPES,
                rounds: 1,
                ..options.profile
            },
            launch_seconds: LAUNCH_SECONDS.min(options.launch_seconds.max(1.0)),
            ..options
        };
        Ok(Self {
            context: JudgeContext::open(host, task, options, limits)?,
        })
    }

    /// Runs a kernel on the CPU. Writes the result of the screen into the verdict.
    pub(super) fn run(
        &mut self,
        kernel: &Kernel,
        seed: u64,
        verdict: &mut Verdict,
    ) -> JudgeResult<()> {
        let started = Instant::now();
        let outcome = match self.check(kernel, seed, verdict) {
            Ok(outcome) => outcome,
            Err(error) => ScreenOutcome::from_finding(error.into_finding()?),
        };
        verdict.seconds.screen = started.elapsed().as_secs_f64();
        let (word, result) = match outcome {
            ScreenOutcome::Found(_) if has_cpu_code(&kernel.text) => ("unsupported", Ok(())),
            ScreenOutcome::Unsupported => ("unsupported", Ok(())),
            ScreenOutcome::Passed => ("passed", Ok(())),
            ScreenOutcome::Found(mut finding) => {
                finding.reason =
                    format!("on the CPU, before it ran on the GPU: {}", finding.reason);
                ("found", Err(JudgeError::Finding(finding)))
            }
        };
        verdict.screen = Some(word.to_owned());
        result
    }

    fn check(
        &mut self,
        kernel: &Kernel,
        seed: u64,
        verdict: &mut Verdict,
    ) -> JudgeResult<ScreenOutcome> {
        let context = &mut self.context;
        let selected = select_cases(&CaseRequest {
            task: context.task,
            profile: &context.options.profile,
            kernel,
            limits: &context.limits,
            effort: context.effort(Coverage::Part),
            seed,
        });
        let Ok(mut cases) = selected else {
            return Ok(ScreenOutcome::Unsupported);
        };
        cases.retain(|case| case.hidden);
        // A kernel that cannot be bound to a case sorts last.
        let size = |case: &Case| {
            let bound = context.bind(kernel, case);
            bound.map_or(u64::MAX, |bound| bound.bytes())
        };
        cases.sort_by_key(size);
        let tiny = cases.partition_point(|case| size(case) <= TINY_BYTES);
        cases.truncate(tiny.clamp(1, MAX_CASES));
        if cases.is_empty() {
            return Ok(ScreenOutcome::Unsupported);
        }
        context.prepare_references(&cases)?;
        let compiled = match context.compile(kernel.clone(), &cases) {
            Ok(compiled) => compiled,
            Err(error) => {
                error.into_finding()?;
                return Ok(ScreenOutcome::Unsupported);
            }
        };
        for (index, case) in cases.iter().enumerate() {
            let _lock = context.timing_lock.shared()?;
            let seed = derive_seed(seed, "screen", index);
            check_case(context, &compiled, case, &[seed])?;
        }
        let input = InspectionInput {
            kernel,
            cases: &cases,
            seed,
            is_correct: true,
        };
        let inspection = inspection::inspect(context, input, verdict)?;
        if let Some(memory_use) = inspection.memory_use {
            memory_use.write_to(verdict);
        }
        match inspection.finding {
            Some(finding) => Err(finding.into()),
            None => Ok(ScreenOutcome::Passed),
        }
    }
}

impl ScreenOutcome {
    /// A GPU may be able to run what the CPU refuses or is too slow for.
    fn from_finding(finding: Finding) -> Self {
        match finding.status {
            Status::Unsupported
            | Status::CompileError
            | Status::CompileTimeout
            | Status::LaunchError
            | Status::LimitExceeded
            | Status::TimedOut
            | Status::HarnessError => Self::Unsupported,
            _ => Self::Found(finding),
        }
    }
}
