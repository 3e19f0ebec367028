//! Measures the yield of each transformation of `mutate` over the shipped tasks: how many children it makes, how many pass,
//! and how many are faster than their parent. A child counts as faster if the 95 % interval of a paired duel is above 1.
//!
//!     cargo bench --bench yields                          24 children of each starting kernel, all tasks
//!     cargo bench --bench yields -- CHILDREN [TASK]…      at most CHILDREN, only the named tasks

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::collections::{BTreeMap, HashSet};

use kforge::device::cpu::CpuDevice;
use kforge::device::{Cache, Device};
use kforge::eval::{Judge, JudgeOptions};
use kforge::event::{Brief, Operator};
use kforge::kernel::DeviceLimits;
use kforge::propose::{BriefOutcome, Candidate, Parent, propose};
use kforge::task::{Task, TaskFiles, embedded_names};

/// Children of each starting kernel, unless the command line says otherwise.
const DEFAULT_CHILDREN: u64 = 24;

/// What one transformation gained.
#[derive(Default)]
struct TransformationYield {
    children: usize,
    passed: usize,
    faster: usize,
    /// The largest speedup over a parent.
    best: f64,
    /// The task and the parent of `best`.
    best_parent: String,
}

type Yields = BTreeMap<String, TransformationYield>;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let children = arguments
        .iter()
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(DEFAULT_CHILDREN);
    let device = CpuDevice::new()?;
    let limits = DeviceLimits {
        sm_count: i64::from(device.identity().cores.unwrap_or(1)),
        max_shared_bytes: 232_448,
    };
    let is_named = |name: &&str| arguments.iter().any(|argument| argument == name);
    let names = embedded_names();
    let any_named = names.iter().any(&is_named);
    let mut yields = Yields::new();
    for name in names
        .into_iter()
        .filter(|name| !any_named || is_named(name))
    {
        let task = TaskFiles::find(name)?.load()?;
        let options = JudgeOptions {
            profile: task.settings.profiles["quick"].clone(),
            launch_seconds: 10.0,
            thorough: false,
            cache: Cache::Cold,
        };
        let mut judge = Judge::new(&device, &task, options, limits)?;
        for (file, source) in task.starting_kernels() {
            let parent = format!("{name}/{file}");
            let mut seen = HashSet::new();
            for attempt in 0..children {
                let Some(child) = single_change(&task, source, attempt) else {
                    break;
                };
                if !seen.insert(child.source.clone()) {
                    continue;
                }
                let verdict = judge.judge(file, &child.source, None)?;
                let transformation = child.detail.split(' ').next().unwrap_or_default();
                let entry = yields.entry(transformation.to_owned()).or_default();
                entry.children += 1;
                if !verdict.passed() {
                    let reason = verdict.reason.unwrap_or_default();
                    println!("{parent}: {}: {} {reason}", child.detail, verdict.status);
                    continue;
                }
                entry.passed += 1;
                let Some(duel) = judge.duel(&child.source, source)? else {
                    continue;
                };
                println!(
                    "{parent}: {}: {:.3}x [{:.3}, {:.3}] over its parent",
                    child.detail, duel.ratio, duel.ci95[0], duel.ci95[1]
                );
                if duel.ci95[0] > 1.0 {
                    entry.faster += 1;
                    if duel.ratio > entry.best {
                        entry.best = duel.ratio;
                        entry.best_parent.clone_from(&parent);
                    }
                }
            }
        }
    }
    print_table(&yields);
    Ok(())
}

/// The child of an attempt; `None` once children are made by two transformations, which come after all others.
fn single_change(task: &Task, source: &str, attempt: u64) -> Option<Candidate> {
    let brief = Brief {
        model: None,
        step: 1,
        operator: Operator::Mutate,
        parents: vec![1],
        seed: 1,
        start: None,
        point: None,
        attempt,
        retired: BTreeMap::new(),
    };
    match propose(
        &brief,
        &[Parent {
            step: 1,
            source: source.into(),
        }],
        task,
    ) {
        BriefOutcome::Candidate(child) if !child.detail.contains(", then ") => Some(child),
        _ => None,
    }
}

fn print_table(yields: &Yields) {
    println!(
        "\n{:<20} {:>8} {:>6} {:>6}  best over its parent",
        "transformation", "children", "passed", "faster"
    );
    for (transformation, entry) in yields {
        let best = if entry.faster > 0 {
            format!("{:.2}x, {}", entry.best, entry.best_parent)
        } else {
            String::new()
        };
        println!(
            "{transformation:<20} {:>8} {:>6} {:>6}  {best}",
            entry.children, entry.passed, entry.faster
        );
    }
}
