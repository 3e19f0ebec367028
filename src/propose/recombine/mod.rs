//! The `recombine` operator: exchanges differences between two kernels.
//!
//! A child is one parent with up to three differences taken over from the other: tunable values, variants, launches, device
//! functions, or statements of a function that both have. Statements are taken over only if they change the same names as those
//! that they replace. Pure and deterministic. Never compiles or measures.

use std::collections::HashSet;

use super::child_check::ParentNames;
use super::identity::source_identity;
use super::proposal::Proposal;
use super::source_edits::SourceEdits;
use crate::base::{Digest, RandomStream};
use crate::kernel::syntax::Syntax;
use crate::kernel::{Kernel, KnownLimits};
use crate::task::Task;

mod differences;
mod interface;
mod runs;

use differences::{ParentDifference, parent_differences};
use interface::Interface;

/// The most differences that one child takes over. All of them would give roughly the other parent.
const MAX_COMBINED: usize = 3;

/// Some differences that one parent takes over from the other.
struct Combination {
    /// The index of the parent that is changed.
    parent: usize,
    /// The indices of the differences.
    chosen: Vec<usize>,
}

/// The child number `attempt`, counted from 0, of two kernels. The error says that none is left.
///
/// Children with one difference come first, in an order shuffled by the hash of the parents.
pub(super) fn recombine(
    first: &str,
    second: &str,
    task: &Task,
    attempt: u64,
) -> Result<Proposal, String> {
    let parsed = [Syntax::parse(first), Syntax::parse(second)];
    let names = (parsed.each_ref()).map(|syntax| ParentNames::of(syntax, task));
    let sides = ["first", "second"];
    let differences = [
        parent_differences(first, second, task),
        parent_differences(second, first, task),
    ];
    let seed = Digest::of_parts([first.as_bytes(), second.as_bytes()]).low64();
    let mut seen = HashSet::from([source_identity(first), source_identity(second)]);
    let mut skipped = attempt;
    for Combination { parent, chosen } in combinations(&differences, seed) {
        let chosen: Vec<_> = chosen
            .iter()
            .map(|index| &differences[parent][*index])
            .collect();
        let edits = chosen.iter().fold(SourceEdits::new(), |edits, difference| {
            edits.merged_with(&difference.edits)
        });
        let joined = |part: fn(&ParentDifference) -> &Interface| {
            chosen.iter().fold(Interface::default(), |all, difference| {
                all.joined_with(part(difference))
            })
        };
        let (removed, added) = (joined(|one| &one.removed), joined(|one| &one.added));
        if !added.can_replace(&removed) {
            continue;
        }
        // Differences may overlap: then there is no child.
        let child = names[parent].child(&edits, Some(&names[1 - parent]), task);
        let child = child.filter(|child| allows_own_point(&child.source, task));
        let Some(child) = child.filter(|child| seen.insert(child.identity)) else {
            continue;
        };
        if skipped == 0 {
            let labels: Vec<_> = chosen
                .iter()
                .map(|difference| difference.label.as_str())
                .collect();
            // Statements of two kernels meet here for the first time.
            let caveat = if added == Interface::default() {
                ""
            } else {
                "; assumes that equal names mean the same"
            };
            return Ok(Proposal {
                source: child.source,
                detail: format!(
                    "{} parent with {}{caveat}",
                    sides[parent],
                    labels.join(", ")
                ),
            });
        }
        skipped -= 1;
    }
    Err(format!(
        "no combination of the two parents is left after {attempt} attempts"
    ))
}

/// Whether the point of a kernel meets its own constraints and the limits of a launch, as far as they are known without a device.
fn allows_own_point(source: &str, task: &Task) -> bool {
    let Ok(kernel) = Kernel::parse(source, &task.definition) else {
        return true;
    };
    let workloads = task.workloads.iter().map(|workload| &workload.binding);
    let rules = kernel.point_rules(&workloads.collect::<Vec<_>>(), KnownLimits::default());
    rules.allow_point(&kernel.point())
}

/// All combinations of up to `MAX_COMBINED` differences, smaller ones first, otherwise shuffled.
fn combinations(differences: &[Vec<ParentDifference>; 2], seed: u64) -> Vec<Combination> {
    let mut combinations = Vec::new();
    for (parent, differences) in differences.iter().enumerate() {
        for size in 1..=differences.len().min(MAX_COMBINED) {
            subsets(differences.len(), size, &mut |subset| {
                combinations.push(Combination {
                    parent,
                    chosen: subset.to_vec(),
                });
            });
        }
    }
    RandomStream::new(seed, "recombine", 0).shuffle(&mut combinations);
    combinations.sort_by_key(|combination| combination.chosen.len());
    combinations
}

/// Calls `visit` with every subset of `0..count` of the given size.
fn subsets(count: usize, size: usize, visit: &mut dyn FnMut(&[usize])) {
    fn extend_subset(
        from: usize,
        count: usize,
        size: usize,
        chosen: &mut Vec<usize>,
        visit: &mut dyn FnMut(&[usize]),
    ) {
        if chosen.len() == size {
            return visit(chosen);
        }
        for next in from..count {
            chosen.push(next);
            extend_subset(next + 1, count, size, chosen, visit);
            chosen.pop();
        }
    }
    extend_subset(0, count, size, &mut Vec::new(), visit);
}

#[cfg(test)]
mod tests;
