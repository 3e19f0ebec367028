//! Measures what an attempt of `mutate` costs on every shipped kernel: the first, the tenth, the hundredth and the thousandth.
//!
//! Part of `cargo bench --bench proposals`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use kforge::event::{Brief, Operator};
use kforge::propose::{BriefOutcome, MutationCache, Parent, mutate, propose, propose_with};
use kforge::task::{Task, TaskFiles, embedded_names};

/// Attempts to measure, counted from 1.
const ATTEMPTS: [u64; 4] = [1, 10, 100, 1000];

/// Attempts around a measured one that are timed too: the table has their median.
const AROUND: u64 = 2;

/// The seed of the briefs.
const SEED: u64 = 1;

/// What one attempt costs, in milliseconds.
struct Cost {
    attempt: u64,
    /// The earlier attempts were made before.
    warm: f64,
    /// The earlier attempts are made again, on all cores.
    cold: f64,
    /// The earlier attempts are made again, one by one: what every attempt did before there was a cache.
    repeated: f64,
}

/// Measures and prints the table.
pub(crate) fn measure(show: &dyn Fn(&str)) -> Result<()> {
    show("| kernel | attempt | ms | ms after a resume | ms without a cache | ratio |");
    show("| --- | --- | --- | --- | --- | --- |");
    let mut worst = 0.0_f64;
    for name in embedded_names() {
        let task = TaskFiles::find(name)?.load()?;
        for (file, source) in task.starting_kernels() {
            for cost in costs(&task, source) {
                worst = worst.max(cost.warm);
                show(&format!(
                    "| {name}/{file} | {} | {:.1} | {:.0} | {:.0} | {:.0} |",
                    cost.attempt,
                    cost.warm,
                    cost.cold,
                    cost.repeated,
                    cost.repeated / cost.warm,
                ));
            }
        }
    }
    show(&format!("largest: {worst:.1} ms"));
    Ok(())
}

fn costs(task: &Task, source: &str) -> Vec<Cost> {
    let cache = MutationCache::default();
    let parent = [Parent {
        step: 1,
        source: Arc::from(source),
    }];
    let mut made = Vec::new();
    for attempt in 0..ATTEMPTS[3] + AROUND {
        let start = Instant::now();
        let outcome = propose_with(&cache, &brief(attempt), &parent, task);
        let elapsed = milliseconds(start);
        if !matches!(outcome, BriefOutcome::Candidate(_)) {
            break;
        }
        made.push(elapsed);
    }
    let is_made = |attempt: &u64| *attempt <= made.len() as u64;
    (ATTEMPTS.into_iter().filter(is_made))
        .map(|attempt| {
            let index = attempt as usize - 1;
            let first = index.saturating_sub(AROUND as usize);
            let mut around = made[first..(index + 1 + AROUND as usize).min(made.len())].to_vec();
            around.sort_by(f64::total_cmp);
            let start = Instant::now();
            let _ = propose(&brief(attempt - 1), &parent, task);
            let cold = milliseconds(start);
            let start = Instant::now();
            let _ = repeat(task, source, attempt as usize);
            Cost {
                attempt,
                warm: around[around.len() / 2],
                cold,
                repeated: milliseconds(start),
            }
        })
        .collect()
}

fn brief(attempt: u64) -> Brief {
    Brief {
        step: 1,
        operator: Operator::Mutate,
        parents: vec![1],
        seed: SEED,
        island: None,
        start: None,
        point: None,
        attempt,
        retired: Default::default(),
        weights: Vec::new(),
        model: None,
    }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// Makes the first `count` kernels one by one: by one transformation, then by two, as `mutate` did at every attempt before it
/// remembered the earlier ones.
fn repeat(task: &Task, source: &str, count: usize) -> Option<String> {
    let mut singles = Vec::new();
    for child in mutate::children(source, task, SEED) {
        singles.push(child.source);
        if singles.len() == count {
            return singles.pop();
        }
    }
    let mut seen: HashSet<String> = singles.iter().cloned().collect();
    let mut seconds = Vec::new();
    let mut made = singles.len();
    loop {
        let before = made;
        if let Some(next) = singles.get(seconds.len()) {
            seconds.push(mutate::children(next, task, SEED));
        }
        for second in &mut seconds {
            if let Some(child) = second.find(|child| seen.insert(child.source.clone())) {
                made += 1;
                if made == count {
                    return Some(child.source);
                }
            }
        }
        if made == before && seconds.len() == singles.len() {
            return None;
        }
    }
}
