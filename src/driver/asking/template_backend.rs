//! Models as authors: templates make the prompt, providers send it, `propose::reply` reads what comes back.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use serde_json::json;

use super::backend::{
    ModelBackend, ModelStep, ParsedReplies, PreparedRequest, RepliesOutcome, ReplyFuture, RunKernel,
};
use crate::device::DeviceFacts;
use crate::driver::proposer::Candidate;
use crate::event::{Cost, Edits, FailedReason, ReplyOutcome};
use crate::llm::{Client, ModelFacts, PromptPart, ProviderName, Reply, Request, RequestOrigin};
use crate::propose::prompt::{self, MissedEdits, ShownKernel, Templates};
use crate::propose::reply::{self, AppliedEdits, ReplyContent, Trace};
use crate::search::ModelPool;
use crate::verdict::DeviceIdentity;

/// Replies that are no fault of the model's, such as a cut stream, after which a step asks no more.
const MAX_LOST_REPLIES: usize = 3;

/// The longest description of a change that goes into the journal.
const MAX_DETAIL_CHARS: usize = 240;

/// What all prompts of a run are made with.
pub struct TemplateBackend {
    pub client: Arc<Client>,
    pub templates: Arc<Templates>,
    pub device: PromptDevice,
    /// As in a verdict.
    pub backend: String,
    pub profile: String,
    /// The most edits of one reply.
    pub max_edits: usize,
    /// The share of a model's window that a prompt may fill.
    pub context_share: f64,
}

/// The device that prompts tell of. Its rates are known once a worker has measured them, which may be after the run began.
pub struct PromptDevice {
    identity: DeviceIdentity,
    facts: Mutex<DeviceFacts>,
}

impl PromptDevice {
    pub fn new(identity: DeviceIdentity) -> Self {
        let facts = Mutex::new(DeviceFacts::for_device(&identity));
        Self { identity, facts }
    }

    fn facts(&self) -> DeviceFacts {
        let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        if facts.bytes_a_second.is_none() {
            *facts = DeviceFacts::for_device(&self.identity);
        }
        facts.clone()
    }
}

impl TemplateBackend {
    fn model_facts(&self, name: &str) -> anyhow::Result<&ModelFacts> {
        self.client
            .model(name)
            .with_context(|| format!("the config has no model `{name}`"))
    }

    /// The prompt of a question.
    ///
    /// # Errors
    /// Where a template asks for what there is not, or the brief is no model's.
    pub(crate) fn prompt(&self, question: &ModelStep) -> anyhow::Result<prompt::Prompt> {
        let asking = question.brief.model.as_ref();
        let asking = asking.context("a model's step names no model")?;
        let facts = self.model_facts(&asking.name)?;
        let parents = question.parents.iter();
        let parents: Vec<ShownKernel<'_>> = parents
            .map(|kernel| shown_kernel(prompt::KernelLabel::Parent, kernel))
            .collect();
        let context = question.context.iter();
        let context: Vec<ShownKernel<'_>> = context
            .map(|(label, kernel)| shown_kernel(*label, kernel))
            .collect();
        let missed = self.missed_edits(question);
        let device = self.device.facts();
        let window = facts.context_tokens as f64 * self.context_share;
        let asked = prompt::PromptInput {
            operator: question.brief.operator,
            task: &question.task,
            profile: &self.profile,
            backend: &self.backend,
            device: &device,
            baseline: question.task.baseline().0,
            parents: &parents,
            context: &context,
            history: &question.history,
            card: asking.card.as_deref(),
            max_edits: self.max_edits,
            budget_tokens: window as u64,
            missed: missed
                .as_ref()
                .map(|(reply, message)| MissedEdits { reply, message }),
        };
        Ok(prompt::render(&asked, &self.templates)?)
    }

    /// The last reply and what was wrong with its edits, where they had no place.
    fn missed_edits(&self, question: &ModelStep) -> Option<(Arc<str>, String)> {
        let last = question.earlier_replies.last()?;
        if last.outcome != ReplyOutcome::Complete {
            return None;
        }
        let ReplyContent::Edits(edits) = reply::parse_reply(&last.text, true).content else {
            return None;
        };
        let parent = question.parents.first()?;
        match reply::apply_edits(&parent.source, &edits, self.max_edits) {
            AppliedEdits::Missed { faults } => {
                Some((last.text.clone(), reply::describe_faults(&faults)))
            }
            AppliedEdits::Changed { .. } | AppliedEdits::NoOp => None,
        }
    }
}

fn shown_kernel(label: prompt::KernelLabel, kernel: &RunKernel) -> ShownKernel<'_> {
    ShownKernel {
        step: kernel.step,
        operator: kernel.operator,
        source: &kernel.source,
        feedback: kernel.feedback.as_deref(),
        label,
    }
}

impl ModelBackend for TemplateBackend {
    fn render(&self, question: &ModelStep) -> anyhow::Result<PreparedRequest> {
        let prompt = self.prompt(question)?;
        let asking = question.brief.model.as_ref();
        let name = asking
            .map(|asking| asking.name.as_str())
            .unwrap_or_default();
        let facts = self.model_facts(name)?;
        let cut =
            |earlier: &&super::backend::EarlierReply| earlier.outcome == ReplyOutcome::Truncated;
        let doubled = question.earlier_replies.iter().filter(cut).count().min(8);
        let room = facts
            .context_tokens
            .saturating_sub(prompt.estimated_tokens())
            .max(1);
        let most_output = facts
            .max_output_tokens
            .saturating_mul(1 << doubled)
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
            max_output: most_output,
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
        prepared: &'a PreparedRequest,
        place: &'a RequestOrigin,
    ) -> ReplyFuture<'a> {
        Box::pin(self.client.ask(&prepared.model, &prepared.request, place))
    }

    fn parse(&self, question: &ModelStep) -> ParsedReplies {
        parse_replies(question, self.max_edits)
    }

    fn cost(&self, prepared: &PreparedRequest, reply: &Reply) -> Cost {
        (self.client).cost(
            &prepared.model,
            &prepared.request,
            &prepared.worst_case,
            reply,
        )
    }

    fn model_pool(&self) -> ModelPool {
        ModelPool {
            models: self
                .client
                .models()
                .map(|model| (model.name.clone(), model.weight))
                .collect(),
            cards: self
                .templates
                .cards(&self.backend)
                .map(|card| card.name.clone())
                .collect(),
        }
    }

    fn is_mailbox(&self, model: &str) -> bool {
        let provider = self.client.model(model).map(|facts| facts.provider);
        provider == Some(ProviderName::Mailbox)
    }

    fn waiting_lines(&self) -> Vec<String> {
        let now = std::time::Instant::now();
        let line = |waiting: crate::llm::WaitingRequest| match waiting.until {
            Some(until) => {
                let left = until.saturating_duration_since(now).as_secs_f64().ceil();
                format!("{}: {left} s ({})", waiting.model, waiting.why)
            }
            None => format!(
                "{}: step {} waits {}",
                waiting.model, waiting.step, waiting.why
            ),
        };
        self.client
            .waiting_requests()
            .into_iter()
            .map(line)
            .collect()
    }
}

/// What the replies of a step come to: pure, and so the same whenever they are read again.
pub fn parse_replies(question: &ModelStep, most_edits: usize) -> ParsedReplies {
    let mut reading = ParsedReplies {
        outcome: RepliesOutcome::Failed(FailedReason::NoReply, "no reply came".to_owned()),
        trace: None,
        edits_json: None,
        edits: Edits::default(),
        expected: None,
    };
    let mut tried = Vec::new();
    let mut misses = 0;
    for earlier in &question.earlier_replies {
        let count = |outcomes: &[ReplyOutcome]| {
            let replies = question.earlier_replies.iter();
            replies
                .filter(|earlier| outcomes.contains(&earlier.outcome))
                .count()
        };
        let is_complete = earlier.outcome == ReplyOutcome::Complete;
        let found = reply::parse_reply(&earlier.text, is_complete);
        if let Some(trace) = &found.trace {
            reading.trace = Some(trace.verbatim.clone());
            reading.expected = trace.expected_percent.map(|percent| percent / 100.0);
        }
        let again =
            |most: usize, outcomes: &[ReplyOutcome], reason, words: &str| match count(outcomes)
                < most
            {
                true => RepliesOutcome::AskAgain,
                false => RepliesOutcome::Failed(reason, words.to_owned()),
            };
        reading.outcome = match earlier.outcome {
            ReplyOutcome::Complete => {
                let (end, missed) = parse_complete_reply(
                    question,
                    &found,
                    most_edits,
                    &mut reading.edits,
                    &mut tried,
                );
                misses += usize::from(missed);
                match end {
                    RepliesOutcome::Failed(FailedReason::EditMissed, _) if misses == 1 => {
                        RepliesOutcome::AskAgain
                    }
                    end => end,
                }
            }
            ReplyOutcome::Truncated => again(
                2,
                &[ReplyOutcome::Truncated],
                FailedReason::Truncated,
                "the reply ends at its cap, twice",
            ),
            ReplyOutcome::Refused => RepliesOutcome::Failed(
                FailedReason::Refused,
                "the model would not answer".to_owned(),
            ),
            ReplyOutcome::Empty => again(
                2,
                &[ReplyOutcome::Empty],
                FailedReason::NoReply,
                "the reply is empty, twice",
            ),
            ReplyOutcome::Malformed | ReplyOutcome::Lost => again(
                MAX_LOST_REPLIES,
                &[ReplyOutcome::Malformed, ReplyOutcome::Lost],
                FailedReason::NoReply,
                "the reply was lost on its way, three times",
            ),
            ReplyOutcome::TurnedAway | ReplyOutcome::Fatal => {
                RepliesOutcome::Failed(FailedReason::NoReply, "no model answers".to_owned())
            }
        };
    }
    if !tried.is_empty() {
        reading.edits_json = serde_json::to_string_pretty(&tried).ok();
    }
    reading
}

/// What a whole reply comes to, and whether its edits had no place.
fn parse_complete_reply(
    question: &ModelStep,
    found: &reply::ParsedReply,
    most_edits: usize,
    counts: &mut Edits,
    tried: &mut Vec<serde_json::Value>,
) -> (RepliesOutcome, bool) {
    let task = &question.task;
    let done = found
        .trace
        .as_ref()
        .map(change_summary)
        .filter(|text| !text.is_empty());
    let failed = |reason, words: String| (RepliesOutcome::Failed(reason, words), false);
    match &found.content {
        ReplyContent::Code(source) => {
            let same = question
                .parents
                .iter()
                .any(|parent| *parent.source == **source);
            match same {
                true => failed(FailedReason::NoOp, "the kernel is as it was".to_owned()),
                false => {
                    let detail = done.unwrap_or_else(|| "written".to_owned());
                    (
                        RepliesOutcome::Candidate(Candidate::from_source(
                            source.clone(),
                            detail,
                            task,
                        )),
                        false,
                    )
                }
            }
        }
        ReplyContent::Edits(edits) => {
            let Some(parent) = question.parents.first() else {
                let words = "edits of a kernel that there is not";
                return failed(FailedReason::NoCode, words.to_owned());
            };
            let many = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
            counts.asked += many(edits.len());
            match reply::apply_edits(&parent.source, edits, most_edits) {
                AppliedEdits::Changed {
                    source,
                    repairs: repaired,
                } => {
                    counts.repaired += many(repaired.len());
                    tried.push(json!({"edits": edits, "repaired": repaired}));
                    let detail = done.unwrap_or_else(|| "edited".to_owned());
                    (
                        RepliesOutcome::Candidate(Candidate::from_source(source, detail, task)),
                        false,
                    )
                }
                AppliedEdits::Missed { faults } => {
                    counts.missed += many(faults.len());
                    tried.push(json!({"edits": edits, "faults": faults}));
                    let words = reply::describe_faults(&faults);
                    (
                        RepliesOutcome::Failed(FailedReason::EditMissed, shorten(&words)),
                        true,
                    )
                }
                AppliedEdits::NoOp => {
                    tried.push(json!({"edits": edits}));
                    failed(FailedReason::NoOp, "the edits change nothing".to_owned())
                }
            }
        }
        ReplyContent::NoValidEdit => failed(
            FailedReason::NoOp,
            "the model says that no edit helps".to_owned(),
        ),
        ReplyContent::Unusable(why) => failed(FailedReason::NoCode, shorten(why)),
        ReplyContent::Truncated => failed(
            FailedReason::Truncated,
            "the reply ends before its end".to_owned(),
        ),
    }
}

/// The change in the model's own words, on one line.
fn change_summary(trace: &Trace) -> String {
    shorten(&trace.change)
}

fn shorten(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut short: String = line.chars().take(MAX_DETAIL_CHARS).collect();
    if short.len() < line.len() {
        short.push('…');
    }
    short
}
