//! Proposals whose points are tried before they are judged (`search.tune_first`), and how the fastest point becomes the candidate.
//!
//! A proposal waits from its source to its `proposed` event, which has what was tried. Until then the journal has only its brief and what a
//! model replied, so a run that is killed meanwhile proposes and tries again: the same points, and nothing that was paid for. `untried` has
//! what waits.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use super::task_state::TaskState;
use super::untried::{Proposal, Trying};
use crate::base::Digest;
use crate::event::{EvaluationSeconds, Event, Proposed, TriedPoint, TriedPoints};
use crate::kernel::{Kernel, normal_form, with_point};
use crate::propose::Candidate;
use crate::worker::TrialOutcome;

impl TaskState<'_> {
    /// Lets a proposal wait for its trials, or makes it the candidate: then with its event.
    pub(super) fn place(&mut self, proposal: Proposal) -> Result<Option<Event>> {
        if let Some(tried) = self.replayed_trials(&proposal.proposed) {
            let chosen = self.at_fastest(proposal, tried);
            return self.accept(chosen).map(Some);
        }
        let proposed = &proposal.proposed;
        let is_new = self.same_kernel(proposed).is_none();
        let waits = is_new && !self.untried.is_broken && {
            let points = self.search.points_to_try(proposed);
            !points.is_empty() || self.untried.has_family(proposed.family)
        };
        if !waits {
            return self.accept(proposal).map(Some);
        }
        self.untried.waiting.insert(proposed.step, proposal);
        Ok(None)
    }

    /// Tries the points of the next proposal that waits, unless those of another are tried. A proposal that needs no trials any more
    /// becomes the candidate.
    pub(super) fn start_trials(&mut self) -> Result<()> {
        while self.scheduler.can_try()
            && let Some((step, proposal)) = self.untried.waiting.pop_first()
        {
            let sources = self.sources_to_try(&proposal);
            if sources.len() < 2 {
                let event = self.accept(proposal)?;
                self.record(vec![event])?;
                continue;
            }
            self.scheduler.try_points(step, &sources)?;
            self.untried.trying = Some(Trying { proposal, sources });
        }
        Ok(())
    }

    /// The event of a proposal whose points were tried.
    pub(super) fn tried(
        &mut self,
        step: u64,
        outcome: TrialOutcome,
        took: Duration,
    ) -> Result<Event> {
        let Trying { proposal, sources } = self.take_trying(step)?;
        let trials = outcome.trials.into_iter().zip(&sources);
        let points = trials.filter_map(|(trial, source)| {
            let kernel = Kernel::parse(source, &self.task.definition).ok()?;
            Some(TriedPoint {
                point: kernel.point(),
                microseconds: trial.microseconds,
                status: trial.status,
            })
        });
        let tried = TriedPoints {
            points: points.collect(),
            seconds: EvaluationSeconds {
                wall: took.as_secs_f64(),
                device: outcome.device_seconds,
            },
        };
        let chosen = self.at_fastest(proposal, tried);
        self.accept(chosen)
    }

    /// The event of a proposal whose trials failed because of the machinery. It loses nothing: its own point is judged.
    pub(super) fn trials_failed(&mut self, step: u64, error: &anyhow::Error) -> Result<Event> {
        tracing::warn!("no points are tried before kernels are judged any more: {error:#}");
        self.untried.is_broken = true;
        let trying = self.take_trying(step)?;
        self.accept(trying.proposal)
    }

    fn take_trying(&mut self, step: u64) -> Result<Trying> {
        let trying = self.untried.trying.take();
        let trying = trying.filter(|trying| trying.proposal.proposed.step == step);
        trying.with_context(|| format!("points of step {step} were tried, but it has no proposal"))
    }

    /// The kernel file at each point that a proposal gets, its own first.
    fn sources_to_try(&self, proposal: &Proposal) -> Vec<Arc<str>> {
        let mut sources = vec![proposal.source.clone()];
        let points = self.search.points_to_try(&proposal.proposed);
        if let Ok(kernel) = Kernel::parse(&proposal.source, &self.task.definition)
            && !self.untried.is_broken
        {
            let others = points.iter().filter_map(|point| with_point(&kernel, point));
            sources.extend(others.map(Arc::from));
        }
        sources
    }

    /// What the replayed run found for this proposal. So a replay has the candidates of that run.
    fn replayed_trials(&self, proposed: &Proposed) -> Option<TriedPoints> {
        let replay = self.replay.as_ref()?;
        replay.tried(proposed.step, proposed.family)
    }

    /// The proposal with the values of its fastest point, or with its own if no point passed.
    fn at_fastest(&self, proposal: Proposal, tried: TriedPoints) -> Proposal {
        let Proposal {
            mut proposed,
            mut source,
        } = proposal;
        let fastest = tried.fastest().map(|fastest| &fastest.point);
        let kernel = Kernel::parse(&source, &self.task.definition);
        if let (Some(point), Ok(kernel)) = (fastest, kernel)
            && *point != proposed.point
            && let Some(text) = with_point(&kernel, point)
        {
            let detail = std::mem::take(&mut proposed.detail);
            let candidate = Candidate::from_source(text, detail, &self.task);
            proposed.kernel = Digest::of(&candidate.source);
            proposed.form = normal_form(&candidate.source);
            proposed.detail = candidate.detail;
            proposed.point = candidate.point;
            proposed.space = candidate.space;
            source = candidate.source.into();
        }
        proposed.tried = Some(tried);
        Proposal { proposed, source }
    }
}
