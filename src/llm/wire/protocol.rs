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

    /// The URL of requests, from the model's `base_url`. A base that already has the protocol's path is used without it.
    pub(in crate::llm) fn url(self, base: &str) -> String {
        let base = base.trim_end_matches('/');
        let without = |path: &str| {
            base.strip_suffix(path)
                .unwrap_or(base)
                .trim_end_matches('/')
        };
        match self {
            Protocol::Messages => {
                let base = without("/messages");
                format!("{}/v1/messages", base.strip_suffix("/v1").unwrap_or(base))
            }
            Protocol::Chat => format!("{}/chat/completions", without("/chat/completions")),
            Protocol::Responses => format!("{}/responses", without("/responses")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_of_the_protocol_is_not_repeated() {
        for (protocol, base, url) in [
            (
                Protocol::Chat,
                "http://h/v1",
                "http://h/v1/chat/completions",
            ),
            (
                Protocol::Chat,
                "http://h/v1/",
                "http://h/v1/chat/completions",
            ),
            (
                Protocol::Chat,
                "http://h/v1/chat/completions",
                "http://h/v1/chat/completions",
            ),
            (
                Protocol::Chat,
                "http://h/chat/completions/",
                "http://h/chat/completions",
            ),
            (Protocol::Messages, "http://h", "http://h/v1/messages"),
            (Protocol::Messages, "http://h/v1", "http://h/v1/messages"),
            (
                Protocol::Messages,
                "http://h/v1/messages",
                "http://h/v1/messages",
            ),
            (Protocol::Responses, "http://h/v1", "http://h/v1/responses"),
            (
                Protocol::Responses,
                "http://h/v1/responses",
                "http://h/v1/responses",
            ),
        ] {
            assert_eq!(protocol.url(base), url, "{base}");
        }
    }
}
