//! Which models are asked: `auto`, or a list of them.
//!
//! This version asks none. It says so wherever somebody might expect otherwise, and looks only at the names of keys, never at
//! their values.

use serde::de::{Error, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::base::Failure;

/// The environment variables that hold keys of models' providers.
const KEYS: [&str; 4] = [
    "ANTHROPIC_API_KEY",
    "OPENAI_API_KEY",
    "GEMINI_API_KEY",
    "OPENROUTER_API_KEY",
];

/// Those of them that are set here.
pub fn keys() -> Vec<&'static str> {
    let is_set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    KEYS.into_iter().filter(is_set).collect()
}

/// The models to ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Models {
    /// The provider whose key is in the environment, else none; in this version none.
    #[default]
    Auto,
    /// These; an empty list for none.
    Listed(Vec<String>),
}

impl Models {
    pub(super) fn check(&self) -> Result<(), Failure> {
        match self {
            Models::Listed(models) if !models.is_empty() => Err(Failure::usage(format!(
                "`llm.models: [{}]`: this version asks no model",
                models.join(", ")
            ))
            .hint("leave the key out, or say `llm: {models: []}`: the search then makes kernels with kforge's own operators")),
            _ => Ok(()),
        }
    }

    /// What `auto` came to, in words; `None` where nothing was left to decide.
    pub(super) fn choice(&self) -> Option<String> {
        let Models::Auto = self else { return None };
        let keys = keys();
        Some(match keys.is_empty() {
            true => "models: none (kforge's own operators make the kernels)".to_owned(),
            false => format!(
                "models: none ({} is set, but this version asks no model: kforge's own operators make the kernels)",
                keys.join(", ")
            ),
        })
    }
}

impl Serialize for Models {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Models::Auto => serializer.serialize_str("auto"),
            Models::Listed(models) => models.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Models {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Typed;
        impl<'de> Visitor<'de> for Typed {
            type Value = Models;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("`auto` or a list of models")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Models, E> {
                match text {
                    "auto" => Ok(Models::Auto),
                    _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Models, A::Error> {
                let mut models = Vec::new();
                while let Some(model) = sequence.next_element()? {
                    models.push(model);
                }
                Ok(Models::Listed(models))
            }
        }
        deserializer.deserialize_any(Typed)
    }
}
