//! The `mutate` operator: rewrites a kernel's source by transformations of its syntax tree.
//!
//! Every transformation is meant to keep the results of the kernel up to rounding. None proves that: the judge checks each
//! child. `child_check` drops children that would not compile. Pure and deterministic: the same source and task always give the same children. Never compiles or measures.
//!
//! To add a transformation, implement `Transformation` in a new file and list it in `transformations`.

use std::collections::{BTreeMap, HashSet};

use crate::base::{Digest, RandomStream};
use crate::task::Task;

use super::child_check::ParentNames;
use super::identity::source_identity;
use super::proposal::Proposal;

mod accumulator;
mod block;
mod cache_hints;
mod cache_in_register;
mod coarsen;
mod effects;
mod fast_math;
mod fma;
mod forward_store;
mod functions;
mod fuse;
mod hoist;
mod indices;
mod interchange;
mod loops;
mod macros;
mod memory;
mod nodes;
mod purity;
mod qualifiers;
mod reciprocal;
mod restrict;
mod row_pointer;
mod scope;
mod shared;
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

use subject::Subject;
use transformation::{RewriteSite, Transformation};

/// All transformations.
pub(crate) fn transformations() -> &'static [&'static dyn Transformation] {
    // The order decides which child an attempt gives: another order changes what a search with the same seed does.
    &[
        &unroll::Unroll,
        &split_accumulator::SplitAccumulator,
        &split_accumulator::StripMine,
        &fast_math::FastMath,
        &fma::Fma,
        &reciprocal::Reciprocal,
        &vectorize::Vectorize,
        &restrict::Restrict,
        &cache_hints::Ldg,
        &cache_hints::StreamingStore,
        &row_pointer::RowPointer,
        &cache_in_register::CacheInRegister,
        &forward_store::ForwardStore,
        &hoist::Hoist,
        &block::BlockSize,
        &block::ExtendTunable,
        &coarsen::Coarsen,
        &stage::StageInLocal,
        &fuse::Fuse,
        &interchange::Interchange,
        &shared::CacheInShared,
        &qualifiers::Inlining,
        &unsigned_index::UnsignedIndex,
    ]
}

/// A kernel made from another by one transformation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    pub transformation: &'static str,
    /// What was changed: `split_accumulator sum x4 (line 31; sums in another order)`.
    pub detail: String,
    pub source: String,
}

/// The children of a kernel, at most one for each rewrite site, in an order shuffled by the hash of `source`.
///
/// Every child differs from its parent and from all earlier children, and passes `ParentNames::child`.
/// A source that is not a kernel of the task has no children.
pub fn children<'a>(source: &'a str, task: &'a Task) -> impl Iterator<Item = Child> + 'a {
    let subject = Subject::new(source, task);
    let names = subject
        .as_ref()
        .map(|subject| ParentNames::of(&subject.syntax, task));
    let mut pairs: Vec<(&'static dyn Transformation, RewriteSite)> = Vec::new();
    let mut weights = Vec::new();
    for transformation in transformations() {
        let sites = subject
            .as_ref()
            .map(|subject| transformation.sites(subject))
            .unwrap_or_default();
        // The sites share the weight, so that a transformation with many sites does not crowd out the others.
        weights.extend(
            sites
                .iter()
                .map(|_| transformation.weight() / sites.len() as f64),
        );
        pairs.extend(sites.into_iter().map(|site| (*transformation, site)));
    }
    let mut stream = RandomStream::new(Digest::of(source).low64(), "mutate", 0);
    let mut seen = HashSet::from([source_identity(source)]);
    std::iter::from_fn(move || {
        while let Some(index) = stream.weighted_index(&weights) {
            weights[index] = 0.0;
            let (transformation, site) = &pairs[index];
            let child = names
                .as_ref()
                .and_then(|names| names.child(&site.edits, None, task));
            let Some(child) = child.filter(|child| seen.insert(child.identity)) else {
                continue;
            };
            let caveat = transformation.caveat().map(|caveat| format!("; {caveat}"));
            let detail = format!(
                "{} {} (line {}{})",
                transformation.name(),
                site.label,
                site.line,
                caveat.unwrap_or_default()
            );
            return Some(Child {
                transformation: transformation.name(),
                detail,
                source: child.source,
            });
        }
        None
    })
}

/// The kernel number `attempt`, counted from 0, that can be made from a parent.
///
/// Kernels made by one transformation come first, then those made by two in sequence. `retired`: transformations that are left
/// out, each from an attempt on. The error says that none is left.
pub(super) fn mutate(
    source: &str,
    task: &Task,
    attempt: u64,
    retired: &BTreeMap<String, u64>,
) -> Result<Proposal, String> {
    let mut attempts = Attempts {
        wanted: attempt,
        passed: 0,
        retired,
    };
    let mut singles = Vec::new();
    for child in children(source, task) {
        if attempts.is_wanted(&[child.transformation]) {
            return Ok(Proposal {
                source: child.source,
                detail: child.detail,
            });
        }
        singles.push(child);
    }
    pair_of_transformations(source, task, &singles, &mut attempts)
        .ok_or_else(|| format!("no transformation is left after {attempt} attempts"))
}

/// Counts kernels up to the attempt that is wanted.
struct Attempts<'r> {
    wanted: u64,
    /// How many kernels came before.
    passed: u64,
    retired: &'r BTreeMap<String, u64>,
}

impl Attempts<'_> {
    /// Whether a transformation is left out from here on.
    fn leaves_out(&self, transformation: &str) -> bool {
        self.retired
            .get(transformation)
            .is_some_and(|since| *since <= self.passed)
    }

    /// Whether the next kernel is the wanted one. Counts it, unless one of its transformations is left out.
    fn is_wanted(&mut self, transformations: &[&str]) -> bool {
        if transformations.iter().any(|name| self.leaves_out(name)) {
            return false;
        }
        self.passed += 1;
        self.passed > self.wanted
    }
}

/// The wanted kernel among those made by two transformations in sequence.
fn pair_of_transformations(
    source: &str,
    task: &Task,
    singles: &[Child],
    attempts: &mut Attempts<'_>,
) -> Option<Proposal> {
    let mut seen: HashSet<_> = singles
        .iter()
        .map(|child| source_identity(&child.source))
        .collect();
    seen.insert(source_identity(source));
    // Walks the diagonals of (first, second), so that both transformations vary from one attempt to the next.
    let mut seconds = Vec::new();
    loop {
        let mut found = false;
        if let Some(next) = singles.get(seconds.len()) {
            seconds.push(children(&next.source, task));
            found = true;
        }
        for (first, second) in singles.iter().zip(&mut seconds) {
            if attempts.leaves_out(first.transformation) {
                continue;
            }
            let Some(child) = second.find(|child| seen.insert(source_identity(&child.source)))
            else {
                continue;
            };
            found = true;
            if attempts.is_wanted(&[first.transformation, child.transformation]) {
                return Some(Proposal {
                    source: child.source,
                    detail: format!("{}, then {}", first.detail, child.detail),
                });
            }
        }
        if !found {
            return None;
        }
    }
}
