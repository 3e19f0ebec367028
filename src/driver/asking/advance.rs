//! Moves each exchange from the brief of its step to a sent request.
//!
//! A prompt is rendered once another request may start, its worst case is reserved once the budget has room, and it is sent once its file
//! is durable. `replies` does the rest of an exchange. Blocks on no server.

use std::sync::Arc;

use anyhow::{Context, Result};

use super::backend::{ModelStep, PreparedRequest, RunKernel};
use super::exchange::{Exchange, ExchangeStage};
use super::requests::ModelRequests;
use super::task_parts::TaskParts;
use crate::base::{Digest, files};
use crate::driver::round::{FollowUp, Round};
use crate::event::{Event, ModelBrief, Operator, Sent};
use crate::llm::{PromptPart, Request, RequestOrigin};
use crate::propose::prompt::KernelLabel;

impl ModelRequests<'_> {
    /// Starts the exchanges of new briefs, and advances every exchange as far as possible.
    pub(in crate::driver) fn advance(
        &mut self,
        parts: &mut TaskParts<'_>,
        round: &mut Round,
    ) -> Result<()> {
        for brief in parts.briefs.take_ready(true, parts.sources) {
            let model = brief.model.as_ref().map(|model| model.name.as_str());
            let is_mailbox = model.is_some_and(|model| self.backend.is_mailbox(model));
            self.exchanges
                .entry(brief.step)
                .or_insert_with(|| Exchange::new(is_mailbox));
        }
        let steps: Vec<u64> = self.exchanges.keys().copied().collect();
        for step in &steps {
            self.advance_one(*step, parts)?;
        }
        // Settled requests may have freed enough of the budget.
        for step in steps {
            let exchange = self.exchange_mut(step)?;
            if exchange.stage == ExchangeStage::AwaitingBudget {
                self.send_if_affordable(step, parts, round)?;
            }
        }
        Ok(())
    }

    /// Starts the next stage of an exchange, if it does not wait for something else.
    fn advance_one(&mut self, step: u64, parts: &mut TaskParts<'_>) -> Result<()> {
        match self.exchange_mut(step)?.stage {
            ExchangeStage::ToRender => {
                if let Some(sent) = self.take_mailbox_prompt(step, parts)? {
                    return self.resume_mailbox_wait(step, sent, parts);
                }
                if self.has_room(step) {
                    return self.render(step, parts);
                }
                Ok(())
            }
            ExchangeStage::Replied => self.parse_replies(step, parts),
            _ => Ok(()),
        }
    }

    /// The request that an earlier process has put into the mailbox, if it is the current one and its prompt is unchanged.
    fn take_mailbox_prompt(&mut self, step: u64, parts: &TaskParts<'_>) -> Result<Option<Sent>> {
        let exchange = self.exchange_mut(step)?;
        let ask = exchange.ask();
        let Some(sent) = exchange.in_mailbox.take() else {
            return Ok(None);
        };
        let path = parts.writer.directory().prompt(step, sent.ask);
        let is_in_place = sent.ask == ask
            && files::read(&path).is_ok_and(|text| Digest::of(&text) == sent.prompt);
        Ok(is_in_place.then_some(sent))
    }

    /// Continues to wait for the reply to a request in a mailbox. The prompt is not written again: a person may be reading it.
    fn resume_mailbox_wait(
        &mut self,
        step: u64,
        sent: Sent,
        parts: &mut TaskParts<'_>,
    ) -> Result<()> {
        let document = files::read(&parts.writer.directory().prompt(step, sent.ask))?;
        self.budget.reserve_sent(&sent.reserved);
        let exchange = self.exchange_mut(step)?;
        exchange.reserved = sent.reserved;
        exchange.request = Some(Arc::new(PreparedRequest {
            model: sent.model,
            request: Request {
                system: String::new(),
                parts: vec![PromptPart {
                    text: document.clone(),
                    cache_here: false,
                }],
                max_output: sent.most_output.unwrap_or(u64::MAX),
            },
            document,
            worst_case: sent.reserved,
            prompts_version: sent.prompts,
            left_out: Vec::new(),
        }));
        exchange.stage = ExchangeStage::Sending;
        self.send(step, parts)
    }

    /// Starts to render the prompt of a step.
    fn render(&mut self, step: u64, parts: &mut TaskParts<'_>) -> Result<()> {
        let model_step = self.model_step(step, parts, true)?;
        self.exchange_mut(step)?.stage = ExchangeStage::Rendering;
        parts.running.render(self.backend.clone(), model_step);
        Ok(())
    }

    /// Starts to parse the replies of a step.
    pub(in crate::driver) fn parse_replies(
        &mut self,
        step: u64,
        parts: &mut TaskParts<'_>,
    ) -> Result<()> {
        let model_step = self.model_step(step, parts, false)?;
        self.exchange_mut(step)?.stage = ExchangeStage::Parsing;
        parts.running.parse(self.backend.clone(), model_step);
        Ok(())
    }

    /// Receives a rendered prompt, and sends it if its worst case fits into the budget.
    pub(in crate::driver) fn rendered(
        &mut self,
        step: u64,
        request: Result<PreparedRequest>,
        parts: &mut TaskParts<'_>,
        round: &mut Round,
    ) -> Result<()> {
        let request =
            request.with_context(|| format!("cannot render the prompt of step {step}"))?;
        let sends_no_more = self.sends_no_more(parts);
        let exchange = self.exchange_mut(step)?;
        if sends_no_more {
            exchange.stage = ExchangeStage::ToRender;
            return Ok(());
        }
        exchange.request = Some(Arc::new(request));
        exchange.stage = ExchangeStage::AwaitingBudget;
        self.send_if_affordable(step, parts, round)
    }

    /// Reserves the worst case and writes the prompt, if the worst case fits into the budget.
    fn send_if_affordable(
        &mut self,
        step: u64,
        parts: &mut TaskParts<'_>,
        round: &mut Round,
    ) -> Result<()> {
        let Some(request) = self.exchange_mut(step)?.request.clone() else {
            return Ok(());
        };
        if !self.budget.reserve(&request.worst_case) {
            return Ok(());
        }
        let exchange = self.exchange_mut(step)?;
        exchange.reserved = request.worst_case;
        exchange.stage = ExchangeStage::Sending;
        let ask = exchange.ask();
        parts.writer.write_prompt(step, ask, &request.document)?;
        round.events.push(Event::Sent(Sent {
            step,
            ask,
            model: request.model.clone(),
            prompt: Digest::of(&request.document),
            prompts: request.prompts_version.clone(),
            reserved: request.worst_case,
            most_output: Some(request.request.max_output),
        }));
        round.follow_ups.push(FollowUp::Send(step));
        Ok(())
    }

    /// Sends a request whose prompt is durable.
    pub(in crate::driver) fn send(&mut self, step: u64, parts: &mut TaskParts<'_>) -> Result<()> {
        let backend = self.backend.clone();
        let exchange = self.exchange_mut(step)?;
        let request = exchange.request.clone();
        let request = request.with_context(|| format!("step {step} has no prompt to send"))?;
        let ask = exchange.ask();
        let origin = RequestOrigin {
            folder: parts.writer.directory().request_folder(step, ask),
            task: parts.task.name.clone(),
            step,
            ask,
        };
        parts.running.send(backend, request, origin);
        Ok(())
    }

    /// Collects what the prompt of a step, or the result of its replies, depends on. `with_context`: other kernels and the
    /// history too, which only a prompt needs.
    fn model_step(
        &mut self,
        step: u64,
        parts: &mut TaskParts<'_>,
        with_context: bool,
    ) -> Result<ModelStep> {
        let brief = parts.briefs.get(step).cloned();
        let brief = brief.with_context(|| format!("step {step} is over, but asks a model"))?;
        let earlier_replies = self.exchange_mut(step)?.earlier_replies.clone();
        let known = brief.model.as_ref().map_or(0, |model| model.known);
        let mut parents = Vec::new();
        for parent in &brief.parents {
            parents.extend(self.run_kernel(*parent, known, parts)?);
        }
        let (mut context, mut history) = (Vec::new(), Vec::new());
        if let Some(model) = brief.model.as_ref().filter(|_| with_context) {
            context = self.context_kernels(model, parts)?;
            history = self.feedback.history(
                &parts.judged_steps(),
                (known, brief.island),
                self.max_history,
            )?;
        }
        Ok(ModelStep {
            task: parts.task.clone(),
            brief,
            parents,
            context,
            history,
            earlier_replies,
        })
    }

    /// The kernels that a prompt shows in addition to the parents, fastest first. Kernels without a speedup keep their order.
    fn context_kernels(
        &mut self,
        model: &ModelBrief,
        parts: &mut TaskParts<'_>,
    ) -> Result<Vec<(KernelLabel, RunKernel)>> {
        let steps = &model.context;
        let mut context = Vec::new();
        for (label, steps) in [
            (KernelLabel::Elite, &steps.elites),
            (KernelLabel::Different, &steps.different),
            (KernelLabel::Recent, &steps.recent),
            (KernelLabel::Failure, &steps.failures),
        ] {
            for step in steps {
                let kernel = self.run_kernel(*step, model.known, parts)?;
                context.extend(kernel.map(|kernel| (label, kernel)));
            }
        }
        let speedup_of = |kernel: &RunKernel| {
            let feedback = kernel.feedback.as_ref();
            feedback
                .and_then(|feedback| feedback.speedup)
                .map_or(0.0, |speedup| speedup[0])
        };
        // The sort is stable.
        context.sort_by(|one, other| speedup_of(&other.1).total_cmp(&speedup_of(&one.1)));
        Ok(context)
    }

    /// A kernel with its feedback. Steps that were not among the first `known` in the fold have none: whether they have ended depends on
    /// timing, and the same brief must give the same prompt.
    fn run_kernel(
        &mut self,
        step: u64,
        known: u64,
        parts: &mut TaskParts<'_>,
    ) -> Result<Option<RunKernel>> {
        if !parts.sources.has_kernel(step) {
            return Ok(None);
        }
        let search = parts.search;
        let record = search.record(step);
        let is_known = record.is_some_and(|record| record.position <= known);
        let feedback = if is_known {
            self.feedback.feedback(step, &parts.judged_steps())?
        } else {
            None
        };
        Ok(Some(RunKernel {
            step,
            operator: record.map_or(Operator::Start, |record| record.operator),
            source: parts.sources.text(search.source_step(step))?,
            feedback,
        }))
    }
}
