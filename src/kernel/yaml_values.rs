//! Values of a header that may be written in several forms, as the YAML reader gives them.
//!
//! Splits and joins nothing; `header_lists` turns them into items.

use std::fmt;

use indexmap::IndexMap;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_yaml::Spanned;

/// A single value as a text, whatever YAML takes it for: `128`, `true`, `1e-5`, `rows * 2`. An absent value is `null`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ScalarYaml(pub(super) String);

/// A list in one of the forms that people write.
#[derive(Clone, Debug)]
pub(super) enum ListYaml {
    /// `a, b`, or a single value.
    Text(String),
    /// `[a, b]`, or one item a line.
    Items(Vec<Spanned<ScalarYaml>>),
    /// `{x: a, y: b}`.
    Keys(IndexMap<String, Spanned<ScalarYaml>>),
}

/// A list, or its only entry without the list around it.
pub(super) enum OneOrMany<T> {
    One(T),
    Many(Vec<Spanned<T>>),
}

impl<'de> Deserialize<'de> for ScalarYaml {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = ScalarYaml;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a single value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<ScalarYaml, E> {
        Ok(ScalarYaml(value.to_string()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<ScalarYaml, E> {
        Ok(ScalarYaml(value.to_string()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<ScalarYaml, E> {
        Ok(ScalarYaml(value.to_string()))
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<ScalarYaml, E> {
        Ok(ScalarYaml(value.to_string()))
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<ScalarYaml, E> {
        Ok(ScalarYaml(value.to_string()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<ScalarYaml, E> {
        Ok(ScalarYaml(format!("{value:?}")))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<ScalarYaml, E> {
        // Line breaks of `|` and of quoted texts are spaces between lexemes.
        Ok(ScalarYaml(value.replace(['\n', '\r'], " ")))
    }

    fn visit_unit<E: Error>(self) -> Result<ScalarYaml, E> {
        Ok(ScalarYaml("null".to_owned()))
    }
}

/// Reads `true` or `false`, or another word that YAML has for them.
pub(super) fn read_truth<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let ScalarYaml(text) = ScalarYaml::deserialize(deserializer)?;
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" | "1" => Ok(true),
        "false" | "no" | "off" | "n" | "0" | "null" => Ok(false),
        _ => Err(D::Error::custom("expected `true` or `false`")),
    }
}

impl<'de> Deserialize<'de> for ListYaml {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor)
    }
}

struct ListVisitor;

impl<'de> Visitor<'de> for ListVisitor {
    type Value = ListYaml;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<ListYaml, E> {
        ScalarVisitor.visit_bool(value).map(ListYaml::from)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<ListYaml, E> {
        ScalarVisitor.visit_i64(value).map(ListYaml::from)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<ListYaml, E> {
        ScalarVisitor.visit_u64(value).map(ListYaml::from)
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<ListYaml, E> {
        ScalarVisitor.visit_i128(value).map(ListYaml::from)
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<ListYaml, E> {
        ScalarVisitor.visit_u128(value).map(ListYaml::from)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<ListYaml, E> {
        ScalarVisitor.visit_f64(value).map(ListYaml::from)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<ListYaml, E> {
        ScalarVisitor.visit_str(value).map(ListYaml::from)
    }

    /// Nothing after the key: an empty list.
    fn visit_unit<E: Error>(self) -> Result<ListYaml, E> {
        Ok(ListYaml::Items(Vec::new()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<ListYaml, A::Error> {
        Deserialize::deserialize(SeqAccessDeserializer::new(list)).map(ListYaml::Items)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ListYaml, A::Error> {
        Deserialize::deserialize(MapAccessDeserializer::new(map)).map(ListYaml::Keys)
    }
}

impl From<ScalarYaml> for ListYaml {
    fn from(ScalarYaml(text): ScalarYaml) -> Self {
        Self::Text(text)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrManyVisitor(std::marker::PhantomData))
    }
}

struct OneOrManyVisitor<T>(std::marker::PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrManyVisitor<T> {
    type Value = OneOrMany<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of entries, each with keys and values")
    }

    fn visit_unit<E: Error>(self) -> Result<OneOrMany<T>, E> {
        Ok(OneOrMany::Many(Vec::new()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<OneOrMany<T>, A::Error> {
        Deserialize::deserialize(SeqAccessDeserializer::new(list)).map(OneOrMany::Many)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OneOrMany<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(OneOrMany::One)
    }
}

impl<T> OneOrMany<T> {
    /// The entries, each with its line. `line`: of the entry without a list.
    pub(super) fn entries(&self, line: u32) -> Vec<(&T, u32)> {
        match self {
            Self::One(entry) => vec![(entry, line)],
            Self::Many(entries) => entries
                .iter()
                .map(|entry| (&entry.value, entry.defined.line() as u32))
                .collect(),
        }
    }
}
