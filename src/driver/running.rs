//! Work that runs next to the task's loop: proposals, prompts, requests and evaluations.
//!
//! Starts work and returns its results. Never decides what to start, and never acts on a result.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use tokio::task::{JoinError, JoinSet};

use super::asking::{ModelBackend, ModelStep, ParsedReplies, PreparedRequest};
use super::proposer::Proposer;
use crate::event::Brief;
use crate::llm::{RequestOrigin, RequestOutcome};
use crate::propose::{BriefOutcome, Parent};
use crate::task::Task;
use crate::worker::{Evaluator, Job, JobOutcome};

/// The work in progress. Dropping it cancels the work.
#[derive(Default)]
pub(super) struct RunningWork {
    /// Everything but evaluations.
    tasks: JoinSet<WorkResult>,
    evaluations: JoinSet<WorkResult>,
    /// Set when the work is cancelled, for threads that cannot be stopped from outside.
    cancelled: Arc<AtomicBool>,
    evaluations_started: u64,
    /// The steps whose candidates are judged now.
    judged_now: BTreeSet<u64>,
    proposing: bool,
    dueling: bool,
    trying: bool,
}

/// What finished work returns. The number is the step.
pub(super) enum WorkResult {
    Proposed(Vec<(u64, Result<BriefOutcome>)>),
    Rendered(u64, Result<PreparedRequest>),
    Replied(u64, RequestOutcome),
    Parsed(u64, Box<ParsedReplies>),
    Evaluated(Evaluation),
}

/// A finished evaluation.
pub(super) struct Evaluation {
    pub(super) step: u64,
    pub(super) purpose: EvaluationPurpose,
    /// 1-based index of the evaluation in this process.
    pub(super) number: u64,
    pub(super) outcome: Result<JobOutcome>,
    /// Wall time.
    pub(super) took: Duration,
}

/// Why a kernel is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum EvaluationPurpose {
    /// To judge a candidate.
    Judge,
    /// Judges an elite, or the fastest starting kernel, again, because a change was accepted.
    Rejudge,
    /// Times a challenger against the incumbent, whose step is `against`.
    Duel { against: u64 },
    /// Tries points of a proposal before it is judged.
    Try,
    /// To confirm an elite.
    Confirm,
    /// Times the best kernel against the best starting kernel, whose step is `against`.
    Compare { against: u64 },
    /// Times the best kernel against the strongest baselines.
    CompareStrongest,
    /// Judges the baseline, to find out whether the judge works.
    CheckJudge,
}

impl EvaluationPurpose {
    /// Whether a candidate gets a verdict.
    fn is_judgement(self) -> bool {
        matches!(self, Self::Judge | Self::Rejudge)
    }
}

/// A brief with its parents' sources.
pub(super) struct ProposalInput {
    pub(super) brief: Brief,
    pub(super) parents: Vec<Parent>,
}

impl RunningWork {
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn len(&self) -> usize {
        self.tasks.len() + self.evaluations.len()
    }

    /// Number of evaluations in progress.
    pub(super) fn evaluations(&self) -> usize {
        self.evaluations.len()
    }

    /// Number of evaluations that this process has started.
    pub(super) fn evaluations_started(&self) -> u64 {
        self.evaluations_started
    }

    pub(super) fn is_proposing(&self) -> bool {
        self.proposing
    }

    /// Whether a candidate is judged now whose step fits.
    pub(super) fn is_judging(&self, fits: impl Fn(u64) -> bool) -> bool {
        self.judged_now.iter().any(|step| fits(*step))
    }

    /// Whether points of a proposal are tried.
    pub(super) fn is_trying(&self) -> bool {
        self.trying
    }

    pub(super) fn is_dueling(&self) -> bool {
        self.dueling
    }

    /// Makes proposals one after the other, on one new thread.
    pub(super) fn propose(
        &mut self,
        proposer: Arc<dyn Proposer>,
        task: Arc<Task>,
        inputs: Vec<ProposalInput>,
    ) {
        self.proposing = true;
        let cancelled = self.cancelled.clone();
        self.spawn_on_thread(move || {
            let propose = |input: ProposalInput| {
                let ProposalInput { brief, parents } = input;
                if parents.len() < brief.parents.len() {
                    let reason = "a parent has no kernel".to_owned();
                    return (brief.step, Ok(BriefOutcome::NoOp(reason)));
                }
                (brief.step, proposer.propose(&brief, &parents, &task))
            };
            let inputs = inputs
                .into_iter()
                .take_while(|_| !cancelled.load(Ordering::Relaxed));
            WorkResult::Proposed(inputs.map(propose).collect())
        });
    }

    /// Renders a prompt on its own thread.
    pub(super) fn render(&mut self, backend: Arc<dyn ModelBackend>, step: ModelStep) {
        self.spawn_on_thread(move || WorkResult::Rendered(step.brief.step, backend.render(&step)));
    }

    /// Parses the replies of a step on its own thread.
    pub(super) fn parse(&mut self, backend: Arc<dyn ModelBackend>, step: ModelStep) {
        self.spawn_on_thread(move || {
            WorkResult::Parsed(step.brief.step, Box::new(backend.parse(&step)))
        });
    }

    /// Runs work on a thread of its own. The thread may wait long, for a lock for example, so cancelling does not wait for it: its
    /// result is dropped.
    fn spawn_on_thread(&mut self, work: impl FnOnce() -> WorkResult + Send + 'static) {
        self.tasks.spawn(async move {
            match tokio::task::spawn_blocking(work).await {
                Ok(result) => result,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // The runtime is shutting down.
                    Err(_) => std::future::pending().await,
                },
            }
        });
    }

    /// Sends a request and waits for its reply.
    pub(super) fn send(
        &mut self,
        backend: Arc<dyn ModelBackend>,
        request: Arc<PreparedRequest>,
        origin: RequestOrigin,
    ) {
        self.tasks.spawn(async move {
            let step = origin.step;
            WorkResult::Replied(step, backend.send(&request, &origin).await)
        });
    }

    /// Evaluates a kernel.
    pub(super) fn evaluate(
        &mut self,
        evaluator: &Arc<dyn Evaluator>,
        job: Job,
        purpose: EvaluationPurpose,
    ) {
        self.evaluations_started += 1;
        self.dueling |= matches!(purpose, EvaluationPurpose::Duel { .. });
        self.trying |= purpose == EvaluationPurpose::Try;
        if purpose.is_judgement() {
            self.judged_now.insert(job.step);
        }
        let number = self.evaluations_started;
        let evaluator = evaluator.clone();
        self.evaluations.spawn(async move {
            let started = Instant::now();
            WorkResult::Evaluated(Evaluation {
                step: job.step,
                purpose,
                number,
                outcome: evaluator.evaluate(job).await,
                took: started.elapsed(),
            })
        });
    }

    /// Waits for the next result.
    ///
    /// # Errors
    /// If nothing is in progress, or a piece of work panicked.
    pub(super) async fn next(&mut self) -> Result<WorkResult> {
        let joined = tokio::select! {
            Some(joined) = self.evaluations.join_next() => joined,
            Some(joined) = self.tasks.join_next() => joined,
            else => bail!("waiting for results, but nothing is running"),
        };
        self.count_finished(joined)
    }

    /// Returns a result if one is ready.
    pub(super) fn try_next(&mut self) -> Result<Option<WorkResult>> {
        let evaluated = self.evaluations.try_join_next();
        let joined = evaluated.or_else(|| self.tasks.try_join_next());
        joined.map(|joined| self.count_finished(joined)).transpose()
    }

    /// Cancels the evaluations, as `cancel_all` does, and nothing else.
    pub(super) async fn cancel_evaluations(&mut self) {
        self.evaluations.shutdown().await;
        self.dueling = false;
        self.trying = false;
    }

    /// Cancels all work. Dropping an evaluation kills its processes, and this waits for that; a thread that makes a proposal or a
    /// prompt is left to itself.
    pub(super) async fn cancel_all(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.cancel_evaluations().await;
        self.tasks.shutdown().await;
        *self = Self {
            evaluations_started: self.evaluations_started,
            ..Self::default()
        };
    }

    fn count_finished(&mut self, joined: Result<WorkResult, JoinError>) -> Result<WorkResult> {
        let result = joined.map_err(|error| anyhow!("a part of the run panicked: {error}"))?;
        match &result {
            WorkResult::Proposed(_) => self.proposing = false,
            WorkResult::Rendered(..) | WorkResult::Replied(..) | WorkResult::Parsed(..) => {}
            WorkResult::Evaluated(evaluation) => {
                if evaluation.purpose.is_judgement() {
                    self.judged_now.remove(&evaluation.step);
                }
                self.dueling &= !matches!(evaluation.purpose, EvaluationPurpose::Duel { .. });
                self.trying &= evaluation.purpose != EvaluationPurpose::Try;
            }
        }
        Ok(result)
    }
}
