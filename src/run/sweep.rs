//! The folder of a sweep: `sweep.yaml` names its runs and their configs, and each run is a run directory in it.
//!
//! `sweep.yaml` is written before the first run starts, so a sweep that is killed at any point knows all of its runs. Reads and writes that
//! file only.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::directory::RunDirectory;
use super::record::read_versioned;
use crate::base::{Failure, files};

/// Version of the format of `sweep.yaml`.
const SCHEMA: u32 = 1;

/// The folder of a sweep: `outputs/SWEEP`.
#[derive(Clone, Debug)]
pub(crate) struct SweepDirectory {
    root: PathBuf,
}

/// `sweep.yaml`. Never contains a secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SweepRecord {
    schema: u32,
    /// Version of kforge that started the sweep.
    kforge: String,
    /// In the order in which they are made.
    pub(crate) runs: Vec<SweepRun>,
}

/// A run of a sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SweepRun {
    /// The name of its folder.
    pub(crate) name: String,
    /// The varied keys, and the text that the name has for each value.
    pub(crate) values: IndexMap<String, String>,
    /// The config that the run starts with.
    pub(crate) config: Value,
}

impl SweepDirectory {
    pub(crate) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The record of the sweep. A folder with this file is a sweep.
    pub(crate) fn record(&self) -> PathBuf {
        self.root.join("sweep.yaml")
    }

    pub(crate) fn exists(&self) -> bool {
        self.record().is_file()
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// The page about all runs, for a browser.
    pub(crate) fn report(&self) -> PathBuf {
        self.root.join("report.html")
    }

    pub(crate) fn run(&self, run: &SweepRun) -> RunDirectory {
        RunDirectory::new(self.root.join(&run.name))
    }
}

impl SweepRecord {
    pub(crate) fn new(runs: Vec<SweepRun>) -> Self {
        Self {
            schema: SCHEMA,
            kforge: env!("CARGO_PKG_VERSION").to_owned(),
            runs,
        }
    }

    /// # Errors
    /// A usage failure if the folder is no sweep, a newer kforge wrote the record, or a name leads out of the folder.
    pub(crate) fn read(directory: &SweepDirectory) -> Result<Self> {
        let path = directory.record();
        let record: Self = read_versioned(&path, SCHEMA)?;
        let origin = path.display();
        let is_plain =
            |name: &str| !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0']);
        if let Some(run) = record.runs.iter().find(|run| !is_plain(&run.name)) {
            let message = format!("{origin}: `{}` is no name of a run", run.name);
            return Err(Failure::usage(message)
                .hint("restore the file as kforge wrote it")
                .into());
        }
        Ok(record)
    }

    /// Writes the record durably.
    pub(crate) fn write(&self, directory: &SweepDirectory) -> Result<()> {
        let text =
            serde_yaml::to_string(self).context("cannot serialize the record of the sweep")?;
        files::replace_durably(&directory.record(), text.as_bytes())
    }

    /// The runs that have started, with their directories.
    pub(crate) fn started<'a>(
        &'a self,
        directory: &'a SweepDirectory,
    ) -> impl Iterator<Item = (&'a SweepRun, RunDirectory)> {
        let runs = self.runs.iter().map(|run| (run, directory.run(run)));
        runs.filter(|(_, run)| run.record().is_file())
    }

    /// The runs in groups that differ in more than the seed. Each group has the text of its common values, such as
    /// `search.strategy=random`.
    pub(crate) fn arms(&self) -> Vec<(String, Vec<&SweepRun>)> {
        let mut arms: Vec<(String, Vec<&SweepRun>)> = Vec::new();
        for run in &self.runs {
            let values = run.values.iter().filter(|(key, _)| *key != "seed");
            let texts = values.map(|(key, value)| format!("{key}={value}"));
            let name = texts.collect::<Vec<_>>().join(",");
            match arms.iter_mut().find(|(other, _)| *other == name) {
                Some((_, runs)) => runs.push(run),
                None => arms.push((name, vec![run])),
            }
        }
        arms
    }
}

impl SweepRun {
    /// Whether the run has all of these values: `KEY=VALUE,KEY=VALUE`. `None` if the text has another form.
    pub(crate) fn has_values(&self, text: &str) -> Option<bool> {
        let mut has_all = true;
        for part in text.split(',') {
            let (key, value) = part.split_once('=')?;
            has_all &= self.values.get(key).is_some_and(|own| own == value);
        }
        Some(has_all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str) -> SweepRun {
        let values = name.split(',').filter_map(|part| part.split_once('='));
        SweepRun {
            name: name.to_owned(),
            values: values
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
            config: serde_json::json!({"steps": 3, "seed": "18446744073709551615"}),
        }
    }

    #[test]
    fn record_is_read_as_it_was_written() {
        let root = tempfile::tempdir().unwrap();
        let directory = SweepDirectory::new(root.path());
        let record = SweepRecord::new(vec![run("steps=3,seed=0"), run("steps=null,seed=1")]);
        record.write(&directory).unwrap();
        assert_eq!(SweepRecord::read(&directory).unwrap(), record);
        let text = std::fs::read_to_string(directory.record()).unwrap();
        for (from, to, expected) in [
            ("name: steps=3", "name: ../steps=3", "is no name of a run"),
            ("schema: 1", "schema: 9", "written by a newer kforge"),
        ] {
            assert!(text.contains(from), "{text}");
            std::fs::write(directory.record(), text.replace(from, to)).unwrap();
            let error = SweepRecord::read(&directory).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn arms_differ_in_more_than_the_seed() {
        let names = ["a=1,seed=0", "a=1,seed=1", "a=2,seed=0", "a=2,seed=1"];
        let record = SweepRecord::new(names.map(run).to_vec());
        let arms = record.arms().into_iter();
        let arms: Vec<_> = arms.map(|(name, runs)| (name, runs.len())).collect();
        assert_eq!(arms, [("a=1".to_owned(), 2), ("a=2".to_owned(), 2)]);
        let has = |text: &str| run("a=1,seed=0").has_values(text);
        assert_eq!(has("seed=0"), Some(true));
        assert_eq!(has("seed=0,a=1"), Some(true));
        assert_eq!(has("seed=0,a=2"), Some(false));
        assert_eq!(has("seed"), None);
    }
}
