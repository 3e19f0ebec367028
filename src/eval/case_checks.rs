//! The checks of all cases of a judgement, in an order that the caller chooses, and the entries of the cases in the verdict.
//!
//! Each round of each case is checked once, with the same inputs in any order of the cases. Times nothing.

use std::ops::Range;

use super::case::{derive_seed, operations};
use super::check::{self, Accuracy, Rounds, RowOfCases};
use super::context::JudgeContext;
use super::finding::JudgeResult;
use super::judged_kernel::JudgedKernel;
use super::late_cases::late_cases;
use crate::base::RandomStream;
use crate::verdict::{Status, Verdict, WorkloadVerdict};

/// Seeds of a case per judgement: more than a profile has rounds.
const SEEDS_PER_CASE: usize = 1000;

/// What was checked so far.
pub(super) struct CaseChecks<'c, 'j> {
    context: &'c JudgeContext<'j>,
    candidate: &'c JudgedKernel<'c>,
    /// One for each case.
    cases: Vec<CheckedCase>,
}

#[derive(Default)]
struct CheckedCase {
    rounds: u32,
    accuracy: Accuracy,
    /// `None` until the case is checked for the first time.
    entry: Option<WorkloadVerdict>,
}

impl<'c, 'j> CaseChecks<'c, 'j> {
    pub(super) fn new(context: &'c JudgeContext<'j>, candidate: &'c JudgedKernel<'c>) -> Self {
        let cases = candidate.cases.iter().map(|_| CheckedCase::default());
        Self {
            context,
            candidate,
            cases: cases.collect(),
        }
    }

    /// One round for a hidden case: there are many, and each is different.
    fn planned_rounds(&self, index: usize) -> u32 {
        if self.candidate.cases[index].hidden {
            1
        } else {
            self.context.options.profile.rounds.max(1)
        }
    }

    /// Indices of the cases that are hidden, or of those that are timed.
    fn indices(&self, hidden: bool) -> Vec<usize> {
        let cases = self.candidate.cases.iter().enumerate();
        cases
            .filter(|(_, case)| case.hidden == hidden)
            .map(|(index, _)| index)
            .collect()
    }

    /// One round of the cheapest case.
    pub(super) fn check_cheapest(&mut self, verdict: &mut Verdict) -> JudgeResult<()> {
        let _lock = self.context.timing_lock.shared()?;
        let cost = |index: &usize| {
            let binding = &self.candidate.cases[*index].binding;
            operations(self.context.task, binding)
        };
        let indices = 0..self.cases.len();
        let cheapest = indices.min_by(|one, other| cost(one).total_cmp(&cost(other)));
        match cheapest {
            Some(index) => self.check_rounds(index, 0..1, verdict),
            None => Ok(()),
        }
    }

    /// One round of each timed case. Nothing is timed before it was correct once.
    pub(super) fn check_timed_once(&mut self, verdict: &mut Verdict) -> JudgeResult<()> {
        let mut pieces = self.context.timing_lock.shared_pieces();
        for index in self.indices(false) {
            if self.cases[index].rounds == 0 {
                pieces.begin(|| ())?;
                self.check_rounds(index, 0..1, verdict)?;
            }
        }
        Ok(())
    }

    /// All rounds that are left: of the timed cases, then of the hidden ones.
    pub(super) fn check_rest(&mut self, verdict: &mut Verdict) -> JudgeResult<()> {
        let mut pieces = self.context.timing_lock.shared_pieces();
        for index in self.indices(false) {
            let rounds = self.cases[index].rounds..self.planned_rounds(index);
            if !rounds.is_empty() {
                pieces.begin(|| ())?;
                self.check_rounds(index, rounds, verdict)?;
            }
        }
        let mut row = RowOfCases::new(self.context, self.candidate.compiled);
        for index in self.indices(true) {
            if self.cases[index].rounds == 0 {
                pieces.begin(|| row.close())?;
                let checked = row.check(&self.candidate.cases[index], self.seed(index, 0));
                self.add(index, 1, checked, verdict)?;
            }
        }
        Ok(())
    }

    /// One more sample of a few hidden cases, after timing and as if they were timed: a kernel may see from a clock, from the number of its
    /// grid, or from addresses whether it is timed. Only on a device that keeps its processes: in a new one, a kernel is never late.
    pub(super) fn check_again(&mut self, verdict: &mut Verdict) -> JudgeResult<()> {
        if self.context.device.blocks_per_process().is_some() {
            return Ok(());
        }
        let mut stream = RandomStream::new(self.candidate.seed, "again", 0);
        let indices = late_cases(self.candidate.cases, self.indices(true), &mut stream);
        let mut pieces = self.context.timing_lock.shared_pieces();
        for index in indices {
            pieces.begin(|| ())?;
            let seed = derive_seed(self.candidate.seed, "late", index);
            let case = &self.candidate.cases[index];
            let (context, compiled) = (self.context, self.candidate.compiled);
            let checked = check::check_as_timed(context, compiled, case, seed);
            self.add(index, 1, checked, verdict)?;
        }
        Ok(())
    }

    fn seed(&self, index: usize, round: u32) -> u64 {
        let number = index * SEEDS_PER_CASE + round as usize;
        derive_seed(self.candidate.seed, "check", number)
    }

    fn check_rounds(
        &mut self,
        index: usize,
        rounds: Range<u32>,
        verdict: &mut Verdict,
    ) -> JudgeResult<()> {
        let count = rounds.end - rounds.start;
        let seeds: Vec<u64> = rounds
            .clone()
            .map(|round| self.seed(index, round))
            .collect();
        let first = check::first_edge(&[self.seed(index, 0)]);
        let rounds = Rounds {
            seeds: &seeds,
            edge: if rounds.start == 0 {
                first
            } else {
                check::other_edge(first)
            },
        };
        let case = &self.candidate.cases[index];
        let checked = check::check_rounds(self.context, self.candidate.compiled, case, rounds);
        self.add(index, count, checked, verdict)
    }

    /// Writes the result of some rounds of a case into its entry. A finding gets the name of the case.
    fn add(
        &mut self,
        index: usize,
        rounds: u32,
        checked: JudgeResult<Accuracy>,
        verdict: &mut Verdict,
    ) -> JudgeResult<()> {
        let case = &self.candidate.cases[index];
        let kernel = &self.candidate.compiled.kernel;
        let variant = kernel.variant_for(&case.binding, &self.context.limits);
        let checked_case = &mut self.cases[index];
        let entry = checked_case
            .entry
            .get_or_insert_with(|| check::blank_entry(case, variant.unwrap_or_default()));
        let accuracy = match checked {
            Ok(accuracy) => accuracy,
            Err(error) => {
                let mut finding = error.into_finding()?;
                finding.case = Some(case.id.clone());
                entry.status = finding.status;
                return Err(finding.into());
            }
        };
        if let Some(resources) = &accuracy.resources {
            verdict.resources = resources.clone();
        }
        checked_case.rounds += rounds;
        checked_case.accuracy.merge(accuracy);
        checked_case.accuracy.write_to(entry);
        entry.status = Status::Passed;
        Ok(())
    }

    /// The entry of a case that was checked.
    pub(super) fn entry_mut(&mut self, index: usize) -> anyhow::Result<&mut WorkloadVerdict> {
        let entry = self.cases[index].entry.as_mut();
        entry.ok_or_else(|| anyhow::anyhow!("a case is timed before it was checked"))
    }

    /// What is left, in words for the verdict. Empty if everything was checked.
    pub(super) fn not_done(&self) -> Vec<String> {
        let mut not_done = Vec::new();
        for (hidden, what) in [(false, "rounds on timed workloads"), (true, "hidden cases")] {
            let indices = self.indices(hidden).into_iter();
            let (mut left, mut all) = (0, 0);
            for index in indices {
                let planned = self.planned_rounds(index);
                all += planned;
                left += planned.saturating_sub(self.cases[index].rounds);
            }
            if left > 0 {
                not_done.push(format!("{left} of {all} {what}"));
            }
        }
        not_done
    }

    /// The entries of the cases that were checked, in the order of the cases.
    pub(super) fn into_entries(self) -> Vec<WorkloadVerdict> {
        let entries = self.cases.into_iter().filter_map(|case| case.entry);
        entries.collect()
    }
}
