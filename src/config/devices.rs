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
    pub(crate) fn among(&self, cards: &[DeviceIdentity]) -> Result<Vec<DeviceIdentity>, Failure> {
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
            let is_named =
                |card: &&DeviceIdentity| !word.is_empty() && uuid(card).starts_with(word.as_str());
            let by_name = || cards.iter().find(is_named);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn cards() -> Vec<DeviceIdentity> {
        let named = |uuid: &str| DeviceIdentity {
            uuid: Some(uuid.to_owned()),
            ..DeviceIdentity::default()
        };
        ["GPU-aa11", "GPU-bb22", "GPU-cc33"].map(named).into()
    }

    fn chosen(yaml: &str) -> Result<Vec<String>, Failure> {
        let devices: Devices = serde_yaml::from_str(yaml).unwrap();
        let cards = devices.among(&cards())?.into_iter();
        Ok(cards.filter_map(|card| card.uuid).collect())
    }

    #[test]
    fn devices_are_indices_or_beginnings_of_names() {
        for (yaml, expected) in [
            ("all", vec!["GPU-aa11", "GPU-bb22", "GPU-cc33"]),
            ("[2, 0]", vec!["GPU-cc33", "GPU-aa11"]),
            ("[GPU-bb]", vec!["GPU-bb22"]),
            ("[1, GPU-bb22, \"1\"]", vec!["GPU-bb22"]),
        ] {
            assert_eq!(chosen(yaml).unwrap(), expected, "{yaml}");
        }
    }

    #[test]
    fn unknown_devices_are_named() {
        for (yaml, words, hint) in [
            ("[0, 3]", "no GPU `3`: there are 3", "`kforge doctor`"),
            (
                "[GPU-cc34]",
                "no GPU `GPU-cc34`",
                "did you mean `GPU-cc33`?",
            ),
            ("[\"\"]", "no GPU ``", "`kforge doctor`"),
            ("[]", "an empty list", ""),
        ] {
            let failure = chosen(yaml).unwrap_err();
            assert!(failure.message.contains(words), "{yaml}: {failure}");
            let said = failure.hint.unwrap_or_default();
            assert!(said.contains(hint), "{yaml}: {said}");
        }
    }

    #[test]
    fn what_is_no_list_of_devices_is_refused() {
        for yaml in ["every", "3", "[-1]", "[1.5]", "[[0]]", "{0: 1}"] {
            assert!(serde_yaml::from_str::<Devices>(yaml).is_err(), "{yaml}");
        }
    }
}
