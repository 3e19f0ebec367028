//! What prompts say about earlier steps: verdicts, failures and expectations.
//!
//! Kept in memory and rebuilt from the journal. Words the entries with `propose::prompt`; decides nothing about a prompt's layout.

use std::collections::HashMap;
use std::sync::Arc;

use crate::event::{Event, Operator};
use crate::propose::prompt::{Feedback, HistoryEntry, describe_failed_step};
use crate::search::{Search, StepOutcome};
use crate::task::Task;

/// Number of steps that are searched for each entry of the history.
const SCANNED_PER_ENTRY: u64 = 16;

/// Feedback on the steps of a task.
#[derive(Default)]
pub(in crate::driver) struct FeedbackLog {
    feedback: HashMap<u64, Arc<Feedback>>,
    failures: HashMap<u64, String>,
    expected: HashMap<u64, f64>,
}

impl FeedbackLog {
    /// Adds an event.
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

    /// The feedback on a step. A step whose source was judged under another step has that step's feedback.
    pub(super) fn feedback(&self, step: u64, search: &Search) -> Option<Arc<Feedback>> {
        let own = self.feedback.get(&step);
        own.or_else(|| self.feedback.get(&search.source_step(step)))
            .cloned()
    }

    /// The most recent steps up to `known` that are worth mentioning, at most `max`, in step order: those that asked a model, and
    /// those that entered the archive.
    pub(super) fn history(&self, search: &Search, known: u64, max: u64) -> Vec<HistoryEntry> {
        let first = known.saturating_sub(max.saturating_mul(SCANNED_PER_ENTRY)) + 1;
        let mut history: Vec<HistoryEntry> = (first..=known)
            .rev()
            .filter_map(|step| {
                let record = search.record(step)?;
                let is_worth_it = record.operator.asks_model() || record.outcome.was_added();
                let is_start = record.operator == Operator::Start;
                (is_worth_it && !is_start).then(|| self.history_entry(search, step))?
            })
            .take(usize::try_from(max).unwrap_or(usize::MAX))
            .collect();
        history.reverse();
        history
    }

    fn history_entry(&self, search: &Search, step: u64) -> Option<HistoryEntry> {
        let record = search.record(step)?;
        let speedup_of = |step: &u64| {
            let feedback = self.feedback(*step, search);
            feedback
                .and_then(|feedback| feedback.speedup)
                .map_or(0.0, |speedup| speedup[0])
        };
        // The candidate is compared with its fastest parent.
        let parents = record.parents.iter().rev();
        let parent = parents.max_by(|one, other| speedup_of(one).total_cmp(&speedup_of(other)));
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
            detail: if record.outcome.has_candidate() {
                record.detail.to_string()
            } else {
                String::new()
            },
            expected: self.expected.get(&step).copied(),
            result,
        })
    }
}
