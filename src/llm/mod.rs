//! Asking models: providers behind one trait, patience with them, what it costs and what may still be spent.
//!
//! One [`Client::ask`] is at most one request that is billed: only what a server turned away with a status, or what never left, is
//! sent again. Whatever a server does ends as a [`Reply`], never as an error. Knows nothing of kernels, prompts or journals'
//! files; the driver writes those before and after.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use crate::event::{ReplyOutcome, Usage};

mod budget;
mod circuit_breaker;
mod client;
mod command;
mod http;
mod mailbox;
mod models;
mod prices;
mod replay;
mod retry;
mod secret;
mod settings;
mod sse;
mod wire;

pub use budget::{Budget, BudgetLimits, RemainingBudget};
pub use client::{Client, ModelFacts, WaitingRequest};
pub use models::{ModelList, ModelSettings, ProviderName};
pub use settings::{LlmSettings, key_variables_set};

/// A question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Who the model is and what the rules are.
    pub system: String,
    /// The prompt, what is the same for most prompts first. Sent as one message, one part behind the other.
    pub parts: Vec<PromptPart>,
    /// The cap of the reply in tokens, reasoning included.
    pub max_output: u64,
}

/// A piece of a prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromptPart {
    pub text: String,
    /// Whether all prompts of some time begin with everything up to the end of this part, so that a provider had better keep it.
    pub cache_here: bool,
}

impl Request {
    /// The bytes of all texts.
    pub fn bytes(&self) -> usize {
        let parts = self.parts.iter().map(|part| part.text.len());
        self.system.len() + parts.sum::<usize>()
    }
}

/// Whose question it is, and where it lies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestOrigin {
    /// The folder `ask-N`.
    pub folder: PathBuf,
    pub task: String,
    pub step: u64,
    pub ask: u32,
}

/// What came of asking.
#[derive(Clone, Debug, PartialEq)]
pub enum RequestOutcome {
    Reply(Reply),
    /// `mailbox` without waiting: nobody has replied yet.
    Pending,
}

/// How a question ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    pub outcome: ReplyOutcome,
    /// What came, in part where the outcome says so.
    pub text: String,
    /// What the provider counted; `None` where it said nothing.
    pub usage: Option<Usage>,
    /// Whether it may have been billed. Not so where no connection was made or a status turned it away.
    pub is_billable: bool,
    /// Requests made, those that were turned away among them.
    pub tries: u32,
    /// From the first request to the last byte.
    pub seconds: f64,
    /// The server's own word on when to come back, where patience ended before it.
    pub retry_after: Option<Duration>,
    /// What went wrong, in words. Untrusted text, capped, free of keys.
    pub detail: Option<String>,
    /// The model that answered, as the server calls it.
    pub served_by: Option<String>,
}

impl Reply {
    pub(crate) fn new(outcome: ReplyOutcome, text: String) -> Self {
        Self {
            outcome,
            text,
            usage: None,
            is_billable: true,
            tries: 1,
            seconds: 0.0,
            retry_after: None,
            detail: None,
            served_by: None,
        }
    }

    pub(crate) fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// As one that was certainly not billed.
    pub(crate) fn not_billed(mut self) -> Self {
        self.is_billable = false;
        self
    }
}

/// Whoever answers questions.
pub(crate) trait Provider: Send + Sync {
    /// Sends the question once and waits for its end. Dropping the future ends all that it began.
    fn send<'a>(&'a self, request: &'a Request, place: &'a RequestOrigin) -> AttemptFuture<'a>;
}

/// A question under way.
pub(crate) type AttemptFuture<'a> = Pin<Box<dyn Future<Output = Attempt> + Send + 'a>>;

/// What came of sending once.
#[derive(Debug)]
pub(crate) enum Attempt {
    Ended(Reply),
    /// Not now, and not billed: it may be sent again.
    TurnedAway(TurnedAway),
    /// There is no reply yet, and nobody waits for it.
    Pending,
}

/// A server's refusal to answer now.
#[derive(Clone, Debug)]
pub(crate) struct TurnedAway {
    /// When to come back, in the server's own words.
    pub retry_after: Option<Duration>,
    /// Whether the server forbids to come back.
    pub is_final: bool,
    /// Whether there were merely too many questions: the server itself is well.
    pub is_rate_limit: bool,
    pub detail: String,
}

/// Untrusted text on one line and of bearable length.
pub(crate) fn sanitize_detail(text: &str) -> String {
    const MAX_CHARS: usize = 500;
    let mut line = String::new();
    for (count, letter) in text.trim().chars().enumerate() {
        if count == MAX_CHARS {
            line.push('…');
            break;
        }
        line.push(if letter.is_control() { ' ' } else { letter });
    }
    line
}
