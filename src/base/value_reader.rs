//! Reads Rust types from a parsed value (YAML or JSON), and reports every problem instead of only the first.
//!
//! `serde` stops at the first error. This deserializer reports unknown keys as it meets them and goes on, and the caller reads each
//! part of a document by itself. Each problem has the path of its key; `yaml::line_of` finds the line.

use std::cell::RefCell;
use std::fmt;

use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, Visitor,
};
use serde_json::{Map, Value};

use super::text::did_you_mean;
use super::yaml::describe_kind;

/// What is wrong with one key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ValueProblem {
    /// Names of the keys that lead to it, joined by dots; empty for the whole document.
    pub(crate) key: String,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

/// Reads the value of the key `key`. Problems are appended; `None` if there is no usable value.
pub(crate) fn read_value<'v, T: Deserialize<'v>>(
    value: &'v Value,
    key: &str,
    problems: &mut Vec<ValueProblem>,
) -> Option<T> {
    let unknown = RefCell::new(Vec::new());
    let reader = ValueReader {
        value,
        key: key.to_owned(),
        unknown: &unknown,
    };
    let result = T::deserialize(reader);
    problems.extend(unknown.into_inner());
    match result {
        Ok(read) => Some(read),
        Err(error) => {
            problems.push(ValueProblem {
                key: error.key.unwrap_or_else(|| key.to_owned()),
                message: error.message,
                hint: error.hint,
            });
            None
        }
    }
}

/// The path of a key below another key.
pub(crate) fn join_keys(parent: &str, key: &str) -> String {
    if parent.is_empty() {
        key.to_owned()
    } else {
        format!("{parent}.{key}")
    }
}

/// A value as a message shows it: short, and on one line.
pub(crate) fn show_value(value: &Value) -> String {
    const MAX_QUOTED_CHARS: usize = 40;
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "keys with values".to_owned(),
        Value::String(text) if text.chars().count() > MAX_QUOTED_CHARS => "a long text".to_owned(),
        Value::String(text) => format!("`{}`", text.escape_debug()),
        other => format!("`{other}`"),
    }
}

struct ValueReader<'v, 'r> {
    value: &'v Value,
    key: String,
    unknown: &'r RefCell<Vec<ValueProblem>>,
}

#[derive(Debug)]
struct ReadError {
    /// The key, once it is known.
    key: Option<String>,
    message: String,
    hint: Option<String>,
}

impl ReadError {
    fn new(message: String) -> Self {
        Self {
            key: None,
            message,
            hint: None,
        }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for ReadError {}

impl de::Error for ReadError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(expected_found(found, expected))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(expected_found(found, expected))
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Self {
        let expected = expected.to_string();
        let expected = expected.replace("an array of length", "a list of length");
        Self::new(format!("expected {expected}, found {length}"))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self {
            hint: Some(did_you_mean(variant, expected.iter().copied())),
            ..Self::new(format!("unknown value `{variant}`"))
        }
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(format!("`{field}` is missing"))
    }
}

fn expected_found(found: Unexpected<'_>, expected: &dyn Expected) -> String {
    let expected = expected.to_string();
    let expected = match describe_kind(&expected) {
        name if name.starts_with("an array of length") => {
            name.replace("an array of length", "a list of length")
        }
        name => name.to_owned(),
    };
    let found = match found {
        Unexpected::Str(text) if text.chars().count() <= 40 => {
            format!("`{}`", text.escape_debug())
        }
        Unexpected::Str(_) => "a long text".to_owned(),
        Unexpected::Bool(value) => format!("`{value}`"),
        Unexpected::Unsigned(value) => format!("`{value}`"),
        Unexpected::Signed(value) => format!("`{value}`"),
        Unexpected::Float(value) => format!("`{value}`"),
        Unexpected::Unit => "nothing".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "keys with values".to_owned(),
        other => other.to_string(),
    };
    format!("expected {expected}, found {found}")
}

impl<'de> Deserializer<'de> for ValueReader<'de, '_> {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let key = self.key.clone();
        let result = match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(value), _) => visitor.visit_u64(value),
                (None, Some(value)) => visitor.visit_i64(value),
                _ => visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::Array(items) => visitor.visit_seq(ListReader {
                items: items.iter().enumerate(),
                of: &self,
            }),
            Value::Object(map) => visitor.visit_map(MapReader {
                entries: map.iter(),
                value: None,
                fields: None,
                of: &self,
            }),
        };
        result.map_err(|error| with_key(error, key))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        let Value::Object(map) = self.value else {
            let found = show_value(self.value);
            return Err(ReadError {
                key: Some(self.key),
                ..ReadError::new(format!(
                    "expected keys with values, such as `key: value`, found {found}"
                ))
            });
        };
        self.report_unknown(map, fields);
        let key = self.key.clone();
        let reader = MapReader {
            entries: map.iter(),
            value: None,
            fields: Some(fields),
            of: &self,
        };
        visitor
            .visit_map(reader)
            .map_err(|error| with_key(error, key))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        let key = self.key.clone();
        let result = match self.value {
            Value::String(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            other => {
                let found = show_value(other);
                Err(ReadError::new(format!(
                    "expected a single word, found {found}"
                )))
            }
        };
        result.map_err(|error| with_key(error, key))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

impl ValueReader<'_, '_> {
    /// Reports the keys of a map that are no fields of the type that is read. They are skipped.
    fn report_unknown(&self, map: &Map<String, Value>, fields: &'static [&'static str]) {
        for name in map.keys().filter(|name| !fields.contains(&name.as_str())) {
            self.unknown.borrow_mut().push(ValueProblem {
                key: join_keys(&self.key, name),
                message: format!("unknown key `{name}`"),
                hint: Some(did_you_mean(name, fields.iter().copied())),
            });
        }
    }
}

fn with_key(mut error: ReadError, key: String) -> ReadError {
    error.key.get_or_insert(key);
    error
}

struct ListReader<'o, 'v, 'r> {
    items: std::iter::Enumerate<std::slice::Iter<'v, Value>>,
    of: &'o ValueReader<'v, 'r>,
}

impl<'v> SeqAccess<'v> for ListReader<'_, 'v, '_> {
    type Error = ReadError;

    fn next_element_seed<S: DeserializeSeed<'v>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, ReadError> {
        let Some((_, value)) = self.items.next() else {
            return Ok(None);
        };
        let reader = ValueReader {
            value,
            key: self.of.key.clone(),
            unknown: self.of.unknown,
        };
        seed.deserialize(reader).map(Some)
    }
}

struct MapReader<'o, 'v, 'r> {
    entries: serde_json::map::Iter<'v>,
    value: Option<(&'v str, &'v Value)>,
    /// Keys of the type that is read; others are skipped.
    fields: Option<&'static [&'static str]>,
    of: &'o ValueReader<'v, 'r>,
}

impl<'v> MapAccess<'v> for MapReader<'_, 'v, '_> {
    type Error = ReadError;

    fn next_key_seed<S: DeserializeSeed<'v>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, ReadError> {
        let is_known = |name: &str| self.fields.is_none_or(|fields| fields.contains(&name));
        let Some((name, value)) = self.entries.find(|(name, _)| is_known(name)) else {
            return Ok(None);
        };
        self.value = Some((name, value));
        seed.deserialize(name.as_str().into_deserializer())
            .map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'v>>(&mut self, seed: S) -> Result<S::Value, ReadError> {
        let (name, value) = self.value.take().unwrap_or(("", &Value::Null));
        seed.deserialize(ValueReader {
            value,
            key: join_keys(&self.of.key, name),
            unknown: self.of.unknown,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        steps: u64,
        #[serde(default)]
        range: Option<[f64; 2]>,
        #[serde(default)]
        inner: Option<Box<Sample>>,
    }

    #[test]
    fn every_unknown_key_is_reported_with_its_path() {
        let value = json!({"stpes": 1, "steps": 2, "inner": {"step": 1, "steps": 3, "x": 0}});
        let mut problems = Vec::new();
        let read: Option<Sample> = read_value(&value, "run", &mut problems);
        assert_eq!(read.unwrap().inner.unwrap().steps, 3);
        let found: Vec<_> = (problems.iter())
            .map(|problem| (problem.key.as_str(), problem.message.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                ("run.stpes", "unknown key `stpes`"),
                ("run.inner.step", "unknown key `step`"),
                ("run.inner.x", "unknown key `x`")
            ]
        );
        assert_eq!(problems[0].hint.as_deref(), Some("did you mean `steps`?"));
    }

    #[test]
    fn wrong_values_say_what_is_expected_and_found() {
        for (value, key, message) in [
            (
                json!({"steps": "many"}),
                "steps",
                "expected a whole number, found `many`",
            ),
            (
                json!({"steps": -1}),
                "steps",
                "expected a whole number, found `-1`",
            ),
            (json!({}), "", "`steps` is missing"),
            (
                json!([1]),
                "",
                "expected keys with values, such as `key: value`, found a list",
            ),
            (
                json!({"steps": 1, "range": [1.0]}),
                "range",
                "expected a list of length 2, found 1",
            ),
            (
                json!({"steps": 1, "range": 3}),
                "range",
                "expected a list of length 2, found `3`",
            ),
        ] {
            let mut problems = Vec::new();
            let read: Option<Sample> = read_value(&value, "", &mut problems);
            assert!(read.is_none(), "{value}");
            assert_eq!(
                (problems[0].key.as_str(), problems[0].message.as_str()),
                (key, message)
            );
        }
    }
}
