//! Which steps a page lists, in order of value: the ancestors of the best kernel, elites, confirmed kernels, improvements, failures of
//! each kind, and then the latest steps.
//!
//! A run of 100,000 steps must still give a page that opens. Pure.

use std::collections::{BTreeMap, HashSet};

use crate::history::{Outcome, TaskHistory};

/// How many failures of each kind come before other steps.
const FAILURES_OF_A_KIND: usize = 12;

/// The steps of a task that a page lists, most valuable first.
#[derive(Debug)]
pub(super) struct Selection {
    pub(super) steps: Vec<u64>,
    pub(super) set: HashSet<u64>,
}

impl Selection {
    /// At most `most` steps.
    pub(super) fn of(task: &TaskHistory, most: usize) -> Self {
        let mut selection = Self {
            steps: Vec::new(),
            set: HashSet::new(),
        };
        let mut add = |steps: &mut dyn Iterator<Item = u64>| {
            for step in steps {
                if selection.steps.len() >= most {
                    return;
                }
                if task.step(step).is_some() && selection.set.insert(step) {
                    selection.steps.push(step);
                }
            }
        };
        let lineage = task.leading_step().map(|step| task.lineage(step));
        add(&mut lineage.into_iter().flatten());
        add(&mut task.confirmations.keys().copied());
        add(&mut task.grid.elites().iter().map(|elite| elite.step));
        let parents = |step| task.step(step).map_or(&[][..], |step| &step.parents);
        let elites = task.grid.elites().iter();
        add(&mut elites.flat_map(|elite| parents(elite.step)).copied());
        add(&mut improvements(task).into_iter());
        add(&mut failures(task).into_values().flatten());
        let steps = task.steps.iter();
        add(&mut steps.filter(|step| step.added).map(|step| step.step).rev());
        add(&mut task.steps.iter().map(|step| step.step).rev());
        selection
    }

    /// The listed steps in step order.
    pub(super) fn in_order(&self) -> Vec<u64> {
        let mut steps = self.steps.clone();
        steps.sort_unstable();
        steps
    }
}

/// The steps that entered the archive and were faster than all that had entered before.
fn improvements(task: &TaskHistory) -> Vec<u64> {
    let mut fastest = 0.0;
    let mut steps = Vec::new();
    for step in &task.steps {
        let speedup = step.speedup.filter(|_| step.added);
        if let Some(speedup) = speedup.filter(|speedup| speedup.geomean > fastest) {
            fastest = speedup.geomean;
            steps.push(step.step);
        }
    }
    steps
}

/// The latest failures of each kind, latest first.
pub(super) fn failures(task: &TaskHistory) -> BTreeMap<Outcome, Vec<u64>> {
    let mut kinds = BTreeMap::<Outcome, Vec<u64>>::new();
    for step in task.steps.iter().rev() {
        if step.outcome.is_failure() {
            let steps = kinds.entry(step.outcome).or_default();
            if steps.len() < FAILURES_OF_A_KIND {
                steps.push(step.step);
            }
        }
    }
    kinds
}
