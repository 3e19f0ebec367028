//! The models in a config: `auto`, or a list of names such as `anthropic/claude-sonnet-4-5` and maps of settings.
//!
//! Parses what the user typed; `model_check` checks the values. Holds the names of key variables, never a key.

use std::path::PathBuf;

use indexmap::IndexMap;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::prices::Price;
use crate::base::Failure;
use crate::base::text::did_you_mean;

/// The models of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ModelList {
    /// The first provider whose key is in the environment, else no model.
    #[default]
    Auto,
    /// These models. An empty list means none.
    Listed(Vec<ModelSettings>),
}

/// A provider, which also determines the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderName {
    /// Anthropic Messages, or a compatible server.
    Anthropic,
    /// OpenAI Chat Completions, or any compatible server.
    Openai,
    /// OpenAI Responses.
    Responses,
    /// Google's OpenAI-compatible endpoint.
    Gemini,
    Openrouter,
    Deepseek,
    Together,
    /// A server on this machine.
    Ollama,
    /// Any program that reads the prompt on standard input and prints the reply.
    Command,
    /// A person or another agent answers through files in the step's folder.
    Mailbox,
    /// Repeats the replies of an earlier run.
    Replay,
}

/// The defaults of a provider with a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Endpoint {
    pub base_url: &'static str,
    /// The variable that overrides `base_url`, as in the provider's own libraries.
    pub url_env: Option<&'static str>,
    /// The variable with the key; `None` if no key is needed.
    pub key_env: Option<&'static str>,
}

impl ProviderName {
    pub(crate) const ALL: [(&'static str, ProviderName); 11] = [
        ("anthropic", ProviderName::Anthropic),
        ("openai", ProviderName::Openai),
        ("responses", ProviderName::Responses),
        ("gemini", ProviderName::Gemini),
        ("openrouter", ProviderName::Openrouter),
        ("deepseek", ProviderName::Deepseek),
        ("together", ProviderName::Together),
        ("ollama", ProviderName::Ollama),
        ("command", ProviderName::Command),
        ("mailbox", ProviderName::Mailbox),
        ("replay", ProviderName::Replay),
    ];

    pub(crate) fn name(self) -> &'static str {
        let named = Self::ALL.iter().find(|(_, provider)| *provider == self);
        named.map_or("", |(name, _)| name)
    }

    /// The endpoint; `None` for a provider without a server.
    pub(super) fn endpoint(self) -> Option<Endpoint> {
        let at = |base_url, url_env, key_env| {
            Some(Endpoint {
                base_url,
                url_env,
                key_env,
            })
        };
        match self {
            ProviderName::Anthropic => at(
                "https://api.anthropic.com",
                Some("ANTHROPIC_BASE_URL"),
                Some("ANTHROPIC_API_KEY"),
            ),
            ProviderName::Openai | ProviderName::Responses => at(
                "https://api.openai.com/v1",
                Some("OPENAI_BASE_URL"),
                Some("OPENAI_API_KEY"),
            ),
            ProviderName::Gemini => at(
                "https://generativelanguage.googleapis.com/v1beta/openai",
                None,
                Some("GEMINI_API_KEY"),
            ),
            ProviderName::Openrouter => at(
                "https://openrouter.ai/api/v1",
                None,
                Some("OPENROUTER_API_KEY"),
            ),
            ProviderName::Deepseek => {
                at("https://api.deepseek.com", None, Some("DEEPSEEK_API_KEY"))
            }
            ProviderName::Together => at(
                "https://api.together.xyz/v1",
                None,
                Some("TOGETHER_API_KEY"),
            ),
            ProviderName::Ollama => at("http://localhost:11434/v1", None, None),
            ProviderName::Command | ProviderName::Mailbox | ProviderName::Replay => None,
        }
    }

    /// Whether its replies have no price per token: a program's or a person's.
    pub(super) fn is_unpriced(self) -> bool {
        matches!(self, ProviderName::Command | ProviderName::Mailbox)
    }
}

/// A model's settings. Those that are not set follow from the provider.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    /// The name within the run. Default: `PROVIDER/MODEL`.
    #[serde(default)]
    pub name: String,
    pub provider: ProviderName,
    /// The provider's name of the model.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// How often it is used, relative to the other models.
    #[serde(default = "default_weight")]
    pub weight: f64,
    /// The server's URL without the protocol's path: `http://localhost:8000/v1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// The environment variable with the key; `""` for no key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_env: Option<String>,
    /// The context window, in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_tokens: Option<u64>,
    /// The cap of a reply in tokens, reasoning included; in bytes for `command` and `mailbox`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u64>,
    /// This and the following sampling settings are sent only if they are set: newer models reject some of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u64>,
    /// The reasoning effort, in the provider's terms: `low`, `medium`, `high`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effort: Option<String>,
    /// The most thinking tokens, for providers with such a setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking_tokens: Option<u64>,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "crate::base::exact::optional_number"
    )]
    pub seed: Option<u64>,
    /// Stop sequences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// A server's own names of settings, as paths in the request: `{max_output_tokens: max_tokens}`,
    /// `{effort: reasoning.effort}`.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub fields: IndexMap<String, String>,
    /// Whether to stream the reply. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// `anthropic`: whether to mark the part of a prompt that the provider should cache. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<bool>,
    /// `anthropic`: the protocol version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Additional headers. A value that starts with `$` names an environment variable with a secret.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub headers: IndexMap<String, String>,
    /// Fields that are merged into the request's body; `null` removes a field.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub extra: Map<String, Value>,
    /// `command`: the program and its arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// `command`: environment variables that the program receives although they look like secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pass_env: Vec<String>,
    /// `replay`: the directory of the earlier run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// Dollars per million tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
}

fn default_weight() -> f64 {
    1.0
}

impl ModelSettings {
    /// A model without any optional setting.
    pub fn new(provider: ProviderName, model: &str) -> Self {
        let mut made = Self {
            name: String::new(),
            provider,
            model: model.to_owned(),
            weight: 1.0,
            base_url: None,
            key_env: None,
            context_tokens: None,
            max_output_tokens: None,
            temperature: None,
            top_p: None,
            top_k: None,
            effort: None,
            thinking_tokens: None,
            seed: None,
            stop: Vec::new(),
            fields: IndexMap::new(),
            stream: None,
            cache: None,
            version: None,
            headers: IndexMap::new(),
            extra: Map::new(),
            command: Vec::new(),
            pass_env: Vec::new(),
            from: None,
            price: None,
        };
        made.set_default_name();
        made
    }

    /// Parses `PROVIDER/MODEL` or `PROVIDER`: `anthropic/claude-sonnet-4-5`, `mailbox`.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let (provider, model) = text.split_once('/').unwrap_or((text, ""));
        let known = ProviderName::ALL.map(|(name, _)| name);
        let found = ProviderName::ALL.iter().find(|(name, _)| *name == provider);
        let Some((_, provider)) = found else {
            return Err(
                Failure::usage(format!("unknown provider in `{text}`")).hint(format!(
                    "write PROVIDER/MODEL, for example `anthropic/claude-sonnet-4-5`; {}",
                    did_you_mean(provider, known)
                )),
            );
        };
        Ok(Self::new(*provider, model))
    }

    fn set_default_name(&mut self) {
        if self.name.is_empty() {
            self.name = if self.model.is_empty() {
                self.provider.name().to_owned()
            } else {
                format!("{}/{}", self.provider.name(), self.model)
            };
        }
    }

    /// The context window: the setting, or the provider's default.
    pub(crate) fn context_tokens(&self) -> u64 {
        self.context_tokens.unwrap_or(match self.provider {
            ProviderName::Anthropic | ProviderName::Mailbox | ProviderName::Replay => 200_000,
            ProviderName::Ollama => 32_768,
            _ => 128_000,
        })
    }

    /// The cap of a reply: the setting, or the provider's default.
    pub(crate) fn max_output_tokens(&self) -> u64 {
        let usual = match self.provider {
            ProviderName::Command | ProviderName::Mailbox => 262_144,
            ProviderName::Ollama => 8192,
            _ => 16_384,
        };
        self.max_output_tokens.unwrap_or(usual)
    }
}

impl Serialize for ModelList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            ModelList::Auto => serializer.serialize_str("auto"),
            ModelList::Listed(models) => models.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ModelList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ModelListVisitor;
        impl<'de> Visitor<'de> for ModelListVisitor {
            type Value = ModelList;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("`auto` or a list of models")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<ModelList, E> {
                match text {
                    "auto" => Ok(ModelList::Auto),
                    _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<ModelList, A::Error> {
                let mut models = Vec::new();
                while let Some(ListedModel(model)) = sequence.next_element()? {
                    models.push(model);
                }
                Ok(ModelList::Listed(models))
            }
        }
        deserializer.deserialize_any(ModelListVisitor)
    }
}

/// One entry of the list: a name or a map.
struct ListedModel(ModelSettings);

impl<'de> Deserialize<'de> for ListedModel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ModelVisitor;
        impl<'de> Visitor<'de> for ModelVisitor {
            type Value = ListedModel;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a model's name or a map of its settings")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<ListedModel, E> {
                ModelSettings::parse(text)
                    .map(ListedModel)
                    .map_err(|failure| {
                        let hint = failure.hint.unwrap_or_default();
                        E::custom(format!("{}: {hint}", failure.message))
                    })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ListedModel, A::Error> {
                let mut model = ModelSettings::deserialize(MapAccessDeserializer::new(map))?;
                model.set_default_name();
                Ok(ListedModel(model))
            }
        }
        deserializer.deserialize_any(ModelVisitor)
    }
}
