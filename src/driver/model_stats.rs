//! How models have fared, for the summary: by model, and by the version of the prompts.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::event::{Cost, Edits, Event, FailedReason, ReplyOutcome, Usage};

/// Counts over the events of a task.
#[derive(Default)]
pub(super) struct ModelTally {
    models: BTreeMap<String, ModelStats>,
    prompts: BTreeMap<String, ModelStats>,
    /// Of steps that ask: the model, and the version of the last prompt.
    requested_by: HashMap<u64, (String, Option<String>)>,
    /// Speedups of what passed, for parents.
    speedups: HashMap<u64, f64>,
    /// Of proposals by models: the first parent, and the time expected against its own, less one.
    expected: HashMap<u64, (u64, f64)>,
}

/// How one model fared, or all with one version of the prompts.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct ModelStats {
    /// Steps that are over.
    steps: u64,
    /// Questions sent, and how they ended.
    asked: u64,
    outcomes: BTreeMap<ReplyOutcome, u64>,
    tokens: Usage,
    cost: Cost,
    /// Kernels to judge, and those that passed.
    proposed: u64,
    passed: u64,
    /// passed / proposed; `null` before the first verdict.
    validity: Option<f64>,
    /// Steps without a kernel, by reason.
    failed: BTreeMap<FailedReason, u64>,
    /// Shares of all steps that are over; `null` before the first.
    no_op_rate: Option<f64>,
    miss_rate: Option<f64>,
    edits: Edits,
    /// repaired / asked; `null` without edits.
    repair_rate: Option<f64>,
    judgement: ExpectationStats,
}

/// What a model expected of its changes, against what they brought. Over children that passed, of parents that had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct ExpectationStats {
    n: u64,
    /// Where faster was expected and came, or slower.
    right_direction: u64,
    /// The mean distance between expected and measured change of time, in points of percent; `null` without any.
    mean_error_percent: Option<f64>,
}

impl ModelTally {
    pub(super) fn count_event(&mut self, event: &Event) {
        match event {
            Event::Asked(brief) => {
                if let Some(model) = &brief.model {
                    self.requested_by
                        .insert(brief.step, (model.name.clone(), None));
                }
            }
            Event::Sent(sent) => {
                if let Some((_, version)) = self.requested_by.get_mut(&sent.step) {
                    *version = Some(sent.prompts.clone());
                }
                self.count_for_step(sent.step, |fared| fared.asked += 1);
            }
            Event::Replied(replied) => self.count_for_step(replied.step, |fared| {
                *fared.outcomes.entry(replied.outcome).or_default() += 1;
                let usage = replied.usage.unwrap_or_default();
                let tokens = &mut fared.tokens;
                tokens.input += usage.input;
                tokens.cached += usage.cached;
                tokens.cache_write += usage.cache_write;
                tokens.output += usage.output;
                tokens.reasoning += usage.reasoning;
                let (cost, paid) = (&mut fared.cost, &replied.cost);
                cost.tokens += paid.tokens;
                cost.assumed |= paid.assumed;
                cost.nano_usd = match (cost.nano_usd, paid.nano_usd) {
                    (None, None) => None,
                    (sum, paid) => Some(sum.unwrap_or(0) + paid.unwrap_or(0)),
                };
            }),
            Event::Proposed(proposed) => {
                if let (Some(expected), Some(parent)) =
                    (proposed.expected, proposed.parents.first())
                {
                    self.expected.insert(proposed.step, (*parent, expected));
                }
                self.count_for_step(proposed.step, |fared| {
                    fared.steps += 1;
                    fared.proposed += 1;
                    fared.count_edits(proposed.edits);
                });
            }
            Event::Failed(failed) => self.count_for_step(failed.step, |fared| {
                fared.steps += 1;
                *fared.failed.entry(failed.reason).or_default() += 1;
                fared.count_edits(failed.edits);
            }),
            Event::Judged(judged) if judged.verdict.passed() => {
                let Some(speedup) = judged.verdict.speedup else {
                    return;
                };
                let step = judged.step;
                // An elite that is judged again is no second success.
                if self.speedups.insert(step, speedup.geomean).is_some() {
                    return;
                }
                let expected = self.expected.get(&step).and_then(|(parent, expected)| {
                    let change = self.speedups.get(parent)? / speedup.geomean - 1.0;
                    Some((*expected, change))
                });
                self.count_for_step(step, |fared| {
                    fared.passed += 1;
                    if let Some((expected, change)) = expected {
                        fared.judgement.add(expected, change);
                    }
                });
            }
            _ => {}
        }
    }

    /// By model.
    pub(super) fn by_model(&self) -> BTreeMap<String, ModelStats> {
        with_all_rates(&self.models)
    }

    /// By version of the prompts.
    pub(super) fn by_prompts_version(&self) -> BTreeMap<String, ModelStats> {
        with_all_rates(&self.prompts)
    }

    fn count_for_step(&mut self, step: u64, mut count: impl FnMut(&mut ModelStats)) {
        let Some((model, version)) = self.requested_by.get(&step) else {
            return;
        };
        count(self.models.entry(model.clone()).or_default());
        if let Some(version) = version {
            count(self.prompts.entry(version.clone()).or_default());
        }
    }
}

fn with_all_rates(counts: &BTreeMap<String, ModelStats>) -> BTreeMap<String, ModelStats> {
    let counts = counts.iter();
    counts
        .map(|(name, fared)| (name.clone(), fared.clone().with_rates()))
        .collect()
}

impl ModelStats {
    fn count_edits(&mut self, edits: Edits) {
        self.edits.asked += edits.asked;
        self.edits.missed += edits.missed;
        self.edits.repaired += edits.repaired;
    }

    fn with_rates(mut self) -> Self {
        let rate = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
        let failed = |reason| self.failed.get(&reason).copied().unwrap_or(0);
        self.validity = rate(self.passed, self.proposed);
        self.no_op_rate = rate(failed(FailedReason::NoOp), self.steps);
        self.miss_rate = rate(failed(FailedReason::EditMissed), self.steps);
        self.repair_rate = rate(u64::from(self.edits.repaired), u64::from(self.edits.asked));
        self
    }
}

impl ExpectationStats {
    fn add(&mut self, expected: f64, change: f64) {
        let sum = self.mean_error_percent.unwrap_or(0.0) * self.n as f64;
        self.n += 1;
        self.right_direction += u64::from(expected.signum() == change.signum());
        self.mean_error_percent = Some((sum + (expected - change).abs() * 100.0) / self.n as f64);
    }
}
