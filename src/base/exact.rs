//! Integers in JSON that other programs read.
//!
//! JavaScript, `jq` and many other readers keep a number as a double, which is exact only up to 2^53. A larger number is therefore
//! written as a string. Each submodule is for `#[serde(with = …)]`; all of them read numbers and strings, because older files have
//! numbers everywhere.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The largest integer up to which a double represents all integers exactly.
const MAX_EXACT: u128 = 1 << 53;

/// An integer that is written as a number up to 2^53, else as a string.
#[derive(Clone, Copy)]
struct Integer(i128);

impl Serialize for Integer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.unsigned_abs() > MAX_EXACT {
            return serializer.collect_str(&self.0);
        }
        match i64::try_from(self.0) {
            Ok(number) => serializer.serialize_i64(number),
            Err(_) => serializer.collect_str(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Integer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IntegerVisitor)
    }
}

struct IntegerVisitor;

impl Visitor<'_> for IntegerVisitor {
    type Value = Integer;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an integer, or a string with an integer")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Integer, E> {
        Ok(Integer(number.into()))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Integer, E> {
        Ok(Integer(number.into()))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Integer, E> {
        let number = text.parse::<i128>();
        number.map(Integer).map_err(|_| {
            let unexpected = serde::de::Unexpected::Str(text);
            E::invalid_value(unexpected, &self)
        })
    }
}

/// An integer of the type that a field has.
fn narrow<T: TryFrom<i128>, E: Error>(integer: Integer) -> Result<T, E> {
    T::try_from(integer.0).map_err(|_| E::custom(format_args!("`{}` is out of range", integer.0)))
}

/// A `u64` that is a number up to 2^53, else a string: for amounts.
pub(crate) mod number {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        Integer((*value).into()).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        narrow(Integer::deserialize(deserializer)?)
    }
}

/// Like [`number`], or absent.
pub(crate) mod optional_number {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        value: &Option<u64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value
            .map(|value| Integer(value.into()))
            .serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<u64>, D::Error> {
        Option::<Integer>::deserialize(deserializer)?
            .map(narrow)
            .transpose()
    }
}

/// A `u64` that is always a string: for seeds, which are drawn from all 64 bits.
pub(crate) mod seed {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        narrow(Integer::deserialize(deserializer)?)
    }
}

/// Like [`seed`], or absent.
pub(crate) mod optional_seed {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        value: &Option<u64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.map(|value| value.to_string()).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<u64>, D::Error> {
        super::optional_number::deserialize(deserializer)
    }
}

/// A list of [`seed`]s.
pub(crate) mod seeds {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        values: &[u64],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(u64::to_string))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u64>, D::Error> {
        let values = Vec::<Integer>::deserialize(deserializer)?.into_iter();
        values.map(narrow).collect()
    }
}

/// A map of names to `i64`: axes and tunables.
pub(crate) mod integers {
    use indexmap::IndexMap;

    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        values: &IndexMap<String, i64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let entries = values.iter();
        serializer.collect_map(entries.map(|(name, value)| (name, Integer((*value).into()))))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<IndexMap<String, i64>, D::Error> {
        let values = IndexMap::<String, Integer>::deserialize(deserializer)?;
        let values = values.into_iter();
        values
            .map(|(name, value)| Ok((name, narrow(value)?)))
            .collect()
    }
}

/// Like [`integers`], or absent.
pub(crate) mod optional_integers {
    use indexmap::IndexMap;

    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        values: &Option<IndexMap<String, i64>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match values {
            Some(values) => super::integers::serialize(values, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<IndexMap<String, i64>>, D::Error> {
        let values = Option::<IndexMap<String, Integer>>::deserialize(deserializer)?;
        let Some(values) = values else {
            return Ok(None);
        };
        let values = values.into_iter();
        values
            .map(|(name, value)| Ok((name, narrow(value)?)))
            .collect::<Result<_, _>>()
            .map(Some)
    }
}

/// A map of names to lists of `i64`: the values that tunables may have.
pub(crate) mod integer_lists {
    use indexmap::IndexMap;

    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        values: &IndexMap<String, Vec<i64>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let entries = values.iter().map(|(name, values)| {
            let values = values.iter().map(|value| Integer((*value).into()));
            (name, values.collect::<Vec<_>>())
        });
        serializer.collect_map(entries)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<IndexMap<String, Vec<i64>>, D::Error> {
        let values = IndexMap::<String, Vec<Integer>>::deserialize(deserializer)?;
        let values = values.into_iter().map(|(name, values)| {
            let values = values.into_iter().map(narrow);
            Ok((name, values.collect::<Result<_, _>>()?))
        });
        values.collect()
    }
}

#[cfg(test)]
mod tests {
    use indexmap::IndexMap;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Numbers {
        #[serde(with = "number")]
        amount: u64,
        #[serde(with = "seed")]
        seed: u64,
        #[serde(default, with = "optional_seed")]
        other: Option<u64>,
        #[serde(with = "seeds")]
        seeds: Vec<u64>,
        #[serde(with = "integers")]
        axes: IndexMap<String, i64>,
        #[serde(with = "integer_lists")]
        space: IndexMap<String, Vec<i64>>,
    }

    fn numbers() -> Numbers {
        Numbers {
            amount: (1 << 53) + 1,
            seed: 7,
            other: Some(u64::MAX),
            seeds: vec![0, u64::MAX],
            axes: IndexMap::from([("n".to_owned(), i64::MIN), ("m".to_owned(), 1 << 53)]),
            space: IndexMap::from([("A".to_owned(), vec![1, i64::MAX])]),
        }
    }

    #[test]
    fn large_integers_are_strings() {
        assert_eq!(
            serde_json::to_string(&numbers()).unwrap(),
            r#"{"amount":"9007199254740993","seed":"7","other":"18446744073709551615","seeds":["0","18446744073709551615"],"axes":{"n":"-9223372036854775808","m":9007199254740992},"space":{"A":[1,"9223372036854775807"]}}"#
        );
    }

    #[test]
    fn numbers_and_strings_are_read() {
        let text = serde_json::to_string(&numbers()).unwrap();
        assert_eq!(serde_json::from_str::<Numbers>(&text).unwrap(), numbers());
        // As older versions wrote them.
        let old = text.replace("\"7\"", "7");
        let old = old.replace("\"18446744073709551615\"", "18446744073709551615");
        assert_eq!(serde_json::from_str::<Numbers>(&old).unwrap(), numbers());
        for wrong in [
            "\"7.5\"",
            "-1",
            "\"x\"",
            "1e30",
            "null",
            "\"99999999999999999999\"",
        ] {
            let wrong = text.replace("\"seed\":\"7\"", &format!("\"seed\":{wrong}"));
            assert!(serde_json::from_str::<Numbers>(&wrong).is_err(), "{wrong}");
        }
    }
}
