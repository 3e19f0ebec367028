//! The config key `eval.devices`: `all`, or a list of GPU indices and UUID prefixes.

use serde::de::{Error, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::base::Failure;
use crate::base::text::did_you_mean;
use crate::verdict::DeviceIdentity;

/// The GPUs that a config names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    #[default]
    All,
    /// Indices as `kforge doctor` shows them, or prefixes of UUIDs (`GPU-…`).
    Listed(Vec<String>),
}

impl DeviceChoice {
    /// Selects from the GPUs of the machine, in the order in which the config names them.
    pub(crate) fn select(&self, gpus: &[DeviceIdentity]) -> Result<Vec<DeviceIdentity>, Failure> {
        let Self::Listed(listed) = self else {
            return Ok(gpus.to_vec());
        };
        let mut chosen: Vec<DeviceIdentity> = Vec::new();
        for named in listed {
            let by_index = named
                .parse::<usize>()
                .ok()
                .and_then(|index| gpus.get(index));
            let uuid = |gpu: &DeviceIdentity| gpu.uuid.clone().unwrap_or_default();
            let is_named =
                |gpu: &&DeviceIdentity| !named.is_empty() && uuid(gpu).starts_with(named.as_str());
            let by_name = || gpus.iter().find(is_named);
            let Some(gpu) = by_index.or_else(by_name) else {
                let names: Vec<String> = gpus.iter().map(uuid).collect();
                let near = did_you_mean(named, names.iter().map(String::as_str));
                let count = gpus.len();
                return Err(Failure::usage(format!(
                    "`eval.devices`: no GPU `{named}`: this machine has {count}, numbered from 0"
                ))
                .hint(format!("{near}; `kforge doctor` lists them")));
            };
            if !chosen.contains(gpu) {
                chosen.push(gpu.clone());
            }
        }
        if chosen.is_empty() {
            return Err(Failure::usage(
                "`eval.devices`: the list is empty: expected at least one GPU",
            ));
        }
        Ok(chosen)
    }
}

impl Serialize for DeviceChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            DeviceChoice::All => serializer.serialize_str("all"),
            DeviceChoice::Listed(names) => names.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for DeviceChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DeviceChoiceVisitor;
        impl<'de> Visitor<'de> for DeviceChoiceVisitor {
            type Value = DeviceChoice;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("`all` or a list of indices and UUID prefixes")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<DeviceChoice, E> {
                match text {
                    "all" => Ok(DeviceChoice::All),
                    _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut sequence: A,
            ) -> Result<DeviceChoice, A::Error> {
                let mut names = Vec::new();
                while let Some(DeviceName(name)) = sequence.next_element()? {
                    names.push(name);
                }
                Ok(DeviceChoice::Listed(names))
            }
        }
        deserializer.deserialize_any(DeviceChoiceVisitor)
    }
}

/// An index or a UUID prefix.
struct DeviceName(String);

impl<'de> Deserialize<'de> for DeviceName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DeviceNameVisitor;
        impl Visitor<'_> for DeviceNameVisitor {
            type Value = DeviceName;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an index or a UUID prefix")
            }

            fn visit_u64<E: Error>(self, index: u64) -> Result<DeviceName, E> {
                Ok(DeviceName(index.to_string()))
            }

            fn visit_i64<E: Error>(self, index: i64) -> Result<DeviceName, E> {
                match index {
                    0.. => Ok(DeviceName(index.to_string())),
                    _ => Err(E::invalid_value(Unexpected::Signed(index), &self)),
                }
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<DeviceName, E> {
                Ok(DeviceName(name.to_owned()))
            }
        }
        deserializer.deserialize_any(DeviceNameVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpus() -> Vec<DeviceIdentity> {
        let named = |uuid: &str| DeviceIdentity {
            uuid: Some(uuid.to_owned()),
            ..DeviceIdentity::default()
        };
        ["GPU-aa11", "GPU-bb22", "GPU-cc33"].map(named).into()
    }

    fn chosen(yaml: &str) -> Result<Vec<String>, Failure> {
        let devices: DeviceChoice = serde_yaml::from_str(yaml).unwrap();
        let gpus = devices.select(&gpus())?.into_iter();
        Ok(gpus.filter_map(|gpu| gpu.uuid).collect())
    }

    #[test]
    fn devices_are_indices_or_uuid_prefixes() {
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
    fn unknown_devices_are_refused_by_name() {
        for (yaml, message, hint) in [
            (
                "[0, 3]",
                "no GPU `3`: this machine has 3",
                "`kforge doctor`",
            ),
            (
                "[GPU-cc34]",
                "no GPU `GPU-cc34`",
                "did you mean `GPU-cc33`?",
            ),
            ("[\"\"]", "no GPU ``", "`kforge doctor`"),
            ("[]", "the list is empty", ""),
        ] {
            let failure = chosen(yaml).unwrap_err();
            assert!(failure.message.contains(message), "{yaml}: {failure}");
            let found = failure.hint.unwrap_or_default();
            assert!(found.contains(hint), "{yaml}: {found}");
        }
    }

    #[test]
    fn values_other_than_all_or_a_list_are_refused() {
        for yaml in ["every", "3", "[-1]", "[1.5]", "[[0]]", "{0: 1}"] {
            assert!(
                serde_yaml::from_str::<DeviceChoice>(yaml).is_err(),
                "{yaml}"
            );
        }
    }
}
