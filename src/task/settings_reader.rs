//! Reads `task.yaml` and reports everything that is missing or wrong, each with its line and key.
//!
//! Each part is read by itself, so one mistake does not hide another. `settings` has the types, `defaults` fills in what may be
//! left out, and `check` validates the values against the definition and the workloads.

use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::problems::{Problems, TaskFile};
use super::settings::{Baseline, Profile, TaskSettings, Tolerance};
use crate::base::text::{did_you_mean, nearest_name};
use crate::base::value_reader::{ValueProblem, join_keys, read_value, show_value};
use crate::base::yaml;

/// Every key of `task.yaml`.
pub(super) const ALL_KEYS: [&str; 17] = [
    "schema",
    "definition",
    "workloads",
    "oracle",
    "baselines",
    "start",
    "tolerance",
    "inputs",
    "regimes",
    "fixed",
    "hidden",
    "derived",
    "bytes",
    "flops",
    "in_place",
    "precision",
    "profiles",
];

/// The keys that a task must have, each with a line that shows it.
pub(super) const REQUIRED: [(&str, &str); 6] = [
    ("definition", "definition: definition.json"),
    ("workloads", "workloads: workloads.jsonl"),
    ("oracle", "oracle: oracle.cu"),
    ("baselines", "baselines: {naive: naive.cu}"),
    ("start", "start: [naive.cu]"),
    (
        "tolerance",
        "tolerance: {OUTPUT: {rtol: 1.0e-2, atol_rms: 1.0e-3}}",
    ),
];

/// Reads `task.yaml`. `None` if nothing of it can be read; parts that are wrong or missing have their default.
pub(super) fn read_settings(file: &TaskFile<'_>, problems: &mut Problems) -> Option<TaskSettings> {
    let value: Value = match yaml::read(file.text, file.origin) {
        Ok(value) => value,
        Err(failure) => {
            problems.push(failure);
            return None;
        }
    };
    let empty = Map::new();
    let root = match &value {
        Value::Object(root) => root,
        Value::Null => &empty,
        other => {
            let found = show_value(other);
            let message = format!("expected keys with values, such as `key: value`, found {found}");
            problems.push(file.problem("", message));
            return None;
        }
    };
    let mut reader = SettingsReader {
        root,
        problems: Vec::new(),
    };
    reader.check_keys();
    let settings = reader.settings();
    problems.extend(file, reader.problems);
    Some(settings)
}

struct SettingsReader<'v> {
    root: &'v Map<String, Value>,
    problems: Vec<ValueProblem>,
}

impl<'v> SettingsReader<'v> {
    fn report(&mut self, key: &str, message: impl Into<String>, hint: Option<String>) {
        self.problems.push(ValueProblem {
            key: key.to_owned(),
            message: message.into(),
            hint,
        });
    }

    /// Reports unknown and missing keys. A misspelt key is one problem, not two.
    fn check_keys(&mut self) {
        let keys = || ALL_KEYS.into_iter();
        let mut misspelt = Vec::new();
        for name in self.root.keys() {
            if !keys().any(|key| key == name) {
                let hint = did_you_mean(name, keys());
                self.report(name, format!("unknown key `{name}`"), Some(hint));
                misspelt.extend(nearest_name(name, keys()));
            }
        }
        for (key, example) in REQUIRED {
            let is_missing = self.root.get(key).is_none_or(Value::is_null);
            if is_missing && !misspelt.contains(&key) {
                let message = format!("`{key}` is missing");
                self.report("", message, Some(format!("for example `{example}`")));
            }
        }
    }

    fn settings(&mut self) -> TaskSettings {
        let file_name = |name: Option<String>, default: &str| name.unwrap_or(default.to_owned());
        TaskSettings {
            schema: self.value("schema").unwrap_or(1),
            definition: file_name(self.value("definition"), "definition.json"),
            workloads: file_name(self.value("workloads"), "workloads.jsonl"),
            oracle: file_name(self.value("oracle"), "oracle.cu"),
            baselines: self.baselines(),
            start: self.names("start"),
            tolerance: self.tolerance(),
            inputs: self.entries("inputs"),
            regimes: self.regimes(),
            fixed: self.names("fixed"),
            hidden: self.entries("hidden"),
            derived: self.expressions("derived"),
            bytes: self.expression("bytes"),
            flops: self.expression("flops"),
            in_place: self.entries("in_place"),
            precision: self.value("precision").unwrap_or_default(),
            profiles: self.profiles(),
        }
    }

    fn get(&self, key: &str) -> Option<&'v Value> {
        self.root.get(key).filter(|value| !value.is_null())
    }

    fn value<T: Deserialize<'v>>(&mut self, key: &str) -> Option<T> {
        read_value(self.get(key)?, key, &mut self.problems)
    }

    /// The entries of a key that holds a map. Each entry is read by itself.
    fn map(&mut self, key: &str) -> Option<&'v Map<String, Value>> {
        match self.get(key)? {
            Value::Object(map) => Some(map),
            other => {
                let found = show_value(other);
                let message =
                    format!("expected keys with values, such as `key: value`, found {found}");
                self.report(key, message, None);
                None
            }
        }
    }

    fn entries<T: Deserialize<'v>>(&mut self, key: &str) -> IndexMap<String, T> {
        let mut entries = IndexMap::new();
        for (name, value) in self.map(key).into_iter().flatten() {
            if let Some(read) = read_value(value, &join_keys(key, name), &mut self.problems) {
                entries.insert(name.clone(), read);
            }
        }
        entries
    }

    fn regimes(&mut self) -> Option<IndexMap<String, super::Regime>> {
        let map = self.map("regimes")?;
        let mut regimes = IndexMap::new();
        for (name, regime) in map {
            let key = format!("regimes.{name}");
            let Value::Object(inputs) = regime else {
                let found = show_value(regime);
                let message = format!("expected inputs with distributions, found {found}");
                let hint = format!("for example `{name}: {{x: {{normal: 2.0}}}}`");
                self.report(&key, message, Some(hint));
                continue;
            };
            let mut read = super::Regime::new();
            for (input, value) in inputs {
                let key = join_keys(&key, input);
                if let Some(distribution) = read_value(value, &key, &mut self.problems) {
                    read.insert(input.clone(), distribution);
                }
            }
            if !inputs.is_empty() && read.is_empty() {
                continue;
            }
            regimes.insert(name.clone(), read);
        }
        Some(regimes)
    }

    /// `NAME: {kernel: FILE}`, or shorter `NAME: FILE`.
    fn baselines(&mut self) -> IndexMap<String, Baseline> {
        let mut baselines = IndexMap::new();
        if let Some(Value::Array(_) | Value::String(_)) = self.get("baselines") {
            let hint = "for example `baselines: {naive: naive.cu}`".to_owned();
            self.report("baselines", "expected names with kernel files", Some(hint));
            return baselines;
        }
        let map = self.map("baselines");
        if map.is_some_and(Map::is_empty) {
            self.report("baselines", "expected at least one", None);
        }
        for (name, value) in map.into_iter().flatten() {
            let baseline = match value {
                Value::String(file) => Some(Baseline {
                    kernel: file.clone(),
                }),
                value => {
                    let key = join_keys("baselines", name);
                    read_value(value, &key, &mut self.problems)
                }
            };
            baselines.extend(baseline.map(|baseline| (name.clone(), baseline)));
        }
        baselines
    }

    /// A list of names, or one name.
    fn names(&mut self, key: &str) -> Vec<String> {
        match self.get(key) {
            Some(Value::String(name)) => vec![name.clone()],
            _ => self.value(key).unwrap_or_default(),
        }
    }

    fn tolerance(&mut self) -> IndexMap<String, Tolerance> {
        let mut tolerances = IndexMap::new();
        for (output, value) in self.map("tolerance").into_iter().flatten() {
            let key = join_keys("tolerance", output);
            let Value::Object(map) = value else {
                let message = format!(
                    "expected `rtol` and `atol_rms`, found {}",
                    show_value(value)
                );
                let hint = format!("for example `{output}: {{rtol: 1.0e-2, atol_rms: 1.0e-3}}`");
                self.report(&key, message, Some(hint));
                continue;
            };
            let rtol = self.tolerance_number(&key, map, "rtol");
            let atol_rms = self.tolerance_number(&key, map, "atol_rms");
            self.check_tolerance_keys(&key, map);
            // A wrong number is reported; a valid one avoids reports about the result.
            tolerances.insert(
                output.clone(),
                Tolerance {
                    rtol: rtol.unwrap_or(0.0),
                    atol_rms: atol_rms.unwrap_or(0.0),
                },
            );
        }
        tolerances
    }

    fn tolerance_number(&mut self, key: &str, map: &Map<String, Value>, name: &str) -> Option<f64> {
        let Some(value) = map.get(name) else {
            let hint = match (name, map.contains_key("atol")) {
                ("atol_rms", true) => return None,
                ("atol_rms", false) => {
                    "the absolute bound, as a share of the root mean square of the output; 0 if there is none"
                }
                _ => "the relative bound, such as 1.0e-2; 0 if there is none",
            };
            self.report(key, format!("`{name}` is missing"), Some(hint.to_owned()));
            return None;
        };
        let number = value.as_f64();
        if number.is_none() {
            let message = format!("expected a number, found {}", show_value(value));
            self.report(&join_keys(key, name), message, None);
        }
        number
    }

    fn check_tolerance_keys(&mut self, key: &str, map: &Map<String, Value>) {
        for name in map.keys() {
            let hint = match name.as_str() {
                "rtol" | "atol_rms" => continue,
                // In other tools `atol` is a number in the units of the output.
                "atol" => "the absolute bound is `atol_rms`, a share of the root mean square of the output's elements that are not 0: a bound of 1e-3 on values of about 1 is `atol_rms: 1.0e-3`".to_owned(),
                other => did_you_mean(other, ["rtol", "atol_rms"]),
            };
            let message = format!("unknown key `{name}`");
            self.report(&join_keys(key, name), message, Some(hint));
        }
    }

    /// An expression may be a plain number in YAML.
    fn expression(&mut self, key: &str) -> Option<String> {
        match self.get(key)? {
            Value::Number(number) => Some(number.to_string()),
            _ => self.value(key),
        }
    }

    fn expressions(&mut self, key: &str) -> IndexMap<String, String> {
        let mut entries = IndexMap::new();
        for (name, value) in self.map(key).into_iter().flatten() {
            let text = match value {
                Value::Number(number) => Some(number.to_string()),
                value => read_value(value, &join_keys(key, name), &mut self.problems),
            };
            entries.extend(text.map(|text| (name.clone(), text)));
        }
        entries
    }

    fn profiles(&mut self) -> IndexMap<String, Profile> {
        self.entries("profiles")
    }
}
