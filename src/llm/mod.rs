//! Requests to language models: providers behind one trait, retries, prices and budgets.
//!
//! One [`Client::ask`] makes at most one billable request: only a request that never left, or that the server refused, is sent
//! again. Whatever a server does becomes a [`Reply`], never an error. This module knows nothing about kernels or
//! prompts (`propose` does) and writes no files: the driver writes prompts and replies.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use crate::event::{Cost, ReplyOutcome, Usage};

mod body;
mod budget;
mod circuit_breaker;
mod client;
mod command;
mod context_limit;
mod http;
mod http_client;
mod mailbox;
mod model_check;
mod models;
mod prices;
mod refusal;
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

/// A prompt for a model, and the limit of its reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The system message: the model's role and rules.
    pub system: String,
    /// The prompt, with the part that most prompts share first. Sent as one message, the parts joined.
    pub parts: Vec<PromptPart>,
    /// The reply's cap in tokens, reasoning included; in bytes for `command` and `mailbox`.
    pub max_output: u64,
}

/// A piece of a prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromptPart {
    pub text: String,
    /// Whether the provider should cache everything up to the end of this part, because other prompts start with it too.
    pub cache_here: bool,
}

impl Request {
    /// The bytes of all texts.
    pub fn bytes(&self) -> usize {
        let parts = self.parts.iter().map(|part| part.text.len());
        self.system.len() + parts.sum::<usize>()
    }
}

/// Which step a request belongs to, and where its files are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestOrigin {
    /// The folder `ask-N`.
    pub folder: PathBuf,
    pub task: String,
    pub step: u64,
    /// The number of the request within the step, from 1.
    pub ask: u32,
}

/// The outcome of [`Client::ask`].
#[derive(Clone, Debug, PartialEq)]
pub enum RequestOutcome {
    Reply(Reply),
    /// Only from a `mailbox` that does not wait: there is no reply yet.
    Pending,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    pub outcome: ReplyOutcome,
    /// The text that arrived; incomplete if the outcome says so.
    pub text: String,
    /// The provider's token counts; `None` if it reported none.
    pub usage: Option<Usage>,
    /// `replay`: the cost in the journal of the earlier run.
    pub recorded_cost: Option<Cost>,
    /// Whether the request may have been billed. False if no connection was made or the server turned it away.
    pub is_billable: bool,
    /// The number of requests sent, including those turned away.
    pub tries: u32,
    /// From the first request to the last byte.
    pub seconds: f64,
    /// The server's retry delay, if the retries ended before it.
    pub retry_after: Option<Duration>,
    /// What went wrong. Untrusted text on one line, capped, without keys.
    pub detail: Option<String>,
    /// The model that replied, as the server names it.
    pub served_by: Option<String>,
}

impl Reply {
    pub(crate) fn new(outcome: ReplyOutcome, text: String) -> Self {
        Self {
            outcome,
            text,
            usage: None,
            recorded_cost: None,
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

    /// Marks the reply as certainly not billed.
    pub(crate) fn not_billed(mut self) -> Self {
        self.is_billable = false;
        self
    }
}

/// A service or program that answers requests.
pub(crate) trait Provider: Send + Sync {
    /// Sends the request once and waits for its end. Dropping the future ends everything that it started.
    fn send<'a>(&'a self, request: &'a Request, origin: &'a RequestOrigin) -> AttemptFuture<'a>;
}

/// A request in flight.
pub(crate) type AttemptFuture<'a> = Pin<Box<dyn Future<Output = Attempt> + Send + 'a>>;

/// The outcome of sending a request once.
#[derive(Debug)]
pub(crate) enum Attempt {
    Ended(Reply),
    /// The server refused it temporarily and did not bill it: it may be sent again.
    TurnedAway(TurnedAway),
    /// The server rejected a field that is not necessary, and did not bill the request. The next request is sent without the field. The
    /// text says which field.
    Changed(String),
    /// There is no reply yet, and the provider does not wait for it.
    Pending,
}

/// A server's temporary refusal of a request: the request is turned away.
#[derive(Clone, Debug)]
pub(crate) struct TurnedAway {
    /// The retry delay that the server asks for.
    pub retry_after: Option<Duration>,
    /// Whether the server forbids a retry.
    pub is_final: bool,
    /// Whether the reason is a rate limit, so that the server itself works.
    pub is_rate_limit: bool,
    pub detail: String,
    /// The detail to report if retries do not help: it says what the user can do.
    pub final_detail: String,
}

/// Untrusted text on one line of limited length.
pub(crate) fn sanitize_detail(text: &str) -> String {
    const MAX_UNTRUSTED_CHARS: usize = 1000;
    let mut line = String::new();
    for (count, letter) in text.trim().chars().enumerate() {
        if count == MAX_UNTRUSTED_CHARS {
            line.push('…');
            break;
        }
        line.push(if letter.is_control() { ' ' } else { letter });
    }
    line
}
