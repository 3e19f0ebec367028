//! What prompts say about earlier steps: verdicts, failures and expectations.
//!
//! Made from the lines of the journal when a prompt needs it; only the latest is kept in memory, because a run has many steps. Words
//! the entries with `propose::prompt`; decides nothing about a prompt's layout.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Result;

use super::task_parts::JudgedSteps;
use crate::event::{Event, FailedReason, Operator};
use crate::propose::prompt::{Feedback, HistoryEntry, describe_failed_step, describe_trials};
use crate::search::StepOutcome;

/// Number of steps that are searched for each entry of the history.
const SCANNED_PER_ENTRY: usize = 16;

/// Number of steps whose feedback is kept in memory.
const MAX_KEPT: usize = 256;

/// Feedback on the steps of a task.
#[derive(Default)]
pub(in crate::driver) struct FeedbackLog {
    /// Made from the last verdict of a step. `None`: the step has none.
    kept: HashMap<u64, Option<Arc<Feedback>>>,
    expected: HashMap<u64, f64>,
    /// Which points of a model's kernel were tried before it was judged.
    tried: HashMap<u64, String>,
}

impl FeedbackLog {
    /// Adds an event.
    pub(in crate::driver) fn note(&mut self, event: &Event) {
        match event {
            Event::Judged(judged) => {
                self.kept.remove(&judged.step);
            }
            Event::Proposed(proposed) => {
                if let Some(expected) = proposed.expected {
                    self.expected.insert(proposed.step, expected);
                }
                if let Some(tried) = &proposed.tried
                    && proposed.operator.asks_model()
                {
                    let text = describe_trials(&proposed.point, tried);
                    self.tried.insert(proposed.step, text);
                }
            }
            _ => {}
        }
    }

    /// The feedback on a step. A step whose source was judged under another step has that step's feedback.
    pub(super) fn feedback(
        &mut self,
        step: u64,
        steps: &JudgedSteps<'_>,
    ) -> Result<Option<Arc<Feedback>>> {
        match self.own_feedback(step, steps)? {
            Some(feedback) => Ok(Some(feedback)),
            None => self.own_feedback(steps.search.source_step(step), steps),
        }
    }

    /// The feedback that was given under this step.
    fn own_feedback(
        &mut self,
        step: u64,
        steps: &JudgedSteps<'_>,
    ) -> Result<Option<Arc<Feedback>>> {
        if let Some(kept) = self.kept.get(&step) {
            return Ok(kept.clone());
        }
        let verdict = steps.writer.read_verdict(step)?;
        let feedback = verdict.and_then(|verdict| Feedback::from_verdict(&verdict, steps.task));
        let feedback = feedback.map(Arc::new);
        if self.kept.len() >= MAX_KEPT {
            self.kept.clear();
        }
        self.kept.insert(step, feedback.clone());
        Ok(feedback)
    }

    /// The most recent of the first `known` folded steps that are worth mentioning, at most `max`, in the order of the fold: those that
    /// asked a model, and those that entered the archive; on an island only its own.
    pub(super) fn history(
        &mut self,
        steps: &JudgedSteps<'_>,
        (known, island): (u64, Option<u32>),
        max: u64,
    ) -> Result<Vec<HistoryEntry>> {
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        let scanned = max.saturating_mul(SCANNED_PER_ENTRY);
        let mut history = Vec::new();
        for step in steps.search.latest_of(known).take(scanned) {
            if history.len() >= max {
                break;
            }
            let Some(record) = steps.search.record(step) else {
                continue;
            };
            if island.is_some() && record.island != island {
                continue;
            }
            let is_worth_it = record.operator.asks_model() || record.outcome.was_added();
            if is_worth_it && record.operator != Operator::Start {
                history.extend(self.history_entry(steps, step)?);
            }
        }
        history.reverse();
        Ok(history)
    }

    fn history_entry(
        &mut self,
        steps: &JudgedSteps<'_>,
        step: u64,
    ) -> Result<Option<HistoryEntry>> {
        let Some(record) = steps.search.record(step) else {
            return Ok(None);
        };
        let mut result = match record.outcome {
            StepOutcome::Passed { .. } | StepOutcome::NotPassed(_) => {
                let Some(child) = self.feedback(step, steps)? else {
                    return Ok(None);
                };
                match self.fastest_parent(&record.parents, steps)? {
                    Some(parent) => child.describe_change_from(&parent),
                    None => child.describe_outcome(),
                }
            }
            StepOutcome::PassedBefore => {
                "passed, measured before the device or the task was changed".to_owned()
            }
            StepOutcome::Failed(_) => {
                let failed = steps.writer.read_failure(step)?;
                failed
                    .as_ref()
                    .map(describe_failed_step)
                    .unwrap_or_default()
            }
            StepOutcome::Duplicate { of } => {
                let failed = steps.writer.read_failure(step)?;
                if failed.is_some_and(|failed| failed.code.is_some()) {
                    format!("compiles to the same code as step {of}")
                } else {
                    format!("the same code as step {of}")
                }
            }
        };
        if let Some(tried) = self.tried.get(&step) {
            result = format!("{result}; {tried}");
        }
        Ok(Some(HistoryEntry {
            step,
            operator: record.operator,
            parents: record.parents.to_vec(),
            // A duplicate or near-copy made a change too, which must not be tried again.
            detail: match record.outcome {
                StepOutcome::Failed(FailedReason::NearCopy) => record.detail.to_string(),
                StepOutcome::Failed(_) => String::new(),
                _ => record.detail.to_string(),
            },
            expected: self.expected.get(&step).copied(),
            result,
        }))
    }

    /// The feedback on the fastest of the parents, with which a candidate is compared. Of equals, the first. `None` if that parent
    /// has none.
    fn fastest_parent(
        &mut self,
        parents: &[u64],
        steps: &JudgedSteps<'_>,
    ) -> Result<Option<Arc<Feedback>>> {
        let speedup_of = |feedback: &Option<Arc<Feedback>>| {
            let speedup = feedback.as_ref().and_then(|feedback| feedback.speedup);
            speedup.map_or(0.0, |speedup| speedup[0])
        };
        let mut feedback = Vec::new();
        // A figure of another device is none to compare with.
        let is_comparable = |parent: &&u64| {
            let record = steps.search.record(**parent);
            record.is_none_or(|record| record.outcome != StepOutcome::PassedBefore)
        };
        for parent in parents.iter().filter(is_comparable) {
            feedback.push(self.feedback(*parent, steps)?);
        }
        // `max_by` returns the last of equals, so the order is reversed.
        let fastest = (feedback.into_iter().rev())
            .max_by(|one, other| speedup_of(one).total_cmp(&speedup_of(other)));
        Ok(fastest.flatten())
    }
}
