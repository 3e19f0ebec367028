//! Everything that the loop of one task owns, one part per concern, and the order in which events take effect.
//!
//! | part | what it owns |
//! | --- | --- |
//! | `briefs` | open steps |
//! | `untried` | proposals whose points are tried before they are judged |
//! | `scheduler` | running work, and the queue in front of the judge |
//! | `requests` | exchanges with models, and their budget |
//! | `replay` | results that wait until the replayed run had them |
//! | `faults` | harness errors |
//! | `time` | time budgets, and what the time was spent on |
//! | `writer` | the task's files and journal |
//! | `reporter` | progress, summary, best kernel on disk |
//!
//! `settle` turns results into events; `task_loop` decides what happens when. No other code touches the parts.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};

use super::asking::{ModelRequests, TaskParts};
use super::briefs::OpenBriefs;
use super::fault_policy::FaultPolicy;
use super::journal_writer::JournalWriter;
use super::point_limits::PointLimits;
use super::replay_turns::ReplayTurns;
use super::reporter::Reporter;
use super::round::{FollowUp, Round};
use super::scheduler::{DispatchParts, Scheduler};
use super::sources::KernelSources;
use super::task_time::{Allowance, Finalists, TaskTime};
use super::untried::Untried;
use crate::event::{Event, StopReason, Stopped};
use crate::report::{RunPhase, Unmeasured};
use crate::search::{Anchor, DuelRequest, Search, SearchUpdate};
use crate::task::Task;
use crate::worker::Contenders;

/// The state of a task in progress.
pub(super) struct TaskState<'a> {
    pub(super) task: Arc<Task>,
    pub(super) search: Search,
    pub(super) sources: KernelSources,
    pub(super) briefs: OpenBriefs,
    pub(super) untried: Untried,
    pub(super) scheduler: Scheduler,
    pub(super) point_limits: PointLimits,
    /// What candidates are timed against, if anything but the baseline. Empty until it is decided.
    pub(super) anchor: OnceCell<Option<Anchor>>,
    /// `None` if the run has no models.
    pub(super) requests: Option<ModelRequests<'a>>,
    /// `None` if the run replays no other, or its search has ended.
    pub(super) replay: Option<ReplayTurns>,
    pub(super) faults: FaultPolicy,
    pub(super) time: TaskTime,
    /// What the best kernel is timed against at the end, besides the baseline. `None` if nothing else works here.
    pub(super) contenders: Option<Arc<Contenders>>,
    pub(super) writer: JournalWriter,
    pub(super) reporter: Reporter<'a>,
    /// The last `stopped` event of the journal.
    pub(super) recorded_stop: Option<Stopped>,
    /// Whether this process has recorded anything except that the search stopped.
    pub(super) work_recorded: bool,
}

impl<'a> TaskState<'a> {
    /// Makes events durable, then applies them: search, feedback, progress, observer, in this order.
    ///
    /// # Errors
    /// An I/O error; or a brief that differs from the recorded one, which is a bug in kforge.
    pub(super) fn record(&mut self, events: Vec<Event>) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        self.writer.append(&events)?;
        let is_work = |event: &Event| !matches!(event, Event::Stopped(_));
        self.work_recorded |= events.iter().any(is_work);
        let mut improved = false;
        for event in &events {
            let updates = self.search.tell(event);
            if let Some(requests) = &mut self.requests {
                requests.note_event(event);
            }
            self.reporter.count_event(event);
            self.time.tally.count_event(event);
            self.update_progress();
            for update in &updates {
                match update {
                    SearchUpdate::Best { .. } | SearchUpdate::Confirmed { .. } => improved = true,
                    SearchUpdate::Diverged(divergence) => {
                        return Err(anyhow!("{divergence}")
                            .context("a brief has changed since it was recorded"));
                    }
                    _ => {}
                }
            }
            improved |= matches!(event, Event::StrongestCompared(_));
            self.reporter.show_event(event, &updates);
        }
        if improved && self.reporter.may_write_summary() {
            self.write_best()?;
            self.write_summary(None)?;
        }
        Ok(())
    }

    /// Records the events of a round, then does what follows.
    pub(super) fn finish_round(&mut self, round: Round) -> Result<()> {
        self.record(round.events)?;
        self.follow_up(round.follow_ups)
    }

    /// Does what becomes possible once a round is durable.
    pub(super) fn follow_up(&mut self, follow_ups: Vec<FollowUp>) -> Result<()> {
        for follow_up in follow_ups {
            let Some((requests, mut parts)) = self.requests_and_parts() else {
                bail!("a request is to be sent, but the run has no models");
            };
            match follow_up {
                FollowUp::Send(step) => requests.send(step, &mut parts)?,
                FollowUp::Parse(step) => requests.parse_replies(step, &mut parts)?,
            }
        }
        Ok(())
    }

    /// Records the briefs that the search has decided.
    pub(super) fn ask(&mut self) -> Result<()> {
        let asked = self.briefs.ask(&self.search);
        self.record(asked)
    }

    /// Passes ready briefs to kforge's own operators.
    pub(super) fn propose(&mut self) -> Result<()> {
        self.scheduler
            .propose(&mut self.briefs, &mut self.sources, &self.task)
    }

    /// Advances every exchange with a model as far as possible.
    pub(super) fn advance_requests(&mut self) -> Result<()> {
        let mut round = Round::default();
        if let Some((requests, mut parts)) = self.requests_and_parts() {
            requests.advance(&mut parts, &mut round)?;
        } else if let Some(brief) = self.briefs.take_ready(true, &self.sources).first() {
            bail!(
                "step {} asks a model, but the config has no models",
                brief.step
            );
        }
        self.finish_round(round)
    }

    /// Fills the judge with duels and candidates.
    pub(super) fn dispatch(&mut self) -> Result<()> {
        self.decide_anchor()?;
        let parts = DispatchParts {
            sources: &mut self.sources,
            faults: &self.faults,
            anchor: self.anchor.get().and_then(Option::as_ref),
            task: &self.task,
        };
        self.scheduler.dispatch(&self.search, parts)?;
        self.scheduler
            .check_judge_if_stuck(&self.faults, &self.task)
    }

    /// Fills the judge with elites that must be judged again.
    pub(super) fn dispatch_stale(&mut self) -> Result<()> {
        if !self.scheduler.rejudges_start(&self.search) {
            self.decide_anchor()?;
        }
        let anchor = self.anchor.get().and_then(Option::as_ref);
        self.scheduler
            .dispatch_stale(&self.search, &mut self.sources, anchor)
    }

    /// The requests, and the parts of the task that they use. `None` if the run has no models.
    pub(super) fn requests_and_parts(&mut self) -> Option<(&mut ModelRequests<'a>, TaskParts<'_>)> {
        let parts = TaskParts {
            task: &self.task,
            search: &self.search,
            sources: &mut self.sources,
            briefs: &mut self.briefs,
            writer: &mut self.writer,
            running: &mut self.scheduler.running,
            is_stopped: self.reporter.progress().stopped.is_some(),
        };
        self.requests.as_mut().map(|requests| (requests, parts))
    }

    /// Why the search stopped. `None` while it runs.
    pub(super) fn stop_reason(&self) -> Option<StopReason> {
        self.reporter.progress().stopped
    }

    /// Stops the search, and records it unless an earlier process has stopped at the same step for the same reason.
    pub(super) fn stop(&mut self, stopped: Stopped) -> Result<()> {
        self.time.stop_search();
        self.reporter.set_stopped(Some(stopped.why));
        if self.recorded_stop.as_ref() == Some(&stopped) {
            return Ok(());
        }
        self.recorded_stop = Some(stopped.clone());
        self.record(vec![Event::Stopped(stopped)])
    }

    /// Whether nothing is left to do: the search has stopped for a recorded reason, and its best kernels are confirmed and compared, as
    /// far as the time allows.
    pub(super) fn is_finished(&self) -> bool {
        let recorded = self.recorded_stop.as_ref();
        let spent = || self.time_is_spent().map(|(why, _)| why);
        let reason = self.search.stop_reason().or_else(spent);
        reason.is_some()
            && reason == recorded.map(|stopped| stopped.why)
            && self.next_confirmation().is_none()
            && self.next_strongest().is_none()
            && self.next_comparison().is_none()
            && !self.scheduler.has_stale()
    }

    /// Which time budget has no more room for the search, and how large it is.
    pub(super) fn time_is_spent(&self) -> Option<(StopReason, Duration)> {
        let recorded = self.recorded_stop.as_ref();
        self.time.stop_reason(self.finalists(), recorded)
    }

    /// What would be confirmed if the search stopped now.
    pub(super) fn finalists(&self) -> Option<Finalists> {
        let first = self.search.best()?.step;
        let count = self.search.possible_bests();
        Some(Finalists { first, count })
    }

    /// The next kernel to confirm, and how long it may take.
    pub(super) fn next_confirmation(&self) -> Option<(u64, Allowance)> {
        let step = self.unconfirmed_steps().next()?;
        let has_best = self.search.best_confirmed().is_some();
        let allowance = self.time.allow_confirmation(step, has_best)?;
        Some((step, allowance))
    }

    /// The kernels that should be confirmed, fastest first.
    pub(super) fn unconfirmed_steps(&self) -> impl Iterator<Item = u64> {
        let steps = self.search.steps_to_confirm().into_iter();
        steps.filter(|step| !self.faults.cannot_be_confirmed(*step))
    }

    /// The best kernel, if it can be timed against the strongest baselines now: the baselines, and how long it may take.
    pub(super) fn next_strongest(&self) -> Option<(u64, Arc<Contenders>, Allowance)> {
        let (step, contenders) = self.missing_strongest()?;
        let allowance = self.time.allow_strongest()?;
        Some((step, contenders.clone(), allowance))
    }

    fn missing_strongest(&self) -> Option<(u64, &Arc<Contenders>)> {
        let contenders = self.contenders.as_ref()?;
        let step = self.search.step_without_strongest()?;
        (!self.faults.cannot_compare_strongest(step)).then_some((step, contenders))
    }

    /// The comparison of the best kernel that can be made, and how long it may take.
    pub(super) fn next_comparison(&self) -> Option<(DuelRequest, Allowance)> {
        let request = self.missing_comparison()?;
        let allowance = self.time.allow_comparison(request.step)?;
        Some((request, allowance))
    }

    fn missing_comparison(&self) -> Option<DuelRequest> {
        let request = self.search.comparison_to_make();
        request.filter(|request| !self.faults.cannot_be_compared(*request))
    }

    /// Shows that the confirmation with this number is made, since `elapsed`.
    pub(super) fn show_confirmation(&mut self, number: usize, elapsed: Duration) {
        let waiting: Vec<_> = self.unconfirmed_steps().collect();
        let costs = waiting
            .iter()
            .map(|step| self.time.tally.confirmation(Some(*step)).wall);
        let comparison = self.time.tally.comparison(waiting.first().copied()).wall;
        let expected = costs.sum::<Duration>() + comparison;
        self.reporter.set_phase(RunPhase::Confirming {
            number,
            of: number + waiting.len().saturating_sub(1),
            left: self.time.left_of(expected, elapsed),
        });
    }

    /// Shows that the best kernel is compared, since `elapsed`.
    pub(super) fn show_comparison(&mut self, request: DuelRequest, elapsed: Duration) {
        let expected = self.time.tally.comparison(Some(request.step)).wall;
        let left = self.time.left_of(expected, elapsed);
        self.reporter.set_phase(RunPhase::Comparing { left });
    }

    /// Shows that the best kernel is timed against the strongest baselines, since `elapsed`.
    pub(super) fn show_strongest(&mut self, elapsed: Duration) {
        let expected = self.time.tally.strongest().wall;
        let left = self.time.left_of(expected, elapsed);
        self.reporter
            .set_phase(RunPhase::ComparingStrongest { left });
    }

    /// Notes what is left unmeasured although it could be measured.
    pub(super) fn note_unmeasured(&mut self) {
        let has_best = self.search.best_confirmed().is_some();
        let unmeasured = Unmeasured {
            confirmation: !has_best && self.unconfirmed_steps().next().is_some(),
            comparison: self.missing_comparison().is_some(),
            strongest: self.missing_strongest().is_some(),
        };
        self.reporter.set_unmeasured(unmeasured);
    }

    /// Notes which replies the mailboxes do not have yet.
    pub(super) fn note_awaited_replies(&mut self) {
        let Some(requests) = &self.requests else {
            return;
        };
        let directory = self.writer.directory();
        let awaited = requests.awaited_replies().into_iter();
        let paths = awaited.map(|(step, ask)| directory.response(step, ask));
        self.reporter.set_awaited(paths.collect());
    }

    pub(super) fn update_progress(&mut self) {
        self.reporter
            .update(&self.search, self.requests.as_ref(), &self.time);
    }

    pub(super) fn write_best(&mut self) -> Result<()> {
        self.reporter
            .write_best(&self.search, &mut self.sources, &self.writer)
    }

    pub(super) fn write_summary(&mut self, failure: Option<String>) -> Result<()> {
        self.reporter
            .write_summary(&self.search, &self.time, failure)
    }
}
