//! The model backend of real runs: templates make the prompts, `llm` sends them, `parsing` reads the replies.
//!
//! Decides nothing about steps or budgets; `requests` does.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context;
use indexmap::IndexMap;

use super::backend::{
    EarlierReply, ModelBackend, ModelStep, ParsedReplies, PreparedRequest, ReplyFuture, RunKernel,
};
use super::parsing::{parse_replies, reply_to_send_back};
use crate::device::DeviceFacts;
use crate::event::{Cost, ReplyOutcome};
use crate::llm::{
    Client, ModelFacts, PromptPart, ProviderName, Reply, Request, RequestOrigin, WaitingRequest,
};
use crate::propose::prompt::{
    self, KernelLabel, Prompt, PromptInput, RejectedReply, ShownKernel, Templates, TimesToBeat,
};
use crate::search::ModelPool;
use crate::task::Task;
use crate::verdict::DeviceIdentity;

/// Maximum number of times that the token limit of a reply is doubled after truncated replies.
const MAX_DOUBLINGS: usize = 8;

/// Everything that all prompts of a run are made from, and the client that sends them.
pub struct TemplateBackend {
    pub client: Arc<Client>,
    pub templates: Arc<Templates>,
    pub device: PromptDevice,
    /// Name of the device backend, as in a verdict.
    pub backend: String,
    /// Name of the profile.
    pub profile: String,
    /// Maximum number of edits in a reply.
    pub max_edits: usize,
    /// Share of a model's context window that a prompt may fill.
    pub context_share: f64,
    /// The times of the strongest known baseline, by task. Tasks without an entry have none that is faster than their own.
    pub to_beat: HashMap<String, TimesToBeat>,
    /// Lessons from earlier runs, by task.
    pub lessons: IndexMap<String, String>,
}

/// The device that prompts describe. A worker measures its rates, possibly after the run has started.
pub struct PromptDevice {
    identity: DeviceIdentity,
    facts: Mutex<DeviceFacts>,
}

impl PromptDevice {
    pub fn new(identity: DeviceIdentity) -> Self {
        let facts = Mutex::new(DeviceFacts::for_device(&identity));
        Self { identity, facts }
    }

    /// The facts known now. Reads them again until the rates are measured.
    fn facts(&self) -> DeviceFacts {
        let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        if facts.bytes_a_second.is_none() {
            *facts = DeviceFacts::for_device(&self.identity);
        }
        facts.clone()
    }
}

impl TemplateBackend {
    /// Renders the prompt of a step.
    ///
    /// # Errors
    /// If a template fails, or the brief does not ask a model of the config.
    pub(crate) fn prompt(&self, step: &ModelStep) -> anyhow::Result<Prompt> {
        let model = step.brief.model.as_ref();
        let model = model.context("the brief of the step names no model")?;
        let facts = self.model_facts(&model.name)?;
        let parents = step.parents.iter();
        let parents: Vec<ShownKernel<'_>> = parents
            .map(|kernel| shown_kernel(KernelLabel::Parent, kernel))
            .collect();
        let context = step.context.iter();
        let context: Vec<ShownKernel<'_>> = context
            .map(|(label, kernel)| shown_kernel(*label, kernel))
            .collect();
        let sent_back = reply_to_send_back(step, self.max_edits);
        let device = self.device.facts();
        let window = facts.context_tokens as f64 * self.context_share;
        let input = PromptInput {
            operator: step.brief.operator,
            task: &step.task,
            profile: &self.profile,
            backend: &self.backend,
            device: &device,
            baseline: step.task.baseline().0,
            parents: &parents,
            context: &context,
            history: &step.history,
            card: model.card.as_deref(),
            to_beat: self.to_beat.get(&step.task.name),
            lessons: self.lessons.get(&step.task.name).map(String::as_str),
            max_edits: self.max_edits,
            budget_tokens: window as u64,
            missed: sent_back.as_ref().map(|reply| RejectedReply {
                reply: &reply.text,
                message: &reply.message,
                had_edits: reply.had_edits,
            }),
        };
        Ok(prompt::render(&input, &self.templates)?)
    }

    fn model_facts(&self, name: &str) -> anyhow::Result<&ModelFacts> {
        self.client
            .model(name)
            .with_context(|| format!("the config has no model `{name}`"))
    }
}

fn shown_kernel(label: KernelLabel, kernel: &RunKernel) -> ShownKernel<'_> {
    ShownKernel {
        step: kernel.step,
        operator: kernel.operator,
        source: &kernel.source,
        feedback: kernel.feedback.as_deref(),
        label,
    }
}

impl ModelBackend for TemplateBackend {
    fn render(&self, step: &ModelStep) -> anyhow::Result<PreparedRequest> {
        let prompt = self.prompt(step)?;
        let model = step.brief.model.as_ref();
        let name = model.map(|model| model.name.as_str()).unwrap_or_default();
        let facts = self.model_facts(name)?;
        let is_truncated = |reply: &&EarlierReply| reply.outcome == ReplyOutcome::Truncated;
        let truncated = step.earlier_replies.iter().filter(is_truncated).count();
        let doublings = truncated.min(MAX_DOUBLINGS);
        let room = facts
            .context_tokens
            .saturating_sub(prompt.estimated_tokens())
            .max(1);
        let max_output = facts
            .max_output_tokens
            .saturating_mul(1 << doublings)
            .min(room);
        let document = prompt.document();
        let request = Request {
            parts: vec![
                PromptPart {
                    text: prompt.stable_text(),
                    cache_here: true,
                },
                PromptPart {
                    text: prompt.changing_text(),
                    cache_here: false,
                },
            ],
            system: prompt.system,
            max_output,
        };
        Ok(PreparedRequest {
            model: name.to_owned(),
            worst_case: self.client.worst_case(name, &request),
            request,
            document,
            prompts_version: prompt.version,
            left_out: prompt.left_out,
        })
    }

    fn send<'a>(
        &'a self,
        request: &'a PreparedRequest,
        origin: &'a RequestOrigin,
    ) -> ReplyFuture<'a> {
        Box::pin(self.client.ask(&request.model, &request.request, origin))
    }

    fn parse(&self, step: &ModelStep) -> ParsedReplies {
        parse_replies(step, self.max_edits)
    }

    fn cost(&self, request: &PreparedRequest, reply: &Reply) -> Cost {
        self.client
            .cost(&request.model, &request.request, &request.worst_case, reply)
    }

    fn model_pool(&self, task: &Task) -> ModelPool {
        let models = self.client.models();
        let cards = self.templates.cards_for(&self.backend, task);
        ModelPool {
            models: models
                .map(|model| (model.name.clone(), model.weight))
                .collect(),
            cards: cards.map(|card| card.name.clone()).collect(),
        }
    }

    fn is_mailbox(&self, model: &str) -> bool {
        let provider = self.client.model(model).map(|facts| facts.provider);
        provider == Some(ProviderName::Mailbox)
    }

    fn may_leave_requests(&self) -> bool {
        self.client.may_leave_requests()
    }

    fn replayed_run(&self) -> Option<PathBuf> {
        self.client.replayed_run().map(Path::to_owned)
    }

    fn waiting_lines(&self) -> Vec<String> {
        let now = Instant::now();
        let waiting = self.client.waiting_requests().into_iter();
        waiting.map(|waiting| waiting_line(&waiting, now)).collect()
    }
}

/// `MODEL: 12 s (rate limit)`, or `MODEL: step 7 waits for a reply`.
fn waiting_line(waiting: &WaitingRequest, now: Instant) -> String {
    match waiting.until {
        Some(until) => {
            let left = until.saturating_duration_since(now).as_secs_f64().ceil();
            format!("{}: {left} s ({})", waiting.model, waiting.why)
        }
        None => format!(
            "{}: step {} waits {}",
            waiting.model, waiting.step, waiting.why
        ),
    }
}
