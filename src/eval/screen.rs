//! The processor as a screen: a kernel for a GPU runs on the CPU first, at tiny shapes and in all builds, before it costs time there.
//!
//! What the CPU cannot run, cannot compile or does not finish says nothing of the kernel: it passes.

use std::time::Instant;

use super::{CompiledKernel, Finding, Judge, JudgeOptions, cases, check, inspection};
use crate::device::Device;
use crate::kernel::{DeviceLimits, Kernel};
use crate::task::{Profile, Task, WorkloadChoice};
use crate::verdict::{Status, Verdict};

/// The most bytes of a shape that is tried, unless there is none so small.
const TINY_BYTES: u64 = 2 << 20;
/// How many hidden shapes are drawn, and how many of them are tried at most.
const HIDDEN_SHAPES: u32 = 6;
const MAX_CASES: usize = 3;
/// The deadline of one launch, seconds.
const LAUNCH_SECONDS: f64 = 2.0;

/// A judge of tiny shapes on the CPU.
pub(crate) struct CpuScreen<'a> {
    judge: Judge<'a>,
}

impl<'a> CpuScreen<'a> {
    /// `machine`: the GPU's, so that a header says there what it will say on the GPU.
    pub(crate) fn new(
        host: &'a dyn Device,
        task: &'a Task,
        options: JudgeOptions,
        machine: DeviceLimits,
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
            judge: Judge::without_baseline_check(host, task, options, machine)?,
        })
    }

    /// What the CPU finds, if it finds anything.
    pub(super) fn run(
        &mut self,
        kernel: &Kernel,
        seed: u64,
        verdict: &mut Verdict,
    ) -> anyhow::Result<Option<Finding>> {
        let begun = Instant::now();
        let found = self.find(kernel, seed, verdict)?;
        verdict.seconds.screen = begun.elapsed().as_secs_f64();
        let (word, finding) = match found {
            ScreenOutcome::Unsupported => ("unsupported", None),
            ScreenOutcome::Passed => ("passed", None),
            ScreenOutcome::Finding(finding) => ("found", Some(finding)),
        };
        verdict.screen = Some(word.to_owned());
        Ok(finding.map(|mut finding| {
            let refusal = &mut finding.refusal;
            refusal.reason = format!("on the CPU, before it ran on the GPU: {}", refusal.reason);
            finding
        }))
    }

    fn find(
        &mut self,
        kernel: &Kernel,
        seed: u64,
        verdict: &mut Verdict,
    ) -> anyhow::Result<ScreenOutcome> {
        let judge = &mut self.judge;
        let profile = &judge.options.profile;
        let Ok(mut cases) = cases::select_cases(judge.task, profile, kernel, &judge.limits, seed)
        else {
            return Ok(ScreenOutcome::Unsupported);
        };
        cases.retain(|case| case.hidden);
        cases.sort_by_key(|case| judge.memory_bytes(kernel, case));
        let tiny = cases.partition_point(|case| judge.memory_bytes(kernel, case) <= TINY_BYTES);
        cases.truncate(tiny.clamp(1, MAX_CASES));
        if cases.is_empty() {
            return Ok(ScreenOutcome::Unsupported);
        }
        judge.prepare_references(&cases)?;
        let compilation: CompiledKernel = match judge.compile(kernel.clone(), &cases)? {
            Ok(compilation) => compilation,
            Err(_) => return Ok(ScreenOutcome::Unsupported),
        };
        for (index, case) in cases.iter().enumerate() {
            let _sharing = judge.timing_lock.shared()?;
            let seed = cases::derive_seed(seed, "screen", index);
            if let Err(finding) = check::check_case(judge, &compilation, case, &[seed])? {
                return Ok(ScreenOutcome::from_finding(finding));
            }
        }
        let inspection = inspection::inspect(judge, kernel, &cases, (seed, true), verdict)?;
        if let Some(memory) = inspection.memory_use {
            memory.write_to(verdict);
        }
        Ok(inspection
            .finding
            .map_or(ScreenOutcome::Passed, ScreenOutcome::from_finding))
    }
}

enum ScreenOutcome {
    Passed,
    Unsupported,
    Finding(Finding),
}

impl ScreenOutcome {
    /// What the CPU refuses or is too slow for, a GPU may well run.
    fn from_finding(finding: Finding) -> Self {
        match finding.refusal.status {
            Status::Unsupported
            | Status::CompileError
            | Status::CompileTimeout
            | Status::LaunchError
            | Status::LimitExceeded
            | Status::TimedOut
            | Status::HarnessError => Self::Unsupported,
            _ => Self::Finding(finding),
        }
    }
}
