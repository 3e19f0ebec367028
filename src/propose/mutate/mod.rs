//! The `mutate` operator: rewrites a kernel's source by transformations of its syntax tree.
//!
//! Every transformation should keep the results of the kernel up to rounding. No transformation proves that: the judge checks each child.
//! `child_check` drops children that would not compile. Deterministic: the same source, task and seed always give the same children in the
//! same order. Never compiles or measures.
//!
//! To add a transformation, implement `Transformation` in a new file and add it to `list`.

use std::collections::HashSet;

use crate::event::Brief;
use crate::task::Task;

use super::identity::source_identity;
use super::proposal::Proposal;

mod accumulator;
mod block;
mod cache;
mod cache_hints;
mod cache_in_register;
mod choice;
mod coarsen;
mod effects;
mod element_uses;
mod fast_math;
mod fma;
mod forward_store;
mod functions;
mod fuse;
mod hoist;
mod indices;
mod interchange;
mod kernel_sites;
mod launch_bounds;
mod list;
mod loops;
mod macros;
mod memory;
mod nodes;
mod parallel;
mod purity;
mod qualifiers;
mod reciprocal;
mod restrict;
mod row_pointer;
mod row_threads;
mod scope;
mod sequence;
mod shared;
mod shared_loops;
mod site_order;
mod split_accumulator;
mod stage;
mod stage_results;
mod strips;
mod subject;
#[cfg(test)]
mod testing;
mod transformation;
mod types;
mod unroll;
mod unsigned_index;
mod values;
mod vector_accesses;
mod vectorize;
mod vectorize_lanes;
mod warp_per_row;

pub use cache::MutationCache;
use choice::Choice;
use kernel_sites::KernelSites;
#[cfg(test)]
pub(crate) use list::transformations;
use sequence::ChildSequence;
use site_order::SiteOrder;

/// A kernel made from another by one transformation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    pub transformation: &'static str,
    /// What was changed: `split_accumulator sum x4 (line 31; sums in another order)`.
    pub detail: String,
    pub source: String,
}

/// The kernels that one transformation makes from a kernel, in the order of `seed`.
///
/// Every child differs from its parent and from all earlier children by normal form, and passes `ParentNames::child`.
/// A source that is not a kernel of the task has no children.
pub fn children<'a>(
    source: &'a str,
    task: &'a Task,
    seed: u64,
) -> impl Iterator<Item = Child> + 'a {
    let sites = KernelSites::new(source, task);
    let mut order = SiteOrder::new(source, seed);
    let mut seen = HashSet::from([source_identity(source)]);
    std::iter::from_fn(move || {
        let sites = sites.as_ref()?;
        loop {
            let site = order.next(sites, |_| 1.0)?;
            let child = sites.child(site);
            if let Some(child) = child.filter(|child| seen.insert(child.identity)) {
                return Some(Child {
                    transformation: site.name(),
                    detail: sites.detail(site),
                    source: child.source,
                });
            }
        }
    })
}

/// The kernel that a brief asks for.
///
/// The attempt of the brief counts the kernels of its seed from 0. Those made by one transformation come first, then those made by
/// two in sequence. The error says that none is left.
pub(super) fn mutate(
    brief: &Brief,
    source: &str,
    task: &Task,
    cache: &MutationCache,
) -> Result<Proposal, String> {
    let Brief { attempt, seed, .. } = brief;
    let choice = Choice::of_brief(brief);
    let index = usize::try_from(*attempt).unwrap_or(usize::MAX);
    let proposal = cache.with_sequence(source, task, *seed, |sequence| {
        if !sequence.agrees_with(&choice, index) {
            *sequence = ChildSequence::new(source, *seed);
        }
        sequence.proposal(index, &choice, task)
    });
    proposal.ok_or_else(|| format!("no transformation is left after {attempt} attempts"))
}
