//! Errors that a server reports, in any of the three protocols.

use serde_json::Value;

/// A server's description of an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::llm) struct WireError {
    /// The error's types and codes in lower case, each followed by a space.
    pub kind: String,
    pub message: String,
}

impl WireError {
    /// Reads the field `error`, or the value itself if it has no such field.
    pub(in crate::llm) fn from_json(value: &Value) -> Self {
        let inner = match value.get("error") {
            Some(error) if !error.is_null() => error,
            _ => value,
        };
        let code = |name: &str| match inner.get(name) {
            Some(Value::String(text)) => format!("{} ", text.to_lowercase()),
            Some(Value::Number(number)) => format!("{number} "),
            _ => String::new(),
        };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let messages = ["message", "detail", "error"].map(|name| inner.get(name).and_then(text));
        let message = messages.into_iter().flatten().next();
        Self {
            kind: code("type") + &code("code") + &code("status"),
            message: message
                .or_else(|| text(inner))
                .unwrap_or_else(|| inner.to_string()),
        }
    }

    /// Whether the same request would always fail.
    pub(in crate::llm) fn is_permanent(&self) -> bool {
        const KINDS: [&str; 9] = [
            "invalid_request",
            "authentication",
            "permission",
            "not_found",
            "billing",
            "insufficient_quota",
            "invalid_api_key",
            "model_not_found",
            "context_length_exceeded",
        ];
        KINDS.iter().any(|kind| self.kind.contains(kind)) || self.is_out_of_funds()
    }

    /// Whether the account has no funds left or has reached a spending limit: retrying does not help.
    pub(in crate::llm) fn is_out_of_funds(&self) -> bool {
        const KINDS: [&str; 4] = [
            "insufficient_quota",
            "billing",
            "insufficient_balance",
            "payment_required",
        ];
        const PHRASES: [&str; 9] = [
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
        let message = self.message.to_lowercase();
        KINDS.iter().any(|kind| self.kind.contains(kind))
            || PHRASES.iter().any(|phrase| message.contains(phrase))
    }
}
