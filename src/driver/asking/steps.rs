//! The loop's part in asking: what is due is rendered, what is rendered and affordable is sent, what has come is read. Everything
//! is durable before the next thing happens to it.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::author::{Earlier, End, Kernel, Prepared, Question, Reading};
use super::exchange::{Exchange, Past, Stage};
use crate::base::{Digest, Failure, files};
use crate::driver::proposer::Answer;
use crate::driver::task::TaskLoop;
use crate::event::{Brief, Event, Failed, FailedReason, Replied, ReplyOutcome, Sent};
use crate::llm::{self, Place};
use crate::propose::prompt::Label;

/// So many steps in a row without a reply mean that nobody answers.
const UNANSWERED_IN_A_ROW: u32 = 3;

/// What is to be done once the events of a round are durable.
#[derive(Debug)]
pub(in crate::driver) enum Next {
    Send(u64),
    Read(u64),
}

impl TaskLoop<'_> {
    /// Puts the questions of an earlier process back where they were.
    pub(in crate::driver) fn take_up_exchange(&mut self, step: u64, past: Past) -> Result<()> {
        let mut exchange = Exchange::new();
        for (ask, outcome, response) in past.replies {
            let text = match response {
                Some(digest) => self.response(step, ask, digest)?,
                None => "".into(),
            };
            exchange.earlier.push(Earlier { outcome, text });
        }
        if !exchange.earlier.is_empty() {
            exchange.stage = Stage::Replied;
        }
        if let Some(sent) = past.sent {
            exchange.stage = Stage::Open;
            if self.keeps_waiting(&sent)
                && let Some(asking) = self.asking.as_mut()
            {
                // It was counted as one that was lost.
                asking.budget.take_back(&sent.reserved);
                exchange.sent = Some(sent);
            }
        }
        self.exchanges.insert(step, exchange);
        Ok(())
    }

    /// Whether a question that was sent once needs not be sent again.
    fn keeps_waiting(&self, sent: &Sent) -> bool {
        let asking = self.asking.as_ref();
        asking.is_some_and(|asking| asking.author.is_patient(&sent.model))
    }

    /// A reply as it was when the journal named it.
    fn response(&self, step: u64, ask: u32, digest: Digest) -> Result<Arc<str>> {
        let path = self.directory.response(step, ask);
        let text = files::read(&path)?;
        if Digest::of(&text) != digest {
            return Err(Failure::usage(format!(
                "`{}` is not the reply that the journal names",
                path.display()
            ))
            .hint("put the file back as it was: replies of a run are never edited in place")
            .into());
        }
        Ok(text.into())
    }

    /// Takes a model's step up, and moves every step on that nothing keeps.
    pub(in crate::driver) fn ask_models(&mut self) -> Result<()> {
        let unsent: Vec<u64> = self.unsent.iter().copied().collect();
        for step in unsent {
            let Some(brief) = self.open.get(&step) else {
                self.unsent.remove(&step);
                continue;
            };
            if !brief.operator.asks() || self.waits_for_parents(brief) {
                continue;
            }
            self.unsent.remove(&step);
            self.exchanges.entry(step).or_insert_with(Exchange::new);
        }
        let due: Vec<u64> = self.exchanges.keys().copied().collect();
        for step in due {
            match self.exchanges.get(&step).map(|exchange| exchange.stage) {
                Some(Stage::Open) if self.is_asked_already(step) => self.wait_on(step)?,
                Some(Stage::Open) if self.has_room(step) => self.render(step)?,
                Some(Stage::Replied) => self.read_replies(step)?,
                _ => {}
            }
        }
        // What did not fit may fit now that something has been settled.
        let dear: Vec<u64> = self.in_stage(Stage::Dear);
        let mut events = Vec::new();
        let mut next = Vec::new();
        for step in dear {
            self.send_if_affordable(step, &mut events, &mut next)?;
        }
        self.record(events)?;
        self.follow(next)
    }

    fn in_stage(&self, stage: Stage) -> Vec<u64> {
        let found = self.exchanges.iter();
        found
            .filter(|(_, exchange)| exchange.stage == stage)
            .map(|(step, _)| *step)
            .collect()
    }

    /// Whether another question may be under way: those to the patient keep nobody waiting.
    fn has_room(&self, step: u64) -> bool {
        let Some(asking) = self.asking.as_ref() else {
            return true;
        };
        let busy = self.exchanges.iter().filter(|(step, exchange)| {
            matches!(
                exchange.stage,
                Stage::Rendering | Stage::Dear | Stage::Sending
            ) && !self.is_patient(**step)
        });
        self.is_patient(step) || busy.count() < asking.at_once
    }

    /// Whether a step asks somebody who replies in his own time.
    fn is_patient(&self, step: u64) -> bool {
        let model = self.open.get(&step).and_then(|brief| brief.model.as_ref());
        let author = self.asking.as_ref().map(|asking| &asking.author);
        model
            .zip(author)
            .is_some_and(|(model, author)| author.is_patient(&model.name))
    }

    /// A parent may be a starting kernel that is itself only just being proposed.
    pub(in crate::driver) fn waits_for_parents(&self, brief: &Brief) -> bool {
        let mut unknown = brief
            .parents
            .iter()
            .filter(|parent| !self.sources.knows(**parent));
        unknown.any(|parent| self.open.contains_key(parent))
    }

    /// A kernel with what is told of it. Of steps behind `known` nothing is: whether they are over is a matter of chance, and the
    /// same question is to be the same prompt.
    fn kernel(&mut self, step: u64, known: u64) -> Result<Option<Kernel>> {
        if !self.sources.knows(step) {
            return Ok(None);
        }
        let record = self.search.record(step);
        let operator = record.map_or(crate::event::Operator::Start, |record| record.operator);
        Ok(Some(Kernel {
            step,
            operator,
            source: self.sources.text(self.search.source_step(step))?,
            feedback: (step <= known)
                .then(|| self.chronicle.feedback(step, &self.search))
                .flatten(),
        }))
    }

    fn question(&mut self, step: u64, with_context: bool) -> Result<Question> {
        let brief = self.open.get(&step).context("a step asks that is over")?;
        let brief = brief.clone();
        let earlier = self.exchanges.get(&step);
        let earlier = earlier.map(|exchange| exchange.earlier.clone());
        let known = brief.model.as_ref().map_or(0, |model| model.known);
        let mut parents = Vec::new();
        for parent in &brief.parents {
            parents.extend(self.kernel(*parent, known)?);
        }
        let (mut context, mut history) = (Vec::new(), Vec::new());
        if let (true, Some(model)) = (with_context, &brief.model) {
            let shown = &model.context;
            for (label, steps) in [
                (Label::Elite, &shown.elites),
                (Label::Different, &shown.different),
                (Label::Recent, &shown.recent),
                (Label::Failure, &shown.failures),
            ] {
                for step in steps {
                    context.extend(self.kernel(*step, known)?.map(|kernel| (label, kernel)));
                }
            }
            // What is fast is worth most, whatever it is shown for. The sort is stable: failures stay behind, the last ones first.
            let speed = |kernel: &Kernel| {
                let feedback = kernel.feedback.as_ref();
                feedback
                    .and_then(|feedback| feedback.speedup)
                    .map_or(0.0, |speedup| speedup[0])
            };
            context.sort_by(|one, other| speed(&other.1).total_cmp(&speed(&one.1)));
            history = self
                .chronicle
                .history(&self.search, model.known, self.history);
        }
        Ok(Question {
            task: self.task.clone(),
            brief,
            parents,
            context,
            history,
            earlier: earlier.unwrap_or_default(),
        })
    }

    fn render(&mut self, step: u64) -> Result<()> {
        let question = self.question(step, true)?;
        self.stage(step, Stage::Rendering);
        let author = self.asking.as_ref().context("nobody can be asked")?;
        self.running.render(author.author.clone(), step, question);
        Ok(())
    }

    fn read_replies(&mut self, step: u64) -> Result<()> {
        let question = self.question(step, false)?;
        self.stage(step, Stage::Reading);
        let author = self.asking.as_ref().context("nobody can be asked")?;
        self.running.read(author.author.clone(), step, question);
        Ok(())
    }

    fn stage(&mut self, step: u64, stage: Stage) {
        if let Some(exchange) = self.exchanges.get_mut(&step) {
            exchange.stage = stage;
        }
    }

    /// Whether this very question lies where somebody will reply to it, or has.
    fn is_asked_already(&mut self, step: u64) -> bool {
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
    fn wait_on(&mut self, step: u64) -> Result<()> {
        let exchange = self.exchanges.get_mut(&step);
        let exchange = exchange.context("a question of a step that is over")?;
        let sent = exchange
            .sent
            .take()
            .context("a question that was not asked")?;
        let document = files::read(&self.directory.prompt(step, sent.ask))?;
        let asking = self.asking.as_mut().context("nobody can be asked")?;
        asking.budget.hold(&sent.reserved);
        exchange.reserved = sent.reserved;
        exchange.prepared = Some(Arc::new(Prepared {
            model: sent.model,
            request: llm::Request {
                system: String::new(),
                parts: vec![llm::Part {
                    text: document.clone(),
                    cache_here: false,
                }],
                most_output: sent.most_output.unwrap_or(u64::MAX),
            },
            document,
            worst: sent.reserved,
            version: sent.prompts,
            left_out: Vec::new(),
        }));
        exchange.stage = Stage::Sending;
        self.follow(vec![Next::Send(step)])
    }

    /// A prompt is there.
    pub(in crate::driver) fn rendered(
        &mut self,
        step: u64,
        prepared: Result<Prepared>,
        events: &mut Vec<Event>,
        next: &mut Vec<Next>,
    ) -> Result<()> {
        let prepared = prepared.with_context(|| format!("no prompt for step {step}"))?;
        let is_ending = self.asks_no_more();
        let exchange = self.exchanges.get_mut(&step);
        let exchange = exchange.context("a prompt for a step that is over")?;
        if is_ending {
            exchange.stage = Stage::Open;
            return Ok(());
        }
        exchange.prepared = Some(Arc::new(prepared));
        exchange.stage = Stage::Dear;
        self.send_if_affordable(step, events, next)
    }

    /// Sets the worst case aside and has the prompt written, where it fits.
    fn send_if_affordable(
        &mut self,
        step: u64,
        events: &mut Vec<Event>,
        next: &mut Vec<Next>,
    ) -> Result<()> {
        let asking = self.asking.as_mut().context("nobody can be asked")?;
        let exchange = self.exchanges.get_mut(&step);
        let exchange = exchange.context("a prompt for a step that is over")?;
        let Some(prepared) = exchange.prepared.clone() else {
            return Ok(());
        };
        if !asking.budget.reserve(&prepared.worst) {
            return Ok(());
        }
        exchange.reserved = prepared.worst;
        let ask = exchange.ask();
        let path = self.directory.prompt(step, ask);
        (self.batch).write_in_new_folder(path, prepared.document.as_bytes())?;
        events.push(Event::Sent(Sent {
            step,
            ask,
            model: prepared.model.clone(),
            prompt: Digest::of(&prepared.document),
            prompts: prepared.version.clone(),
            reserved: prepared.worst,
            most_output: Some(prepared.request.most_output),
        }));
        exchange.stage = Stage::Sending;
        next.push(Next::Send(step));
        Ok(())
    }

    /// Goes on with what is durable now.
    pub(in crate::driver) fn follow(&mut self, next: Vec<Next>) -> Result<()> {
        for next in next {
            match next {
                Next::Read(step) => self.read_replies(step)?,
                Next::Send(step) => {
                    let asking = self.asking.as_ref().context("nobody can be asked")?;
                    let exchange = self.exchanges.get(&step);
                    let exchange = exchange.context("a question of a step that is over")?;
                    let prepared = exchange.prepared.clone();
                    let prepared = prepared.context("a question without a prompt")?;
                    let place = Place {
                        folder: self.directory.ask(step, exchange.ask()),
                        task: self.task.name.clone(),
                        step,
                        ask: exchange.ask(),
                    };
                    let author = asking.author.clone();
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
        answer: llm::Answer,
        events: &mut Vec<Event>,
        next: &mut Vec<Next>,
    ) -> Result<()> {
        let asking = self.asking.as_mut().context("nobody was asked")?;
        let exchange = self.exchanges.get_mut(&step);
        let exchange = exchange.context("a reply to a step that is over")?;
        let prepared = exchange.prepared.take().context("a reply to no question")?;
        let reserved = std::mem::take(&mut exchange.reserved);
        let llm::Answer::Reply(reply) = answer else {
            asking.budget.settle(&reserved, &Default::default());
            exchange.stage = Stage::Pending;
            return Ok(());
        };
        let cost = asking.author.cost(&prepared, &reply);
        asking.budget.settle(&reserved, &cost);
        let ask = exchange.ask();
        let response = match reply.text.is_empty() {
            true => None,
            false => {
                keep(
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
            exchange.stage = Stage::Open;
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
            asking.gave_up.get_or_insert(failure);
            return Ok(());
        }
        exchange.earlier.push(Earlier {
            outcome: reply.outcome,
            text: reply.text.into(),
        });
        exchange.stage = Stage::Replied;
        next.push(Next::Read(step));
        Ok(())
    }

    /// The replies of a step were read.
    pub(in crate::driver) fn read(
        &mut self,
        step: u64,
        reading: Reading,
        events: &mut Vec<Event>,
    ) -> Result<()> {
        for (text, path) in [
            (&reading.trace, self.directory.trace(step)),
            (&reading.edits_file, self.directory.edits(step)),
        ] {
            if let Some(text) = text {
                self.batch.write_in_new_folder(path, text.as_bytes())?;
            }
        }
        let answer = match reading.end {
            End::Again => {
                self.stage(step, Stage::Open);
                return Ok(());
            }
            End::Candidate(candidate) => Answer::Candidate(candidate),
            End::Failed(reason, words) => Answer::Failed(reason, words),
        };
        let is_unanswered = matches!(&answer, Answer::Failed(FailedReason::NoReply, _));
        self.exchanges.remove(&step);
        let asking = self.asking.as_mut().context("nobody was asked")?;
        asking.unanswered = match is_unanswered {
            true => asking.unanswered + 1,
            false => 0,
        };
        if asking.unanswered >= UNANSWERED_IN_A_ROW {
            let unanswered = asking.unanswered;
            asking.gave_up.get_or_insert_with(|| {
                Failure::environment(format!(
                    "{unanswered} steps in a row have no reply: nobody answers"
                ))
                .hint("see whether the models can be reached, then go on with `kforge resume`")
            });
        }
        self.answered(step, Ok(answer), events)?;
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
    pub(in crate::driver) fn is_out_of_money(&self) -> bool {
        let under_way = self.exchanges.values().any(|exchange| {
            matches!(
                exchange.stage,
                Stage::Sending | Stage::Reading | Stage::Rendering
            )
        });
        !under_way && !self.in_stage(Stage::Dear).is_empty()
    }

    /// Whether somebody is to reply for whom nobody waits.
    pub(in crate::driver) fn is_pending(&self) -> bool {
        !self.in_stage(Stage::Pending).is_empty()
    }

    /// Whether all replies that are on their way are from those who take their time, and cost nothing.
    pub(in crate::driver) fn awaits_only_mail(&self) -> bool {
        let sending = self.in_stage(Stage::Sending);
        sending.into_iter().all(|step| self.is_patient(step))
    }

    /// Whether nothing else is under way than questions to those who take their time.
    pub(in crate::driver) fn has_only_mail_under_way(&self) -> bool {
        let sending = self.in_stage(Stage::Sending).len();
        sending > 0 && sending == self.running.len() && self.awaits_only_mail()
    }

    /// Whether something has shown that asking makes no sense any more.
    pub(in crate::driver) fn has_given_up(&self) -> bool {
        let asking = self.asking.as_ref();
        asking.is_some_and(|asking| asking.gave_up.is_some())
    }

    /// What that was, as the end of the run.
    pub(in crate::driver) fn give_way(&mut self) -> Result<()> {
        let failure = self
            .asking
            .as_mut()
            .and_then(|asking| asking.gave_up.take());
        failure.map_or(Ok(()), |failure| Err(failure.into()))
    }

    /// Whether the run comes to its end, so that nothing more is to be sent: nobody would use the reply.
    fn asks_no_more(&self) -> bool {
        self.has_given_up() || self.progress.stopped.is_some() || self.search.stop().is_some()
    }

    /// Whether replies are on their way.
    pub(in crate::driver) fn is_sending(&self) -> bool {
        !self.in_stage(Stage::Sending).is_empty()
    }
}

/// Writes a reply, unless whoever replied has put it there.
fn keep(batch: &mut files::Batch, path: &Path, text: &str) -> Result<()> {
    if std::fs::read(path).is_ok_and(|there| there == text.as_bytes()) {
        let file =
            std::fs::File::open(path).map_err(|error| files::explain("open", path, error))?;
        files::sync(&file, path)?;
        return files::sync_folder(path.parent().unwrap_or(path));
    }
    batch.write_in_new_folder(path.to_owned(), text.as_bytes())
}
