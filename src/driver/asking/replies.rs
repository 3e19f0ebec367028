//! Turns a reply into a proposal: settles its cost, makes it durable, parses it, and asks for another request if necessary.

use anyhow::{Context, Result};

use super::backend::{EarlierReply, ParsedReplies, RepliesOutcome};
use super::exchange::{ExchangeStage, gave_no_reply};
use super::requests::ModelRequests;
use super::task_parts::TaskParts;
use crate::base::{Digest, Failure};
use crate::driver::round::{FollowUp, Round};
use crate::event::{Cost, EditCounts, Event, FailedReason, Replied, ReplyOutcome};
use crate::llm::{Reply, RequestOutcome};
use crate::propose::BriefOutcome;

/// Number of steps in a row without any reply after which no more requests are sent.
const MAX_UNANSWERED_IN_A_ROW: u32 = 3;

/// A proposal of a model, and the change that it expects.
pub(in crate::driver) struct ModelProposal {
    pub(in crate::driver) outcome: BriefOutcome,
    pub(in crate::driver) edits: EditCounts,
    /// Relative change of the run time that the model expects.
    pub(in crate::driver) expected: Option<f64>,
}

impl ModelRequests<'_> {
    /// Takes the outcome of a request.
    pub(in crate::driver) fn replied(
        &mut self,
        step: u64,
        outcome: RequestOutcome,
        parts: &mut TaskParts<'_>,
        round: &mut Round,
    ) -> Result<()> {
        let exchange = self.exchange_mut(step)?;
        let request = exchange.request.take();
        let request = request.with_context(|| format!("step {step} has a reply to no request"))?;
        let reserved = std::mem::take(&mut exchange.reserved);
        let ask = exchange.ask();
        let RequestOutcome::Reply(reply) = outcome else {
            exchange.stage = ExchangeStage::AwaitingMailbox;
            self.budget.settle(&reserved, &Cost::default());
            return Ok(());
        };
        let cost = self.backend.cost(&request, &reply);
        self.budget.settle(&reserved, &cost);
        let response = if reply.text.is_empty() {
            None
        } else {
            parts.writer.write_reply(step, ask, &reply.text)?;
            Some(Digest::of(&reply.text))
        };
        round.events.push(Event::Replied(Replied {
            step,
            ask,
            model: request.model.clone(),
            outcome: reply.outcome,
            response,
            usage: reply.usage,
            cost,
            tries: reply.tries,
            seconds: (reply.seconds * 1e3).round() / 1e3,
            detail: reply.detail.clone(),
        }));
        if gave_no_reply(reply.outcome) {
            self.exchange_mut(step)?.stage = ExchangeStage::ToRender;
            self.fatal
                .get_or_insert_with(|| provider_failure(&request.model, reply));
            return Ok(());
        }
        let exchange = self.exchange_mut(step)?;
        exchange.earlier_replies.push(EarlierReply {
            outcome: reply.outcome,
            text: reply.text.into(),
            detail: reply.detail.map(Into::into),
        });
        exchange.stage = ExchangeStage::Replied;
        round.follow_ups.push(FollowUp::Parse(step));
        Ok(())
    }

    /// Takes the parsed replies of a step. Returns a proposal, or `None` if the step sends another request.
    pub(in crate::driver) fn parsed(
        &mut self,
        step: u64,
        replies: ParsedReplies,
        parts: &mut TaskParts<'_>,
    ) -> Result<Option<ModelProposal>> {
        parts.writer.write_reply_notes(
            step,
            replies.trace.as_deref(),
            replies.edits_json.as_deref(),
        )?;
        let outcome = match replies.outcome {
            RepliesOutcome::AskAgain => {
                self.exchange_mut(step)?.stage = ExchangeStage::ToRender;
                return Ok(None);
            }
            RepliesOutcome::Candidate(candidate) => BriefOutcome::Candidate(candidate),
            RepliesOutcome::Failed(reason, detail) => BriefOutcome::Failed(reason, detail),
        };
        self.exchanges.remove(&step);
        self.count_unanswered(&outcome);
        Ok(Some(ModelProposal {
            outcome,
            edits: replies.edits,
            expected: replies.expected,
        }))
    }

    fn count_unanswered(&mut self, outcome: &BriefOutcome) {
        let BriefOutcome::Failed(FailedReason::NoReply, detail) = outcome else {
            self.unanswered_in_a_row = 0;
            return;
        };
        self.unanswered_in_a_row += 1;
        let unanswered = self.unanswered_in_a_row;
        if unanswered >= MAX_UNANSWERED_IN_A_ROW {
            self.fatal.get_or_insert_with(|| {
                Failure::environment(format!(
                    "{unanswered} steps in a row got no reply, the last because {detail}"
                ))
                .hint("check that the models can be reached, then continue with `kforge resume`")
            });
        }
    }
}

/// The failure of a provider that does not accept requests, as the end of the run.
fn provider_failure(model: &str, reply: Reply) -> Failure {
    let detail = reply
        .detail
        .unwrap_or_else(|| "the provider gave no reason".to_owned());
    let (detail, advice) = match detail.split_once("; hint: ") {
        Some((detail, advice)) => (detail.to_owned(), Some(advice.to_owned())),
        None => (detail, None),
    };
    let tries = if reply.tries > 1 {
        format!(" ({} tries in {:.1} s)", reply.tries, reply.seconds)
    } else {
        String::new()
    };
    let resume = "continue with `kforge resume`";
    let hint = match (reply.outcome, advice) {
        (ReplyOutcome::Fatal, Some(advice)) => format!("{advice}; then {resume}: no step is lost"),
        (ReplyOutcome::Fatal, None) => format!("fix this, then {resume}: no step is lost"),
        (_, Some(advice)) => format!("{advice}; {resume} when the model replies: no step is lost"),
        (_, None) => format!("{resume} when the model is available again: no step is lost"),
    };
    Failure::environment(format!("model `{model}`: {detail}{tries}")).hint(hint)
}
