//! The loop's part in asking: what is due is rendered, what is rendered and affordable is sent, what has come is read. Everything
//! is durable before the next thing happens to it.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::backend::{
    EarlierReply, ModelStep, ParsedReplies, PreparedRequest, RepliesOutcome, RunKernel,
};
use super::exchange::{Exchange, ExchangeStage, RecordedRequests};
use crate::base::{Digest, Failure, files};
use crate::driver::proposer::BriefOutcome;
use crate::driver::task::TaskLoop;
use crate::event::{Brief, Event, Failed, FailedReason, Replied, ReplyOutcome, Sent};
use crate::llm::{self, RequestOrigin};
use crate::propose::prompt::KernelLabel;

/// So many steps in a row without a reply mean that nobody answers.
const MAX_UNANSWERED_IN_A_ROW: u32 = 3;

/// What is to be done once the events of a round are durable.
#[derive(Debug)]
pub(in crate::driver) enum FollowUp {
    Send(u64),
    Parse(u64),
}

impl TaskLoop<'_> {
    /// Puts the questions of an earlier process back where they were.
    pub(in crate::driver) fn restore_exchange(
        &mut self,
        step: u64,
        past: RecordedRequests,
    ) -> Result<()> {
        let mut exchange = Exchange::new();
        for (ask, outcome, response) in past.replies {
            let text = match response {
                Some(digest) => self.recorded_reply(step, ask, digest)?,
                None => "".into(),
            };
            exchange
                .earlier_replies
                .push(EarlierReply { outcome, text });
        }
        if !exchange.earlier_replies.is_empty() {
            exchange.stage = ExchangeStage::Replied;
        }
        if let Some(sent) = past.sent {
            exchange.stage = ExchangeStage::ToRender;
            if self.is_in_mailbox(&sent)
                && let Some(asking) = self.requests.as_mut()
            {
                // It was counted as one that was lost.
                asking.budget.undo_spent(&sent.reserved);
                exchange.sent = Some(sent);
            }
        }
        self.exchanges.insert(step, exchange);
        Ok(())
    }

    /// Whether a question that was sent once needs not be sent again.
    fn is_in_mailbox(&self, sent: &Sent) -> bool {
        let asking = self.requests.as_ref();
        asking.is_some_and(|asking| asking.backend.is_mailbox(&sent.model))
    }

    /// A reply as it was when the journal named it.
    fn recorded_reply(&self, step: u64, ask: u32, digest: Digest) -> Result<Arc<str>> {
        let path = self.directory.response(step, ask);
        Ok(files::read_recorded(&path, digest, "reply")?.into())
    }

    /// Takes a model's step up, and moves every step on that nothing keeps.
    pub(in crate::driver) fn advance_exchanges(&mut self) -> Result<()> {
        let unsent: Vec<u64> = self.waiting_for_proposer.iter().copied().collect();
        for step in unsent {
            let Some(brief) = self.open.get(&step) else {
                self.waiting_for_proposer.remove(&step);
                continue;
            };
            if !brief.operator.asks_model() || self.awaits_parents(brief) {
                continue;
            }
            self.waiting_for_proposer.remove(&step);
            self.exchanges.entry(step).or_insert_with(Exchange::new);
        }
        let due: Vec<u64> = self.exchanges.keys().copied().collect();
        for step in due {
            match self.exchanges.get(&step).map(|exchange| exchange.stage) {
                Some(ExchangeStage::ToRender) if self.is_prompt_in_mailbox(step) => {
                    self.resume_mailbox_wait(step)?
                }
                Some(ExchangeStage::ToRender) if self.has_room(step) => self.render(step)?,
                Some(ExchangeStage::Replied) => self.parse_replies(step)?,
                _ => {}
            }
        }
        // What did not fit may fit now that something has been settled.
        let dear: Vec<u64> = self.steps_in_stage(ExchangeStage::AwaitingBudget);
        let mut events = Vec::new();
        let mut next = Vec::new();
        for step in dear {
            self.send_if_affordable(step, &mut events, &mut next)?;
        }
        self.record(events)?;
        self.follow_up(next)
    }

    fn steps_in_stage(&self, stage: ExchangeStage) -> Vec<u64> {
        let found = self.exchanges.iter();
        found
            .filter(|(_, exchange)| exchange.stage == stage)
            .map(|(step, _)| *step)
            .collect()
    }

    /// Whether another question may be under way: those to the patient keep nobody waiting.
    fn has_room(&self, step: u64) -> bool {
        let Some(asking) = self.requests.as_ref() else {
            return true;
        };
        let busy = self.exchanges.iter().filter(|(step, exchange)| {
            matches!(
                exchange.stage,
                ExchangeStage::Rendering | ExchangeStage::AwaitingBudget | ExchangeStage::Sending
            ) && !self.asks_mailbox(**step)
        });
        self.asks_mailbox(step) || busy.count() < asking.concurrency
    }

    /// Whether a step asks somebody who replies in his own time.
    fn asks_mailbox(&self, step: u64) -> bool {
        let model = self.open.get(&step).and_then(|brief| brief.model.as_ref());
        let author = self.requests.as_ref().map(|asking| &asking.backend);
        model
            .zip(author)
            .is_some_and(|(model, author)| author.is_mailbox(&model.name))
    }

    /// A parent may be a starting kernel that is itself only just being proposed.
    pub(in crate::driver) fn awaits_parents(&self, brief: &Brief) -> bool {
        let mut unknown = brief
            .parents
            .iter()
            .filter(|parent| !self.sources.has_kernel(**parent));
        unknown.any(|parent| self.open.contains_key(parent))
    }

    /// A kernel with what is told of it. Of steps behind `known` nothing is: whether they are over is a matter of chance, and the
    /// same question is to be the same prompt.
    fn run_kernel(&mut self, step: u64, known: u64) -> Result<Option<RunKernel>> {
        if !self.sources.has_kernel(step) {
            return Ok(None);
        }
        let record = self.search.record(step);
        let operator = record.map_or(crate::event::Operator::Start, |record| record.operator);
        Ok(Some(RunKernel {
            step,
            operator,
            source: self.sources.text(self.search.source_step(step))?,
            feedback: (step <= known)
                .then(|| self.feedback.feedback(step, &self.search))
                .flatten(),
        }))
    }

    fn model_step(&mut self, step: u64, with_context: bool) -> Result<ModelStep> {
        let brief = self.open.get(&step).context("a step asks that is over")?;
        let brief = brief.clone();
        let earlier = self.exchanges.get(&step);
        let earlier = earlier.map(|exchange| exchange.earlier_replies.clone());
        let known = brief.model.as_ref().map_or(0, |model| model.known);
        let mut parents = Vec::new();
        for parent in &brief.parents {
            parents.extend(self.run_kernel(*parent, known)?);
        }
        let (mut context, mut history) = (Vec::new(), Vec::new());
        if let (true, Some(model)) = (with_context, &brief.model) {
            let shown = &model.context;
            for (label, steps) in [
                (KernelLabel::Elite, &shown.elites),
                (KernelLabel::Different, &shown.different),
                (KernelLabel::Recent, &shown.recent),
                (KernelLabel::Failure, &shown.failures),
            ] {
                for step in steps {
                    context.extend(self.run_kernel(*step, known)?.map(|kernel| (label, kernel)));
                }
            }
            // What is fast is worth most, whatever it is shown for. The sort is stable: failures stay behind, the last ones first.
            let speed = |kernel: &RunKernel| {
                let feedback = kernel.feedback.as_ref();
                feedback
                    .and_then(|feedback| feedback.speedup)
                    .map_or(0.0, |speedup| speedup[0])
            };
            context.sort_by(|one, other| speed(&other.1).total_cmp(&speed(&one.1)));
            history = self
                .feedback
                .history(&self.search, model.known, self.max_history);
        }
        Ok(ModelStep {
            task: self.task.clone(),
            brief,
            parents,
            context,
            history,
            earlier_replies: earlier.unwrap_or_default(),
        })
    }

    fn render(&mut self, step: u64) -> Result<()> {
        let question = self.model_step(step, true)?;
        self.set_stage(step, ExchangeStage::Rendering);
        let author = self.requests.as_ref().context("nobody can be asked")?;
        self.running.render(author.backend.clone(), step, question);
        Ok(())
    }

    fn parse_replies(&mut self, step: u64) -> Result<()> {
        let question = self.model_step(step, false)?;
        self.set_stage(step, ExchangeStage::Parsing);
        let author = self.requests.as_ref().context("nobody can be asked")?;
        self.running.parse(author.backend.clone(), step, question);
        Ok(())
    }

    fn set_stage(&mut self, step: u64, stage: ExchangeStage) {
        if let Some(exchange) = self.exchanges.get_mut(&step) {
            exchange.stage = stage;
        }
    }

    /// Whether this very question lies where somebody will reply to it, or has.
    fn is_prompt_in_mailbox(&mut self, step: u64) -> bool {
        let Some(exchange) = self.exchanges.get_mut(&step) else {
            return false;
        };
        let Some(sent) = &exchange.sent else {
            return false;
        };
        let path = self.directory.prompt(step, sent.ask);
        let lies_there = sent.ask == exchange.ask()
            && files::read(&path).is_ok_and(|text| Digest::of(&text) == sent.prompt);
        if !lies_there {
            exchange.sent = None;
        }
        lies_there
    }

    /// Waits on for the reply to a question that an earlier process has asked: what was read by whoever replies is not written anew.
    fn resume_mailbox_wait(&mut self, step: u64) -> Result<()> {
        let exchange = self.exchanges.get_mut(&step);
        let exchange = exchange.context("a question of a step that is over")?;
        let sent = exchange
            .sent
            .take()
            .context("a question that was not asked")?;
        let document = files::read(&self.directory.prompt(step, sent.ask))?;
        let asking = self.requests.as_mut().context("nobody can be asked")?;
        asking.budget.reserve_sent(&sent.reserved);
        exchange.reserved = sent.reserved;
        exchange.prepared = Some(Arc::new(PreparedRequest {
            model: sent.model,
            request: llm::Request {
                system: String::new(),
                parts: vec![llm::PromptPart {
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
        self.follow_up(vec![FollowUp::Send(step)])
    }

    /// A prompt is there.
    pub(in crate::driver) fn rendered(
        &mut self,
        step: u64,
        prepared: Result<PreparedRequest>,
        events: &mut Vec<Event>,
        next: &mut Vec<FollowUp>,
    ) -> Result<()> {
        let prepared = prepared.with_context(|| format!("no prompt for step {step}"))?;
        let is_ending = self.sends_no_more();
        let exchange = self.exchanges.get_mut(&step);
        let exchange = exchange.context("a prompt for a step that is over")?;
        if is_ending {
            exchange.stage = ExchangeStage::ToRender;
            return Ok(());
        }
        exchange.prepared = Some(Arc::new(prepared));
        exchange.stage = ExchangeStage::AwaitingBudget;
        self.send_if_affordable(step, events, next)
    }

    /// Sets the worst case aside and has the prompt written, where it fits.
    fn send_if_affordable(
        &mut self,
        step: u64,
        events: &mut Vec<Event>,
        next: &mut Vec<FollowUp>,
    ) -> Result<()> {
        let asking = self.requests.as_mut().context("nobody can be asked")?;
        let exchange = self.exchanges.get_mut(&step);
        let exchange = exchange.context("a prompt for a step that is over")?;
        let Some(prepared) = exchange.prepared.clone() else {
            return Ok(());
        };
        if !asking.budget.reserve(&prepared.worst_case) {
            return Ok(());
        }
        exchange.reserved = prepared.worst_case;
        let ask = exchange.ask();
        let path = self.directory.prompt(step, ask);
        (self.batch).write_in_new_folder(path, prepared.document.as_bytes())?;
        events.push(Event::Sent(Sent {
            step,
            ask,
            model: prepared.model.clone(),
            prompt: Digest::of(&prepared.document),
            prompts: prepared.prompts_version.clone(),
            reserved: prepared.worst_case,
            most_output: Some(prepared.request.max_output),
        }));
        exchange.stage = ExchangeStage::Sending;
        next.push(FollowUp::Send(step));
        Ok(())
    }

    /// Goes on with what is durable now.
    pub(in crate::driver) fn follow_up(&mut self, next: Vec<FollowUp>) -> Result<()> {
        for next in next {
            match next {
                FollowUp::Parse(step) => self.parse_replies(step)?,
                FollowUp::Send(step) => {
                    let asking = self.requests.as_ref().context("nobody can be asked")?;
                    let exchange = self.exchanges.get(&step);
                    let exchange = exchange.context("a question of a step that is over")?;
                    let prepared = exchange.prepared.clone();
                    let prepared = prepared.context("a question without a prompt")?;
                    let place = RequestOrigin {
                        folder: self.directory.request_folder(step, exchange.ask()),
                        task: self.task.name.clone(),
                        step,
                        ask: exchange.ask(),
                    };
                    let author = asking.backend.clone();
                    self.running.send(author, prepared, place);
                }
            }
        }
        Ok(())
    }

    /// A question has come to its end.
    pub(in crate::driver) fn replied(
        &mut self,
        step: u64,
        answer: llm::RequestOutcome,
        events: &mut Vec<Event>,
        next: &mut Vec<FollowUp>,
    ) -> Result<()> {
        let asking = self.requests.as_mut().context("nobody was asked")?;
        let exchange = self.exchanges.get_mut(&step);
        let exchange = exchange.context("a reply to a step that is over")?;
        let prepared = exchange.prepared.take().context("a reply to no question")?;
        let reserved = std::mem::take(&mut exchange.reserved);
        let llm::RequestOutcome::Reply(reply) = answer else {
            asking.budget.settle(&reserved, &Default::default());
            exchange.stage = ExchangeStage::AwaitingMailbox;
            return Ok(());
        };
        let cost = asking.backend.cost(&prepared, &reply);
        asking.budget.settle(&reserved, &cost);
        let ask = exchange.ask();
        let response = match reply.text.is_empty() {
            true => None,
            false => {
                store_reply(
                    &mut self.batch,
                    &self.directory.response(step, ask),
                    &reply.text,
                )?;
                Some(Digest::of(&reply.text))
            }
        };
        events.push(Event::Replied(Replied {
            step,
            ask,
            model: prepared.model.clone(),
            outcome: reply.outcome,
            response,
            usage: reply.usage,
            cost,
            tries: reply.tries,
            seconds: (reply.seconds * 1e3).round() / 1e3,
            detail: reply.detail.clone(),
        }));
        let gave_up = matches!(
            reply.outcome,
            ReplyOutcome::TurnedAway | ReplyOutcome::Fatal
        );
        if gave_up {
            exchange.stage = ExchangeStage::ToRender;
            let words = reply
                .detail
                .unwrap_or_else(|| "no reason was given".to_owned());
            let failure = Failure::environment(format!("model `{}`: {words}", prepared.model))
                .hint(match reply.outcome {
                    ReplyOutcome::Fatal => {
                        "mend that, then go on with `kforge resume`: no step is lost"
                    }
                    _ => "nothing is lost: go on with `kforge resume` once it answers again",
                });
            asking.fatal.get_or_insert(failure);
            return Ok(());
        }
        exchange.earlier_replies.push(EarlierReply {
            outcome: reply.outcome,
            text: reply.text.into(),
        });
        exchange.stage = ExchangeStage::Replied;
        next.push(FollowUp::Parse(step));
        Ok(())
    }

    /// The replies of a step were read.
    pub(in crate::driver) fn replies_parsed(
        &mut self,
        step: u64,
        reading: ParsedReplies,
        events: &mut Vec<Event>,
    ) -> Result<()> {
        for (text, path) in [
            (&reading.trace, self.directory.trace(step)),
            (&reading.edits_json, self.directory.edits(step)),
        ] {
            if let Some(text) = text {
                self.batch.write_in_new_folder(path, text.as_bytes())?;
            }
        }
        let answer = match reading.outcome {
            RepliesOutcome::AskAgain => {
                self.set_stage(step, ExchangeStage::ToRender);
                return Ok(());
            }
            RepliesOutcome::Candidate(candidate) => BriefOutcome::Candidate(candidate),
            RepliesOutcome::Failed(reason, words) => BriefOutcome::Failed(reason, words),
        };
        let is_unanswered = matches!(&answer, BriefOutcome::Failed(FailedReason::NoReply, _));
        self.exchanges.remove(&step);
        let asking = self.requests.as_mut().context("nobody was asked")?;
        asking.unanswered_in_a_row = match is_unanswered {
            true => asking.unanswered_in_a_row + 1,
            false => 0,
        };
        if asking.unanswered_in_a_row >= MAX_UNANSWERED_IN_A_ROW {
            let unanswered = asking.unanswered_in_a_row;
            asking.fatal.get_or_insert_with(|| {
                Failure::environment(format!(
                    "{unanswered} steps in a row have no reply: nobody answers"
                ))
                .hint("see whether the models can be reached, then go on with `kforge resume`")
            });
        }
        self.proposal_made(step, Ok(answer), events)?;
        for event in events.iter_mut() {
            match event {
                Event::Proposed(proposed) if proposed.step == step => {
                    proposed.edits = reading.edits;
                    proposed.expected = reading.expected;
                }
                Event::Failed(Failed {
                    step: of, edits, ..
                }) if *of == step => {
                    *edits = reading.edits;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether a question would cost more than can be left, whatever comes of those under way.
    pub(in crate::driver) fn is_out_of_budget(&self) -> bool {
        let under_way = self.exchanges.values().any(|exchange| {
            matches!(
                exchange.stage,
                ExchangeStage::Sending | ExchangeStage::Parsing | ExchangeStage::Rendering
            )
        });
        !under_way
            && !self
                .steps_in_stage(ExchangeStage::AwaitingBudget)
                .is_empty()
    }

    /// Whether somebody is to reply for whom nobody waits.
    pub(in crate::driver) fn awaits_mailbox(&self) -> bool {
        !self
            .steps_in_stage(ExchangeStage::AwaitingMailbox)
            .is_empty()
    }

    /// Whether all replies that are on their way are from those who take their time, and cost nothing.
    pub(in crate::driver) fn awaits_only_mailboxes(&self) -> bool {
        let sending = self.steps_in_stage(ExchangeStage::Sending);
        sending.into_iter().all(|step| self.asks_mailbox(step))
    }

    /// Whether nothing else is under way than questions to those who take their time.
    pub(in crate::driver) fn only_mailbox_requests_are_running(&self) -> bool {
        let sending = self.steps_in_stage(ExchangeStage::Sending).len();
        sending > 0 && sending == self.running.len() && self.awaits_only_mailboxes()
    }

    /// Whether something has shown that asking makes no sense any more.
    pub(in crate::driver) fn has_fatal(&self) -> bool {
        let asking = self.requests.as_ref();
        asking.is_some_and(|asking| asking.fatal.is_some())
    }

    /// What that was, as the end of the run.
    pub(in crate::driver) fn take_fatal(&mut self) -> Result<()> {
        let failure = self
            .requests
            .as_mut()
            .and_then(|asking| asking.fatal.take());
        failure.map_or(Ok(()), |failure| Err(failure.into()))
    }

    /// Whether the run comes to its end, so that nothing more is to be sent: nobody would use the reply.
    fn sends_no_more(&self) -> bool {
        self.has_fatal() || self.progress.stopped.is_some() || self.search.stop_reason().is_some()
    }

    /// Whether replies are on their way.
    pub(in crate::driver) fn is_sending(&self) -> bool {
        !self.steps_in_stage(ExchangeStage::Sending).is_empty()
    }
}

/// Writes a reply, unless whoever replied has put it there.
fn store_reply(batch: &mut files::WriteBatch, path: &Path, text: &str) -> Result<()> {
    if std::fs::read(path).is_ok_and(|there| there == text.as_bytes()) {
        let file = std::fs::File::open(path)
            .map_err(|error| files::explain_io_error("open", path, error))?;
        files::sync(&file, path)?;
        return files::sync_folder(path.parent().unwrap_or(path));
    }
    batch.write_in_new_folder(path.to_owned(), text.as_bytes())
}
