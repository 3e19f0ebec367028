//! The loop of one task: ask, propose, judge, record, tell.
//!
//! Everything that decides is owned here and touched by nobody else. Proposers and evaluators run beside the loop and come
//! back as messages; all that are ready are made durable together (`settle`), and only then told, reported and built upon.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::sync::watch;

use super::asking::{Asking, Chronicle, Exchange};
use super::doubt::Doubted;
use super::interrupt;
use super::proposer::{Parent, Proposer};
use super::running::{Message, Purpose, Running};
use super::sources::Sources;
use super::summary::Summary;
use super::tally::Tally;
use crate::base::files::Batch;
use crate::event::{Brief, Event, StopReason, Stopped};
use crate::report::{Observer, Progress};
use crate::run::{Journal, TaskDirectory};
use crate::search::Search;
use crate::task::Task;
use crate::worker::{Evaluator, Job, JobKind};

/// How long the first of several messages waits for the others: about as long as a sync takes.
const GATHER: Duration = Duration::from_millis(1);

/// How often it is told who is waited for.
const TICK: Duration = Duration::from_secs(1);

/// A task under way.
pub(super) struct TaskLoop<'a> {
    pub(super) task: Arc<Task>,
    pub(super) directory: TaskDirectory,
    pub(super) journal: Journal,
    pub(super) search: Search,
    pub(super) sources: Sources,
    /// The step to ask next.
    pub(super) next: u64,
    /// Steps that were asked and are not answered.
    pub(super) open: BTreeMap<u64, Brief>,
    /// Those of them that are not with the proposer.
    pub(super) unsent: BTreeSet<u64>,
    /// Proposed, and not with the judge.
    pub(super) unjudged: BTreeMap<u64, Arc<str>>,
    /// Elites to judge again, because what they are measured with has changed.
    pub(super) stale: VecDeque<u64>,
    /// How often the judge failed on a step, in this process.
    pub(super) faults: HashMap<(u64, Purpose), u32>,
    /// How many steps in a row were given up for that.
    pub(super) closed: u32,
    /// What was given up, while it is not known whether the judge works.
    pub(super) doubted: Vec<Doubted>,
    /// The journal's last word on why the search is over.
    pub(super) stopped: Option<Stopped>,
    pub(super) running: Running,
    pub(super) batch: Batch,
    pub(super) progress: Progress,
    /// The best candidate whose files are in place.
    pub(super) shown: Option<(u64, bool)>,
    pub(super) begun: Instant,
    /// When it was last told who is waited for.
    pub(super) ticked: Instant,
    pub(super) in_flight: usize,
    pub(super) proposer: Arc<dyn Proposer>,
    /// `None` where no model is asked.
    pub(super) asking: Option<Asking<'a>>,
    /// Steps that ask, by how far they have come.
    pub(super) exchanges: BTreeMap<u64, Exchange>,
    pub(super) chronicle: Chronicle,
    pub(super) tally: Tally,
    /// The most earlier steps that a prompt tells of.
    pub(super) history: u64,
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
    Message(Message),
    Interrupt,
    Deadline,
    Tick,
}

impl TaskLoop<'_> {
    /// Runs the task to its end, or until it is told to stop.
    pub(super) async fn run(&mut self, interrupt: &mut watch::Receiver<bool>) -> Result<LoopEnd> {
        let mut end = self.measure_again(interrupt).await;
        if matches!(end, Ok(LoopEnd::Finished)) {
            end = self.search_on(interrupt).await;
        }
        if matches!(end, Ok(LoopEnd::Finished)) {
            end = self.confirm(interrupt).await;
        }
        self.running.abandon().await;
        self.refresh();
        if end.is_ok() {
            self.show_best()?;
        }
        end
    }

    /// Judges elites again after a change that somebody accepted.
    async fn measure_again(&mut self, interrupt: &mut watch::Receiver<bool>) -> Result<LoopEnd> {
        while !self.stale.is_empty() || !self.running.is_empty() {
            while self.running.evaluations() < self.in_flight
                && let Some(step) = self.stale.pop_front()
            {
                let source = self.sources.text(step)?;
                self.judge(step, source, JobKind::Judge, Purpose::JudgeAgain)?;
            }
            if self.go_on(interrupt, None).await? == LoopEnd::Interrupted {
                return Ok(LoopEnd::Interrupted);
            }
        }
        Ok(LoopEnd::Finished)
    }

    async fn search_on(&mut self, interrupt: &mut watch::Receiver<bool>) -> Result<LoopEnd> {
        let deadline = self.progress.budget.and_then(|budget| {
            let left = budget.saturating_sub(self.progress.spent_before);
            self.begun.checked_add(left)
        });
        loop {
            if self.progress.stopped.is_none() && self.has_given_up() {
                self.wait_for_replies(interrupt).await?;
                self.give_way()?;
            }
            if self.progress.stopped.is_none() {
                self.stop_where_due(deadline, interrupt).await?;
            }
            if self.progress.stopped.is_none() {
                self.ask()?;
                self.propose()?;
                self.ask_models()?;
                self.dispatch()?;
                self.settle_doubts()?;
                self.stop_without_money()?;
            }
            if self.progress.stopped.is_some() && self.has_only_mail_under_way() {
                // Nobody knows when those will reply, and whoever resumes finds what they did.
                self.running.abandon().await;
            }
            if self.running.is_empty() {
                if self.progress.stopped.is_none() && self.is_pending() {
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
            if self.go_on(interrupt, deadline).await? == LoopEnd::Interrupted {
                return Ok(LoopEnd::Interrupted);
            }
        }
    }

    /// Measures the fastest again, one after the other.
    async fn confirm(&mut self, interrupt: &mut watch::Receiver<bool>) -> Result<LoopEnd> {
        loop {
            let steps = self.search.to_confirm();
            let Some(step) = steps.into_iter().find(|step| !self.is_hopeless(*step)) else {
                return Ok(LoopEnd::Finished);
            };
            let source = self.sources.text(step)?;
            self.judge(step, source, JobKind::Confirm, Purpose::Confirm)?;
            while !self.running.is_empty() {
                if self.go_on(interrupt, None).await? == LoopEnd::Interrupted {
                    return Ok(LoopEnd::Interrupted);
                }
            }
        }
    }

    /// Ends the search where it says so itself, or where the time is spent.
    async fn stop_where_due(
        &mut self,
        deadline: Option<Instant>,
        interrupt: &mut watch::Receiver<bool>,
    ) -> Result<()> {
        let stopped = match self.search.stop() {
            Some(why) => {
                self.wait_for_replies(interrupt).await?;
                // The fold has decided without the steps that are still under way.
                self.running.abandon().await;
                self.exchanges.clear();
                let at = self.search.folded();
                Stopped { why, at }
            }
            None if deadline.is_some_and(|deadline| Instant::now() >= deadline) => Stopped {
                why: StopReason::Seconds,
                at: self.next - 1,
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
    fn stop_without_money(&mut self) -> Result<()> {
        if self.progress.stopped.is_some() || !self.is_out_of_money() {
            return Ok(());
        }
        let stopped = Stopped {
            why: StopReason::Budget,
            at: self.next - 1,
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
        while self.is_sending() && !self.awaits_only_mail() {
            if self.go_on(interrupt, None).await? == LoopEnd::Interrupted {
                break;
            }
        }
        Ok(())
    }

    /// Takes every question that is ready. The lines are durable before anybody sees them.
    fn ask(&mut self) -> Result<()> {
        let mut asked = Vec::new();
        while let Some(brief) = self.search.ask(self.next) {
            self.open.insert(brief.step, brief.clone());
            self.unsent.insert(brief.step);
            asked.push(Event::Asked(brief));
            self.next += 1;
        }
        self.record(asked)
    }

    /// Sends all questions whose parents are known to the proposer, in step order. One batch at a time.
    fn propose(&mut self) -> Result<()> {
        if self.running.is_proposing() {
            return Ok(());
        }
        let mut questions = Vec::new();
        for step in std::mem::take(&mut self.unsent) {
            let Some(brief) = self.open.get(&step) else {
                continue;
            };
            if brief.operator.asks() || self.waits_for_parents(brief) {
                self.unsent.insert(step);
                continue;
            }
            let brief = brief.clone();
            let mut parents = Vec::new();
            for step in &brief.parents {
                if self.sources.knows(*step) {
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
            let duel = self.search.duel().filter(|_| !self.running.is_dueling());
            if let Some(duel) = duel.filter(|duel| !self.is_doubted(duel.step)) {
                let source = self.sources.text(duel.step)?;
                let against = self.sources.text(duel.against)?;
                let purpose = Purpose::Duel {
                    against: duel.against,
                };
                self.judge(duel.step, source, JobKind::Duel { against }, purpose)?;
            } else if let Some((step, source)) = self.unjudged.pop_first() {
                self.judge(step, source, JobKind::Judge, Purpose::Judge)?;
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
        purpose: Purpose,
    ) -> Result<()> {
        let evaluator = self.evaluator.as_ref().context("no judge was made ready")?;
        let job = Job { step, source, kind };
        self.running.evaluate(evaluator, job, purpose);
        Ok(())
    }

    /// Whether nothing is left to do: the search is over, its best are confirmed, and the journal says so.
    pub(super) fn is_finished(&self) -> bool {
        let spent = |budget| self.progress.spent_before >= budget;
        let why = match self.search.stop() {
            None if self.progress.budget.is_some_and(spent) => Some(StopReason::Seconds),
            why => why,
        };
        let recorded = self.stopped.as_ref().map(|stopped| stopped.why);
        why.is_some()
            && why == recorded
            && self.search.to_confirm().is_empty()
            && self.stale.is_empty()
    }

    /// Waits for something to happen, and takes in everything that has.
    async fn go_on(
        &mut self,
        interrupt: &mut watch::Receiver<bool>,
        deadline: Option<Instant>,
    ) -> Result<LoopEnd> {
        // Once the search is stopped, what is in flight has all the time that it needs.
        let deadline = deadline.filter(|_| self.progress.stopped.is_none());
        let wake = tokio::select! {
            biased;
            () = interrupt::come(interrupt) => Wake::Interrupt,
            message = self.running.next() => Wake::Message(message?),
            () = sleep_until(deadline) => Wake::Deadline,
            () = sleep_until(self.ticked.checked_add(TICK)), if self.asking.is_some() => Wake::Tick,
        };
        let (mut messages, end) = match wake {
            Wake::Message(message) => (vec![message], LoopEnd::Finished),
            Wake::Deadline => return Ok(LoopEnd::Finished),
            Wake::Tick => {
                self.ticked = Instant::now();
                self.refresh();
                self.observer.waits(&self.progress);
                return Ok(LoopEnd::Finished);
            }
            // What has arrived is kept.
            Wake::Interrupt => (Vec::new(), LoopEnd::Interrupted),
        };
        while let Some(message) = self.running.try_next()? {
            messages.push(message);
        }
        // Whoever comes in the time of one sync shares it.
        let until = tokio::time::Instant::now() + GATHER;
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
