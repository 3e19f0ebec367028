//! Which GPUs of a machine a run uses: `all`, or a list of indices and names.

use serde::de::{Error, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::base::Failure;
use crate::base::text::did_you_mean;
use crate::verdict::DeviceIdentity;

/// As it is typed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Devices {
    #[default]
    All,
    /// Indices as `kforge doctor` shows them, or the beginnings of names (`GPU-…`).
    Listed(Vec<String>),
}

impl Devices {
    /// Those among the machine's that are meant, in the order in which they were named.
    pub fn among(&self, cards: &[DeviceIdentity]) -> Result<Vec<DeviceIdentity>, Failure> {
        let Self::Listed(words) = self else {
            return Ok(cards.to_vec());
        };
        let mut chosen: Vec<DeviceIdentity> = Vec::new();
        for word in words {
            let by_index = word
                .parse::<usize>()
                .ok()
                .and_then(|index| cards.get(index));
            let uuid = |card: &DeviceIdentity| card.uuid.clone().unwrap_or_default();
            let by_name = || (cards.iter()).find(|card| uuid(card).starts_with(word.as_str()));
            let Some(card) = by_index.or_else(by_name) else {
                let names: Vec<String> = cards.iter().map(uuid).collect();
                let near = did_you_mean(word, names.iter().map(String::as_str));
                let count = cards.len();
                return Err(Failure::usage(format!(
                    "`eval.devices`: no GPU `{word}`: there are {count}, numbered from 0"
                ))
                .hint(format!("{near}; `kforge doctor` lists them")));
            };
            if !chosen.contains(card) {
                chosen.push(card.clone());
            }
        }
        match chosen.is_empty() {
            true => Err(Failure::usage(
                "`eval.devices`: an empty list: nothing would judge",
            )),
            false => Ok(chosen),
        }
    }
}

impl Serialize for Devices {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Devices::All => serializer.serialize_str("all"),
            Devices::Listed(words) => words.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Devices {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Typed;
        impl<'de> Visitor<'de> for Typed {
            type Value = Devices;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("`all` or a list of indices and names")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Devices, E> {
                match text {
                    "all" => Ok(Devices::All),
                    _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Devices, A::Error> {
                let mut words = Vec::new();
                while let Some(Word(word)) = sequence.next_element()? {
                    words.push(word);
                }
                Ok(Devices::Listed(words))
            }
        }
        deserializer.deserialize_any(Typed)
    }
}

/// An index or a name.
struct Word(String);

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Typed;
        impl Visitor<'_> for Typed {
            type Value = Word;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an index or a name")
            }

            fn visit_u64<E: Error>(self, index: u64) -> Result<Word, E> {
                Ok(Word(index.to_string()))
            }

            fn visit_i64<E: Error>(self, index: i64) -> Result<Word, E> {
                match index {
                    0.. => Ok(Word(index.to_string())),
                    _ => Err(E::invalid_value(Unexpected::Signed(index), &self)),
                }
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Word, E> {
                Ok(Word(name.to_owned()))
            }
        }
        deserializer.deserialize_any(Typed)
    }
}
