//! Models as authors: templates make the prompt, providers send it, `propose::reply` reads what comes back.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use serde_json::json;

use super::author::{Author, End, Kernel, Prepared, Question, Reading, Sending};
use crate::device::DeviceFacts;
use crate::driver::proposer::Candidate;
use crate::event::{Cost, Edits, FailedReason, ReplyOutcome};
use crate::llm::{Client, ModelFacts, Part, Place, ProviderName, Reply, Request};
use crate::propose::prompt::{self, Language, Missed, Shown, Templates};
use crate::propose::reply::{self, Applied, Body, Trace};
use crate::search::Askable;
use crate::verdict::DeviceIdentity;

/// Replies that are no fault of the model's, such as a cut stream, after which a step asks no more.
const LOST: usize = 3;

/// The longest description of a change that goes into the journal.
const MOST_DETAIL: usize = 240;

/// What all prompts of a run are made with.
pub struct Models {
    pub client: Arc<Client>,
    pub templates: Arc<Templates>,
    pub device: Device,
    /// As in a verdict.
    pub backend: String,
    pub profile: String,
    /// The most edits of one reply.
    pub most_edits: usize,
    /// The share of a model's window that a prompt may fill.
    pub context_share: f64,
}

/// The device that prompts tell of. Its rates are known once a worker has measured them, which may be after the run began.
pub struct Device {
    identity: DeviceIdentity,
    facts: Mutex<DeviceFacts>,
}

impl Device {
    pub fn new(identity: DeviceIdentity) -> Self {
        let facts = Mutex::new(DeviceFacts::of(&identity));
        Self { identity, facts }
    }

    fn facts(&self) -> DeviceFacts {
        let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        if facts.bytes_a_second.is_none() {
            *facts = DeviceFacts::of(&self.identity);
        }
        facts.clone()
    }
}

impl Models {
    fn facts(&self, name: &str) -> anyhow::Result<&ModelFacts> {
        self.client
            .model(name)
            .with_context(|| format!("the config has no model `{name}`"))
    }

    /// The prompt of a question.
    ///
    /// # Errors
    /// Where a template asks for what there is not, or the brief is no model's.
    pub(crate) fn prompt(&self, question: &Question) -> anyhow::Result<prompt::Prompt> {
        let asking = question.brief.model.as_ref();
        let asking = asking.context("a model's step names no model")?;
        let facts = self.facts(&asking.name)?;
        let parents = question.parents.iter();
        let parents: Vec<Shown<'_>> = parents
            .map(|kernel| shown(prompt::Label::Parent, kernel))
            .collect();
        let context = question.context.iter();
        let context: Vec<Shown<'_>> = context
            .map(|(label, kernel)| shown(*label, kernel))
            .collect();
        let missed = self.missed(question);
        let device = self.device.facts();
        let window = facts.context_tokens as f64 * self.context_share;
        let asked = prompt::Question {
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
            most_edits: self.most_edits,
            budget_tokens: window as u64,
            missed: missed
                .as_ref()
                .map(|(reply, message)| Missed { reply, message }),
        };
        Ok(prompt::render(&asked, &self.templates)?)
    }

    /// The last reply and what was wrong with its edits, where they had no place.
    fn missed(&self, question: &Question) -> Option<(Arc<str>, String)> {
        let last = question.earlier.last()?;
        if last.outcome != ReplyOutcome::Complete {
            return None;
        }
        let Body::Edits(edits) = reply::read(&last.text, true).body else {
            return None;
        };
        let parent = question.parents.first()?;
        match reply::apply(&parent.source, &edits, self.most_edits) {
            Applied::Missed { faults } => Some((last.text.clone(), reply::message(&faults))),
            Applied::Changed { .. } | Applied::NoOp => None,
        }
    }
}

fn shown(label: prompt::Label, kernel: &Kernel) -> Shown<'_> {
    Shown {
        step: kernel.step,
        operator: kernel.operator,
        source: &kernel.source,
        feedback: kernel.feedback.as_deref(),
        label,
    }
}

impl Author for Models {
    fn render(&self, question: &Question) -> anyhow::Result<Prepared> {
        let prompt = self.prompt(question)?;
        let asking = question.brief.model.as_ref();
        let name = asking
            .map(|asking| asking.name.as_str())
            .unwrap_or_default();
        let facts = self.facts(name)?;
        let cut = |earlier: &&super::author::Earlier| earlier.outcome == ReplyOutcome::Truncated;
        let doubled = question.earlier.iter().filter(cut).count().min(8);
        let room = facts.context_tokens.saturating_sub(prompt.tokens()).max(1);
        let most_output = facts
            .max_output_tokens
            .saturating_mul(1 << doubled)
            .min(room);
        let document = prompt.document();
        let request = Request {
            parts: vec![
                Part {
                    text: prompt.stable(),
                    cache_here: true,
                },
                Part {
                    text: prompt.changing(),
                    cache_here: false,
                },
            ],
            system: prompt.system,
            most_output,
        };
        Ok(Prepared {
            model: name.to_owned(),
            worst: self.client.worst_case(name, &request),
            request,
            document,
            version: prompt.version,
            left_out: prompt.left_out,
        })
    }

    fn send<'a>(&'a self, prepared: &'a Prepared, place: &'a Place) -> Sending<'a> {
        Box::pin(self.client.ask(&prepared.model, &prepared.request, place))
    }

    fn read(&self, question: &Question) -> Reading {
        read(question, self.most_edits)
    }

    fn cost(&self, prepared: &Prepared, reply: &Reply) -> Cost {
        (self.client).cost(&prepared.model, &prepared.request, &prepared.worst, reply)
    }

    fn askable(&self) -> Askable {
        let language = Language::of_backend(&self.backend);
        Askable {
            models: self
                .client
                .models()
                .map(|model| (model.name.clone(), model.weight))
                .collect(),
            cards: self
                .templates
                .cards(language)
                .map(|card| card.name.clone())
                .collect(),
        }
    }

    fn is_patient(&self, model: &str) -> bool {
        let provider = self.client.model(model).map(|facts| facts.provider);
        provider == Some(ProviderName::Mailbox)
    }

    fn waiting(&self) -> Vec<String> {
        let now = std::time::Instant::now();
        let line = |waiting: crate::llm::Waiting| match waiting.until {
            Some(until) => {
                let left = until.saturating_duration_since(now).as_secs_f64().ceil();
                format!("{}: {left} s ({})", waiting.model, waiting.why)
            }
            None => format!(
                "{}: step {} waits {}",
                waiting.model, waiting.step, waiting.why
            ),
        };
        self.client.waiting().into_iter().map(line).collect()
    }
}

/// What the replies of a step come to: pure, and so the same whenever they are read again.
pub fn read(question: &Question, most_edits: usize) -> Reading {
    let mut reading = Reading {
        end: End::Failed(FailedReason::NoReply, "no reply came".to_owned()),
        trace: None,
        edits_file: None,
        edits: Edits::default(),
        expected: None,
    };
    let mut tried = Vec::new();
    let mut misses = 0;
    for earlier in &question.earlier {
        let count = |outcomes: &[ReplyOutcome]| {
            let replies = question.earlier.iter();
            replies
                .filter(|earlier| outcomes.contains(&earlier.outcome))
                .count()
        };
        let is_complete = earlier.outcome == ReplyOutcome::Complete;
        let found = reply::read(&earlier.text, is_complete);
        if let Some(trace) = &found.trace {
            reading.trace = Some(trace.verbatim.clone());
            reading.expected = trace.expected_percent.map(|percent| percent / 100.0);
        }
        let again =
            |most: usize, outcomes: &[ReplyOutcome], reason, words: &str| match count(outcomes)
                < most
            {
                true => End::Again,
                false => End::Failed(reason, words.to_owned()),
            };
        reading.end = match earlier.outcome {
            ReplyOutcome::Complete => {
                let (end, missed) =
                    answer(question, &found, most_edits, &mut reading.edits, &mut tried);
                misses += usize::from(missed);
                match end {
                    End::Failed(FailedReason::EditMissed, _) if misses == 1 => End::Again,
                    end => end,
                }
            }
            ReplyOutcome::Truncated => again(
                2,
                &[ReplyOutcome::Truncated],
                FailedReason::Truncated,
                "the reply ends at its cap, twice",
            ),
            ReplyOutcome::Refused => End::Failed(
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
                LOST,
                &[ReplyOutcome::Malformed, ReplyOutcome::Lost],
                FailedReason::NoReply,
                "the reply was lost on its way, three times",
            ),
            ReplyOutcome::TurnedAway | ReplyOutcome::Fatal => {
                End::Failed(FailedReason::NoReply, "no model answers".to_owned())
            }
        };
    }
    if !tried.is_empty() {
        reading.edits_file = serde_json::to_string_pretty(&tried).ok();
    }
    reading
}

/// What a whole reply comes to, and whether its edits had no place.
fn answer(
    question: &Question,
    found: &reply::Read,
    most_edits: usize,
    counts: &mut Edits,
    tried: &mut Vec<serde_json::Value>,
) -> (End, bool) {
    let task = &question.task;
    let done = found
        .trace
        .as_ref()
        .map(described)
        .filter(|text| !text.is_empty());
    let failed = |reason, words: String| (End::Failed(reason, words), false);
    match &found.body {
        Body::Code(source) => {
            let same = question
                .parents
                .iter()
                .any(|parent| *parent.source == **source);
            match same {
                true => failed(FailedReason::NoOp, "the kernel is as it was".to_owned()),
                false => {
                    let detail = done.unwrap_or_else(|| "written".to_owned());
                    (
                        End::Candidate(Candidate::of(source.clone(), detail, task)),
                        false,
                    )
                }
            }
        }
        Body::Edits(edits) => {
            let Some(parent) = question.parents.first() else {
                let words = "edits of a kernel that there is not";
                return failed(FailedReason::NoCode, words.to_owned());
            };
            let many = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
            counts.asked += many(edits.len());
            match reply::apply(&parent.source, edits, most_edits) {
                Applied::Changed { source, repaired } => {
                    counts.repaired += many(repaired.len());
                    tried.push(json!({"edits": edits, "repaired": repaired}));
                    let detail = done.unwrap_or_else(|| "edited".to_owned());
                    (End::Candidate(Candidate::of(source, detail, task)), false)
                }
                Applied::Missed { faults } => {
                    counts.missed += many(faults.len());
                    tried.push(json!({"edits": edits, "faults": faults}));
                    let words = reply::message(&faults);
                    (End::Failed(FailedReason::EditMissed, short(&words)), true)
                }
                Applied::NoOp => {
                    tried.push(json!({"edits": edits}));
                    failed(FailedReason::NoOp, "the edits change nothing".to_owned())
                }
            }
        }
        Body::NoValidEdit => failed(
            FailedReason::NoOp,
            "the model says that no edit helps".to_owned(),
        ),
        Body::None(why) => failed(FailedReason::NoCode, short(why)),
        Body::Truncated => failed(
            FailedReason::Truncated,
            "the reply ends before its end".to_owned(),
        ),
    }
}

/// The change in the model's own words, on one line.
fn described(trace: &Trace) -> String {
    short(&trace.change)
}

fn short(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut short: String = line.chars().take(MOST_DETAIL).collect();
    if short.len() < line.len() {
        short.push('…');
    }
    short
}
