//! What a server's refusal means: wait, or give up, and what the user can do about it.
//!
//! A refusal is an error status, or a body that is no reply: an error object, a web page, nothing. The status decides; where it is 200,
//! the code in the body does, and after it the words. Pure; `http` acts on the result.

use super::context_limit::{context_limit, numbers};
use super::models::ModelSettings;
use super::wire::{self, Protocol, WireError};

/// What follows from a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefusalKind {
    /// The same request would always fail.
    Permanent,
    /// A filter of the provider has refused this prompt. Another prompt may pass.
    Filtered,
    /// There were too many requests. The server itself works.
    RateLimit,
    /// The server fails for now.
    Transient,
}

/// Kinds and words of an account without funds: a retry does not help.
const FUNDS_KINDS: [&str; 4] = [
    "insufficient_quota",
    "billing",
    "insufficient_balance",
    "payment_required",
];
const FUNDS_WORDS: [&str; 9] = [
    "spend limit",
    "spending limit",
    "spend cap",
    "credit balance",
    "insufficient credits",
    "insufficient balance",
    "exceeded your current quota",
    "usage limits",
    "billing",
];

/// A smaller number in a message is no limit of a reply's length.
const MIN_OUTPUT_LIMIT: u64 = 256;

const FILTER_WORDS: [&str; 4] = [
    "flagged",
    "content management policy",
    "content policy",
    "safety system",
];
const FILTER_KINDS: [&str; 4] = [
    "content_filter",
    "content_policy",
    "responsibleaipolicyviolation",
    "moderation",
];

const RATE_LIMIT_KINDS: [&str; 5] = [
    "rate_limit",
    "ratelimit",
    "too_many_requests",
    "resource_exhausted",
    "throttl",
];
const RATE_LIMIT_WORDS: [&str; 4] = ["rate limit", "rate-limit", "too many requests", "throttl"];

const PERMANENT_KINDS: [&str; 14] = [
    "invalid_request",
    "badrequest",
    "bad_request",
    "invalid_argument",
    "failed_precondition",
    "authentication",
    "unauthenticated",
    "unauthorized",
    "permission",
    "not_found",
    "notfound",
    "invalid_api_key",
    "validation",
    "extra_forbidden",
];
/// Words about a path that the server does not have. The last also occurs where a model is missing.
const PATH_WORDS: [&str; 9] = [
    "no such endpoint",
    "unknown endpoint",
    "unexpected endpoint",
    "no route",
    "invalid url",
    "unknown url",
    "unknown path",
    "cannot post",
    "not found",
];
/// Words about a model that the server does not have.
const MODEL_WORDS: [&str; 7] = [
    "does not exist",
    "not found",
    "unknown model",
    "invalid model",
    "no such model",
    "not a valid model",
    "model_not_found",
];
const KEY_WORDS: [&str; 5] = [
    "api key",
    "api_key",
    "unauthorized",
    "authentication",
    "access denied",
];

/// What follows from an error. `status`: the HTTP status, unless it is a success.
pub(super) fn classify(status: Option<u16>, error: &WireError) -> RefusalKind {
    let kind = error.kind.as_str();
    let is_kind = |kinds: &[&str]| kinds.iter().any(|known| kind.contains(known));
    let message = error.message.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|known| message.contains(known));
    let is_rate_limited = status == Some(429);
    if (status.is_none() || is_rate_limited) && is_out_of_funds(error) {
        return RefusalKind::Permanent;
    }
    let is_client_error = status.is_none_or(|status| (400..500).contains(&status));
    if !is_rate_limited && is_client_error && (is_kind(&FILTER_KINDS) || says(&FILTER_WORDS)) {
        return RefusalKind::Filtered;
    }
    match status.or(error.status) {
        Some(429) => RefusalKind::RateLimit,
        Some(408 | 409 | 425 | 500..) => RefusalKind::Transient,
        Some(_) => RefusalKind::Permanent,
        None if is_kind(&RATE_LIMIT_KINDS) || says(&RATE_LIMIT_WORDS) => RefusalKind::RateLimit,
        None if error.is_page
            || is_kind(&PERMANENT_KINDS)
            || context_limit(error).is_some()
            || says(&PATH_WORDS)
            || says(&MODEL_WORDS)
            || says(&KEY_WORDS) =>
        {
            RefusalKind::Permanent
        }
        None => RefusalKind::Transient,
    }
}

/// Whether the account has no funds left or has reached a spending limit.
fn is_out_of_funds(error: &WireError) -> bool {
    let message = error.message.to_lowercase();
    FUNDS_KINDS.iter().any(|kind| error.kind.contains(kind))
        || FUNDS_WORDS.iter().any(|words| message.contains(words))
}

/// A refused request, for its hint.
pub(super) struct RefusedRequest<'r> {
    /// The HTTP status.
    pub(super) status: u16,
    pub(super) kind: RefusalKind,
    pub(super) error: &'r WireError,
    pub(super) protocol: Protocol,
    pub(super) model: &'r ModelSettings,
    pub(super) host: &'r str,
}

impl RefusedRequest<'_> {
    /// What the user can do about the refusal.
    pub(super) fn hint(&self) -> Option<String> {
        let message = self.error.describe().to_lowercase();
        let says = |words: &[&str]| words.iter().any(|known| message.contains(known));
        let status = match self.status {
            200..=299 => self.error.status.unwrap_or(200),
            status => status,
        };
        if is_out_of_funds(self.error) {
            return Some(
                "the account has no funds left, or has reached its spending limit".to_owned(),
            );
        }
        if let Some(hint) = self.context_hint() {
            return Some(hint);
        }
        match status {
            401 | 403 => Some(self.key_hint()),
            300..=399 => Some("the server has moved: put its URL into `base_url`".to_owned()),
            404 | 405 => Some(self.address_hint(&message)),
            _ if self.error.is_page => Some(self.address_hint(&message)),
            400 | 422 if self.names_model(&message) => Some(self.model_hint()),
            200 if self.names_model(&message) => Some(self.model_hint()),
            200 if says(&KEY_WORDS) => Some(self.key_hint()),
            200 if says(&RATE_LIMIT_WORDS) => None,
            // Something else than a model server may reply there.
            200 if self.error.is_text => Some(self.address_hint(&message)),
            200 if self.kind == RefusalKind::Permanent
                && !self.error.kind.contains("invalid_request") =>
            {
                Some(self.address_hint(&message))
            }
            _ => self.setting_hint(&message),
        }
    }

    fn key_hint(&self) -> String {
        let key = self.model.key_env.as_deref();
        match key.filter(|name| !name.is_empty()) {
            Some(key) => format!("the server rejected the key in {key}"),
            None => "the server needs a key: name its environment variable in `key_env`".to_owned(),
        }
    }

    fn names_model(&self, message: &str) -> bool {
        let is_named = !self.model.model.is_empty()
            && self.model.model.len() > 2
            && message.contains(&self.model.model.to_lowercase());
        (is_named || message.contains("model")) && MODEL_WORDS.iter().any(|w| message.contains(w))
    }

    fn model_hint(&self) -> String {
        format!(
            "check that {} has a model `{}`",
            self.host, self.model.model
        )
    }

    /// The hint for a URL where no model server replies.
    fn address_hint(&self, message: &str) -> String {
        let base = self.model.base_url.as_deref().unwrap_or_default();
        let path = base.split_once("://").map_or(base, |(_, rest)| rest);
        let path = path.split_once('/').map_or("", |(_, path)| path);
        let has_version =
            path.contains('v') && path.contains(|letter: char| letter.is_ascii_digit());
        let names_path = PATH_WORDS[..PATH_WORDS.len() - 1]
            .iter()
            .any(|words| message.contains(words));
        if self.names_model(message) {
            self.model_hint()
        } else if has_version && names_path {
            "is the path of `base_url` right? The server does not have the requested one".to_owned()
        } else if self.protocol != Protocol::Messages && !has_version {
            "is the path right? `base_url` ends in `/v1` for most servers".to_owned()
        } else if self.error.is_page {
            "is `base_url` right? A web page replies there, not a model server".to_owned()
        } else {
            format!("{}, and that `base_url` is right", self.model_hint())
        }
    }

    fn context_hint(&self) -> Option<String> {
        let limit = context_limit(self.error)?;
        let assumed = self.model.context_tokens();
        let cap = self.model.max_output_tokens();
        let needed = match limit.needed {
            Some(needed) => format!("the request needs {needed}"),
            None => format!("the request allows a reply of {cap}"),
        };
        Some(match limit.window {
            Some(window) if window < assumed => format!(
                "the model's context window is {window} tokens, and {needed}: set `context_tokens: {window}` for this model (kforge assumes {assumed}), and `max_output_tokens` below it (it is {cap})"
            ),
            Some(window) => format!(
                "the model's context window is {window} tokens, and {needed}: lower `max_output_tokens` (it is {cap}) or `llm.context_share`"
            ),
            None => format!(
                "the request is longer than the model's context window: set `context_tokens` for this model (kforge assumes {assumed}), or lower `max_output_tokens` (it is {cap})"
            ),
        })
    }

    /// The longest reply that the server allows, if its message about the output cap has a number below the cap.
    fn output_limit(&self, message: &str) -> Option<u64> {
        let cap = self.model.max_output_tokens();
        let found = numbers(message).into_iter().map(|(_, number)| number);
        found
            .filter(|number| (MIN_OUTPUT_LIMIT..cap).contains(number))
            .max()
    }

    /// The hint for a setting that the server names.
    fn setting_hint(&self, message: &str) -> Option<String> {
        Some(match wire::setting_named_in(self.protocol, self.model, message)? {
            "max_output_tokens" if self.output_limit(message).is_some() => {
                let limit = self.output_limit(message).unwrap_or_default();
                format!(
                    "the server allows replies of {limit} tokens: set `max_output_tokens: {limit}` for this model"
                )
            }
            "max_output_tokens" => {
                "the server names the output cap differently (`fields: {max_output_tokens: max_tokens}`) or has another limit (`max_output_tokens`)".to_owned()
            }
            setting => {
                format!("the model does not accept `{setting}`: remove it from the config")
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn kind_of(status: Option<u16>, body: Value) -> RefusalKind {
        classify(status, &WireError::from_json(&body))
    }

    #[test]
    fn status_decides_before_code_and_words() {
        use RefusalKind::{Filtered, Permanent, RateLimit, Transient};
        for (status, body, kind) in [
            (Some(429), json!({"error": "later"}), RateLimit),
            (
                Some(503),
                json!({"error": {"type": "invalid_request_error"}}),
                Transient,
            ),
            (Some(400), json!({"error": {"code": 429}}), Permanent),
            (
                Some(429),
                json!({"error": {"code": "insufficient_quota"}}),
                Permanent,
            ),
            (
                Some(400),
                json!({"error": {"code": "content_filter"}}),
                Filtered,
            ),
            (
                Some(403),
                json!({"error": {"message": "Your input was flagged"}}),
                Filtered,
            ),
            (None, json!({"error": {"code": 429}}), RateLimit),
            (None, json!({"error": {"code": "429"}}), RateLimit),
            (
                None,
                json!({"error": {"code": 503, "message": "Loading model"}}),
                Transient,
            ),
            (None, json!({"error": {"code": 401}}), Permanent),
            (
                None,
                json!({"error": {"type": "rate_limit_error"}}),
                RateLimit,
            ),
            (
                None,
                json!({"error": {"status": "RESOURCE_EXHAUSTED"}}),
                RateLimit,
            ),
            (None, json!({"error": "Too Many Requests"}), RateLimit),
            (
                None,
                json!({"error": {"type": "overloaded_error"}}),
                Transient,
            ),
            (
                None,
                json!({"error": {"message": "Internal error"}}),
                Transient,
            ),
            (None, json!({"code": 50501, "msg": "busy"}), Transient),
            (
                None,
                json!({"error": "No such endpoint: POST /x"}),
                Permanent,
            ),
            (
                None,
                json!({"error": {"message": "model `x` does not exist"}}),
                Permanent,
            ),
            (None, json!({"error": "insufficient credits"}), Permanent),
        ] {
            assert_eq!(kind_of(status, body.clone()), kind, "{status:?} {body}");
        }
        let page = |title: &str| {
            classify(
                None,
                &WireError::from_text(&format!("<html><title>{title}</title>")),
            )
        };
        assert_eq!(page("Sign in"), Permanent);
        assert_eq!(page("502 Bad Gateway"), Transient);
        assert_eq!(page("x | 429: Too many requests"), RateLimit);
        assert_eq!(classify(None, &WireError::from_text("")), Transient);
        assert_eq!(
            classify(None, &WireError::from_text("no healthy upstream")),
            Transient
        );
    }
}
