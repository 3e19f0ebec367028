//! Payloads of the events about model requests: what was sent, what came back, and what it cost.
//!
//! Plain data. Nothing here sends a request or computes a price; `llm` and `driver` do.

use serde::{Deserialize, Serialize};

use crate::base::{Digest, exact, text};

/// A request was sent, or was about to be. Its prompt is durable in the step's `ask-N` folder, and its worst-case cost is reserved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    /// Written by the head of the journal line.
    #[serde(skip_serializing)]
    pub step: u64,
    /// Number of the request within the step, from 1.
    pub ask: u32,
    /// Name of the model in the config.
    pub model: String,
    /// Hash of `prompt.md`.
    pub prompt: Digest,
    /// Version of the prompts: the shortened hash of all templates.
    pub prompts: String,
    /// Worst-case cost of this request.
    pub reserved: Cost,
    /// Limit on the tokens of the reply, reasoning included. `None` if there is no limit.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "exact::optional_number"
    )]
    pub most_output: Option<u64>,
}

/// A request ended: with a reply, durable in the step's `ask-N` folder, or without one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Replied {
    /// Written by the head of the journal line.
    #[serde(skip_serializing)]
    pub step: u64,
    /// Number of the request within the step, from 1.
    pub ask: u32,
    /// Name of the model in the config.
    pub model: String,
    pub outcome: ReplyOutcome,
    /// Hash of `response.md`. `None` if no text came back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<Digest>,
    /// Token usage as the provider reported it. `None` if it reported none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Cost by usage, or the worst case if the usage is unknown.
    pub cost: Cost,
    /// Number of HTTP requests, including those that the server turned away.
    pub tries: u32,
    /// Seconds from the first HTTP request to the last byte of the reply.
    pub seconds: f64,
    /// What went wrong, as untrusted text of limited length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplyOutcome {
    /// The whole reply.
    Complete,
    /// The reply reached its token limit, or the stream was cut at the limit. Its code is never compiled.
    Truncated,
    /// The model or a filter refused to answer.
    Refused,
    /// A reply without text.
    Empty,
    /// A reply that does not follow the provider's protocol.
    Malformed,
    /// The connection broke or timed out after the request was sent. It may have been billed, and may be sent again.
    Lost,
    /// The server turned the request away until retries ran out. It was not billed, and may be sent again.
    TurnedAway,
    /// The server will never accept this request: wrong key, no credit, unknown model.
    Fatal,
}

/// Tokens as the provider counted them. Each token is counted in exactly one of `input`, `cached`, `cache_write` and `output`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Prompt tokens that did not come from the cache.
    #[serde(with = "exact::number")]
    pub input: u64,
    /// Prompt tokens read from the provider's cache.
    #[serde(with = "exact::number")]
    pub cached: u64,
    /// Prompt tokens written to the provider's cache.
    #[serde(with = "exact::number")]
    pub cache_write: u64,
    /// Generated tokens, reasoning included.
    #[serde(with = "exact::number")]
    pub output: u64,
    /// The part of `output` that is reasoning.
    #[serde(with = "exact::number")]
    pub reasoning: u64,
}

impl Usage {
    /// All tokens of the request and its reply.
    pub(crate) fn tokens(&self) -> u64 {
        let counts = [self.input, self.cached, self.cache_write, self.output];
        counts.into_iter().fold(0, u64::saturating_add)
    }
}

/// An amount of tokens and money.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cost {
    #[serde(with = "exact::number")]
    pub tokens: u64,
    /// Billionths of a US dollar, so that sums are exact. `None` if no price is known.
    #[serde(
        skip_serializing_if = "Option::is_none",
        with = "exact::optional_number"
    )]
    pub nano_usd: Option<u64>,
    /// The amount is the worst case, not the provider's own count.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub assumed: bool,
    /// The tokens are estimated from bytes, because the provider (`command`, `mailbox`) counts none.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub estimated: bool,
}

impl Cost {
    /// The higher number of tokens, and the higher number of dollars.
    pub(crate) fn max_of_each(&self, other: &Cost) -> Cost {
        Cost {
            tokens: self.tokens.max(other.tokens),
            nano_usd: self.nano_usd.max(other.nano_usd),
            assumed: self.assumed || other.assumed,
            estimated: self.estimated || other.estimated,
        }
    }
}

impl Replied {
    /// The cost, in tokens. Older versions recorded the bytes of an exchange with `command` or `mailbox` as tokens; only such a cost
    /// has neither a usage nor a mark.
    pub(crate) fn cost_in_tokens(&self) -> Cost {
        let cost = self.cost;
        let is_marked = cost.assumed || cost.estimated || cost.nano_usd.is_some();
        if self.usage.is_some() || is_marked || cost.tokens == 0 {
            return cost;
        }
        Cost {
            tokens: text::estimate_tokens(cost.tokens),
            estimated: true,
            ..cost
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_older_versions_recorded_become_estimated_tokens() {
        let read = |more: &str| {
            let line = format!(
                r#"{{"step":4,"ask":1,"model":"mailbox","outcome":"complete",{more},"tries":1,"seconds":0.0}}"#
            );
            serde_json::from_str::<Replied>(&line)
                .unwrap()
                .cost_in_tokens()
        };
        let old = read(r#""cost":{"tokens":42164}"#);
        assert_eq!((old.tokens, old.estimated), (12_047, true));
        for more in [
            r#""cost":{"tokens":42164,"estimated":true}"#,
            r#""cost":{"tokens":42164,"assumed":true}"#,
            r#""cost":{"tokens":42164,"nano_usd":5}"#,
            r#""cost":{"tokens":42164},"usage":{"input":42000,"output":164}"#,
        ] {
            assert_eq!(read(more).tokens, 42_164, "{more}");
        }
        assert_eq!(read(r#""cost":{"tokens":0}"#), Cost::default());
    }
}
