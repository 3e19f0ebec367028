//! Transformations of a kernel's syntax tree, all meant to keep what it computes up to rounding; the judge decides.
//!
//! Pure and deterministic. Nothing here measures or compiles.

use crate::base::{Digest, Stream};
use crate::kernel::Kernel;
use crate::kernel::syntax::Syntax;
use crate::task::Task;

use super::edit::Edits;

mod accumulators;
mod effects;
mod fast_math;
mod loops;
mod pointers;
mod reuse;
mod scope;
mod subject;
#[cfg(test)]
mod testing;
mod unroll;
mod vectorize;

pub use subject::Subject;

/// One way to change a kernel.
pub trait Transformation: Sync {
    /// Names it in the lineage.
    fn name(&self) -> &'static str;
    /// Everywhere it applies, with what it would do there.
    fn places(&self, subject: &Subject<'_>) -> Vec<Place>;
}

/// What a transformation would do at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// For people: `sum x4`.
    pub what: String,
    /// Line of the kernel file, counted from 1.
    pub line: usize,
    pub edits: Edits,
}

/// All transformations.
pub fn transformations() -> &'static [&'static dyn Transformation] {
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
    let mut pairs: Vec<(&'static str, Place)> = Vec::new();
    let mut weights = Vec::new();
    for transformation in transformations() {
        let places = subject
            .as_ref()
            .map(|subject| transformation.places(subject))
            .unwrap_or_default();
        // A transformation that applies everywhere must not crowd out the others.
        weights.extend(places.iter().map(|_| 1.0 / places.len() as f64));
        pairs.extend(
            places
                .into_iter()
                .map(|place| (transformation.name(), place)),
        );
    }
    let mut stream = Stream::new(Digest::of(source).low64(), "mutate", 0);
    let mut seen = vec![identity(source)];
    std::iter::from_fn(move || {
        while let Some(index) = stream.weighted(&weights) {
            weights[index] = 0.0;
            let (transformation, place) = &pairs[index];
            let Some(child) = place.edits.apply(source) else {
                continue;
            };
            if !is_kernel(&child, task) {
                continue;
            }
            let identity = identity(&child);
            if seen.contains(&identity) {
                continue;
            }
            seen.push(identity);
            let detail = format!("{transformation} {} (line {})", place.what, place.line);
            return Some(Child {
                transformation,
                detail,
                source: child,
            });
        }
        None
    })
}

/// What makes a source another candidate: its header and its code, not its comments and spaces.
pub(super) fn identity(source: &str) -> Digest {
    let header: Vec<_> = source
        .split("*/")
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    Digest::of_parts([
        header.join(" ").as_bytes(),
        Syntax::parse(source).words().join(" ").as_bytes(),
    ])
}

/// Whether a text can be judged at all: a header that fits the task, and code without errors of syntax.
pub(super) fn is_kernel(source: &str, task: &Task) -> bool {
    Kernel::parse(source, &task.definition).is_ok() && Syntax::parse(source).is_sound()
}
