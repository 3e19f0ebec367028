//! The ledger: a small record of every folded step, and counts over all of them.
//!
//! `fold` writes it; `resolution`, `model_brief` and the driver read it. Keeps no source and no verdict: those are in the run directory.

use std::collections::{BTreeMap, HashMap};

use crate::base::Digest;
use crate::event::{FailedReason, Operator};
use crate::verdict::Status;

/// The outcome of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StepOutcome {
    /// The candidate passed, with this speedup.
    Passed {
        speedup: f64,
        insert: ArchiveDecision,
    },
    /// The candidate passed on a device, or under conditions, that the user has changed since, and was not judged again. It has no
    /// figure: those of two devices cannot be compared.
    PassedBefore,
    /// The candidate was judged and did not pass.
    NotPassed(Status),
    /// There was no candidate.
    Failed(FailedReason),
    /// The code equals that of an earlier step `of`.
    Duplicate { of: u64 },
}

/// What the archive did with a candidate that passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveDecision {
    /// It filled an empty cell.
    New,
    /// It replaced the elite of its cell, the candidate of step `over`.
    Improved { over: u64 },
    /// It was not added. The elite of its cell is still the candidate of step `behind`.
    NotAdded { behind: u64 },
    /// It was not considered: its judgement ended early, because it was surely slower than an incumbent. It stays out even if that
    /// incumbent is removed later.
    Dismissed,
}

impl StepOutcome {
    /// Whether the candidate entered the archive.
    pub(crate) fn was_added(&self) -> bool {
        matches!(
            self,
            StepOutcome::Passed {
                insert: ArchiveDecision::New | ArchiveDecision::Improved { .. },
                ..
            }
        )
    }

    /// Whether the candidate passed and was judged completely. Only such a candidate may be shown, compared or built on.
    pub(crate) fn is_complete_pass(&self) -> bool {
        matches!(self, StepOutcome::Passed { insert, .. } if *insert != ArchiveDecision::Dismissed)
    }

    /// Whether the step counts for the share of valid steps: it cost an evaluation or a reply. Noise and faults of kforge say
    /// nothing about the candidate.
    pub(crate) fn counts_for_validity(&self, operator: Operator) -> bool {
        match self {
            StepOutcome::NotPassed(Status::Inconclusive)
            | StepOutcome::Failed(FailedReason::HarnessError) => false,
            StepOutcome::Passed { .. } | StepOutcome::PassedBefore | StepOutcome::NotPassed(_) => {
                true
            }
            StepOutcome::Failed(_) | StepOutcome::Duplicate { .. } => operator.asks_model(),
        }
    }

    /// Whether there was a new candidate to judge.
    pub(crate) fn has_candidate(&self) -> bool {
        matches!(
            self,
            StepOutcome::Passed { .. } | StepOutcome::PassedBefore | StepOutcome::NotPassed(_)
        )
    }
}

/// A folded step: its lineage and its outcome.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StepRecord {
    pub operator: Operator,
    pub parents: Box<[u64]>,
    /// What the operator did: `unroll`, `ROWS=2`, …; empty if it did nothing.
    pub detail: Box<str>,
    pub outcome: StepOutcome,
    /// The number of the island that the step belongs to.
    pub island: Option<u32>,
    /// The number of the candidate's family, if there is a candidate.
    pub(super) family: Option<u32>,
    /// How many steps were folded with it: 1 for the first.
    pub position: u64,
}

/// Sums over the folded steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SearchCounts {
    /// Candidates that were judged, without duplicates.
    pub judged: u64,
    pub passed: u64,
    /// Candidates that passed and were dismissed: surely slower than an incumbent.
    pub dismissed: u64,
    /// Candidates that entered the archive.
    pub added: u64,
    /// Judged candidates by status, `passed` included.
    pub verdicts: BTreeMap<Status, u64>,
    /// Steps without a new candidate, by reason, duplicates included.
    pub failed: BTreeMap<FailedReason, u64>,
    pub operators: BTreeMap<Operator, OperatorCounts>,
    /// Steps that cost an evaluation or a reply, without noise and kforge's own faults: what `passed` is a share of.
    pub counted: u64,
}

/// The outcomes of one operator's steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OperatorCounts {
    /// All folded steps of the operator, also those without a candidate.
    pub asked: u64,
    pub judged: u64,
    pub passed: u64,
    pub added: u64,
}

impl SearchCounts {
    /// The share of the counted steps whose candidate passed; `None` if there is none.
    pub(crate) fn validity(&self) -> Option<f64> {
        (self.counted > 0).then(|| self.passed as f64 / self.counted as f64)
    }

    /// Correct candidates that were not measured precisely enough.
    pub(crate) fn inconclusive(&self) -> u64 {
        let inconclusive = self.verdicts.get(&Status::Inconclusive);
        inconclusive.copied().unwrap_or(0)
    }

    fn add(&mut self, operator: Operator, outcome: &StepOutcome) {
        let (judged, passed, added) = (
            outcome.has_candidate(),
            matches!(outcome, StepOutcome::Passed { .. }),
            outcome.was_added(),
        );
        self.judged += u64::from(judged);
        self.passed += u64::from(passed);
        self.dismissed += u64::from(passed && !outcome.is_complete_pass());
        self.added += u64::from(added);
        self.counted += u64::from(outcome.counts_for_validity(operator));
        match outcome {
            StepOutcome::Passed { .. } | StepOutcome::PassedBefore => {
                *self.verdicts.entry(Status::Passed).or_default() += 1;
            }
            StepOutcome::NotPassed(status) => *self.verdicts.entry(*status).or_default() += 1,
            StepOutcome::Failed(reason) => *self.failed.entry(*reason).or_default() += 1,
            StepOutcome::Duplicate { .. } => {
                *self.failed.entry(FailedReason::Duplicate).or_default() += 1
            }
        }
        let by_operator = self.operators.entry(operator).or_default();
        by_operator.asked += 1;
        by_operator.judged += u64::from(judged);
        by_operator.passed += u64::from(passed);
        by_operator.added += u64::from(added);
    }
}

/// The records of the folded steps, and their counts.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// By step, from 1. `None`: not folded yet.
    records: Vec<Option<StepRecord>>,
    /// The steps in the order of the fold.
    order: Vec<u64>,
    /// The first recorded step with each source, by the source's hash.
    by_kernel: HashMap<Digest, u64>,
    pub(super) counts: SearchCounts,
}

impl Ledger {
    /// The number of folded steps.
    pub(super) fn folded(&self) -> u64 {
        self.order.len() as u64
    }

    pub(super) fn get(&self, step: u64) -> Option<&StepRecord> {
        let index = usize::try_from(step.checked_sub(1)?).ok()?;
        self.records.get(index)?.as_ref()
    }

    /// Whether a step is folded.
    pub(super) fn contains(&self, step: u64) -> bool {
        self.get(step).is_some()
    }

    /// The first `count` steps in the order of the fold, the last one first. `count`: at most the number of folded steps.
    pub(super) fn latest_of(&self, count: u64) -> impl Iterator<Item = u64> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let first = &self.order[..count.min(self.order.len())];
        first.iter().rev().copied()
    }

    /// The family of a step's candidate.
    pub(super) fn family(&self, step: u64) -> Option<u32> {
        self.get(step)?.family
    }

    /// The first recorded step with this source.
    pub(super) fn step_of_kernel(&self, kernel: &Digest) -> Option<u64> {
        self.by_kernel.get(kernel).copied()
    }

    /// Takes the figures of all candidates that passed. The counts stay: they passed.
    pub(super) fn forget_figures(&mut self) {
        for record in self.records.iter_mut().flatten() {
            if matches!(record.outcome, StepOutcome::Passed { .. }) {
                record.outcome = StepOutcome::PassedBefore;
            }
        }
    }

    /// Replaces the outcome of a step whose kernel was judged again. The counts stay.
    pub(super) fn replace_outcome(&mut self, step: u64, outcome: StepOutcome) {
        let index = usize::try_from(step.saturating_sub(1)).unwrap_or(usize::MAX);
        if let Some(Some(record)) = self.records.get_mut(index) {
            record.outcome = outcome;
        }
    }

    /// Records a step, whose position is the next one.
    pub(super) fn push(&mut self, step: u64, record: StepRecord, kernel: Option<Digest>) {
        self.counts.add(record.operator, &record.outcome);
        self.order.push(step);
        let index = usize::try_from(step - 1).unwrap_or(usize::MAX);
        if index >= self.records.len() {
            self.records.resize(index + 1, None);
        }
        self.records[index] = Some(record);
        if let Some(kernel) = kernel {
            self.by_kernel.entry(kernel).or_insert(step);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validity_counts_what_cost_something_and_leaves_noise_out() {
        let passed = StepOutcome::Passed {
            speedup: 2.0,
            insert: ArchiveDecision::New,
        };
        let failed = StepOutcome::Failed;
        let duplicate = StepOutcome::Duplicate { of: 1 };
        let mut counts = SearchCounts::default();
        assert_eq!(counts.validity(), None);
        for (operator, outcome, counted) in [
            (Operator::Start, passed, 1),
            (Operator::Propose, failed(FailedReason::NoCode), 2),
            (Operator::Edit, duplicate, 3),
            (Operator::Edit, failed(FailedReason::EditMissed), 4),
            (Operator::Edit, failed(FailedReason::NoOp), 5),
            (Operator::Repair, failed(FailedReason::NoReply), 6),
            (Operator::Crossover, StepOutcome::NotPassed(Status::Race), 7),
            // Neither evaluated nor paid for.
            (Operator::Mutate, duplicate, 7),
            (Operator::Mutate, failed(FailedReason::NoOp), 7),
            // Noise, and a fault of kforge.
            (
                Operator::Edit,
                StepOutcome::NotPassed(Status::Inconclusive),
                7,
            ),
            (Operator::Edit, failed(FailedReason::HarnessError), 7),
            (Operator::Mutate, passed, 8),
        ] {
            counts.add(operator, &outcome);
            assert_eq!(counts.counted, counted, "{operator:?} {outcome:?}");
        }
        assert_eq!(counts.validity(), Some(0.25));
        assert_eq!(counts.inconclusive(), 1);
    }
}
