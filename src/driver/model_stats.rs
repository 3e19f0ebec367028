//! Statistics of models for the summary: per model, and per version of the prompts.
//!
//! Counts over the events of a task, live and on resume alike. Nothing is decided from these numbers.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde::Serialize;

use crate::event::{
    Cost, EditCounts, Event, Failed, FailedReason, Operator, Replied, ReplyOutcome, Usage,
};
use crate::report::{AttemptFigures, AttemptResult, Attempts, UnansweredSteps};
use crate::search::{Search, StepOutcome, StepRecord};
use crate::verdict::{Status, VerdictSummary};

/// Counts over the events of a task.
#[derive(Default)]
pub(super) struct ModelTally {
    models: BTreeMap<String, ModelStats>,
    prompts: BTreeMap<String, ModelStats>,
    /// Model and version of the last prompt of each step that asks a model.
    requested_by: HashMap<u64, (Arc<str>, Option<Arc<str>>)>,
    /// The names of models and versions: steps share them.
    names: HashSet<Arc<str>>,
    /// Steps that asked a model and got no candidate, by reason.
    unanswered: BTreeMap<FailedReason, UnansweredSteps>,
    /// Speedup of each candidate that passed.
    speedups: HashMap<u64, f64>,
    /// The highest worst case of a request, tokens and dollars apart.
    highest_reservation: Option<Cost>,
    /// The first parent of a candidate, and the relative change of its run time that the model expected.
    expected: HashMap<u64, (u64, f64)>,
}

/// Counts of one model, or of one version of the prompts. Part of `summary.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct ModelStats {
    /// Steps that have ended.
    steps: u64,
    /// Requests sent.
    asked: u64,
    outcomes: BTreeMap<ReplyOutcome, u64>,
    tokens: Usage,
    cost: Cost,
    /// Candidates.
    proposed: u64,
    /// Candidates that passed.
    passed: u64,
    /// Correct candidates that were not measured precisely enough.
    inconclusive: u64,
    /// Share of the ended steps whose candidate passed, without `inconclusive` and kforge's own faults. `null` without such a step.
    validity: Option<f64>,
    /// Steps without a candidate, by reason.
    failed: BTreeMap<FailedReason, u64>,
    /// Share of the ended steps whose reply changed nothing. `null` without an ended step.
    no_op_rate: Option<f64>,
    /// Share of the ended steps whose edits matched no place. `null` without an ended step.
    miss_rate: Option<f64>,
    edits: EditCounts,
    /// repaired / asked edits. `null` without edits.
    repair_rate: Option<f64>,
    judgement: ExpectationStats,
    /// Of the steps that are folded.
    figures: AttemptFigures,
}

/// The attempts of a task, all and those of each model and version of the prompts.
#[derive(Default)]
pub(super) struct TaskAttempts {
    pub(super) all: Attempts,
    models: BTreeMap<Arc<str>, Attempts>,
    prompts: BTreeMap<Arc<str>, Attempts>,
}

/// Expected against measured change of the run time, over candidates that passed and whose first parent passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct ExpectationStats {
    n: u64,
    /// Candidates that became faster, or slower, as expected.
    right_direction: u64,
    /// Mean absolute difference of the two changes, in percentage points. `null` if `n` is 0.
    mean_error_percent: Option<f64>,
}

impl ModelTally {
    pub(super) fn count_event(&mut self, event: &Event) {
        match event {
            Event::Asked(brief) => {
                if let Some(model) = &brief.model {
                    let name = self.shared_name(&model.name);
                    self.requested_by.insert(brief.step, (name, None));
                }
            }
            Event::Sent(sent) => {
                let prompts = self.shared_name(&sent.prompts);
                if let Some((_, version)) = self.requested_by.get_mut(&sent.step) {
                    *version = Some(prompts);
                }
                let highest = self.highest_reservation.unwrap_or_default();
                self.highest_reservation = Some(highest.max_of_each(&sent.reserved));
                self.count_for_step(sent.step, |stats| stats.asked += 1);
            }
            Event::Replied(replied) => {
                self.count_for_step(replied.step, |stats| stats.count_reply(replied));
            }
            Event::Proposed(proposed) => {
                if let (Some(expected), Some(parent)) =
                    (proposed.expected, proposed.parents.first())
                {
                    self.expected.insert(proposed.step, (*parent, expected));
                }
                self.count_for_step(proposed.step, |stats| {
                    stats.steps += 1;
                    stats.proposed += 1;
                    stats.count_edits(proposed.edits);
                });
            }
            Event::Failed(failed) => {
                self.note_unanswered(failed);
                self.count_for_step(failed.step, |stats| {
                    // A candidate that kforge could not judge, or that compiles to known code, has been counted.
                    let had_candidate =
                        failed.reason == FailedReason::HarnessError || failed.code.is_some();
                    stats.steps += u64::from(!had_candidate);
                    *stats.failed.entry(failed.reason).or_default() += 1;
                    stats.count_edits(failed.edits);
                });
            }
            Event::Judged(judged) => {
                self.count_verdict(judged.step, &VerdictSummary::from(&judged.verdict));
            }
            Event::Dueled(_)
            | Event::Confirmed(_)
            | Event::Compared(_)
            | Event::StrongestCompared(_)
            | Event::Stopped(_) => {}
        }
    }

    /// Counts a `judged` event, as `count_event` does.
    pub(super) fn count_verdict(&mut self, step: u64, verdict: &VerdictSummary) {
        let Some(speedup) = verdict.passed_speedup() else {
            if verdict.status == Status::Inconclusive && !self.speedups.contains_key(&step) {
                self.count_for_step(step, |stats| stats.inconclusive += 1);
            }
            return;
        };
        // An elite that is judged again has been counted already.
        if self.speedups.insert(step, speedup.geomean).is_some() {
            return;
        }
        // The figure of a dismissed candidate is too rough to judge an expectation by.
        let expected = self.expected.get(&step).filter(|_| !verdict.is_dismissed());
        let expected = expected.and_then(|(parent, expected)| {
            let change = self.speedups.get(parent)? / speedup.geomean - 1.0;
            Some((*expected, change))
        });
        self.count_for_step(step, |stats| {
            stats.passed += 1;
            if let Some((expected, change)) = expected {
                stats.judgement.add(expected, change);
            }
        });
    }

    /// The highest cost that was reserved for a request.
    pub(super) fn highest_reservation(&self) -> Option<Cost> {
        self.highest_reservation
    }

    /// The steps that asked a model and got no candidate, by reason.
    pub(super) fn unanswered(&self) -> Vec<UnansweredSteps> {
        self.unanswered.values().cloned().collect()
    }

    fn note_unanswered(&mut self, failed: &Failed) {
        use FailedReason::{NoCode, NoReply, Refused, Truncated};
        if !matches!(failed.reason, NoReply | Refused | Truncated | NoCode) {
            return;
        }
        let earlier = self.unanswered.get(&failed.reason);
        let steps = earlier.map_or(0, |earlier| earlier.steps) + 1;
        let missing = UnansweredSteps {
            reason: failed.reason,
            steps,
            last: failed.step,
            detail: failed.detail.clone().unwrap_or_default(),
        };
        self.unanswered.insert(failed.reason, missing);
    }

    /// Statistics per model.
    pub(super) fn by_model(&self, attempts: &TaskAttempts) -> BTreeMap<String, ModelStats> {
        with_all_rates(&self.models, &attempts.models)
    }

    /// Statistics per version of the prompts.
    pub(super) fn by_prompts_version(
        &self,
        attempts: &TaskAttempts,
    ) -> BTreeMap<String, ModelStats> {
        with_all_rates(&self.prompts, &attempts.prompts)
    }

    /// The attempts of the folded steps. Starting kernels are none.
    pub(super) fn attempts(&self, search: &Search) -> TaskAttempts {
        let mut attempts = TaskAttempts::default();
        for step in search.latest_of(search.folded()) {
            let Some(result) = search.record(step).and_then(attempt_result) else {
                continue;
            };
            attempts.all.add(result);
            if let Some((model, version)) = self.requested_by.get(&step) {
                let of_model = attempts.models.entry(Arc::clone(model)).or_default();
                of_model.add(result);
                if let Some(version) = version {
                    let of_version = attempts.prompts.entry(Arc::clone(version)).or_default();
                    of_version.add(result);
                }
            }
        }
        attempts
    }

    /// Applies `count` to the model and the prompts of a step. Does nothing for a step without a model.
    fn count_for_step(&mut self, step: u64, mut count: impl FnMut(&mut ModelStats)) {
        let Some((model, version)) = self.requested_by.get(&step) else {
            return;
        };
        count(self.models.entry(model.to_string()).or_default());
        if let Some(version) = version {
            count(self.prompts.entry(version.to_string()).or_default());
        }
    }

    fn shared_name(&mut self, name: &str) -> Arc<str> {
        match self.names.get(name) {
            Some(name) => name.clone(),
            None => {
                let name: Arc<str> = name.into();
                self.names.insert(name.clone());
                name
            }
        }
    }
}

fn with_all_rates(
    stats: &BTreeMap<String, ModelStats>,
    attempts: &BTreeMap<Arc<str>, Attempts>,
) -> BTreeMap<String, ModelStats> {
    let stats = stats.iter().map(|(name, stats)| {
        let figures = attempts.get(name.as_str()).map(Attempts::figures);
        let stats = ModelStats {
            figures: figures.unwrap_or_default(),
            ..stats.clone().with_rates()
        };
        (name.clone(), stats)
    });
    stats.collect()
}

/// What a folded step was as an attempt. `None` for a starting kernel, and for a candidate whose figure is of another device.
fn attempt_result(record: &StepRecord) -> Option<AttemptResult> {
    if record.operator == Operator::Start || record.outcome == StepOutcome::PassedBefore {
        return None;
    }
    let counted = record.outcome.counts_for_validity(record.operator);
    Some(match record.outcome {
        StepOutcome::Passed { speedup, .. } => AttemptResult::Passed {
            speedup,
            dismissed: !record.outcome.is_complete_pass(),
        },
        StepOutcome::Failed(FailedReason::NoOp) => AttemptResult::NoOp { counted },
        _ => AttemptResult::Other { counted },
    })
}

/// Adds to a sum. Providers can report any number.
fn add(sum: &mut u64, count: u64) {
    *sum = sum.saturating_add(count);
}

impl ModelStats {
    fn count_reply(&mut self, replied: &Replied) {
        *self.outcomes.entry(replied.outcome).or_default() += 1;
        let usage = replied.usage.unwrap_or_default();
        add(&mut self.tokens.input, usage.input);
        add(&mut self.tokens.cached, usage.cached);
        add(&mut self.tokens.cache_write, usage.cache_write);
        add(&mut self.tokens.output, usage.output);
        add(&mut self.tokens.reasoning, usage.reasoning);
        let (total, cost) = (&mut self.cost, &replied.cost_in_tokens());
        add(&mut total.tokens, cost.tokens);
        total.assumed |= cost.assumed;
        total.estimated |= cost.estimated;
        total.nano_usd = match (total.nano_usd, cost.nano_usd) {
            (None, None) => None,
            (total, cost) => Some(total.unwrap_or(0).saturating_add(cost.unwrap_or(0))),
        };
    }

    fn count_edits(&mut self, edits: EditCounts) {
        self.edits.asked += edits.asked;
        self.edits.missed += edits.missed;
        self.edits.repaired += edits.repaired;
    }

    fn with_rates(mut self) -> Self {
        let rate = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
        let failed = |reason| self.failed.get(&reason).copied().unwrap_or(0);
        let not_counted = self.inconclusive + failed(FailedReason::HarnessError);
        self.validity = rate(self.passed, self.steps.saturating_sub(not_counted));
        self.no_op_rate = rate(failed(FailedReason::NoOp), self.steps);
        self.miss_rate = rate(failed(FailedReason::EditMissed), self.steps);
        self.repair_rate = rate(u64::from(self.edits.repaired), u64::from(self.edits.asked));
        self
    }
}

impl ExpectationStats {
    fn add(&mut self, expected: f64, measured: f64) {
        let sum = self.mean_error_percent.unwrap_or(0.0) * self.n as f64;
        self.n += 1;
        self.right_direction += u64::from(expected.signum() == measured.signum());
        let error = (expected - measured).abs() * 100.0;
        self.mean_error_percent = Some((sum + error) / self.n as f64);
    }
}
