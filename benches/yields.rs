//! What each transformation of `mutate` brings over the shipped tasks: children, how many pass, how many are faster than
//! their parent beyond doubt (the low end of the 95 % interval of a paired duel lies above 1).
//!
//! `cargo bench --bench yields [-- CHILDREN [TASK]…]`: at most that many children of each starting kernel (default 24), over
//! the named tasks, all if none is named.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::collections::BTreeMap;

use kforge::device::cpu::CpuDevice;
use kforge::device::{Cache, Device};
use kforge::eval::{Judge, JudgeOptions};
use kforge::event::{Brief, Operator};
use kforge::kernel::DeviceLimits;
use kforge::propose::{BriefOutcome, Parent, propose};
use kforge::task::{TaskFiles, embedded_names};

#[derive(Default)]
struct TransformationYield {
    children: usize,
    passed: usize,
    faster: usize,
    best: f64,
    where_best: String,
}

fn main() -> anyhow::Result<()> {
    let most = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .next()
        .unwrap_or(24);
    let device = CpuDevice::new()?;
    let cores = device.identity().cores.unwrap_or(1);
    let machine = DeviceLimits {
        sm_count: i64::from(cores),
        max_shared_bytes: 232_448,
    };
    let mut yields = BTreeMap::<String, TransformationYield>::new();
    let named: Vec<_> = std::env::args().skip(1).collect();
    let every = embedded_names();
    let some = every
        .iter()
        .any(|name| named.iter().any(|word| word == name));
    for name in every {
        if some && !named.iter().any(|word| word == name) {
            continue;
        }
        let task = TaskFiles::find(name)?.load()?;
        let options = JudgeOptions {
            profile: task.settings.profiles["quick"].clone(),
            launch_seconds: 10.0,
            thorough: false,
            cache: Cache::Cold,
        };
        let mut judge = Judge::new(&device, &task, options, machine)?;
        for (file, source) in task.starting_kernels() {
            let mut seen = std::collections::HashSet::new();
            for attempt in 0..most {
                let brief = Brief {
                    model: None,
                    step: 1,
                    operator: Operator::Mutate,
                    parents: vec![1],
                    seed: 1,
                    start: None,
                    point: None,
                    attempt,
                };
                let BriefOutcome::Candidate(child) = propose(
                    &brief,
                    &[Parent {
                        step: 1,
                        source: source.into(),
                    }],
                    &task,
                ) else {
                    break;
                };
                // Compositions of two come after every single one.
                if child.detail.contains(';') || !seen.insert(child.source.clone()) {
                    continue;
                }
                let transformation = child
                    .detail
                    .split([' ', ':', '('])
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                let verdict = judge.judge(file, &child.source, None)?;
                let entry = yields.entry(transformation).or_default();
                entry.children += 1;
                if !verdict.passed() {
                    println!(
                        "{name}/{file}: {}: {} {}",
                        child.detail,
                        verdict.status,
                        verdict.reason.unwrap_or_default()
                    );
                    continue;
                }
                entry.passed += 1;
                let Some(duel) = judge.duel(&child.source, source)? else {
                    continue;
                };
                println!(
                    "{name}/{file}: {}: {:.3}x [{:.3}, {:.3}] over its parent",
                    child.detail, duel.ratio, duel.ci95[0], duel.ci95[1]
                );
                if duel.ci95[0] > 1.0 {
                    entry.faster += 1;
                    if duel.ratio > entry.best {
                        entry.best = duel.ratio;
                        entry.where_best = format!("{name}/{file}");
                    }
                }
            }
        }
    }
    println!(
        "\n{:<20} {:>8} {:>6} {:>6}  best over its parent",
        "transformation", "children", "passed", "faster"
    );
    for (transformation, entry) in &yields {
        let best = if entry.faster > 0 {
            format!("{:.2}x, {}", entry.best, entry.where_best)
        } else {
            String::new()
        };
        println!(
            "{transformation:<20} {:>8} {:>6} {:>6}  {best}",
            entry.children, entry.passed, entry.faster
        );
    }
    Ok(())
}
