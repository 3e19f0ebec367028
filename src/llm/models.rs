//! Which models are asked: `auto`, or a list of them, each a name such as `anthropic/claude-sonnet-4-5` or a map of settings.
//!
//! What was typed, and whether it means something. Keys are looked for by name here, never read.

use std::path::PathBuf;

use indexmap::IndexMap;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::prices::Price;
use crate::base::Failure;
use crate::base::text::did_you_mean;

/// The models to ask.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ModelList {
    /// The provider whose key is in the environment, else none.
    #[default]
    Auto,
    /// These; an empty list for none.
    Listed(Vec<ModelSettings>),
}

/// Who answers, and in which protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderName {
    /// Anthropic's Messages, or a server that speaks them.
    Anthropic,
    /// OpenAI's Chat Completions, or any compatible server.
    Openai,
    /// OpenAI's Responses.
    Responses,
    /// Google's compatible endpoint.
    Gemini,
    Openrouter,
    Deepseek,
    Together,
    /// A server on this machine.
    Ollama,
    /// Any program that takes a prompt on standard input.
    Command,
    /// Prompts lie in the step's folder, and a person or another agent puts the replies there.
    Mailbox,
    /// The replies of an earlier run, exactly.
    Replay,
}

/// What is known of a provider that is reached over HTTP.
#[derive(Clone, Copy, Debug)]
pub(super) struct Endpoint {
    pub base_url: &'static str,
    /// The variable that overrides it, as the provider's own libraries have it.
    pub url_env: Option<&'static str>,
    /// The variable with the key; `None` where none is needed.
    pub key_env: Option<&'static str>,
}

impl ProviderName {
    const ALL: [(&'static str, ProviderName); 11] = [
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

    /// Where it is reached; `None` where no server is.
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

    /// Whether it has no price by the token: a program's or a person's.
    pub(super) fn is_unpriced(self) -> bool {
        matches!(self, ProviderName::Command | ProviderName::Mailbox)
    }
}

/// A model as it is typed. Only what is given is set; the rest follows from the provider.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    /// What the run calls it; `PROVIDER/MODEL` where it is not given.
    #[serde(default)]
    pub name: String,
    pub provider: ProviderName,
    /// What the provider calls it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// How often it is asked, relative to the others.
    #[serde(default = "default_weight")]
    pub weight: f64,
    /// Where the server is, up to what the protocol adds: `http://localhost:8000/v1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// The environment variable that holds the key; `""` for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_env: Option<String>,
    /// The model's window, in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_tokens: Option<u64>,
    /// The most tokens of a reply, reasoning included; of `command` and `mailbox` the most bytes. Settings of how a model writes are
    /// sent only where they are set: newer models refuse some of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u64>,
    /// How hard the model thinks, in the provider's own words: `low`, `medium`, `high`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effort: Option<String>,
    /// The most tokens of thinking, where the provider has a number for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Sequences at which the model stops.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// How a compatible server calls a setting, as a path into the request: `{max_output_tokens: max_tokens}`,
    /// `{effort: reasoning.effort}`.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub fields: IndexMap<String, String>,
    /// Whether the reply is read while it is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// Whether the provider is told what to keep for later prompts, where it has to be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<bool>,
    /// `anthropic`: the version of the protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// More headers. A value that begins with `$` is the name of an environment variable, and a secret.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub headers: IndexMap<String, String>,
    /// Merged into the request's body; `null` takes a field out.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub extra: Map<String, Value>,
    /// `command`: the program and its arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// `command`: variables that it is given although they look like secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pass_env: Vec<String>,
    /// `replay`: the directory of the earlier run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// What its tokens cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
}

fn default_weight() -> f64 {
    1.0
}

impl ModelSettings {
    /// A model of which nothing is said but its name and its provider's.
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

    /// `anthropic/claude-sonnet-4-5`, or `mailbox`.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let (provider, model) = text.split_once('/').unwrap_or((text, ""));
        let known = ProviderName::ALL.map(|(name, _)| name);
        let found = ProviderName::ALL.iter().find(|(name, _)| *name == provider);
        let Some((_, provider)) = found else {
            return Err(
                Failure::usage(format!("`{text}` names no provider of models")).hint(format!(
                    "write PROVIDER/MODEL, for example `anthropic/claude-sonnet-4-5`; {}",
                    did_you_mean(provider, known)
                )),
            );
        };
        Ok(Self::new(*provider, model))
    }

    fn set_default_name(&mut self) {
        if self.name.is_empty() {
            self.name = match self.model.is_empty() {
                true => self.provider.name().to_owned(),
                false => format!("{}/{}", self.provider.name(), self.model),
            };
        }
    }

    /// The window, where the config does not say it.
    pub(crate) fn context_tokens(&self) -> u64 {
        self.context_tokens.unwrap_or(match self.provider {
            ProviderName::Anthropic | ProviderName::Mailbox | ProviderName::Replay => 200_000,
            ProviderName::Ollama => 32_768,
            _ => 128_000,
        })
    }

    /// The cap of a reply, where the config does not say it.
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

/// One model of the list, by its name or as a map.
struct ListedModel(ModelSettings);

impl<'de> Deserialize<'de> for ListedModel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ModelVisitor;
        impl<'de> Visitor<'de> for ModelVisitor {
            type Value = ListedModel;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("the name of a model or a map of its settings")
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
