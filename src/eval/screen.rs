//! The CPU screen: a kernel for a GPU first runs on the CPU, at tiny shapes and in all builds, before it takes time on the GPU.
//!
//! Times nothing. The CPU compiles the program that the GPU's compiler compiles: code for the CPU only is left out, and a source whose
//! conditions have other results here is refused. A kernel that the CPU cannot run, cannot compile or does not finish passes: that
//! says nothing about the kernel.

use super::case::{Case, derive_seed};
use super::cases::{CaseRequest, select_cases};
use super::check::check_case;
use super::compiled_kernel::{CompiledKernel, values_key};
use super::context::{JudgeContext, JudgeOptions};
use super::finding::{Finding, JudgeError, JudgeResult};
use super::hidden::Coverage;
use super::inspection::{self, InspectionInput};
use super::judged_kernel::JudgedKernel;
use super::stage_times::StageTimes;
use super::stages::explain;
use crate::device::TraceDifference;
use crate::device::cpu::CpuDevice;
use crate::kernel::{DeviceLimits, Kernel};
use crate::task::{Profile, Task, WorkloadChoice};
use crate::verdict::{Evidence, Status, Verdict};

/// Maximum size of the buffers of a case, in bytes. If all cases are larger, the smallest one is tried.
const TINY_BYTES: u64 = 2 << 20;
/// Number of random hidden shapes to draw. The smallest cases are tried.
const HIDDEN_SHAPES: u32 = 6;
/// Maximum number of cases to try.
const MAX_SCREENED_CASES: usize = 3;
/// Maximum deadline of one launch, in seconds.
const LAUNCH_SECONDS: f64 = 2.0;

/// Checks kernels on the CPU at tiny shapes.
pub(crate) struct CpuScreen<'a> {
    context: JudgeContext<'a>,
    host: &'a CpuDevice,
}

/// The result of the screen.
enum ScreenOutcome {
    Passed,
    /// The CPU cannot run the kernel, so the result says nothing about it.
    Unsupported,
    Found(Finding),
}

impl<'a> CpuScreen<'a> {
    /// `host`: from `CpuDevice::for_screen`. `limits`: the GPU's, so that a header is evaluated as on the GPU.
    pub(crate) fn new(
        host: &'a CpuDevice,
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
            host,
        })
    }

    /// Records its time with the judgement that it is a part of.
    pub(super) fn set_times(&mut self, times: StageTimes) {
        self.context.set_times(times);
    }

    /// Runs a kernel on the CPU. Writes the result of the screen into the verdict. `compiled`: for the GPU.
    pub(super) fn run(
        &mut self,
        compiled: &CompiledKernel,
        seed: u64,
        verdict: &mut Verdict,
    ) -> JudgeResult<()> {
        if let Some(difference) = self.find_difference(compiled)? {
            let finding = difference_finding(&difference);
            verdict.screen = Some(format!("differs: {}", finding.reason));
            return Err(finding.into());
        }
        let outcome = match self.check(&compiled.kernel, seed, verdict) {
            Ok(outcome) => outcome,
            Err(error) => ScreenOutcome::from_finding(error.into_finding()?),
        };
        let (word, result) = match outcome {
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

    /// The first difference between what the GPU's compiler and the CPU's compile, for every program of the kernel.
    fn find_difference(&self, compiled: &CompiledKernel) -> JudgeResult<Option<TraceDifference>> {
        let kernel = &compiled.kernel;
        let variants = (0..kernel.header.variants.len()).map(Some);
        let mut seen = Vec::new();
        for variant in std::iter::once(None).chain(variants) {
            let values = kernel.tunable_values(variant);
            let key = values_key(&values);
            let Some(program) = compiled.programs.get(&key).filter(|_| !seen.contains(&key)) else {
                continue;
            };
            seen.push(key);
            let unit = kernel.translation_unit(self.context.task, &values, false);
            let difference = self.host.trace_difference(&unit, &program.trace)?;
            if difference.is_some() {
                return Ok(difference);
            }
        }
        Ok(None)
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
        cases.truncate(tiny.max(1));
        // The smallest, and the largest of the tiny ones: some faults need a whole warp.
        if cases.len() > MAX_SCREENED_CASES {
            cases.drain(MAX_SCREENED_CASES - 1..cases.len() - 1);
        }
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
            if let Err(error) = check_case(context, &compiled, case, &[seed]) {
                let mut finding = error.into_finding()?;
                finding.case = Some(case.id.clone());
                let candidate = JudgedKernel {
                    compiled: &compiled,
                    cases: &cases,
                    seed,
                    is_inspected: true,
                };
                return Err(explain(context, &candidate, finding, verdict)?.into());
            }
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

/// The finding about a source that shows the screen another program than the GPU's compiler.
fn difference_finding(difference: &TraceDifference) -> Finding {
    let TraceDifference { line, name } = difference;
    let reason = match (line, name) {
        (Some(line), _) => format!(
            "line {line}: this condition has another result for the CPU's screen than for NVRTC: \
             remove it, or judge without `eval.screen`"
        ),
        (None, Some(name)) => format!(
            "`{name}` has another value for the CPU's screen than for NVRTC: remove it, or judge without `eval.screen`"
        ),
        (None, None) => "the CPU's screen cannot preprocess the source, and NVRTC can: judge without `eval.screen`".to_owned(),
    };
    let evidence = Evidence {
        line: *line,
        ..Evidence::default()
    };
    Finding::new(Status::Rejected, reason, evidence)
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
