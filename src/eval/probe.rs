//! One launch of a kernel for a tool that watches: bound, filled and launched like a candidate, and nothing compared or timed.
//!
//! Runs in a process that was started under the tool. What the tool sees is read elsewhere.

use anyhow::bail;
use serde::{Deserialize, Serialize};

use super::bound::Bound;
use super::shapes::{self, Case};
use super::{Compilation, Finding, Judge, Options, sanitize};
use crate::device::{Device, Launched, Poison, Purpose};
use crate::kernel::{Kernel, Machine};
use crate::task::{Profile, Task};
use crate::verdict::Status;

/// Hidden shapes are drawn so many times where a profile has none.
const DRAWN: u32 = 3;
/// A sanitizer looks at no more shapes than this: it takes its time for each.
const MOST_SMALLEST: usize = 4;

/// What to launch on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum On {
    /// Workloads of the profile, by name.
    Workloads(Vec<String>),
    /// The smallest hidden shapes, drawn from a seed: each variant once, the smallest shape of all, and the largest still small.
    Smallest { seed: u64 },
}

/// One launch that was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Launch {
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
    options: Options,
    machine: Machine,
    (source, on, outputs): (&str, &On, bool),
) -> anyhow::Result<Vec<Launch>> {
    let hidden = options.profile.hidden_shapes.max(DRAWN);
    let profile = match on {
        On::Workloads(_) => options.profile,
        On::Smallest { .. } => Profile {
            hidden_shapes: hidden,
            ..options.profile
        },
    };
    let options = Options { profile, ..options };
    let judge = Judge::unchecked(device, task, options, machine)?;
    let kernel = match Kernel::parse(source, &task.definition) {
        Ok(kernel) => kernel,
        Err(error) => bail!("header, {error}"),
    };
    let cases = cases(&judge, &kernel, on)?;
    let compilation = match judge.compile(kernel, &cases)? {
        Ok(compilation) => compilation,
        Err(finding) => bail!("{}", finding.refusal.reason),
    };
    let mut launches = Vec::new();
    for case in &cases {
        let launch = once(&judge, &compilation, case, outputs)?;
        let failed = launch.fault.is_some();
        launches.push(launch);
        if failed {
            break;
        }
    }
    Ok(launches)
}

fn cases(judge: &Judge<'_>, kernel: &Kernel, on: &On) -> anyhow::Result<Vec<Case>> {
    let profile = &judge.options.profile;
    let cases: Vec<Case> = match on {
        On::Workloads(names) => {
            let workloads = judge.task.workloads.iter();
            let named = workloads.filter(|workload| names.contains(&workload.id));
            named.map(Case::visible).collect()
        }
        On::Smallest { seed } => {
            let cases = shapes::cases(judge.task, profile, kernel, &judge.machine, *seed);
            let mut cases = match cases {
                Ok(cases) => cases,
                Err(error) => bail!("{error}"),
            };
            // Where a task has no hidden shapes, its own are all there is.
            if cases.iter().any(|case| case.hidden) {
                cases.retain(|case| case.hidden);
            }
            let smallest = sanitize::smallest(judge, kernel, &cases).into_iter();
            smallest.take(MOST_SMALLEST).cloned().collect()
        }
    };
    match cases.is_empty() {
        true => bail!("the task has no such shape"),
        false => Ok(cases),
    }
}

fn once(
    judge: &Judge<'_>,
    compilation: &Compilation,
    case: &Case,
    outputs: bool,
) -> anyhow::Result<Launch> {
    let of = |kernels, fault: Option<Finding>| Launch {
        case: case.id.clone(),
        kernels,
        fault: fault.map(|finding| (finding.refusal.status, finding.refusal.reason)),
    };
    let mut bound = match Bound::open_candidate(judge, compilation, case, Purpose::Probe)? {
        Ok(bound) => bound,
        Err(finding) => return Ok(of(Vec::new(), Some(finding))),
    };
    let variant = compilation.kernel.variant(&case.binding, &judge.machine);
    let values = compilation.kernel.values(variant.unwrap_or_default());
    let entries = compilation.kernel.unit(judge.task, &values, false).entries;
    let names = bound.plan.launches.iter().map(|launch| {
        let entry = entries.get(launch.entry);
        entry.map_or_else(String::new, |entry| entry.expression.clone())
    });
    let names = names.collect();
    let seed = crate::base::random::fresh_seed();
    match outputs {
        true => bound.renew(seed, Poison::NotANumber)?,
        false => bound.renew_inputs(seed)?,
    }
    Ok(match bound.launch(judge.deadline())? {
        Launched::Finished { .. } => of(names, None),
        Launched::Fault(refusal) => of(
            names,
            Some(Finding {
                refusal,
                case: None,
            }),
        ),
    })
}
