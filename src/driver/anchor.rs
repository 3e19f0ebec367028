//! The anchor of a task: the starting kernel that candidates are timed against, if one is fast enough.
//!
//! Decided once, when all starting kernels are folded, from the verdicts in the journal: so a resumed run decides the same.

use anyhow::Result;

use super::task_state::TaskState;
use crate::search::Anchor;

impl TaskState<'_> {
    /// Decides the anchor, if that is not done and all starting kernels are folded.
    pub(super) fn decide_anchor(&mut self) -> Result<()> {
        if self.anchor.get().is_some() {
            return Ok(());
        }
        let Some(steps) = self.search.timed_starts() else {
            return Ok(());
        };
        let mut found = None;
        for step in steps {
            found = self.anchor_of(step)?;
            if found.is_some() {
                break;
            }
        }
        if let Some(anchor) = &found {
            tracing::info!(
                "candidates are timed against `{}` (step {}, {:.2}x)",
                anchor.kernel,
                anchor.step,
                anchor.speedup
            );
        }
        self.anchor = found.into();
        Ok(())
    }

    /// The anchor that a starting kernel is, if it can be one.
    fn anchor_of(&mut self, step: u64) -> Result<Option<Anchor>> {
        let kernel = self.search.starting_kernel(step).unwrap_or_default();
        let verdict = self.writer.read_verdict(step)?;
        let found = verdict.and_then(|verdict| Anchor::from_verdict(step, kernel, &verdict));
        let Some(anchor) = found else {
            return Ok(None);
        };
        let source = self.sources.text(step)?.to_string();
        Ok(Some(Anchor { source, ..anchor }))
    }
}
