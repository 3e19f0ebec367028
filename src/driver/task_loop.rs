//! The loop of one task: ask, propose, judge, record, until the search stops; then confirm the best kernels, and time the best of
//! them against the strongest baselines and against the best starting kernel.
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
use crate::report::RunPhase;

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
        let end = self.run_phases().await;
        self.state.scheduler.running.cancel_all().await;
        self.state.update_progress();
        if end.is_ok() {
            self.state.note_unmeasured();
            self.state.write_best()?;
        }
        end
    }

    async fn run_phases(&mut self) -> Result<LoopEnd> {
        let mut end = self.rejudge_stale_elites().await?;
        if end == LoopEnd::Finished {
            end = self.run_search().await?;
        }
        if end == LoopEnd::Finished {
            end = self.finish_judgements().await?;
        }
        if end == LoopEnd::Finished {
            end = self.confirm_best().await?;
        }
        if end == LoopEnd::Finished {
            end = self.compare_strongest().await?;
        }
        if end == LoopEnd::Finished {
            end = self.compare_best().await?;
        }
        if end == LoopEnd::Finished {
            end = self.finish_requests().await?;
        }
        Ok(end)
    }

    /// Judges elites again after an accepted change, until the time for the search is over. Those that are left keep their measurement; a
    /// resumed run judges them again.
    async fn rejudge_stale_elites(&mut self) -> Result<LoopEnd> {
        while self.state.scheduler.has_stale() || !self.state.scheduler.running.is_empty() {
            if self.state.time_is_spent().is_some() {
                self.state.scheduler.running.cancel_all().await;
                return Ok(LoopEnd::Finished);
            }
            self.state.dispatch_stale()?;
            let deadline = self.state.time.search_end(self.state.finalists());
            if self.wait_for_events(deadline).await? == Flow::Interrupted {
                return Ok(LoopEnd::Interrupted);
            }
        }
        Ok(LoopEnd::Finished)
    }

    /// The search itself, until it stops. Work may still be running then.
    async fn run_search(&mut self) -> Result<LoopEnd> {
        loop {
            if self.is_searching() {
                self.state.start_trials()?;
            }
            self.stop_if_due().await?;
            if self.is_searching() {
                self.state.ask()?;
                self.state.propose()?;
                self.state.advance_requests()?;
                self.state.dispatch()?;
                self.stop_if_out_of_budget()?;
            }
            if !self.is_searching() {
                return Ok(LoopEnd::Finished);
            }
            if self.state.scheduler.running.is_empty() {
                if self.state.settle_overdue()? {
                    continue;
                }
                return self.end_of_search();
            }
            let deadline = self.state.time.search_end(self.state.finalists());
            if self.wait_for_events(deadline).await? == Flow::Interrupted {
                return Ok(LoopEnd::Interrupted);
            }
        }
    }

    /// Waits for the judgements that are in progress when the search stops, and cancels those that take too long. A resumed run judges
    /// their candidates. Requests to models go on.
    async fn finish_judgements(&mut self) -> Result<LoopEnd> {
        while self.state.scheduler.running.evaluations() > 0 {
            let deadline = self.state.time.drain_end(self.state.finalists());
            if self.wait_for_evaluation(deadline).await? == Flow::Interrupted {
                return Ok(LoopEnd::Interrupted);
            }
        }
        Ok(LoopEnd::Finished)
    }

    /// Confirms the fastest elites, one after the other, as far as the time allows.
    async fn confirm_best(&mut self) -> Result<LoopEnd> {
        let mut number = 1;
        while let Some((step, allowance)) = self.state.next_confirmation() {
            let source = self.state.sources.text(step)?;
            self.state.scheduler.confirm(step, source, allowance)?;
            let started = Instant::now();
            while self.state.scheduler.running.evaluations() > 0 {
                self.state.show_confirmation(number, started.elapsed());
                let deadline = self.state.time.cancel_at();
                if self.wait_for_evaluation(deadline).await? == Flow::Interrupted {
                    return Ok(LoopEnd::Interrupted);
                }
            }
            number += 1;
        }
        Ok(LoopEnd::Finished)
    }

    /// Times the best kernel against the strongest baselines that work here, unless no time is left.
    async fn compare_strongest(&mut self) -> Result<LoopEnd> {
        while let Some((step, contenders, allowance)) = self.state.next_strongest() {
            let source = self.state.sources.text(step)?;
            let scheduler = &mut self.state.scheduler;
            scheduler.compare_strongest(step, source, contenders, allowance)?;
            let started = Instant::now();
            while self.state.scheduler.running.evaluations() > 0 {
                self.state.show_strongest(started.elapsed());
                let deadline = self.state.time.cancel_at();
                if self.wait_for_evaluation(deadline).await? == Flow::Interrupted {
                    return Ok(LoopEnd::Interrupted);
                }
            }
        }
        Ok(LoopEnd::Finished)
    }

    /// Times the best kernel against the best starting kernel, unless it is one, or no time is left.
    async fn compare_best(&mut self) -> Result<LoopEnd> {
        while let Some((request, allowance)) = self.state.next_comparison() {
            let sources = &mut self.state.sources;
            self.state.scheduler.compare(request, sources, allowance)?;
            let started = Instant::now();
            while self.state.scheduler.running.evaluations() > 0 {
                self.state.show_comparison(request, started.elapsed());
                let deadline = self.state.time.cancel_at();
                if self.wait_for_evaluation(deadline).await? == Flow::Interrupted {
                    return Ok(LoopEnd::Interrupted);
                }
            }
        }
        Ok(LoopEnd::Finished)
    }

    /// Waits for what is still in progress. Replies that cost money are never given up, even if the time is spent.
    async fn finish_requests(&mut self) -> Result<LoopEnd> {
        self.state.reporter.set_phase(RunPhase::Ending);
        loop {
            self.drop_mailbox_requests().await;
            if self.state.scheduler.running.is_empty() {
                return Ok(LoopEnd::Finished);
            }
            if self.wait_for_events(None).await? == Flow::Interrupted {
                return Ok(LoopEnd::Interrupted);
            }
        }
    }

    /// Waits until something happens. Cancels all evaluations if the deadline has passed, after those that have ended are settled.
    async fn wait_for_evaluation(&mut self, deadline: Option<Instant>) -> Result<Flow> {
        let flow = self.wait_for_events(deadline).await?;
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            let results = self.ready_results(Vec::new())?;
            self.state.settle(results)?;
            self.state.scheduler.running.cancel_evaluations().await;
        }
        Ok(flow)
    }

    fn is_searching(&self) -> bool {
        self.state.stop_reason().is_none()
    }

    /// How the search ended, if it has not stopped and nothing is running.
    fn end_of_search(&self) -> Result<LoopEnd> {
        let requests = self.state.requests.as_ref();
        if requests.is_some_and(|requests| requests.awaits_mailbox()) {
            return Ok(LoopEnd::AwaitingReplies);
        }
        match self.state.search.unfinished().next() {
            Some(unfinished) => bail!(
                "deadlock: step {} has no pending work (a bug in kforge)",
                unfinished.step
            ),
            None => bail!("deadlock: no step is in progress (a bug in kforge)"),
        }
    }

    /// Ends the run if no model can be asked any more. Ends the search if the search says so, or the time is spent.
    async fn stop_if_due(&mut self) -> Result<()> {
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
            self.state.replay = None;
            if let Some(requests) = &mut self.state.requests {
                requests.clear();
            }
            let at = self.state.search.folded();
            return self.state.stop(Stopped {
                why,
                at,
                limit: None,
            });
        }
        if let Some((why, budget)) = self.state.time_is_spent() {
            return self.stop_at_last_step(why, Some(budget));
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
            return self.stop_at_last_step(StopReason::Budget, None);
        }
        Ok(())
    }

    /// `budget`: the time budget that is spent.
    fn stop_at_last_step(&mut self, why: StopReason, budget: Option<Duration>) -> Result<()> {
        self.state.end_replay()?;
        let at = self.state.briefs.last_step();
        let limit = budget.map(|budget| budget.as_secs_f64());
        self.state.stop(Stopped { why, at, limit })
    }

    /// Cancels requests to mailboxes if nothing else is running: their replies may take forever, and a resumed run finds them in the
    /// mailbox.
    async fn drop_mailbox_requests(&mut self) {
        let running = &mut self.state.scheduler.running;
        let requests = self.state.requests.as_ref();
        let only_mailboxes =
            requests.is_some_and(|requests| requests.has_only_mailbox_requests(running.len()));
        if only_mailboxes {
            running.cancel_all().await;
        }
    }

    /// Waits for the replies of all requests that cost money, unless the run is interrupted.
    async fn wait_for_replies(&mut self) -> Result<()> {
        let awaits_paid = |state: &TaskState<'_>| {
            let requests = state.requests.as_ref();
            requests.is_some_and(|requests| requests.is_sending_outside_mailboxes())
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
        let next_tick = self.state.reporter.next_tick();
        let running = &mut self.state.scheduler.running;
        let wake = tokio::select! {
            biased;
            () = interrupted(self.interrupt) => Wake::Interrupt,
            result = running.next() => Wake::Result(result?),
            () = sleep_until(deadline) => Wake::Deadline,
            () = sleep_until(next_tick) => Wake::Tick,
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
