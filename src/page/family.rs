//! Where kernels come from: the path to the best kernel with its differences, and the tree of the elites and their ancestors.
//!
//! Pure.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::Serialize;

use super::answer::made_by;
use super::details::{DetailsReader, confirmation_text, gain};
use super::diff::{DiffLine, diff_lines};
use super::figures;
use crate::history::{StepHistory, TaskHistory};

/// The most lines of one difference on the path.
const MAX_DIFF_LINES: usize = 120;

/// The most kernels of the path and of the tree.
const MAX_PATH: usize = 40;
const MAX_TREE: usize = 150;

/// The deepest indentation of the tree: a phone must show it.
const MAX_LEVEL: usize = 12;

/// A kernel on the path to the best one.
#[derive(Debug, Serialize)]
pub(super) struct Ancestor {
    step: u64,
    made_by: String,
    change: String,
    /// The figure of the search.
    search: String,
    /// The figure of the confirmation. Empty without one.
    confirmed: String,
    /// What it brought over its parent. Empty for the first.
    gain: String,
    /// The same on each workload: its id, the figure, and whether it is a loss.
    on_workloads: Vec<(String, String, bool)>,
    diff: Vec<DiffLine>,
    /// Where there is no difference to show, why.
    note: String,
}

/// The kernels from the first ancestor to the best one.
pub(super) fn path(task: &TaskHistory, details: &DetailsReader<'_>) -> Vec<Ancestor> {
    let Some(last) = task.leading_step() else {
        return Vec::new();
    };
    let lineage = task.lineage(last);
    let skipped = lineage.len().saturating_sub(MAX_PATH);
    let steps = lineage
        .into_iter()
        .skip(skipped)
        .filter_map(|step| task.step(step));
    steps.map(|step| ancestor(task, details, step)).collect()
}

fn ancestor(task: &TaskHistory, details: &DetailsReader<'_>, step: &StepHistory) -> Ancestor {
    let parent = step.parents.first().and_then(|parent| task.step(*parent));
    let sources = parent.map(|parent| (details.kernel(parent.step), details.kernel(step.step)));
    let (diff, note) = match sources {
        None => (Vec::new(), "where the path begins"),
        Some((Some(old), Some(new))) => (diff_lines(old, new, MAX_DIFF_LINES), ""),
        Some(_) => (Vec::new(), "the sources are not in this page"),
    };
    let on_workloads = parent.map_or_else(Vec::new, |parent| {
        let pairs = step.on_workloads.iter().zip(&parent.on_workloads);
        let named = task.workloads.iter().zip(pairs);
        named
            .filter_map(|(id, (now, before))| {
                let ratio = f64::from(now / before);
                let is_loss = ratio < 0.98;
                ratio
                    .is_finite()
                    .then(|| (id.clone(), figures::provisional(ratio), is_loss))
            })
            .collect()
    });
    Ancestor {
        step: step.step,
        made_by: made_by(task, step.step),
        change: step.detail.to_string(),
        search: search_text(step),
        confirmed: confirmed_text(task, step.step),
        gain: gain(step, parent).unwrap_or_default(),
        on_workloads,
        diff,
        note: note.to_owned(),
    }
}

fn search_text(step: &StepHistory) -> String {
    let speedup = step
        .speedup
        .map(|speedup| figures::provisional(speedup.geomean));
    speedup.unwrap_or_else(|| step.outcome.name())
}

fn confirmed_text(task: &TaskHistory, step: u64) -> String {
    let confirmation = task.confirmations.get(&step);
    confirmation.map_or_else(String::new, confirmation_text)
}

/// A kernel of the tree. Children follow their parent.
#[derive(Debug, Serialize)]
pub(super) struct TreeNode {
    step: u64,
    /// How deep it is indented: one level more than its parent, up to a limit.
    level: usize,
    /// Its parent, where the indentation does not show it.
    deep_parent: Option<u64>,
    made_by: String,
    change: String,
    search: String,
    gain: String,
    is_listed: bool,
    is_elite: bool,
    is_best: bool,
    /// Its second parent.
    other_parent: Option<u64>,
    /// Other children that are not shown.
    more: u64,
}

/// The elites and their ancestors, as a tree of first parents.
pub(super) fn tree(task: &TaskHistory, is_listed: &HashSet<u64>) -> Vec<TreeNode> {
    let mut shown = BTreeSet::new();
    let elites = task.grid.elites().iter().map(|elite| elite.step);
    for step in task.leading_step().into_iter().chain(elites) {
        let lineage = task.lineage(step);
        let added = lineage.iter().filter(|step| !shown.contains(*step)).count();
        if shown.len() + added <= MAX_TREE {
            shown.extend(lineage);
        }
    }
    let mut children = BTreeMap::<Option<u64>, Vec<u64>>::new();
    for step in &shown {
        let parent = task
            .step(*step)
            .and_then(|step| step.parents.first().copied());
        let parent = parent.filter(|parent| shown.contains(parent) && parent < step);
        children.entry(parent).or_default().push(*step);
    }
    let mut child_counts = BTreeMap::<u64, u64>::new();
    for step in &task.steps {
        if let Some(parent) = step.parents.first() {
            *child_counts.entry(*parent).or_default() += 1;
        }
    }
    let elites: HashSet<u64> = task.grid.elites().iter().map(|elite| elite.step).collect();
    let best = task.best().map(|best| best.0);
    let mut nodes = Vec::new();
    let roots = children.get(&None).cloned().unwrap_or_default();
    let mut open: Vec<(u64, usize)> = roots.into_iter().rev().map(|root| (root, 0)).collect();
    while let Some((number, level)) = open.pop() {
        let Some(step) = task.step(number) else {
            continue;
        };
        let below = children.get(&Some(number)).map_or(&[][..], Vec::as_slice);
        let parent = step.parents.first().and_then(|parent| task.step(*parent));
        let all = child_counts.get(&number).copied().unwrap_or(0);
        nodes.push(TreeNode {
            step: number,
            level: level.min(MAX_LEVEL),
            deep_parent: parent.filter(|_| level > MAX_LEVEL).map(|one| one.step),
            made_by: made_by(task, number),
            change: step.detail.to_string(),
            search: search_text(step),
            gain: gain(step, parent).unwrap_or_default(),
            is_listed: is_listed.contains(&number),
            is_elite: elites.contains(&number),
            is_best: best == Some(number),
            other_parent: step.parents.get(1).copied(),
            more: all.saturating_sub(below.len() as u64),
        });
        open.extend(below.iter().rev().map(|child| (*child, level + 1)));
    }
    nodes
}
