//! The queue in front of the judge and the proposer: what runs next.
//!
//! Owns the kernels that wait for the judge, and all running work. Never handles results; `settle` does.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use anyhow::{Context, Result};

use super::briefs::OpenBriefs;
use super::fault_policy::{BASELINE_STEP, FaultPolicy};
use super::options::{GPU_BACKEND, RunOptions};
use super::proposer::Proposer;
use super::running::{EvaluationPurpose, ProposalInput, RunningWork};
use super::sources::KernelSources;
use super::task_time::Allowance;
use crate::event::Brief;
use crate::propose::Parent;
use crate::search::{Anchor, DuelRequest, Incumbents, Search};
use crate::task::Task;
use crate::worker::{Contenders, Evaluator, Job, JobKind, Rivals};

/// What a dispatch reads besides the search.
pub(super) struct DispatchParts<'a> {
    pub(super) sources: &'a mut KernelSources,
    pub(super) faults: &'a FaultPolicy,
    /// What candidates are timed against if they race; `None`: the baseline.
    pub(super) anchor: Option<&'a Anchor>,
    pub(super) task: &'a Task,
}

/// Decides which work of a task runs next.
pub(super) struct Scheduler {
    pub(super) running: RunningWork,
    proposer: Arc<dyn Proposer>,
    /// `None` until the task is started.
    evaluator: Option<Arc<dyn Evaluator>>,
    /// Maximum number of evaluations at the same time.
    in_flight: usize,
    /// Whether candidates are judged against the search's incumbents.
    racing: bool,
    /// Whether a GPU judges. Then starting kernels are judged one after the other until one has passed: two would wait for the same timing
    /// lock, and the second needs only a look if it is much slower. And points of proposals are tried beside the judgements: most of that
    /// is compiling.
    on_gpu: bool,
    /// Candidates that wait for the judge, by step.
    unjudged: BTreeMap<u64, Arc<str>>,
    /// Elites that must be judged again because a change was accepted. Before them, the starting kernel that may be the anchor.
    stale: VecDeque<u64>,
}

impl Scheduler {
    pub(super) fn new(proposer: Arc<dyn Proposer>, options: &RunOptions, stale: Vec<u64>) -> Self {
        Self {
            running: RunningWork::default(),
            proposer,
            evaluator: None,
            in_flight: options.in_flight.max(1),
            racing: options.racing,
            on_gpu: options.record.backend == GPU_BACKEND,
            unjudged: BTreeMap::new(),
            stale: stale.into(),
        }
    }

    pub(super) fn set_evaluator(&mut self, evaluator: Arc<dyn Evaluator>) {
        self.evaluator = Some(evaluator);
    }

    /// Queues a candidate for the judge.
    pub(super) fn queue_candidate(&mut self, step: u64, source: Arc<str>) {
        self.unjudged.insert(step, source);
    }

    /// Queues a kernel to be judged again, after a fault of the judge. The elites still wait for a starting kernel.
    pub(super) fn queue_stale(&mut self, search: &Search, step: u64) {
        if search.starting_kernel(step).is_some() {
            self.stale.push_front(step);
        } else {
            self.stale.push_back(step);
        }
    }

    pub(super) fn has_stale(&self) -> bool {
        !self.stale.is_empty()
    }

    /// Whether points of a proposal can be tried now. Those of one proposal at a time: they share a worker.
    pub(super) fn can_try(&self) -> bool {
        !self.running.is_trying() && (self.on_gpu || self.has_place())
    }

    /// Whether another kernel can be judged now.
    fn has_place(&self) -> bool {
        let beside = self.on_gpu && self.running.is_trying();
        self.running.evaluations() - usize::from(beside) < self.in_flight
    }

    /// Tries the points of a proposal. `sources`: the kernel at each of them, its own first.
    pub(super) fn try_points(&mut self, step: u64, sources: &[Arc<str>]) -> Result<()> {
        let (own, others) = sources.split_first().context("a proposal has no source")?;
        let kind = JobKind::Try {
            others: others.to_vec(),
        };
        self.evaluate(step, own.clone(), kind, EvaluationPurpose::Try)
    }

    /// Passes all briefs that are ready to the proposer, in step order. One batch at a time.
    pub(super) fn propose(
        &mut self,
        briefs: &mut OpenBriefs,
        sources: &mut KernelSources,
        task: &Arc<Task>,
    ) -> Result<()> {
        if self.running.is_proposing() {
            return Ok(());
        }
        let mut inputs = Vec::new();
        for brief in briefs.take_ready(false, sources) {
            let parents = known_parents(&brief, sources)?;
            inputs.push(ProposalInput { brief, parents });
        }
        if !inputs.is_empty() {
            self.running
                .propose(self.proposer.clone(), task.clone(), inputs);
        }
        Ok(())
    }

    /// Fills the judge. A duel comes first because the fold waits for it, then starting kernels, then the candidates in step order.
    pub(super) fn dispatch(&mut self, search: &Search, parts: DispatchParts<'_>) -> Result<()> {
        let DispatchParts {
            sources,
            faults,
            anchor,
            task,
        } = parts;
        while self.has_place() {
            let duel = search
                .pending_duel()
                .filter(|_| !self.running.is_dueling())
                .filter(|duel| !faults.is_give_up_pending(duel.step));
            if let Some(duel) = duel {
                let source = sources.text(duel.step)?;
                let kind = JobKind::Duel {
                    against: sources.text(duel.against)?,
                };
                let purpose = EvaluationPurpose::Duel {
                    against: duel.against,
                };
                self.evaluate(duel.step, source, kind, purpose)?;
            } else if let Some((step, source)) = self.next_candidate(search, task) {
                // After a fault of the judge without it: the anchor may be the cause.
                let anchor = anchor.filter(|_| self.racing && !faults.has_failed_to_judge(step));
                let rivals = Rivals {
                    anchor: anchor.cloned(),
                    incumbents: (self.racing)
                        .then(|| search.incumbents_of(step).unwrap_or_default()),
                    known_code: search.code_to_avoid(step),
                };
                self.judge(step, source, rivals, EvaluationPurpose::Judge)?;
            } else {
                break;
            }
        }
        Ok(())
    }

    /// The next candidate for the judge; `None` if there is none, or if it is better judged once a starting kernel has passed.
    ///
    /// The last starting kernels come first, and the baseline's own kernel comes last: tasks list the slowest first. Once one has passed,
    /// a much slower one needs only a short look. Until then everything is timed to the end, so nothing else is judged next to the starting
    /// kernels.
    fn next_candidate(&mut self, search: &Search, task: &Task) -> Option<(u64, Arc<str>)> {
        let baseline = task.baseline().1;
        let starts = self.unjudged.iter();
        let starts = starts.filter(|(step, _)| search.starting_kernel(**step).is_some());
        let rank = |(step, source): &(&u64, &Arc<str>)| (source.as_ref() != baseline, **step);
        let start = starts.clone().max_by_key(rank).map(|(step, _)| *step);
        let can_wait = self.racing
            && (self.on_gpu || starts.count() < 2)
            && search.incumbents().is_none()
            && self
                .running
                .is_judging(|step| search.starting_kernel(step).is_some());
        if can_wait {
            return None;
        }
        match start {
            Some(step) => self.unjudged.remove_entry(&step),
            None => self.unjudged.pop_first(),
        }
    }

    /// Whether a starting kernel is judged again, or comes next. The others wait for it, because they may be timed against it.
    pub(super) fn rejudges_start(&self, search: &Search) -> bool {
        let is_start = |step: u64| search.starting_kernel(step).is_some();
        let next = self.stale.front().copied();
        next.is_some_and(is_start) || self.running.is_judging(is_start)
    }

    /// Fills the judge with elites that must be judged again, as long as candidates are timed and with no bar. A starting kernel is timed
    /// alone, against the baseline.
    pub(super) fn dispatch_stale(
        &mut self,
        search: &Search,
        sources: &mut KernelSources,
        anchor: Option<&Anchor>,
    ) -> Result<()> {
        let is_start = |step: u64| search.starting_kernel(step).is_some();
        while self.has_place()
            && !self.running.is_judging(is_start)
            && let Some(step) = self.stale.pop_front()
        {
            let anchor = anchor.filter(|_| self.racing && !is_start(step));
            let rivals = Rivals {
                anchor: anchor.cloned(),
                incumbents: self.racing.then(Incumbents::default),
                known_code: Vec::new(),
            };
            self.judge(
                step,
                sources.text(step)?,
                rivals,
                EvaluationPurpose::Rejudge,
            )?;
        }
        Ok(())
    }

    pub(super) fn confirm(
        &mut self,
        step: u64,
        source: Arc<str>,
        allowance: Allowance,
    ) -> Result<()> {
        let job = Job {
            step,
            source,
            kind: JobKind::Confirm,
            limit: allowance.limit,
            rivals: Rivals::default(),
        };
        self.start(job, EvaluationPurpose::Confirm)
    }

    /// Times the best kernel against a starting kernel.
    pub(super) fn compare(
        &mut self,
        request: DuelRequest,
        sources: &mut KernelSources,
        allowance: Allowance,
    ) -> Result<()> {
        let DuelRequest { step, against } = request;
        let source = sources.text(step)?;
        let kind = JobKind::Compare {
            against: sources.text(against)?,
        };
        let job = Job {
            step,
            source,
            kind,
            limit: allowance.limit,
            rivals: Rivals::default(),
        };
        self.start(job, EvaluationPurpose::Compare { against })
    }

    /// Times the best kernel against the strongest baselines.
    pub(super) fn compare_strongest(
        &mut self,
        step: u64,
        source: Arc<str>,
        contenders: Arc<Contenders>,
        allowance: Allowance,
    ) -> Result<()> {
        let job = Job {
            step,
            source,
            kind: JobKind::CompareStrongest(contenders),
            limit: allowance.limit,
            rivals: Rivals::default(),
        };
        self.start(job, EvaluationPurpose::CompareStrongest)
    }

    /// Judges the baseline if the search waits only for steps that were given up. The baseline passes if the judge works.
    pub(super) fn check_judge_if_stuck(&mut self, faults: &FaultPolicy, task: &Task) -> Result<()> {
        if !faults.has_pending_give_ups() || !self.running.is_empty() {
            return Ok(());
        }
        let source = task.baseline().1.into();
        let purpose = EvaluationPurpose::CheckJudge;
        self.evaluate(BASELINE_STEP, source, JobKind::Judge, purpose)
    }

    fn evaluate(
        &mut self,
        step: u64,
        source: Arc<str>,
        kind: JobKind,
        purpose: EvaluationPurpose,
    ) -> Result<()> {
        let job = Job {
            step,
            source,
            kind,
            limit: None,
            rivals: Rivals::default(),
        };
        self.start(job, purpose)
    }

    fn start(&mut self, job: Job, purpose: EvaluationPurpose) -> Result<()> {
        let evaluator = self.evaluator.as_ref();
        let evaluator = evaluator.context("the task has no evaluator yet")?;
        self.running.evaluate(evaluator, job, purpose);
        Ok(())
    }

    /// Judges a candidate, for the first time or again. Only this may be a race: whatever else is judged needs a complete verdict.
    fn judge(
        &mut self,
        step: u64,
        source: Arc<str>,
        rivals: Rivals,
        purpose: EvaluationPurpose,
    ) -> Result<()> {
        let job = Job {
            step,
            source,
            kind: JobKind::Judge,
            limit: None,
            rivals,
        };
        self.start(job, purpose)
    }
}

/// The parents of a brief that have a kernel.
fn known_parents(brief: &Brief, sources: &mut KernelSources) -> Result<Vec<Parent>> {
    let mut parents = Vec::new();
    for step in &brief.parents {
        if sources.has_kernel(*step) {
            parents.push(Parent {
                step: *step,
                source: sources.text(*step)?,
            });
        }
    }
    Ok(parents)
}
