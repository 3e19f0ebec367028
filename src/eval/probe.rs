//! One launch of a kernel for a tool that watches: bound, filled and launched like a candidate, and nothing compared or timed.
//!
//! Runs in a process that was started under the tool. What the tool sees is read elsewhere.

use anyhow::bail;
use serde::{Deserialize, Serialize};

use super::case_kernel::CaseKernel;
use super::cases::{self, Case};
use super::{CompiledKernel, Finding, Judge, JudgeOptions, inspection};
use crate::device::{Device, LaunchOutcome, Poison, Purpose};
use crate::kernel::{DeviceLimits, Kernel};
use crate::task::{Profile, Task};
use crate::verdict::Status;

/// Hidden shapes are drawn so many times where a profile has none.
const MIN_HIDDEN_SHAPES: u32 = 3;
/// A sanitizer looks at no more shapes than this: it takes its time for each.
const MAX_CASES: usize = 4;

/// What to launch on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeCases {
    /// Workloads of the profile, by name.
    Workloads(Vec<String>),
    /// The smallest hidden shapes, drawn from a seed: each variant once, the smallest shape of all, and the largest still small.
    Smallest { seed: u64 },
}

/// One launch that was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbedLaunch {
    pub case: String,
    /// What the unit launched, in order, as the header names it.
    pub kernels: Vec<String>,
    /// How it failed, where it did; no further launch was made then.
    pub fault: Option<(Status, String)>,
}

/// Launches the unit once on each case. `outputs`: whether what the kernel has yet to write is poisoned rather than left alone;
/// a tool that looks for reads of nothing must find nothing there.
///
/// # Errors
/// Where the machinery fails, or the kernel does not compile: it did before.
pub fn probe(
    device: &dyn Device,
    task: &Task,
    options: JudgeOptions,
    machine: DeviceLimits,
    (source, on, outputs): (&str, &ProbeCases, bool),
) -> anyhow::Result<Vec<ProbedLaunch>> {
    let hidden = options.profile.hidden_shapes.max(MIN_HIDDEN_SHAPES);
    let profile = match on {
        ProbeCases::Workloads(_) => options.profile,
        ProbeCases::Smallest { .. } => Profile {
            hidden_shapes: hidden,
            ..options.profile
        },
    };
    let options = JudgeOptions { profile, ..options };
    let judge = Judge::without_baseline_check(device, task, options, machine)?;
    let kernel = match Kernel::parse(source, &task.definition) {
        Ok(kernel) => kernel,
        Err(error) => bail!("header, {error}"),
    };
    let cases = probe_cases(&judge, &kernel, on)?;
    let compilation = match judge.compile(kernel, &cases)? {
        Ok(compilation) => compilation,
        Err(finding) => bail!("{}", finding.refusal.reason),
    };
    let mut launches = Vec::new();
    for case in &cases {
        let launch = launch_case(&judge, &compilation, case, outputs)?;
        let failed = launch.fault.is_some();
        launches.push(launch);
        if failed {
            break;
        }
    }
    Ok(launches)
}

fn probe_cases(judge: &Judge<'_>, kernel: &Kernel, on: &ProbeCases) -> anyhow::Result<Vec<Case>> {
    let profile = &judge.options.profile;
    let cases: Vec<Case> = match on {
        ProbeCases::Workloads(names) => {
            let workloads = judge.task.workloads.iter();
            let named = workloads.filter(|workload| names.contains(&workload.id));
            named.map(Case::of_workload).collect()
        }
        ProbeCases::Smallest { seed } => {
            let cases = cases::select_cases(judge.task, profile, kernel, &judge.limits, *seed);
            let mut cases = match cases {
                Ok(cases) => cases,
                Err(error) => bail!("{error}"),
            };
            // Where a task has no hidden shapes, its own are all there is.
            if cases.iter().any(|case| case.hidden) {
                cases.retain(|case| case.hidden);
            }
            let smallest = inspection::smallest_cases(judge, kernel, &cases).into_iter();
            smallest.take(MAX_CASES).cloned().collect()
        }
    };
    match cases.is_empty() {
        true => bail!("the task has no such shape"),
        false => Ok(cases),
    }
}

fn launch_case(
    judge: &Judge<'_>,
    compilation: &CompiledKernel,
    case: &Case,
    outputs: bool,
) -> anyhow::Result<ProbedLaunch> {
    let of = |kernels, fault: Option<Finding>| ProbedLaunch {
        case: case.id.clone(),
        kernels,
        fault: fault.map(|finding| (finding.refusal.status, finding.refusal.reason)),
    };
    let mut bound = match CaseKernel::open_candidate(judge, compilation, case, Purpose::Probe)? {
        Ok(bound) => bound,
        Err(finding) => return Ok(of(Vec::new(), Some(finding))),
    };
    let variant = compilation.kernel.variant_for(&case.binding, &judge.limits);
    let values = compilation
        .kernel
        .tunable_values(variant.unwrap_or_default());
    let entries = compilation
        .kernel
        .translation_unit(judge.task, &values, false)
        .entry_points;
    let names = bound.plan.launches.iter().map(|launch| {
        let entry = entries.get(launch.entry_point);
        entry.map_or_else(String::new, |entry| entry.expression.clone())
    });
    let names = names.collect();
    let seed = crate::base::random::fresh_seed();
    match outputs {
        true => bound.reset_buffers(seed, Poison::Nan)?,
        false => bound.fill_inputs(seed)?,
    }
    Ok(match bound.launch(judge.deadline())? {
        LaunchOutcome::Finished { .. } => of(names, None),
        LaunchOutcome::Fault(refusal) => of(
            names,
            Some(Finding {
                refusal,
                case: None,
            }),
        ),
    })
}
