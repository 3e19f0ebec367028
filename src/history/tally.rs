//! What operators, models, strategy cards and versions of the prompts have brought, and what they cost.

use std::collections::BTreeMap;

use super::step::{Outcome, StepHistory};
use super::task::TaskHistory;

/// The sums of a group of steps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Steps that have ended.
    pub(crate) steps: u64,
    /// Steps that cost an evaluation or a reply: what the valid ones are a share of.
    pub(crate) counted: u64,
    pub(crate) judged: u64,
    pub(crate) passed: u64,
    /// Entered the archive.
    pub(crate) added: u64,
    /// Faster than the first parent, by the estimate of the search.
    pub(crate) faster: u64,
    pub(crate) requests: u64,
    pub(crate) tokens: u64,
    pub(crate) nano_usd: u64,
    pub(crate) judge_seconds: f64,
    /// The highest provisional speedup that entered the archive, and its step.
    pub(crate) fastest: Option<(f64, u64)>,
}

/// The groups of a task, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tallies {
    pub(crate) operators: BTreeMap<String, Tally>,
    pub(crate) models: BTreeMap<String, Tally>,
    pub(crate) cards: BTreeMap<String, Tally>,
    pub(crate) prompts: BTreeMap<String, Tally>,
}

impl Tallies {
    pub(crate) fn of(task: &TaskHistory) -> Self {
        let mut tallies = Self::default();
        for step in &task.steps {
            let parent = step.parents.first().and_then(|parent| task.step(*parent));
            let add = |group: &mut BTreeMap<String, Tally>, name: Option<&str>| {
                if let Some(name) = name {
                    group.entry(name.to_owned()).or_default().add(step, parent);
                }
            };
            let operator = step.operator.map(crate::event::Operator::name);
            add(&mut tallies.operators, operator);
            add(&mut tallies.models, task.name_of(step.model));
            add(&mut tallies.cards, task.name_of(step.card));
            add(&mut tallies.prompts, task.name_of(step.prompts));
        }
        tallies
    }
}

impl Tally {
    fn add(&mut self, step: &StepHistory, parent: Option<&StepHistory>) {
        self.steps += u64::from(step.outcome != Outcome::Open);
        self.counted += u64::from(step.counts_for_validity());
        self.judged += u64::from(step.outcome.is_judged());
        let has_passed = matches!(step.outcome, Outcome::Passed | Outcome::Dismissed);
        self.passed += u64::from(has_passed);
        self.added += u64::from(step.added);
        self.requests += u64::from(step.requests);
        self.tokens = self.tokens.saturating_add(step.tokens);
        self.nano_usd = self.nano_usd.saturating_add(step.nano_usd);
        self.judge_seconds += f64::from(step.judge_seconds);
        let Some(speedup) = step.speedup.filter(|_| step.outcome == Outcome::Passed) else {
            return;
        };
        let before = parent.and_then(|parent| parent.speedup);
        self.faster += u64::from(before.is_some_and(|before| speedup.geomean > before.geomean));
        if step.added
            && self
                .fastest
                .is_none_or(|(fastest, _)| speedup.geomean > fastest)
        {
            self.fastest = Some((speedup.geomean, step.step));
        }
    }
}
