//! Launches a kernel once per case, for a tool such as `ncu` that watches this process.
//!
//! The kernel is bound, filled and launched as in a judgement, but nothing is compared or timed. Interprets no output of a tool:
//! `worker::profiling` does.

use anyhow::bail;
use serde::{Deserialize, Serialize};

use super::case::Case;
use super::case_kernel::CaseKernel;
use super::cases::{CaseRequest, select_cases};
use super::compiled_kernel::CompiledKernel;
use super::context::{JudgeContext, JudgeOptions};
use super::finding::{Finding, JudgeResult};
use super::hidden::Coverage;
use super::inspected_cases;
use crate::base::random;
use crate::device::{Device, LaunchOutcome, Poison, Purpose};
use crate::kernel::{DeviceLimits, Kernel};
use crate::task::{Profile, Task};
use crate::verdict::Status;

/// Hidden shapes that are drawn if the profile has fewer.
const MIN_HIDDEN_SHAPES: u32 = 3;
/// Maximum number of cases under a sanitizer, which is slow.
const MAX_PROBED_CASES: usize = 4;

/// The cases to launch on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeCases {
    /// Workloads, by id.
    Workloads(Vec<String>),
    /// The smallest hidden shapes, drawn from a seed: see `inspected_cases::smallest_cases`.
    Smallest { seed: u64 },
}

/// What to launch.
#[derive(Clone, Copy, Debug)]
pub struct ProbeRequest<'r> {
    /// Text of the kernel file.
    pub source: &'r str,
    pub cases: &'r ProbeCases,
    /// Whether outputs and scratch are poisoned first. A tool that looks for reads of uninitialized memory needs them unwritten.
    pub poison_outputs: bool,
}

/// One launch that was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbedLaunch {
    /// Id of the case.
    pub case: String,
    /// The launched kernels, in order, as the header names them.
    pub kernels: Vec<String>,
    /// Why the launch failed, if it did. It is the last launch then.
    pub fault: Option<(Status, String)>,
}

/// Runs the kernel's plan once on each case, until a launch fails.
///
/// # Errors
/// If the machinery fails, or if the kernel, which was judged before, does not compile.
pub fn probe(
    device: &dyn Device,
    task: &Task,
    options: JudgeOptions,
    limits: DeviceLimits,
    request: ProbeRequest<'_>,
) -> anyhow::Result<Vec<ProbedLaunch>> {
    let hidden_shapes = match request.cases {
        ProbeCases::Workloads(_) => options.profile.hidden_shapes,
        ProbeCases::Smallest { .. } => options.profile.hidden_shapes.max(MIN_HIDDEN_SHAPES),
    };
    let options = JudgeOptions {
        profile: Profile {
            hidden_shapes,
            ..options.profile
        },
        ..options
    };
    let context = JudgeContext::open(device, task, options, limits)?;
    let kernel = match Kernel::parse(request.source, &task.definition) {
        Ok(kernel) => kernel,
        Err(error) => bail!("header, {error}"),
    };
    let cases = probe_cases(&context, &kernel, request.cases)?;
    let compiled = match context.compile(kernel, &cases) {
        Ok(compiled) => compiled,
        Err(error) => bail!("{}", error.into_finding()?.reason),
    };
    let mut launches = Vec::new();
    for case in &cases {
        let mut kernels = Vec::new();
        let poison = request.poison_outputs;
        let fault = match launch_case(&context, &compiled, case, poison, &mut kernels) {
            Ok(()) => None,
            Err(error) => {
                let Finding { status, reason, .. } = error.into_finding()?;
                Some((status, reason))
            }
        };
        let has_failed = fault.is_some();
        launches.push(ProbedLaunch {
            case: case.id.clone(),
            kernels,
            fault,
        });
        if has_failed {
            break;
        }
    }
    Ok(launches)
}

fn probe_cases(
    context: &JudgeContext<'_>,
    kernel: &Kernel,
    cases: &ProbeCases,
) -> anyhow::Result<Vec<Case>> {
    let cases: Vec<Case> = match cases {
        ProbeCases::Workloads(ids) => {
            let workloads = context.task.workloads.iter();
            let named = workloads.filter(|workload| ids.contains(&workload.id));
            named.map(Case::of_workload).collect()
        }
        ProbeCases::Smallest { seed } => {
            let selected = select_cases(&CaseRequest {
                task: context.task,
                profile: &context.options.profile,
                kernel,
                limits: &context.limits,
                effort: context.effort(Coverage::Part),
                seed: *seed,
            });
            let mut cases = match selected {
                Ok(cases) => cases,
                Err(error) => bail!("{error}"),
            };
            // A task without hidden shapes is probed on its workloads.
            if cases.iter().any(|case| case.is_drawn) {
                cases.retain(|case| case.is_drawn);
            }
            let smallest = inspected_cases::smallest_cases(context, kernel, &cases).into_iter();
            smallest.take(MAX_PROBED_CASES).cloned().collect()
        }
    };
    if cases.is_empty() {
        bail!("the task has no such case");
    }
    Ok(cases)
}

/// Runs the plan once. Sets `kernels` to the names of the launched kernels.
fn launch_case(
    context: &JudgeContext<'_>,
    compiled: &CompiledKernel,
    case: &Case,
    poison_outputs: bool,
    kernels: &mut Vec<String>,
) -> JudgeResult<()> {
    let mut bound = CaseKernel::open_candidate(context, compiled, case, Purpose::Probe)?;
    let values = context.values(&compiled.kernel, case)?;
    let unit = compiled
        .kernel
        .translation_unit(context.task, &values, false);
    let launches = bound.plan.launches.iter();
    kernels.extend(launches.map(|launch| {
        let entry = unit.entry_points.get(launch.entry_point);
        entry.map_or_else(String::new, |entry| entry.expression.clone())
    }));
    let seed = random::fresh_seed();
    if poison_outputs {
        bound.reset_buffers(seed, Poison::Nan)?;
    } else {
        bound.fill_inputs(seed)?;
    }
    match bound.launch(context.deadline())? {
        LaunchOutcome::Finished { .. } => Ok(()),
        LaunchOutcome::Fault(refusal) => Err(refusal.into()),
    }
}
