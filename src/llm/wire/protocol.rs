//! Which protocol a provider speaks, and at which URL.

use crate::llm::models::ProviderName;

/// An HTTP protocol for requests to models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::llm) enum Protocol {
    /// Anthropic Messages.
    Messages,
    /// OpenAI Chat Completions.
    Chat,
    /// OpenAI Responses.
    Responses,
}

impl Protocol {
    /// `None` for a provider without a server.
    pub(in crate::llm) fn for_provider(provider: ProviderName) -> Option<Self> {
        match provider {
            ProviderName::Anthropic => Some(Protocol::Messages),
            ProviderName::Responses => Some(Protocol::Responses),
            ProviderName::Openai
            | ProviderName::Gemini
            | ProviderName::Openrouter
            | ProviderName::Deepseek
            | ProviderName::Together
            | ProviderName::Ollama => Some(Protocol::Chat),
            ProviderName::Command | ProviderName::Mailbox | ProviderName::Replay => None,
        }
    }

    /// The URL of requests, from the model's `base_url`.
    pub(in crate::llm) fn url(self, base: &str) -> String {
        let base = base.trim_end_matches('/');
        match self {
            Protocol::Messages => {
                format!("{}/v1/messages", base.strip_suffix("/v1").unwrap_or(base))
            }
            Protocol::Chat => format!("{base}/chat/completions"),
            Protocol::Responses => format!("{base}/responses"),
        }
    }
}
