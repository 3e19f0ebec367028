//! The processor as a screen: a kernel for a GPU runs on the CPU first, at tiny shapes and in all builds, before it costs time there.
//!
//! What the CPU cannot run, cannot compile or does not finish says nothing of the kernel: it passes.

use std::time::Instant;

use super::{Compilation, Finding, Judge, Options, check, sanitize, shapes};
use crate::device::Device;
use crate::kernel::{Kernel, Machine};
use crate::task::{Profile, Task, WorkloadChoice};
use crate::verdict::{Status, Verdict};

/// The most bytes of a shape that is tried, unless there is none so small.
const TINY_BYTES: u64 = 2 << 20;
/// How many hidden shapes are drawn, and how many of them are tried at most.
const DRAWN: u32 = 6;
const TRIED: usize = 3;
/// The deadline of one launch, seconds.
const LAUNCH_SECONDS: f64 = 2.0;

/// A judge of tiny shapes on the CPU.
pub(crate) struct Screen<'a> {
    judge: Judge<'a>,
}

impl<'a> Screen<'a> {
    /// `machine`: the GPU's, so that a header says there what it will say on the GPU.
    pub(crate) fn new(
        host: &'a dyn Device,
        task: &'a Task,
        options: Options,
        machine: Machine,
    ) -> anyhow::Result<Self> {
        let options = Options {
            profile: Profile {
                workloads: WorkloadChoice::Named(Vec::new()),
                hidden_shapes: DRAWN,
                rounds: 1,
                ..options.profile
            },
            launch_seconds: LAUNCH_SECONDS.min(options.launch_seconds.max(1.0)),
            ..options
        };
        Ok(Self {
            judge: Judge::unchecked(host, task, options, machine)?,
        })
    }

    /// What the CPU finds, if it finds anything.
    pub(super) fn look(
        &mut self,
        kernel: &Kernel,
        seed: u64,
        verdict: &mut Verdict,
    ) -> anyhow::Result<Option<Finding>> {
        let begun = Instant::now();
        let found = self.findings(kernel, seed, verdict)?;
        verdict.seconds.screen = begun.elapsed().as_secs_f64();
        let (word, finding) = match found {
            Looked::Unsupported => ("unsupported", None),
            Looked::Nothing => ("passed", None),
            Looked::Finding(finding) => ("found", Some(finding)),
        };
        verdict.screen = Some(word.to_owned());
        Ok(finding.map(|mut finding| {
            let refusal = &mut finding.refusal;
            refusal.reason = format!("on the CPU, before it ran on the GPU: {}", refusal.reason);
            finding
        }))
    }

    fn findings(
        &mut self,
        kernel: &Kernel,
        seed: u64,
        verdict: &mut Verdict,
    ) -> anyhow::Result<Looked> {
        let judge = &mut self.judge;
        let profile = &judge.options.profile;
        let Ok(mut cases) = shapes::cases(judge.task, profile, kernel, &judge.machine, seed) else {
            return Ok(Looked::Unsupported);
        };
        cases.retain(|case| case.hidden);
        cases.sort_by_key(|case| judge.bytes_of(kernel, case));
        let tiny = cases.partition_point(|case| judge.bytes_of(kernel, case) <= TINY_BYTES);
        cases.truncate(tiny.clamp(1, TRIED));
        if cases.is_empty() {
            return Ok(Looked::Unsupported);
        }
        judge.prepare_references(&cases)?;
        let compilation: Compilation = match judge.compile(kernel.clone(), &cases)? {
            Ok(compilation) => compilation,
            Err(_) => return Ok(Looked::Unsupported),
        };
        for (index, case) in cases.iter().enumerate() {
            let _sharing = judge.quiet.share()?;
            let seed = shapes::seed_of(seed, "screen", index);
            if let Err(finding) = check::check(judge, &compilation, case, &[seed])? {
                return Ok(Looked::of(finding));
            }
        }
        let inspection = sanitize::inspect(judge, kernel, &cases, (seed, true), verdict)?;
        if let Some(memory) = inspection.memory {
            memory.write_to(verdict);
        }
        Ok(inspection.finding.map_or(Looked::Nothing, Looked::of))
    }
}

enum Looked {
    Nothing,
    Unsupported,
    Finding(Finding),
}

impl Looked {
    /// What the CPU refuses or is too slow for, a GPU may well run.
    fn of(finding: Finding) -> Self {
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
