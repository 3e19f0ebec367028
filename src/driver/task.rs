//! The loop of one task: ask, propose, judge, record, tell.
//!
//! Everything that decides is owned here and touched by nobody else. Proposers and evaluators run beside the loop and come
//! back as messages; all that are ready are made durable together (`settle`), and only then told, reported and built upon.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::sync::watch;

use super::asking::{Exchange, FeedbackLog, ModelRequests};
use super::fault_policy::PendingGiveUp;
use super::interrupt;
use super::model_stats::ModelTally;
use super::proposer::{Parent, Proposer};
use super::running::{EvaluationPurpose, Running, WorkResult};
use super::sources::KernelSources;
use super::summary::Summary;
use crate::base::files::WriteBatch;
use crate::event::{Brief, Event, StopReason, Stopped};
use crate::report::{Observer, Progress};
use crate::run::{Journal, TaskDirectory};
use crate::search::Search;
use crate::task::Task;
use crate::worker::{Evaluator, Job, JobKind};

/// How long the first of several messages waits for the others: about as long as a sync takes.
const GATHER_TIME: Duration = Duration::from_millis(1);

/// How often it is told who is waited for.
const TICK_INTERVAL: Duration = Duration::from_secs(1);

/// A task under way.
pub(super) struct TaskLoop<'a> {
    pub(super) task: Arc<Task>,
    pub(super) directory: TaskDirectory,
    pub(super) journal: Journal,
    pub(super) search: Search,
    pub(super) sources: KernelSources,
    /// The step to ask next.
    pub(super) next_step: u64,
    /// Steps that were asked and are not answered.
    pub(super) open: BTreeMap<u64, Brief>,
    /// Those of them that are not with the proposer.
    pub(super) waiting_for_proposer: BTreeSet<u64>,
    /// Proposed, and not with the judge.
    pub(super) unjudged: BTreeMap<u64, Arc<str>>,
    /// Elites to judge again, because what they are measured with has changed.
    pub(super) stale: VecDeque<u64>,
    /// How often the judge failed on a step, in this process.
    pub(super) faults: HashMap<(u64, EvaluationPurpose), u32>,
    /// How many steps in a row were given up for that.
    pub(super) given_up_in_a_row: u32,
    /// What was given up, while it is not known whether the judge works.
    pub(super) pending_give_ups: Vec<PendingGiveUp>,
    /// The journal's last word on why the search is over.
    pub(super) stopped: Option<Stopped>,
    pub(super) running: Running,
    pub(super) batch: WriteBatch,
    pub(super) progress: Progress,
    /// The best candidate whose files are in place.
    pub(super) best_on_disk: Option<(u64, bool)>,
    pub(super) started: Instant,
    /// When it was last told who is waited for.
    pub(super) ticked: Instant,
    pub(super) in_flight: usize,
    pub(super) proposer: Arc<dyn Proposer>,
    /// `None` where no model is asked.
    pub(super) requests: Option<ModelRequests<'a>>,
    /// Steps that ask, by how far they have come.
    pub(super) exchanges: BTreeMap<u64, Exchange>,
    pub(super) feedback: FeedbackLog,
    pub(super) model_stats: ModelTally,
    /// The most earlier steps that a prompt tells of.
    pub(super) max_history: u64,
    /// Made ready once there is something to judge.
    pub(super) evaluator: Option<Arc<dyn Evaluator>>,
    pub(super) summary: &'a mut Summary,
    pub(super) observer: &'a mut dyn Observer,
}

/// How a task's loop came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoopEnd {
    Finished,
    Interrupted,
    /// Somebody is to reply for whom nobody waits, and nothing else can be done until then.
    Waiting,
}

/// What woke the loop.
enum Wake {
    Message(WorkResult),
    Interrupt,
    Deadline,
    Tick,
}

impl TaskLoop<'_> {
    /// Runs the task to its end, or until it is told to stop.
    pub(super) async fn run(&mut self, interrupt: &mut watch::Receiver<bool>) -> Result<LoopEnd> {
        let mut end = self.rejudge_stale_elites(interrupt).await;
        if matches!(end, Ok(LoopEnd::Finished)) {
            end = self.run_search(interrupt).await;
        }
        if matches!(end, Ok(LoopEnd::Finished)) {
            end = self.confirm_best(interrupt).await;
        }
        self.running.cancel_all().await;
        self.update_progress();
        if end.is_ok() {
            self.write_best()?;
        }
        end
    }

    /// Judges elites again after a change that somebody accepted.
    async fn rejudge_stale_elites(
        &mut self,
        interrupt: &mut watch::Receiver<bool>,
    ) -> Result<LoopEnd> {
        while !self.stale.is_empty() || !self.running.is_empty() {
            while self.running.evaluations() < self.in_flight
                && let Some(step) = self.stale.pop_front()
            {
                let source = self.sources.text(step)?;
                self.judge(step, source, JobKind::Judge, EvaluationPurpose::Rejudge)?;
            }
            if self.wait_for_events(interrupt, None).await? == LoopEnd::Interrupted {
                return Ok(LoopEnd::Interrupted);
            }
        }
        Ok(LoopEnd::Finished)
    }

    async fn run_search(&mut self, interrupt: &mut watch::Receiver<bool>) -> Result<LoopEnd> {
        let deadline = self.progress.budget.and_then(|budget| {
            let left = budget.saturating_sub(self.progress.spent_before);
            self.started.checked_add(left)
        });
        loop {
            if self.progress.stopped.is_none() && self.has_fatal() {
                self.wait_for_replies(interrupt).await?;
                self.take_fatal()?;
            }
            if self.progress.stopped.is_none() {
                self.stop_if_due(deadline, interrupt).await?;
            }
            if self.progress.stopped.is_none() {
                self.ask()?;
                self.propose()?;
                self.advance_exchanges()?;
                self.dispatch()?;
                self.check_judge_if_stuck()?;
                self.stop_if_out_of_budget()?;
            }
            if self.progress.stopped.is_some() && self.only_mailbox_requests_are_running() {
                // Nobody knows when those will reply, and whoever resumes finds what they did.
                self.running.cancel_all().await;
            }
            if self.running.is_empty() {
                if self.progress.stopped.is_none() && self.awaits_mailbox() {
                    return Ok(LoopEnd::Waiting);
                }
                if self.progress.stopped.is_none() {
                    bail!(
                        "the search waits behind step {} for something that nobody does",
                        self.search.folded()
                    );
                }
                return Ok(LoopEnd::Finished);
            }
            if self.wait_for_events(interrupt, deadline).await? == LoopEnd::Interrupted {
                return Ok(LoopEnd::Interrupted);
            }
        }
    }

    /// Measures the fastest again, one after the other.
    async fn confirm_best(&mut self, interrupt: &mut watch::Receiver<bool>) -> Result<LoopEnd> {
        loop {
            let steps = self.search.steps_to_confirm();
            let Some(step) = steps
                .into_iter()
                .find(|step| !self.cannot_be_confirmed(*step))
            else {
                return Ok(LoopEnd::Finished);
            };
            let source = self.sources.text(step)?;
            self.judge(step, source, JobKind::Confirm, EvaluationPurpose::Confirm)?;
            while !self.running.is_empty() {
                if self.wait_for_events(interrupt, None).await? == LoopEnd::Interrupted {
                    return Ok(LoopEnd::Interrupted);
                }
            }
        }
    }

    /// Ends the search where it says so itself, or where the time is spent.
    async fn stop_if_due(
        &mut self,
        deadline: Option<Instant>,
        interrupt: &mut watch::Receiver<bool>,
    ) -> Result<()> {
        let stopped = match self.search.stop_reason() {
            Some(why) => {
                self.wait_for_replies(interrupt).await?;
                // The fold has decided without the steps that are still under way.
                self.running.cancel_all().await;
                self.exchanges.clear();
                let at = self.search.folded();
                Stopped { why, at }
            }
            None if deadline.is_some_and(|deadline| Instant::now() >= deadline) => Stopped {
                why: StopReason::Seconds,
                at: self.next_step - 1,
            },
            None => return Ok(()),
        };
        self.progress.stopped = Some(stopped.why);
        // A resumed run comes to the same end, which is already on record.
        if self.stopped.as_ref() == Some(&stopped) {
            return Ok(());
        }
        self.stopped = Some(stopped.clone());
        self.record(vec![Event::Stopped(stopped)])
    }

    /// Ends the search where the next question would cost more than is left, and nothing under way can change that.
    fn stop_if_out_of_budget(&mut self) -> Result<()> {
        if self.progress.stopped.is_some() || !self.is_out_of_budget() {
            return Ok(());
        }
        let stopped = Stopped {
            why: StopReason::Budget,
            at: self.next_step - 1,
        };
        self.progress.stopped = Some(stopped.why);
        if self.stopped.as_ref() == Some(&stopped) {
            return Ok(());
        }
        self.stopped = Some(stopped.clone());
        self.record(vec![Event::Stopped(stopped)])
    }

    /// Takes in the replies that are on their way, unless it is told to stop: they are paid for.
    async fn wait_for_replies(&mut self, interrupt: &mut watch::Receiver<bool>) -> Result<()> {
        while self.is_sending() && !self.awaits_only_mailboxes() {
            if self.wait_for_events(interrupt, None).await? == LoopEnd::Interrupted {
                break;
            }
        }
        Ok(())
    }

    /// Takes every question that is ready. The lines are durable before anybody sees them.
    fn ask(&mut self) -> Result<()> {
        let mut asked = Vec::new();
        while let Some(brief) = self.search.ask(self.next_step) {
            self.open.insert(brief.step, brief.clone());
            self.waiting_for_proposer.insert(brief.step);
            asked.push(Event::Asked(brief));
            self.next_step += 1;
        }
        self.record(asked)
    }

    /// Sends all questions whose parents are known to the proposer, in step order. One batch at a time.
    fn propose(&mut self) -> Result<()> {
        if self.running.is_proposing() {
            return Ok(());
        }
        let mut questions = Vec::new();
        for step in std::mem::take(&mut self.waiting_for_proposer) {
            let Some(brief) = self.open.get(&step) else {
                continue;
            };
            if brief.operator.asks_model() || self.awaits_parents(brief) {
                self.waiting_for_proposer.insert(step);
                continue;
            }
            let brief = brief.clone();
            let mut parents = Vec::new();
            for step in &brief.parents {
                if self.sources.has_kernel(*step) {
                    let source = self.sources.text(*step)?.to_string();
                    parents.push(Parent {
                        step: *step,
                        source,
                    });
                }
            }
            questions.push((brief, parents));
        }
        if !questions.is_empty() {
            self.running
                .propose(self.proposer.clone(), self.task.clone(), questions);
        }
        Ok(())
    }

    /// Fills the judge: a duel first, since the fold waits for it, then the earliest candidates.
    fn dispatch(&mut self) -> Result<()> {
        while self.running.evaluations() < self.in_flight {
            let duel = self
                .search
                .pending_duel()
                .filter(|_| !self.running.is_dueling());
            if let Some(duel) = duel.filter(|duel| !self.is_give_up_pending(duel.step)) {
                let source = self.sources.text(duel.step)?;
                let against = self.sources.text(duel.against)?;
                let purpose = EvaluationPurpose::Duel {
                    against: duel.against,
                };
                self.judge(duel.step, source, JobKind::Duel { against }, purpose)?;
            } else if let Some((step, source)) = self.unjudged.pop_first() {
                self.judge(step, source, JobKind::Judge, EvaluationPurpose::Judge)?;
            } else {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn judge(
        &mut self,
        step: u64,
        source: Arc<str>,
        kind: JobKind,
        purpose: EvaluationPurpose,
    ) -> Result<()> {
        let evaluator = self.evaluator.as_ref().context("no judge was made ready")?;
        let job = Job { step, source, kind };
        self.running.evaluate(evaluator, job, purpose);
        Ok(())
    }

    /// Whether nothing is left to do: the search is over, its best are confirmed, and the journal says so.
    pub(super) fn is_finished(&self) -> bool {
        let spent = |budget| self.progress.spent_before >= budget;
        let why = match self.search.stop_reason() {
            None if self.progress.budget.is_some_and(spent) => Some(StopReason::Seconds),
            why => why,
        };
        let recorded = self.stopped.as_ref().map(|stopped| stopped.why);
        why.is_some()
            && why == recorded
            && self.search.steps_to_confirm().is_empty()
            && self.stale.is_empty()
    }

    /// Waits for something to happen, and takes in everything that has.
    async fn wait_for_events(
        &mut self,
        interrupt: &mut watch::Receiver<bool>,
        deadline: Option<Instant>,
    ) -> Result<LoopEnd> {
        // Once the search is stopped, what is in flight has all the time that it needs.
        let deadline = deadline.filter(|_| self.progress.stopped.is_none());
        let wake = tokio::select! {
            biased;
            () = interrupt::interrupted(interrupt) => Wake::Interrupt,
            message = self.running.next() => Wake::Message(message?),
            () = sleep_until(deadline) => Wake::Deadline,
            () = sleep_until(self.ticked.checked_add(TICK_INTERVAL)), if self.requests.is_some() => Wake::Tick,
        };
        let (mut messages, end) = match wake {
            Wake::Message(message) => (vec![message], LoopEnd::Finished),
            Wake::Deadline => return Ok(LoopEnd::Finished),
            Wake::Tick => {
                self.ticked = Instant::now();
                self.update_progress();
                self.observer.waiting(&self.progress);
                return Ok(LoopEnd::Finished);
            }
            // What has arrived is kept.
            Wake::Interrupt => (Vec::new(), LoopEnd::Interrupted),
        };
        while let Some(message) = self.running.try_next()? {
            messages.push(message);
        }
        // Whoever comes in the time of one sync shares it.
        let until = tokio::time::Instant::now() + GATHER_TIME;
        while end == LoopEnd::Finished
            && !self.running.is_empty()
            && let Ok(message) = tokio::time::timeout_at(until, self.running.next()).await
        {
            messages.push(message?);
        }
        self.settle(messages)?;
        Ok(end)
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
