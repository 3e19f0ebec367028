//! What runs beside the loop, and how it comes back.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use tokio::task::{JoinError, JoinSet};

use super::asking::{ModelBackend, ModelStep, ParsedReplies, PreparedRequest};
use super::proposer::{BriefOutcome, Parent, Proposer};
use crate::event::Brief;
use crate::llm::{self, RequestOrigin};
use crate::task::Task;
use crate::worker::{Evaluator, Job, JobOutcome};

/// Proposals and evaluations under way. Dropping it gives them up.
#[derive(Default)]
pub(super) struct Running {
    tasks: JoinSet<WorkResult>,
    evaluations: usize,
    started: u64,
    proposing: bool,
    dueling: bool,
}

/// What comes back.
pub(super) enum WorkResult {
    Proposed(Vec<(u64, Result<BriefOutcome>)>),
    Rendered(u64, Result<PreparedRequest>),
    Replied(u64, llm::RequestOutcome),
    Parsed(u64, Box<ParsedReplies>),
    Evaluated {
        step: u64,
        purpose: EvaluationPurpose,
        /// The how manieth evaluation it was, from 1.
        number: u64,
        outcome: Result<JobOutcome>,
    },
}

/// Why a kernel is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum EvaluationPurpose {
    Judge,
    /// An elite, because what it is measured with has changed.
    Rejudge,
    Duel {
        against: u64,
    },
    Confirm,
    /// To see whether the judge works.
    CheckJudge,
}

impl Running {
    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.tasks.len()
    }

    pub(super) fn evaluations(&self) -> usize {
        self.evaluations
    }

    /// How many evaluations have begun so far.
    pub(super) fn evaluations_started(&self) -> u64 {
        self.started
    }

    pub(super) fn is_proposing(&self) -> bool {
        self.proposing
    }

    pub(super) fn is_dueling(&self) -> bool {
        self.dueling
    }

    /// Answers questions one after the other, on a thread of their own.
    pub(super) fn propose(
        &mut self,
        proposer: Arc<dyn Proposer>,
        task: Arc<Task>,
        questions: Vec<(Brief, Vec<Parent>)>,
    ) {
        self.proposing = true;
        self.tasks.spawn_blocking(move || {
            let answer = |(brief, parents): (Brief, Vec<Parent>)| {
                if parents.len() < brief.parents.len() {
                    let reason = "a parent has no kernel".to_owned();
                    return (brief.step, Ok(BriefOutcome::NoOp(reason)));
                }
                (brief.step, proposer.propose(&brief, &parents, &task))
            };
            WorkResult::Proposed(questions.into_iter().map(answer).collect())
        });
    }

    /// Makes a prompt, on a thread of its own.
    pub(super) fn render(&mut self, author: Arc<dyn ModelBackend>, step: u64, question: ModelStep) {
        self.tasks
            .spawn_blocking(move || WorkResult::Rendered(step, author.render(&question)));
    }

    /// Reads the replies of a step, on a thread of its own.
    pub(super) fn parse(&mut self, author: Arc<dyn ModelBackend>, step: u64, question: ModelStep) {
        self.tasks
            .spawn_blocking(move || WorkResult::Parsed(step, Box::new(author.parse(&question))));
    }

    pub(super) fn send(
        &mut self,
        author: Arc<dyn ModelBackend>,
        prepared: Arc<PreparedRequest>,
        place: RequestOrigin,
    ) {
        self.tasks.spawn(async move {
            let step = place.step;
            WorkResult::Replied(step, author.send(&prepared, &place).await)
        });
    }

    pub(super) fn evaluate(
        &mut self,
        evaluator: &Arc<dyn Evaluator>,
        job: Job,
        purpose: EvaluationPurpose,
    ) {
        self.evaluations += 1;
        self.started += 1;
        let number = self.started;
        self.dueling |= matches!(purpose, EvaluationPurpose::Duel { .. });
        let evaluator = evaluator.clone();
        self.tasks.spawn(async move {
            let step = job.step;
            WorkResult::Evaluated {
                step,
                purpose,
                number,
                outcome: evaluator.evaluate(job).await,
            }
        });
    }

    pub(super) async fn next(&mut self) -> Result<WorkResult> {
        let joined = self.tasks.join_next().await;
        let joined = joined.context("nothing is under way, so nothing will happen")?;
        self.count_finished(joined)
    }

    pub(super) fn try_next(&mut self) -> Result<Option<WorkResult>> {
        let joined = self.tasks.try_join_next();
        joined.map(|joined| self.count_finished(joined)).transpose()
    }

    /// Gives up everything under way, and waits until it is gone: dropping an evaluation kills what runs for it.
    pub(super) async fn cancel_all(&mut self) {
        self.tasks.shutdown().await;
        *self = Self {
            started: self.started,
            ..Self::default()
        };
    }

    fn count_finished(&mut self, joined: Result<WorkResult, JoinError>) -> Result<WorkResult> {
        let message = joined.map_err(|error| anyhow!("a part of the run broke down: {error}"))?;
        match &message {
            WorkResult::Proposed(_) => self.proposing = false,
            WorkResult::Rendered(..) | WorkResult::Replied(..) | WorkResult::Parsed(..) => {}
            WorkResult::Evaluated { purpose, .. } => {
                self.evaluations -= 1;
                self.dueling &= !matches!(purpose, EvaluationPurpose::Duel { .. });
            }
        }
        Ok(message)
    }
}
