//! `run.yaml`: everything that a run's results depend on, and the comparison with the current settings on resume.
//!
//! Reads and writes that file only. Whether a difference is accepted is the driver's decision.

use std::path::Path;

use indexmap::IndexMap;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use anyhow::{Context, Result};

use super::directory::RunDirectory;
use crate::base::{Digest, Failure, exact, files, yaml};
use crate::event::RecordChange;
use crate::search::FoldOrder;
use crate::verdict::DeviceIdentity;

/// Version of the format of `run.yaml`.
pub const SCHEMA: u32 = 1;

/// Everything that a run's results depend on, and the host where it was created. Never contains a secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    pub schema: u32,
    /// Version of kforge.
    pub kforge: String,
    pub host: String,
    #[serde(with = "exact::number")]
    pub seed: u64,
    /// The maximum number of steps in flight.
    pub window: u64,
    /// The order in which the search takes the results of steps. Earlier versions recorded none.
    #[serde(default = "order_of_earlier_versions")]
    pub order: FoldOrder,
    pub backend: String,
    pub device: DeviceIdentity,
    pub tasks: IndexMap<String, TaskRecord>,
    /// Version of the prompts. `None` if the run has no models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompts: Option<String>,
    /// The resolved config.
    pub config: Value,
}

fn order_of_earlier_versions() -> FoldOrder {
    FoldOrder::Step
}

/// Hashes of everything that a task consists of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// Hash over every file of the task's folder and every kernel that it names.
    pub folder: Digest,
    pub oracle: Digest,
    pub baseline: Digest,
    /// The warm starts of the search, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<WarmStart>,
    /// The lessons from earlier runs that models get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lessons: Option<String>,
    /// The baseline that targets are over, if it is not the task's own (`eval.baseline`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub yardstick: Option<YardstickRecord>,
}

/// The baseline of a table that targets are over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct YardstickRecord {
    /// The name with its version.
    pub baseline: String,
    /// When the table was measured.
    pub measured: String,
    /// Hash of its figures.
    pub figures: Digest,
}

/// A kernel from elsewhere that a search starts from. The run keeps its own copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmStart {
    /// The name that the journal uses.
    pub name: String,
    pub kernel: Digest,
    /// Description of where it was found.
    pub origin: String,
}

/// Host name of this machine, or `unknown`.
pub fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

/// Config keys that may differ on resume: they change how much is done and how fast, not the results.
const MAY_DIFFER: [&str; 17] = [
    "config.steps",
    "config.budget",
    "config.output",
    "config.eval.in_flight",
    "config.eval.counters",
    "config.search.patience",
    "config.search.target_speedup",
    "config.search.targets",
    "config.search.target_roofline",
    "config.search.target_tasks",
    "config.search.stop_when_unlikely",
    "config.llm.concurrency",
    "config.llm.timeout_seconds",
    "config.llm.idle_seconds",
    "config.llm.retries",
    "config.llm.patience_seconds",
    "config.llm.wait",
];

impl RunRecord {
    /// Reads the record of an existing run.
    ///
    /// # Errors
    /// A usage failure if the directory is not a run directory, or a newer kforge wrote the record.
    pub(crate) fn read(directory: &RunDirectory) -> Result<Self> {
        let path = directory.record();
        if !path.exists() {
            return Err(Failure::usage(format!(
                "`{}` is not a run directory: it has no run.yaml",
                directory.root().display()
            ))
            .hint("name a directory under `outputs/`, or start a run with `kforge evolve`")
            .into());
        }
        read_versioned(&path, SCHEMA)
    }

    /// Writes the record durably. With it the directory becomes a run directory.
    pub(crate) fn write(&self, directory: &RunDirectory) -> Result<()> {
        let text = serde_yaml::to_string(self).context("cannot serialize the record of the run")?;
        files::replace_durably(&directory.record(), text.as_bytes())
    }

    /// Every difference that makes earlier and later results incomparable.
    pub(crate) fn differences(&self, now: &RunRecord) -> Vec<RecordChange> {
        let mut changes = Vec::new();
        collect_changes("", &self.comparable(), &now.comparable(), &mut changes);
        changes
    }

    /// The record without what may differ: the host's name, and the keys of `MAY_DIFFER`.
    fn comparable(&self) -> Value {
        let mut value = serde_json::to_value(self).unwrap_or(Value::Null);
        if let Value::Object(record) = &mut value {
            record.shift_remove("schema");
            record.shift_remove("host");
        }
        value
    }
}

/// Adds the differences between two values. `what`: the dotted key of both.
fn collect_changes(what: &str, was: &Value, now: &Value, changes: &mut Vec<RecordChange>) {
    if MAY_DIFFER.contains(&what) || was == now || is_same_integer(was, now) {
        return;
    }
    if let (Value::Object(was), Value::Object(now)) = (was, now) {
        let added = now.keys().filter(|key| !was.contains_key(*key));
        for key in was.keys().chain(added) {
            let dotted = if what.is_empty() {
                key.clone()
            } else {
                format!("{what}.{key}")
            };
            let side = |map: &serde_json::Map<String, Value>| map.get(key).cloned();
            match (side(was), side(now)) {
                (Some(was), Some(now)) => collect_changes(&dotted, &was, &now, changes),
                (was, now) if !MAY_DIFFER.contains(&dotted.as_str()) => {
                    changes.push(RecordChange {
                        what: dotted,
                        was: value_text(was.as_ref()),
                        now: value_text(now.as_ref()),
                    })
                }
                _ => {}
            }
        }
        return;
    }
    changes.push(RecordChange {
        what: what.to_owned(),
        was: value_text(Some(was)),
        now: value_text(Some(now)),
    });
}

/// Whether one value is an integer and the other the same integer as a string: older versions wrote large numbers otherwise.
fn is_same_integer(was: &Value, now: &Value) -> bool {
    match (was, now) {
        (Value::Number(number), Value::String(text))
        | (Value::String(text), Value::Number(number)) => number.to_string() == *text,
        _ => false,
    }
}

fn value_text(value: Option<&Value>) -> String {
    value.map_or_else(|| "absent".to_owned(), Value::to_string)
}

/// The error for a resume with changes that the user has not accepted. Lists each change.
pub fn changes_not_accepted(directory: &RunDirectory, changes: &[RecordChange]) -> Failure {
    let list: Vec<_> = changes
        .iter()
        .map(|change| {
            format!(
                "\n  `{}` was {}, is {}",
                change.what, change.was, change.now
            )
        })
        .collect();
    Failure::usage(format!(
        "the run in `{}` was started with other settings:{}",
        directory.root().display(),
        list.concat()
    ))
    .hint("restore the old settings, or resume with `--accept-changes`, which records the change")
}

/// Reads a YAML file that has the version of its format under `schema`.
///
/// # Errors
/// A usage failure if it cannot be parsed, or its version is above `newest`.
pub(super) fn read_versioned<T: DeserializeOwned>(path: &Path, newest: u32) -> Result<T> {
    #[derive(Deserialize)]
    struct RecordVersion {
        schema: u32,
    }
    let text = files::read(path)?;
    let origin = path.display().to_string();
    let RecordVersion { schema } = yaml::read(&text, &origin)?;
    if schema > newest {
        return Err(Failure::usage(format!(
            "{origin}: written by a newer kforge (schema {schema}; this version reads up to {newest})"
        ))
        .hint("use the kforge version that wrote the file, or a later one")
        .into());
    }
    Ok(yaml::read(&text, &origin)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(config: Value) -> RunRecord {
        let digest = Digest::of("x");
        let task = TaskRecord {
            folder: digest,
            oracle: digest,
            baseline: digest,
            from: Vec::new(),
            lessons: None,
            yardstick: None,
        };
        RunRecord {
            prompts: None,
            schema: SCHEMA,
            kforge: "0.1.0".to_owned(),
            host: "here".to_owned(),
            seed: u64::MAX,
            window: 4,
            order: FoldOrder::Journal,
            backend: "cpu".to_owned(),
            device: DeviceIdentity::default(),
            tasks: IndexMap::from([("softmax".to_owned(), task)]),
            config,
        }
    }

    #[test]
    fn record_round_trips() {
        let root = tempfile::tempdir().unwrap();
        let directory = RunDirectory::new(root.path());
        assert!(
            RunRecord::read(&directory)
                .unwrap_err()
                .to_string()
                .contains("is not a run")
        );
        let config = json!({"tasks": ["no", "1.10", "a: b", "~", "é\n"], "search": {"explore": 0.1, "none": null, "yes": true},
            "budget": {"seconds": 100.0}, "empty": [], "nothing": {}});
        let record = record(config);
        record.write(&directory).unwrap();
        assert_eq!(RunRecord::read(&directory).unwrap(), record);
        let newer = files::read(&directory.record())
            .unwrap()
            .replace("schema: 1", "schema: 9");
        std::fs::write(directory.record(), newer).unwrap();
        assert!(
            RunRecord::read(&directory)
                .unwrap_err()
                .to_string()
                .contains("newer kforge")
        );
    }

    #[test]
    fn differences_name_only_keys_that_matter() {
        let was = record(
            json!({"steps": 10, "search": {"explore": 0.1, "bins": [1, 2]}, "eval": {"in_flight": 2}}),
        );
        let mut now = record(
            json!({"steps": 20, "budget": {"seconds": 9}, "search": {"explore": 0.2, "bins": [1, 2], "new": 1}, "eval": {"in_flight": 4}}),
        );
        now.host = "there".to_owned();
        let names: Vec<_> = was
            .differences(&now)
            .into_iter()
            .map(|change| change.what)
            .collect();
        assert_eq!(names, ["config.search.explore", "config.search.new"]);
        now.tasks.clear();
        assert!(
            was.differences(&now)
                .iter()
                .any(|change| change.what == "tasks.softmax")
        );
        assert!(was.differences(&was).is_empty());
        // The run's copy of a warm start was edited.
        let started_from = |text: &str| {
            let mut record = was.clone();
            record.tasks["softmax"].from = vec![WarmStart {
                name: "from best".to_owned(),
                kernel: Digest::of(text),
                origin: "kernels/softmax/best.cu".to_owned(),
            }];
            record
        };
        let changes = started_from("a").differences(&started_from("b"));
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].what, "tasks.softmax.from");
    }
}
