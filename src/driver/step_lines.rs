//! Where a task's journal has the verdict of each step, or the reason why it has no candidate.
//!
//! Verdicts are large, and most are never needed again after their step was folded. So none is kept in memory: `JournalWriter`
//! reads one again from its line. Holds places only, and reads nothing.

use std::collections::HashMap;

use crate::event::{Event, ReplayedEvent};
use crate::run::LineSpan;
use crate::verdict::Status;

/// The lines of each step that may be read again.
#[derive(Default)]
pub(super) struct StepLines {
    judged: HashMap<u64, LineSpan>,
    failed: HashMap<u64, LineSpan>,
}

impl StepLines {
    /// The last verdict of a step, harness errors left out.
    pub(super) fn judged(&self, step: u64) -> Option<LineSpan> {
        self.judged.get(&step).copied()
    }

    /// The last `failed` event of a step.
    pub(super) fn failed(&self, step: u64) -> Option<LineSpan> {
        self.failed.get(&step).copied()
    }

    /// Adds an event that was appended.
    pub(super) fn note(&mut self, event: &Event, span: LineSpan) {
        match event {
            Event::Judged(judged) => self.note_judged(judged.step, judged.verdict.status, span),
            Event::Failed(failed) => {
                self.failed.insert(failed.step, span);
            }
            _ => {}
        }
    }

    /// Adds an event that was read.
    pub(super) fn note_replayed(&mut self, event: &ReplayedEvent, span: LineSpan) {
        match event {
            ReplayedEvent::Judged(judged) => {
                self.note_judged(judged.step, judged.verdict.status, span);
            }
            ReplayedEvent::Other(event) => self.note(event, span),
        }
    }

    fn note_judged(&mut self, step: u64, status: Status, span: LineSpan) {
        // A harness error is not a measurement.
        if status != Status::HarnessError {
            self.judged.insert(step, span);
        }
    }
}
