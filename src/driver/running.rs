//! What runs beside the loop, and how it comes back.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use tokio::task::{JoinError, JoinSet};

use super::asking::{Author, Prepared, Question, Reading};
use super::proposer::{Answer, Parent, Proposer};
use crate::event::Brief;
use crate::llm::{self, Place};
use crate::task::Task;
use crate::worker::{Evaluator, Job, Outcome};

/// Proposals and evaluations under way. Dropping it gives them up.
#[derive(Default)]
pub(super) struct Running {
    tasks: JoinSet<Message>,
    evaluations: usize,
    begun: u64,
    proposing: bool,
    dueling: bool,
}

/// What comes back.
pub(super) enum Message {
    Answered(Vec<(u64, Result<Answer>)>),
    Rendered(u64, Result<Prepared>),
    Replied(u64, llm::Answer),
    Read(u64, Box<Reading>),
    Evaluated {
        step: u64,
        purpose: Purpose,
        /// The how manieth evaluation it was, from 1.
        number: u64,
        outcome: Result<Outcome>,
    },
}

/// Why a kernel is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Purpose {
    Judge,
    /// An elite, because what it is measured with has changed.
    JudgeAgain,
    Duel {
        against: u64,
    },
    Confirm,
    /// To see whether the judge works.
    Proof,
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
    pub(super) fn begun(&self) -> u64 {
        self.begun
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
                    return (brief.step, Ok(Answer::NoOp(reason)));
                }
                (brief.step, proposer.propose(&brief, &parents, &task))
            };
            Message::Answered(questions.into_iter().map(answer).collect())
        });
    }

    /// Makes a prompt, on a thread of its own.
    pub(super) fn render(&mut self, author: Arc<dyn Author>, step: u64, question: Question) {
        self.tasks
            .spawn_blocking(move || Message::Rendered(step, author.render(&question)));
    }

    /// Reads the replies of a step, on a thread of its own.
    pub(super) fn read(&mut self, author: Arc<dyn Author>, step: u64, question: Question) {
        self.tasks
            .spawn_blocking(move || Message::Read(step, Box::new(author.read(&question))));
    }

    pub(super) fn send(&mut self, author: Arc<dyn Author>, prepared: Arc<Prepared>, place: Place) {
        self.tasks.spawn(async move {
            let step = place.step;
            Message::Replied(step, author.send(&prepared, &place).await)
        });
    }

    pub(super) fn evaluate(&mut self, evaluator: &Arc<dyn Evaluator>, job: Job, purpose: Purpose) {
        self.evaluations += 1;
        self.begun += 1;
        let number = self.begun;
        self.dueling |= matches!(purpose, Purpose::Duel { .. });
        let evaluator = evaluator.clone();
        self.tasks.spawn(async move {
            let step = job.step;
            Message::Evaluated {
                step,
                purpose,
                number,
                outcome: evaluator.evaluate(job).await,
            }
        });
    }

    pub(super) async fn next(&mut self) -> Result<Message> {
        let joined = self.tasks.join_next().await;
        let joined = joined.context("nothing is under way, so nothing will happen")?;
        self.note(joined)
    }

    pub(super) fn try_next(&mut self) -> Result<Option<Message>> {
        let joined = self.tasks.try_join_next();
        joined.map(|joined| self.note(joined)).transpose()
    }

    /// Gives up everything under way, and waits until it is gone: dropping an evaluation kills what runs for it.
    pub(super) async fn abandon(&mut self) {
        self.tasks.shutdown().await;
        *self = Self {
            begun: self.begun,
            ..Self::default()
        };
    }

    fn note(&mut self, joined: Result<Message, JoinError>) -> Result<Message> {
        let message = joined.map_err(|error| anyhow!("a part of the run broke down: {error}"))?;
        match &message {
            Message::Answered(_) => self.proposing = false,
            Message::Rendered(..) | Message::Replied(..) | Message::Read(..) => {}
            Message::Evaluated { purpose, .. } => {
                self.evaluations -= 1;
                self.dueling &= !matches!(purpose, Purpose::Duel { .. });
            }
        }
        Ok(message)
    }
}
