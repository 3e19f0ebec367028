//! What prompts are told of earlier steps: verdicts in a few words, failures, expectations. In memory, made from the journal.

use std::collections::HashMap;
use std::sync::Arc;

use crate::event::{Event, Operator};
use crate::propose::prompt::{Feedback, HistoryEntry, describe_failed_step};
use crate::search::{Search, StepOutcome};
use crate::task::Task;

/// How many steps are looked through for each that is told.
const SCANNED_PER_ENTRY: u64 = 16;

#[derive(Default)]
pub(in crate::driver) struct FeedbackLog {
    feedback: HashMap<u64, Arc<Feedback>>,
    failures: HashMap<u64, String>,
    expected: HashMap<u64, f64>,
}

impl FeedbackLog {
    /// Takes note of an event.
    pub(in crate::driver) fn note(&mut self, event: &Event, task: &Task) {
        match event {
            Event::Judged(judged) => {
                if let Some(feedback) = Feedback::from_verdict(&judged.verdict, task) {
                    self.feedback.insert(judged.step, Arc::new(feedback));
                }
            }
            Event::Failed(failed) => {
                self.failures
                    .insert(failed.step, describe_failed_step(failed));
            }
            Event::Proposed(proposed) => {
                if let Some(expected) = proposed.expected {
                    self.expected.insert(proposed.step, expected);
                }
            }
            _ => {}
        }
    }

    /// What is told of a step's verdict; `source`: the step that has the same source and was judged.
    pub(in crate::driver) fn feedback(&self, step: u64, search: &Search) -> Option<Arc<Feedback>> {
        let source = search.source_step(step);
        let found = self
            .feedback
            .get(&step)
            .or_else(|| self.feedback.get(&source));
        found.cloned()
    }

    /// The steps up to `known` that are worth telling, at most so many, in their order: what models made, and what the archive took.
    pub(in crate::driver) fn history(
        &self,
        search: &Search,
        known: u64,
        most: u64,
    ) -> Vec<HistoryEntry> {
        let first = known.saturating_sub(most.saturating_mul(SCANNED_PER_ENTRY)) + 1;
        let mut tried: Vec<HistoryEntry> = (first..=known)
            .rev()
            .filter_map(|step| {
                let record = search.record(step)?;
                let worth = record.operator.asks_model() || record.outcome.was_added();
                (worth && record.operator != Operator::Start)
                    .then(|| self.history_entry(search, step))?
            })
            .take(usize::try_from(most).unwrap_or(usize::MAX))
            .collect();
        tried.reverse();
        tried
    }

    fn history_entry(&self, search: &Search, step: u64) -> Option<HistoryEntry> {
        let record = search.record(step)?;
        // Of several parents the fastest is the one to beat.
        let speed = |step: &u64| {
            let feedback = self.feedback(*step, search);
            feedback
                .and_then(|feedback| feedback.speedup)
                .map_or(0.0, |speedup| speedup[0])
        };
        let parents = record.parents.iter().rev();
        let parent = parents.max_by(|one, other| speed(one).total_cmp(&speed(other)));
        let result = match record.outcome {
            StepOutcome::Passed { .. } | StepOutcome::NotPassed(_) => {
                let child = self.feedback(step, search)?;
                match parent.and_then(|parent| self.feedback(*parent, search)) {
                    Some(parent) => child.describe_change_from(&parent),
                    None => child.describe_outcome(),
                }
            }
            StepOutcome::Failed(_) => self.failures.get(&step).cloned().unwrap_or_default(),
            StepOutcome::Duplicate { of } => format!("the same code as step {of}"),
        };
        Some(HistoryEntry {
            step,
            operator: record.operator,
            parents: record.parents.to_vec(),
            // A duplicate made a change too, which must not be tried again.
            detail: match record.outcome {
                StepOutcome::Failed(_) => String::new(),
                _ => record.detail.to_string(),
            },
            expected: self.expected.get(&step).copied(),
            result,
        })
    }
}
