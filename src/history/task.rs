//! The history of a task. Plain data, and the questions that every form of output asks of it.

use std::collections::BTreeMap;

use super::archive::ArchiveGrid;
use super::step::{Outcome, StepHistory};
use crate::event::{
    Compared, DerivedBaselines, Operator, Stopped, StrongestCompared, strongest_known,
};
use crate::run::TaskDirectory;
use crate::verdict::{
    BaselineEntry, BaselineIdentity, DeviceIdentity, Duel, SelfTest, Speedup, Status,
    StrongestBaseline, Verdict, VerdictSummary,
};

/// The second measurement of a candidate.
#[derive(Clone, Debug)]
pub(crate) struct Confirmation {
    /// `None` if it did not pass again, or was not timed precisely enough.
    pub(crate) speedup: Option<Speedup>,
    pub(crate) verdict: Verdict,
}

impl Confirmation {
    pub(super) fn new(verdict: Verdict) -> Self {
        let summary = VerdictSummary::from(&verdict);
        Self {
            speedup: summary.passed_speedup().filter(|_| !summary.is_dismissed()),
            verdict,
        }
    }

    /// Whether the candidate was found faulty.
    pub(crate) fn refutes(&self) -> bool {
        let is_correct = matches!(self.verdict.status, Status::Passed | Status::Inconclusive);
        self.speedup.is_none() && !is_correct
    }
}

/// What a run did on one task.
#[derive(Debug)]
pub(crate) struct TaskHistory {
    pub(crate) name: String,
    pub(crate) folder: TaskDirectory,
    /// Step n is at n - 1.
    pub(crate) steps: Vec<StepHistory>,
    /// Models, strategy cards and versions of prompts, by the indices that the steps have.
    pub(crate) names: Vec<String>,
    /// The ids of the timed workloads.
    pub(crate) workloads: Vec<String>,
    pub(crate) grid: ArchiveGrid,
    /// By step.
    pub(crate) confirmations: BTreeMap<u64, Confirmation>,
    pub(crate) comparisons: Vec<Compared>,
    /// Best kernels that were timed against the strongest baselines, by step.
    pub(crate) beside_strongest: BTreeMap<u64, StrongestCompared>,
    pub(crate) stopped: Option<Stopped>,
    pub(crate) baseline: Option<BaselineIdentity>,
    pub(crate) device: Option<DeviceIdentity>,
    /// The baseline timed against itself.
    pub(crate) self_tests: Vec<SelfTest>,
    /// The step that has the baseline's source.
    pub(super) baseline_step: Option<u64>,
    pub(crate) tokens: u64,
    /// `None` if a price is unknown.
    pub(crate) nano_usd: Option<u64>,
    /// Time of work, in seconds: the time between two sessions does not count.
    pub(crate) seconds: f64,
    /// Time of the last event. Empty without one.
    pub(crate) last_event: String,
    /// Why the journal could be read only in part.
    pub(crate) damage: Option<String>,
}

impl TaskHistory {
    pub(crate) fn step(&self, step: u64) -> Option<&StepHistory> {
        let index = usize::try_from(step.checked_sub(1)?).ok()?;
        self.steps.get(index)
    }

    /// A model, card or version by its index.
    pub(crate) fn name_of(&self, index: Option<u32>) -> Option<&str> {
        self.names.get(index? as usize).map(String::as_str)
    }

    /// The best kernel: of those that are confirmed to be faster than the baseline, the fastest, and of equals the earliest.
    pub(crate) fn best(&self) -> Option<(u64, &Confirmation, Speedup)> {
        let faster = self.confirmations.iter().rev().filter_map(|(step, one)| {
            let speedup = one.speedup.filter(Speedup::is_faster)?;
            (self.baseline_step != Some(*step)).then_some((*step, one, speedup))
        });
        faster.max_by(|one, other| one.2.geomean.total_cmp(&other.2.geomean))
    }

    /// The elites that no confirmation has refuted, fastest first by the figure of the search.
    pub(crate) fn unrefuted_elites(&self) -> impl Iterator<Item = &crate::search::Elite> {
        self.grid.elites().iter().filter(|elite| {
            let confirmation = self.confirmations.get(&elite.step);
            !confirmation.is_some_and(Confirmation::refutes)
        })
    }

    /// The step that a reader wants to see first: the best kernel, else the fastest elite.
    pub(crate) fn leading_step(&self) -> Option<u64> {
        let best = self.best().map(|(step, ..)| step);
        best.or_else(|| self.unrefuted_elites().next().map(|elite| elite.step))
    }

    /// The best kernel against the best starting kernel: that kernel's step, and the result.
    pub(crate) fn against_start(&self) -> Option<(u64, Option<Duel>)> {
        let (best, ..) = self.best()?;
        let compared = self.comparisons.iter().rev().find(|one| one.step == best)?;
        Some((compared.against, compared.duel))
    }

    /// The best kernel beside the strongest known baselines, the strongest first.
    pub(crate) fn strongest_baselines(&self) -> Vec<StrongestBaseline> {
        self.best()
            .map_or_else(Vec::new, |(step, confirmation, _)| {
                let derived = DerivedBaselines::of(&confirmation.verdict);
                strongest_known(derived, self.beside_strongest.get(&step))
            })
    }

    /// The strongest of the baselines that the best kernel was timed against in pairs, with the times on each workload.
    pub(crate) fn strongest_timed(&self) -> Option<&BaselineEntry> {
        let compared = self.beside_strongest.get(&self.best()?.0)?;
        let strongest = compared.strongest()?;
        let mut entries = compared.entries.iter();
        entries.find(|entry| entry.name == strongest.name)
    }

    /// A step and its ancestors by first parents, oldest first.
    pub(crate) fn lineage(&self, step: u64) -> Vec<u64> {
        let mut lineage = vec![step];
        // A parent is always an earlier step, so this ends.
        while let Some(parent) = lineage
            .last()
            .and_then(|step| self.step(*step))
            .and_then(|step| step.parents.first().copied())
            .filter(|parent| *parent < *lineage.last().unwrap_or(&0))
        {
            lineage.push(parent);
        }
        lineage.reverse();
        lineage
    }

    pub(crate) fn is_start(&self, step: u64) -> bool {
        let step = self.step(step);
        step.is_some_and(|step| step.operator == Some(Operator::Start))
    }

    pub(crate) fn count(&self, is_counted: impl Fn(Outcome) -> bool) -> u64 {
        let steps = self.steps.iter();
        steps.filter(|step| is_counted(step.outcome)).count() as u64
    }

    /// Steps that have a result.
    pub(crate) fn ended(&self) -> u64 {
        self.count(|outcome| outcome != Outcome::Open)
    }

    /// What the task has spent on models. `None` if a price is unknown.
    pub(crate) fn dollars(&self) -> Option<f64> {
        self.nano_usd.map(|nano| nano as f64 / 1e9)
    }
}
