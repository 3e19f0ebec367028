//! All kernels that transformations make from one parent, in the order of a seed: by one transformation, then by two in sequence.
//!
//! Remembers its place, so that the next kernel costs the same at any place. Holds no syntax trees: a kernel is parsed again when one is
//! made from it. Never proposes a kernel that equals the parent or an earlier one by normal form.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::choice::Choice;
use super::kernel_sites::{KernelSites, SiteId};
use super::parallel::in_parallel;
use super::site_order::SiteOrder;
use crate::base::Digest;
use crate::propose::child_check::CheckedChild;
use crate::propose::identity::source_identity;
use crate::propose::proposal::Proposal;
use crate::task::Task;

/// Most kernels to make at once while earlier attempts are made again.
const MAX_BATCH: usize = 256;

/// Estimated memory of an order and of one entry of `made`, in bytes.
const ENTRY_BYTES: usize = 1024;

/// The kernels made from one parent so far, and what is needed to make the next.
pub(super) struct ChildSequence {
    seed: u64,
    /// The parent, then each kernel that one transformation has made from it.
    branches: Vec<Branch>,
    made: Vec<Made>,
    seen: HashSet<Digest>,
    /// The round of the kernels with two transformations. In round n the branches 1 to n make one kernel each, so that both transformations
    /// vary from one kernel to the next.
    round: usize,
    /// The branch that is next in the round.
    turn: usize,
    choice: Choice,
}

/// A kernel from which others are made.
struct Branch {
    source: Arc<str>,
    /// What made it; `None` for the parent.
    change: Option<AppliedRewrite>,
    order: SiteOrder,
    is_exhausted: bool,
}

/// What a transformation changed.
#[derive(Clone)]
struct AppliedRewrite {
    transformation: &'static str,
    detail: String,
}

/// How a kernel was made.
struct Made {
    branch: usize,
    site: SiteId,
    detail: String,
}

/// A rewrite that was drawn from the order of a branch.
struct Drawn {
    site: SiteId,
    detail: String,
    child: CheckedChild,
}

impl ChildSequence {
    pub(super) fn new(source: &str, seed: u64) -> Self {
        Self {
            seed,
            branches: vec![Branch::new(source.into(), None, seed)],
            made: Vec::new(),
            seen: HashSet::from([source_identity(source)]),
            round: 1,
            turn: 1,
            choice: Choice::default(),
        }
    }

    /// Whether the kernels so far, up to the one of `attempt`, are those that a sequence with this choice makes.
    pub(super) fn agrees_with(&self, choice: &Choice, attempt: usize) -> bool {
        let last = self.made.len().min(attempt + 1);
        self.choice.agrees_with(choice, last)
    }

    /// The kernel of an attempt, counted from 0; `None` if no transformation is left.
    pub(super) fn proposal(
        &mut self,
        attempt: usize,
        choice: &Choice,
        task: &Task,
    ) -> Option<Proposal> {
        if attempt < self.made.len() {
            return self.made_before(attempt, task);
        }
        self.choice.clone_from(choice);
        loop {
            let made = self.made.len();
            let missing = (attempt - made + 1).min(MAX_BATCH);
            // All draws of a batch have the same weights, whatever its size.
            let change = choice.next_change(made);
            let turns = self.next_turns(change.map_or(missing, |next| missing.min(next - made)));
            if turns.is_empty() {
                return None;
            }
            for (branch, drawn) in self.draw(&turns, task) {
                if let Some(proposal) = self.add(branch, drawn)
                    && self.made.len() > attempt
                {
                    return Some(proposal);
                }
            }
        }
    }

    /// The estimated memory, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let sources: usize = (self.branches.iter())
            .map(|branch| branch.source.len() + ENTRY_BYTES)
            .sum();
        sources + self.made.len() * ENTRY_BYTES
    }

    /// Makes a kernel again.
    fn made_before(&self, attempt: usize, task: &Task) -> Option<Proposal> {
        let made = &self.made[attempt];
        let source = match made.branch {
            // The first kernels are branches themselves, in the same order.
            0 => self.branches[attempt + 1].source.to_string(),
            branch => {
                let sites = KernelSites::new(&self.branches[branch].source, task)?;
                sites.child(made.site)?.source
            }
        };
        Some(Proposal {
            source,
            detail: made.detail.clone(),
        })
    }

    /// The branches that make the next `count` kernels. Empty at the end.
    fn next_turns(&mut self, count: usize) -> Vec<usize> {
        if !self.branches[0].is_exhausted {
            return vec![0; count];
        }
        let last = self.branches.len() - 1;
        let mut turns = Vec::new();
        while turns.len() < count && self.branches.iter().any(|branch| !branch.is_exhausted) {
            if self.turn > self.round.min(last) {
                self.turn = 1;
                // More would change nothing.
                self.round = (self.round + 1).min(last);
            }
            if !self.branches[self.turn].is_exhausted {
                turns.push(self.turn);
            }
            self.turn += 1;
        }
        turns
    }

    /// One kernel for each turn, in the order of the turns, without those that fail a check.
    fn draw(&mut self, turns: &[usize], task: &Task) -> Vec<(usize, Drawn)> {
        let mut counts = BTreeMap::<usize, usize>::new();
        for branch in turns {
            *counts.entry(*branch).or_default() += 1;
        }
        let (choice, made) = (&self.choice, self.made.len());
        let drawing: Vec<_> = (self.branches.iter_mut().enumerate())
            .filter_map(|(index, branch)| Some((index, branch, *counts.get(&index)?)))
            .collect();
        let is_only = drawing.len() == 1;
        let drawn = in_parallel(drawing, |(index, branch, count)| {
            (index, branch.draw(count, is_only, choice, made, task))
        });
        let mut drawn: BTreeMap<usize, _> = (drawn.into_iter())
            .map(|(index, drawn)| (index, drawn.into_iter()))
            .collect();
        let next = |branch: &usize| Some((*branch, drawn.get_mut(branch)?.next()??));
        turns.iter().filter_map(next).collect()
    }

    /// Adds a kernel, unless one of its transformations is retired or there is an equal kernel.
    fn add(&mut self, branch: usize, drawn: Drawn) -> Option<Proposal> {
        let Drawn {
            site,
            detail,
            child,
        } = drawn;
        let first = self.branches[branch].change.clone();
        let passed = self.made.len();
        let is_retired = |name: &str| self.choice.leaves_out(name, passed);
        let is_first_retired = first
            .as_ref()
            .is_some_and(|first| is_retired(first.transformation));
        if is_first_retired || is_retired(site.name()) || !self.seen.insert(child.identity) {
            return None;
        }
        let detail = match first {
            None => {
                let change = AppliedRewrite {
                    transformation: site.name(),
                    detail: detail.clone(),
                };
                let source = child.source.as_str().into();
                self.branches
                    .push(Branch::new(source, Some(change), self.seed));
                detail
            }
            Some(first) => format!("{}, then {detail}", first.detail),
        };
        self.made.push(Made {
            branch,
            site,
            detail: detail.clone(),
        });
        Some(Proposal {
            source: child.source,
            detail,
        })
    }
}

impl Branch {
    fn new(source: Arc<str>, change: Option<AppliedRewrite>, seed: u64) -> Self {
        Self {
            order: SiteOrder::new(&source, seed),
            source,
            change,
            is_exhausted: false,
        }
    }

    /// The next `count` rewrites after `made` kernels; `None` in the place of a rewrite that fails a check or is retired. `is_only`: no
    /// other branch draws at the same time.
    fn draw(
        &mut self,
        count: usize,
        is_only: bool,
        choice: &Choice,
        made: usize,
        task: &Task,
    ) -> Vec<Option<Drawn>> {
        let is_retired = |name: &str| choice.leaves_out(name, made);
        let Some(sites) = KernelSites::new(&self.source, task) else {
            self.is_exhausted = true;
            return Vec::new();
        };
        let factor = |name: &str| choice.factor(name, made);
        let next = |_| self.order.next(&sites, factor);
        let drawn: Vec<_> = (0..count).map_while(next).collect();
        self.is_exhausted = drawn.len() < count;
        if (self.change.as_ref()).is_some_and(|change| is_retired(change.transformation)) {
            return Vec::new();
        }
        let check = |site: SiteId| {
            let child = (!is_retired(site.name())).then(|| sites.child(site));
            Some(Drawn {
                site,
                detail: sites.detail(site),
                child: child.flatten()?,
            })
        };
        if is_only {
            in_parallel(drawn, check)
        } else {
            drawn.into_iter().map(check).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::MutationCache;
    use super::*;
    use crate::event::{Brief, Operator, TransformationWeights};
    use crate::kernel::normal_form;
    use crate::task::TaskFiles;

    fn softmax() -> Task {
        TaskFiles::find("softmax")
            .and_then(|files| files.load())
            .expect("softmax is shipped")
    }

    fn brief(seed: u64, attempt: u64, retired: &[(&str, u64)]) -> Brief {
        let retired: BTreeMap<String, u64> = (retired.iter())
            .map(|(name, since)| ((*name).to_owned(), *since))
            .collect();
        Brief {
            step: 1,
            operator: Operator::Mutate,
            parents: vec![1],
            seed,
            island: None,
            start: None,
            point: None,
            attempt,
            retired,
            weights: Vec::new(),
            model: None,
        }
    }

    /// The weights of a brief: others from the attempts 2, 8 and 100 on.
    fn weights_until(attempt: u64) -> Vec<TransformationWeights> {
        let all = [("unroll", 2), ("fast_math", 8), ("split_accumulator", 100)];
        let weights = all.map(|(name, attempt)| TransformationWeights {
            attempt,
            factors: BTreeMap::from([(name.to_owned(), 30.0), ("hoist".to_owned(), 0.1)]),
        });
        let holds = |weights: &TransformationWeights| weights.attempt <= attempt;
        weights.into_iter().filter(holds).collect()
    }

    #[test]
    fn a_factor_moves_a_transformation_to_the_front() {
        let task = softmax();
        let source = &task.kernels["naive.cu"];
        let first_half = |factor: f64| {
            let brief = |attempt| Brief {
                weights: vec![TransformationWeights {
                    attempt: 0,
                    factors: BTreeMap::from([("hoist".to_owned(), factor)]),
                }],
                ..brief(3, attempt, &[])
            };
            let cache = MutationCache::default();
            let details = (0..12).map(|attempt| {
                let proposal = super::super::mutate(&brief(attempt), source, &task, &cache);
                proposal.expect("a kernel").detail
            });
            details.filter(|detail| detail.starts_with("hoist")).count()
        };
        assert!(first_half(100.0) > first_half(0.0));
        assert_eq!(first_half(0.0), 0);
    }

    #[test]
    fn a_cache_changes_no_proposal_in_any_order_of_attempts() {
        let task = softmax();
        let source = &task.kernels["naive.cu"];
        let propose = |cache: &MutationCache, attempt: u64| {
            // From the ninth attempt on, one transformation is left out.
            let retired: &[_] = if attempt < 9 { &[] } else { &[("restrict", 9)] };
            let brief = Brief {
                weights: weights_until(attempt),
                ..brief(3, attempt, retired)
            };
            super::super::mutate(&brief, source, &task, cache)
        };
        let shared = MutationCache::default();
        for attempt in [0, 1, 2, 7, 5, 90, 12, 9, 8, 91, 140, 91] {
            let alone = propose(&MutationCache::default(), attempt);
            assert!(alone.is_ok(), "{alone:?}");
            assert_eq!(propose(&shared, attempt), alone, "attempt {attempt}");
        }
    }

    #[test]
    fn seeds_change_the_order_and_nothing_else() {
        let task = softmax();
        let source = &task.kernels["rows.cu"];
        let children = |seed| -> Vec<_> {
            super::super::children(source, &task, seed)
                .map(|child| child.source)
                .collect()
        };
        let (mut one, mut other) = (children(1), children(2));
        assert_eq!(one, children(1));
        assert_ne!(one[..8], other[..8]);
        // Which of two equal children comes first depends on the order.
        for list in [&mut one, &mut other] {
            list.iter_mut()
                .for_each(|source| *source = source_identity(source).to_string());
            list.sort();
        }
        assert_eq!(one, other);
    }

    #[test]
    fn no_kernel_equals_the_parent_or_an_earlier_one() {
        let task = softmax();
        let source = &task.kernels["block_rows.cu"];
        let cache = MutationCache::default();
        let mut seen = HashSet::from([normal_form(source)]);
        for attempt in 0..200 {
            let proposal = super::super::mutate(&brief(5, attempt, &[]), source, &task, &cache);
            let proposal = proposal.expect("a kernel");
            let form = normal_form(&proposal.source);
            assert!(form.is_some() && seen.insert(form), "{}", proposal.detail);
        }
    }
}
