//! The loop of one task: ask, propose, judge, record, until the search stops; then confirm the best kernels, and time the best of
//! them against the best starting kernel.
//!
//! Decides what happens when; the parts of `TaskState` do it. Work runs next to the loop and comes back as results. All results
//! that are ready become durable together, before anything is built on them.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::sync::watch;

use super::interrupt::interrupted;
use super::running::WorkResult;
use super::task_state::TaskState;
use crate::event::{StopReason, Stopped};

/// How long the first of several results waits for others: about as long as a sync takes.
const GATHER_TIME: Duration = Duration::from_millis(1);

/// The loop of a task.
pub(super) struct TaskLoop<'l, 'a> {
    state: &'l mut TaskState<'a>,
    interrupt: &'l mut watch::Receiver<bool>,
}

/// How the loop of a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoopEnd {
    Finished,
    Interrupted,
    /// Replies in a mailbox are missing, and nothing else can be done without them.
    AwaitingReplies,
}

/// Whether the loop may continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Continue,
    Interrupted,
}

/// Why `wait_for_events` returned.
enum Wake {
    Result(WorkResult),
    Interrupt,
    Deadline,
    Tick,
}

impl<'l, 'a> TaskLoop<'l, 'a> {
    pub(super) fn new(
        state: &'l mut TaskState<'a>,
        interrupt: &'l mut watch::Receiver<bool>,
    ) -> Self {
        Self { state, interrupt }
    }

    /// Runs the task to its end, or until it is interrupted.
    pub(super) async fn run(&mut self) -> Result<LoopEnd> {
        let mut end = self.rejudge_stale_elites().await;
        if matches!(end, Ok(LoopEnd::Finished)) {
            end = self.run_search().await;
        }
        if matches!(end, Ok(LoopEnd::Finished)) {
            end = self.confirm_best().await;
        }
        if matches!(end, Ok(LoopEnd::Finished)) {
            end = self.compare_best().await;
        }
        self.state.scheduler.running.cancel_all().await;
        self.state.update_progress();
        if end.is_ok() {
            self.state.write_best()?;
        }
        end
    }

    /// Judges elites again after an accepted change.
    async fn rejudge_stale_elites(&mut self) -> Result<LoopEnd> {
        while self.state.scheduler.has_stale() || !self.state.scheduler.running.is_empty() {
            let sources = &mut self.state.sources;
            self.state.scheduler.dispatch_stale(sources)?;
            if self.wait_for_events(None).await? == Flow::Interrupted {
                return Ok(LoopEnd::Interrupted);
            }
        }
        Ok(LoopEnd::Finished)
    }

    /// The search itself: until it stops and nothing is running any more.
    async fn run_search(&mut self) -> Result<LoopEnd> {
        let deadline = self.state.reporter.deadline();
        loop {
            if self.is_searching() {
                self.stop_if_due(deadline).await?;
            }
            if self.is_searching() {
                self.state.ask()?;
                self.state.propose()?;
                self.state.advance_requests()?;
                self.state.dispatch()?;
                self.stop_if_out_of_budget()?;
            }
            self.drop_mailbox_requests_if_stopped().await;
            if self.state.scheduler.running.is_empty() {
                return self.end_of_search();
            }
            if self.wait_for_events(deadline).await? == Flow::Interrupted {
                return Ok(LoopEnd::Interrupted);
            }
        }
    }

    /// Confirms the fastest elites, one after the other.
    async fn confirm_best(&mut self) -> Result<LoopEnd> {
        loop {
            let faults = &self.state.faults;
            let mut steps = self.state.search.steps_to_confirm().into_iter();
            let Some(step) = steps.find(|step| !faults.cannot_be_confirmed(*step)) else {
                return Ok(LoopEnd::Finished);
            };
            let source = self.state.sources.text(step)?;
            self.state.scheduler.confirm(step, source)?;
            if self.wait_until_idle().await? == Flow::Interrupted {
                return Ok(LoopEnd::Interrupted);
            }
        }
    }

    /// Times the best kernel against the best starting kernel, unless it is one.
    async fn compare_best(&mut self) -> Result<LoopEnd> {
        while let Some(request) = self.state.search.comparison_to_make()
            && !self.state.faults.cannot_be_compared(request)
        {
            let sources = &mut self.state.sources;
            self.state.scheduler.compare(request, sources)?;
            if self.wait_until_idle().await? == Flow::Interrupted {
                return Ok(LoopEnd::Interrupted);
            }
        }
        Ok(LoopEnd::Finished)
    }

    async fn wait_until_idle(&mut self) -> Result<Flow> {
        while !self.state.scheduler.running.is_empty() {
            if self.wait_for_events(None).await? == Flow::Interrupted {
                return Ok(Flow::Interrupted);
            }
        }
        Ok(Flow::Continue)
    }

    fn is_searching(&self) -> bool {
        self.state.stop_reason().is_none()
    }

    /// How the search ended, once nothing is running.
    fn end_of_search(&self) -> Result<LoopEnd> {
        if !self.is_searching() {
            return Ok(LoopEnd::Finished);
        }
        let requests = self.state.requests.as_ref();
        if requests.is_some_and(|requests| requests.awaits_mailbox()) {
            return Ok(LoopEnd::AwaitingReplies);
        }
        bail!(
            "deadlock: step {} has no pending work (a bug in kforge)",
            self.state.search.folded() + 1
        );
    }

    /// Ends the run if no model can be asked any more. Ends the search if the search says so, or the time is spent.
    async fn stop_if_due(&mut self, deadline: Option<Instant>) -> Result<()> {
        let requests = self.state.requests.as_ref();
        if requests.is_some_and(|requests| requests.has_fatal()) {
            self.wait_for_replies().await?;
            if let Some(failure) = self.take_fatal() {
                return Err(failure.into());
            }
        }
        if let Some(why) = self.state.search.stop_reason() {
            self.wait_for_replies().await?;
            // The fold has decided without the steps that are still in progress.
            self.state.scheduler.running.cancel_all().await;
            if let Some(requests) = &mut self.state.requests {
                requests.clear();
            }
            let at = self.state.search.folded();
            return self.state.stop(Stopped { why, at });
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return self.stop_at_last_step(StopReason::Seconds);
        }
        Ok(())
    }

    fn take_fatal(&mut self) -> Option<crate::base::Failure> {
        let requests = self.state.requests.as_mut();
        requests.and_then(|requests| requests.take_fatal())
    }

    /// Ends the search if the next request could cost more than is left, and nothing in progress can change that.
    fn stop_if_out_of_budget(&mut self) -> Result<()> {
        let requests = self.state.requests.as_ref();
        if requests.is_some_and(|requests| requests.is_out_of_budget()) {
            return self.stop_at_last_step(StopReason::Budget);
        }
        Ok(())
    }

    fn stop_at_last_step(&mut self, why: StopReason) -> Result<()> {
        let at = self.state.briefs.last_step();
        self.state.stop(Stopped { why, at })
    }

    /// Cancels requests to mailboxes if the search has stopped and nothing else is running: their replies may take forever, and a
    /// resumed run finds them in the mailbox.
    async fn drop_mailbox_requests_if_stopped(&mut self) {
        let running = &mut self.state.scheduler.running;
        let requests = self.state.requests.as_ref();
        let only_mailboxes =
            requests.is_some_and(|requests| requests.only_mailbox_requests(running.len()));
        if self.state.reporter.progress().stopped.is_some() && only_mailboxes {
            running.cancel_all().await;
        }
    }

    /// Waits for the replies of all requests that cost money, unless the run is interrupted.
    async fn wait_for_replies(&mut self) -> Result<()> {
        let awaits_paid = |state: &TaskState<'_>| {
            let requests = state.requests.as_ref();
            requests.is_some_and(|requests| requests.is_sending_beyond_mailboxes())
        };
        while awaits_paid(self.state) {
            if self.wait_for_events(None).await? == Flow::Interrupted {
                break;
            }
        }
        Ok(())
    }

    /// Waits until something happens, then settles every result that is ready.
    async fn wait_for_events(&mut self, deadline: Option<Instant>) -> Result<Flow> {
        // Once the search has stopped, work in progress may take its time.
        let deadline = deadline.filter(|_| self.is_searching());
        let has_models = self.state.requests.is_some();
        let next_tick = self.state.reporter.next_tick();
        let running = &mut self.state.scheduler.running;
        let wake = tokio::select! {
            biased;
            () = interrupted(self.interrupt) => Wake::Interrupt,
            result = running.next() => Wake::Result(result?),
            () = sleep_until(deadline) => Wake::Deadline,
            () = sleep_until(next_tick), if has_models => Wake::Tick,
        };
        let results = match wake {
            Wake::Deadline => return Ok(Flow::Continue),
            Wake::Tick => {
                self.state.update_progress();
                self.state.reporter.tick();
                return Ok(Flow::Continue);
            }
            Wake::Interrupt => {
                // Results that have already arrived are kept.
                let results = self.ready_results(Vec::new())?;
                self.state.settle(results)?;
                return Ok(Flow::Interrupted);
            }
            Wake::Result(result) => self.ready_results(vec![result])?,
        };
        let results = self.gather_results(results).await?;
        self.state.settle(results)?;
        Ok(Flow::Continue)
    }

    /// Adds the results that are ready now.
    fn ready_results(&mut self, mut results: Vec<WorkResult>) -> Result<Vec<WorkResult>> {
        while let Some(result) = self.state.scheduler.running.try_next()? {
            results.push(result);
        }
        Ok(results)
    }

    /// Adds the results that arrive within the time of one sync, so that they share it.
    async fn gather_results(&mut self, mut results: Vec<WorkResult>) -> Result<Vec<WorkResult>> {
        let running = &mut self.state.scheduler.running;
        let until = tokio::time::Instant::now() + GATHER_TIME;
        while !running.is_empty()
            && let Ok(result) = tokio::time::timeout_at(until, running.next()).await
        {
            results.push(result?);
        }
        Ok(results)
    }
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}
