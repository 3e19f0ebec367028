//! Transformations of a kernel's syntax tree, all meant to keep what it computes up to rounding; the judge decides.
//!
//! Pure and deterministic. Nothing here measures or compiles.

use std::collections::HashSet;

use crate::base::{Digest, RandomStream};
use crate::kernel::Kernel;
use crate::kernel::syntax::Syntax;
use crate::task::Task;

use super::Proposal;
use super::source_edits::SourceEdits;

mod accumulators;
mod block;
mod coarsen;
mod effects;
mod fast_math;
mod loops;
mod nest;
mod pointers;
mod qualifiers;
mod reuse;
mod scope;
mod shared;
mod stage;
mod subject;
#[cfg(test)]
mod testing;
mod unroll;
mod vectorize;

pub(crate) use subject::Subject;

/// One way to change a kernel.
pub(crate) trait Transformation: Sync {
    /// Names it in the lineage.
    fn name(&self) -> &'static str;
    /// Everywhere it applies, with what it would do there.
    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite>;
    /// How early it is tried: the chance to come next, shared among its places. Those above 1 are what kernels gain most by.
    fn weight(&self) -> f64 {
        1.0
    }
}

/// What a transformation would do at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RewriteSite {
    /// For people: `sum x4`.
    pub label: String,
    /// Line of the kernel file, counted from 1.
    pub line: usize,
    pub edits: SourceEdits,
}

impl RewriteSite {
    /// Several places at once, where there are several.
    fn combined(places: &[Self], what: String) -> Option<Self> {
        let (first, rest) = places.split_first().filter(|(_, rest)| !rest.is_empty())?;
        let edits = rest.iter().fold(first.edits.clone(), |edits, place| {
            edits.merged_with(&place.edits)
        });
        Some(Self {
            label: what,
            line: first.line,
            edits,
        })
    }
}

/// All transformations.
pub(crate) fn transformations() -> &'static [&'static dyn Transformation] {
    &[
        &unroll::Unroll,
        &accumulators::SplitAccumulator,
        &accumulators::StripMine,
        &fast_math::FastMath,
        &fast_math::Fma,
        &fast_math::Reciprocal,
        &vectorize::Vectorize,
        &pointers::Restrict,
        &pointers::Ldg,
        &pointers::StreamingStore,
        &pointers::RowPointer,
        &reuse::CacheInRegister,
        &reuse::ForwardStore,
        &reuse::Hoist,
        &block::BlockSize,
        &block::ExtendTunable,
        &coarsen::Coarsen,
        &stage::StageInLocal,
        &nest::Fuse,
        &nest::Interchange,
        &shared::CacheInShared,
        &qualifiers::Inlining,
        &qualifiers::UnsignedIndex,
    ]
}

/// A kernel made from another by one transformation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    pub transformation: &'static str,
    /// `split_accumulator sum x4 (line 31)`.
    pub detail: String,
    pub source: String,
}

/// The children of a kernel, one for each transformation and place, in an order that is shuffled by the kernel's own hash.
/// Every one is another kernel than its parent and than all before it, with a header that fits the task.
pub fn children<'a>(source: &'a str, task: &'a Task) -> impl Iterator<Item = Child> + 'a {
    let subject = Subject::new(source, task);
    let mut pairs: Vec<(&'static str, RewriteSite)> = Vec::new();
    let mut weights = Vec::new();
    for transformation in transformations() {
        let places = subject
            .as_ref()
            .map(|subject| transformation.sites(subject))
            .unwrap_or_default();
        // A transformation that applies everywhere must not crowd out the others.
        weights.extend(
            places
                .iter()
                .map(|_| transformation.weight() / places.len() as f64),
        );
        pairs.extend(
            places
                .into_iter()
                .map(|place| (transformation.name(), place)),
        );
    }
    let mut stream = RandomStream::new(Digest::of(source).low64(), "mutate", 0);
    let mut seen = HashSet::from([source_identity(source)]);
    std::iter::from_fn(move || {
        while let Some(index) = stream.weighted_index(&weights) {
            weights[index] = 0.0;
            let (transformation, place) = &pairs[index];
            let Some(child) = place.edits.apply(source) else {
                continue;
            };
            let is_new =
                kernel_identity(&child, task).is_some_and(|identity| seen.insert(identity));
            if !is_new {
                continue;
            }
            let detail = format!("{transformation} {} (line {})", place.label, place.line);
            return Some(Child {
                transformation,
                detail,
                source: child,
            });
        }
        None
    })
}

/// The `attempt`-th kernel that can be made from a parent: first by one transformation, then by two after another.
pub(super) fn mutate(source: &str, task: &Task, attempt: u64) -> Result<Proposal, String> {
    let exhausted = || format!("nothing is left to change after {attempt} attempts");
    let attempt = usize::try_from(attempt).map_err(|_| exhausted())?;
    let mut singles = Vec::new();
    for child in children(source, task) {
        if singles.len() == attempt {
            return Ok(Proposal {
                source: child.source,
                detail: child.detail,
            });
        }
        singles.push(child);
    }
    let mut left = attempt - singles.len();
    let mut seen: HashSet<_> = singles
        .iter()
        .map(|child| source_identity(&child.source))
        .collect();
    seen.insert(source_identity(source));
    // Along the diagonals, so that neither the first nor the second transformation stays the same for long.
    let mut seconds = Vec::new();
    loop {
        let mut found = false;
        if let Some(next) = singles.get(seconds.len()) {
            seconds.push(children(&next.source, task));
            found = true;
        }
        for (first, second) in singles.iter().zip(&mut seconds) {
            let Some(child) = second.find(|child| seen.insert(source_identity(&child.source)))
            else {
                continue;
            };
            found = true;
            if left == 0 {
                return Ok(Proposal {
                    source: child.source,
                    detail: format!("{}, then {}", first.detail, child.detail),
                });
            }
            left -= 1;
        }
        if !found {
            break;
        }
    }
    Err(exhausted())
}

/// What makes a source another candidate: its header and its code, not its comments and spaces.
pub(super) fn source_identity(source: &str) -> Digest {
    syntax_identity(&Syntax::parse(source))
}

/// The identity of a text that can be judged at all: its header fits the task, and its code is without errors of syntax.
pub(super) fn kernel_identity(source: &str, task: &Task) -> Option<Digest> {
    let syntax = Syntax::parse(source);
    let is_kernel = syntax.is_sound() && Kernel::parse(source, &task.definition).is_ok();
    is_kernel.then(|| syntax_identity(&syntax))
}

fn syntax_identity(syntax: &Syntax<'_>) -> Digest {
    let source = syntax.source();
    let header = source.split("*/").next().unwrap_or_default();
    let joined = |words: Vec<&str>| words.join(" ");
    Digest::of_parts([
        joined(header.split_whitespace().collect()).as_bytes(),
        joined(syntax.lexemes()).as_bytes(),
    ])
}
