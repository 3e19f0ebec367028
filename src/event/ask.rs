//! Asking models: what was sent, what came back, and what it cost.

use serde::{Deserialize, Serialize};

use crate::base::Digest;

/// A question left, or was about to. Its prompt is durable in the step's `ask-N`, and its worst case is reserved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    pub step: u64,
    /// Counted from 1 within the step.
    pub ask: u32,
    /// The model's name in the config.
    pub model: String,
    /// Hash of `prompt.md`.
    pub prompt: Digest,
    /// The version of the prompts: the hash of all templates, shortened.
    pub prompts: String,
    /// The most that this can cost.
    pub reserved: Cost,
    /// The most tokens that the reply may have, reasoning included; `None` where nothing caps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most_output: Option<u64>,
}

/// It ended: with a reply, durable in the step's `ask-N`, or without.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Replied {
    pub step: u64,
    pub ask: u32,
    pub model: String,
    pub outcome: ReplyOutcome,
    /// Hash of `response.md`; `None` where nothing came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<Digest>,
    /// What the provider said that it used; `None` where it said nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// What it cost: by usage, or the worst case where that is not known.
    pub cost: Cost,
    /// Requests made, those that were turned away among them.
    pub tries: u32,
    /// From the first request to the last byte.
    pub seconds: f64,
    /// What went wrong, in words. Untrusted text, capped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// How a question ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplyOutcome {
    /// The whole reply.
    Complete,
    /// The reply ends at its cap, or where the stream was cut by it. Never compiled.
    Truncated,
    /// The model or a filter would not answer.
    Refused,
    /// A reply without text.
    Empty,
    /// What came is not what the protocol says.
    Malformed,
    /// The connection broke or time ran out after the request had left: it may have been billed, and may be asked again.
    Lost,
    /// The server turned it away until patience was out: not billed, and may be asked again.
    TurnedAway,
    /// The server will never answer this as it stands: a wrong key, no money, an unknown model.
    Fatal,
}

/// Tokens as the provider counted them. Every token is in exactly one of `input`, `cached`, `cache_write`, or `output`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Read afresh: cached ones are not among them.
    pub input: u64,
    /// Read from the provider's cache.
    pub cached: u64,
    /// Written to it.
    pub cache_write: u64,
    /// All that was made, reasoning included.
    pub output: u64,
    /// Of `output`, what the model thought to itself.
    pub reasoning: u64,
}

impl Usage {
    pub(crate) fn tokens(&self) -> u64 {
        self.input + self.cached + self.cache_write + self.output
    }
}

/// An amount of tokens and of money.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cost {
    pub tokens: u64,
    /// In billionths of a dollar, so that sums are exact; `None` where no price is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nano_usd: Option<u64>,
    /// Not by the provider's own count, but the worst case.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub assumed: bool,
}
