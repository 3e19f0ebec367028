//! Which transformations are no longer tried on a family of kernels, because their children do not compile.
//!
//! Reads the outcomes of folded steps, in step order, and nothing else. A transformation is retired for a family by its second compile
//! error there, and two families are no longer recombined after two. `planner` writes the retired transformations into its briefs.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::ledger::{Ledger, StepOutcome};
use super::results::transformations_of;
use crate::event::{Brief, Operator};
use crate::verdict::Status;

/// Compile errors after which a transformation is retired.
const MAX_COMPILE_ERRORS: u32 = 2;

/// Compile errors of kforge's own operators, by family.
#[derive(Debug, Default)]
pub(super) struct Retirement {
    /// By family and transformation.
    errors: HashMap<(u32, String), u32>,
    /// Transformations that have made a child by themselves that compiles.
    compiled: HashSet<(u32, String)>,
    retired: HashMap<u32, BTreeSet<String>>,
    /// Compile errors of `recombine`, by the families of both parents, the smaller first.
    pair_errors: HashMap<[u32; 2], u32>,
    /// For each parent, the attempt from which each transformation is left out.
    since: HashMap<u64, BTreeMap<String, u64>>,
}

impl Retirement {
    /// The transformations to leave out of a `mutate` brief, each with the first attempt that leaves it out.
    ///
    /// Attempts before that keep their numbers, so no child is made twice and none is skipped.
    pub(super) fn for_brief(
        &self,
        parent: u64,
        attempt: u64,
        ledger: &Ledger,
    ) -> BTreeMap<String, u64> {
        let mut since = self.since.get(&parent).cloned().unwrap_or_default();
        let family = ledger.family(parent);
        for name in family
            .and_then(|family| self.retired.get(&family))
            .into_iter()
            .flatten()
        {
            since.entry(name.clone()).or_insert(attempt);
        }
        since
    }

    /// Whether the families of two kernels are no longer recombined.
    pub(super) fn forbids_pair(&self, parents: [u64; 2], ledger: &Ledger) -> bool {
        pair_of(parents, ledger)
            .and_then(|pair| self.pair_errors.get(&pair))
            .is_some_and(|errors| *errors >= MAX_COMPILE_ERRORS)
    }

    /// Records the brief of a step.
    pub(super) fn record_brief(&mut self, brief: &Brief) {
        if let (Some(parent), false) = (brief.parents.first(), brief.retired.is_empty()) {
            self.since.insert(*parent, brief.retired.clone());
        }
    }

    /// Records the outcome of a step. `detail`: what its operator did.
    pub(super) fn record_outcome(
        &mut self,
        brief: &Brief,
        detail: &str,
        outcome: &StepOutcome,
        ledger: &Ledger,
    ) {
        if !outcome.has_candidate() {
            return;
        }
        let has_error = *outcome == StepOutcome::NotPassed(Status::CompileError);
        match (brief.operator, &brief.parents[..]) {
            (Operator::Mutate, [parent, ..]) => {
                if let Some(family) = ledger.family(*parent) {
                    self.record_mutation(family, detail, has_error);
                }
            }
            (Operator::Recombine, [first, second, ..]) if has_error => {
                if let Some(pair) = pair_of([*first, *second], ledger) {
                    *self.pair_errors.entry(pair).or_default() += 1;
                }
            }
            _ => {}
        }
    }

    fn record_mutation(&mut self, family: u32, detail: &str, has_error: bool) {
        let names: Vec<_> = transformations_of(detail)
            .map(|name| (family, name.to_owned()))
            .collect();
        if !has_error {
            if let [only] = &names[..] {
                self.compiled.insert(only.clone());
            }
            return;
        }
        // Of two transformations, blame the transformation that has never compiled by itself.
        let mut blamed: Vec<_> = names
            .iter()
            .filter(|name| !self.compiled.contains(*name))
            .collect();
        if blamed.is_empty() {
            blamed = names.iter().collect();
        }
        for name in blamed {
            let errors = self.errors.entry(name.clone()).or_default();
            *errors += 1;
            if *errors >= MAX_COMPILE_ERRORS {
                self.retired
                    .entry(family)
                    .or_default()
                    .insert(name.1.clone());
            }
        }
    }
}

/// The families of two kernels, the smaller first.
fn pair_of(parents: [u64; 2], ledger: &Ledger) -> Option<[u32; 2]> {
    let [first, second] = parents;
    let mut pair = [ledger.family(first)?, ledger.family(second)?];
    pair.sort_unstable();
    Some(pair)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(retirement: &Retirement, family: u32) -> Vec<&str> {
        let retired = retirement.retired.get(&family);
        retired.into_iter().flatten().map(String::as_str).collect()
    }

    #[test]
    fn second_compile_error_retires_a_transformation() {
        let mut retirement = Retirement::default();
        retirement.record_mutation(1, "unroll 4 (line 3)", true);
        retirement.record_mutation(2, "unroll 4 (line 3)", true);
        assert!(names(&retirement, 1).is_empty());
        retirement.record_mutation(1, "unroll 8 (line 9)", true);
        assert_eq!(names(&retirement, 1), ["unroll"]);
        assert!(names(&retirement, 2).is_empty());
    }

    #[test]
    fn transformation_that_compiles_by_itself_is_not_blamed_for_another() {
        let mut retirement = Retirement::default();
        retirement.record_mutation(1, "restrict all pointers (line 3)", false);
        for _ in 0..2 {
            let detail = "restrict all pointers (line 3), then fuse lines 4 and 6 (line 4)";
            retirement.record_mutation(1, detail, true);
        }
        assert_eq!(names(&retirement, 1), ["fuse"]);
    }
}
