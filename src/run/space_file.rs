//! The file of a recorded space: a cache file of Kernel Tuner that grows by one line for each point.
//!
//! While points are measured the file is open: its last brackets are missing, as Kernel Tuner leaves them out too. So a point costs one
//! append, and a process that is killed leaves whole lines. `close` writes the brackets, and the same results in the form of T4. The file
//! names what it was measured on; another kernel, device or task is refused.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context;
use indexmap::IndexMap;
use serde_json::{Map, Value};

use super::space_entry::SpaceEntry;
use super::space_header::{SpaceHeader, SpaceIdentity};
use super::t4;
use crate::base::{Digest, Failure, LockedFile, files};

/// Points between two syncs. A loss of power costs as many at most; a kill costs none.
const POINTS_PER_SYNC: usize = 32;
const CLOSING: &str = "\n}\n}\n";

/// The points of a space so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct SpaceTally {
    pub(crate) measured: u64,
    /// Points without a time, by the name of their status.
    pub(crate) faults: IndexMap<String, u64>,
    pub(crate) best: Option<BestPoint>,
}

/// The fastest point so far.
#[derive(Clone, Debug)]
pub(crate) struct BestPoint {
    pub(crate) point: IndexMap<String, i64>,
    /// In milliseconds.
    pub(crate) time: f64,
    pub(crate) speedup: f64,
}

impl SpaceTally {
    pub(crate) fn points(&self) -> u64 {
        self.measured + self.faults.values().sum::<u64>()
    }

    fn add(&mut self, tunables: &IndexMap<String, Vec<i64>>, entry: &Value) {
        let Some(time) = entry["time"].as_f64() else {
            let status = entry["status"].as_str().unwrap_or("failed");
            *self.faults.entry(status.to_owned()).or_default() += 1;
            return;
        };
        self.measured += 1;
        if self.best.as_ref().is_none_or(|best| time < best.time) {
            let value = |name: &String| Some((name.clone(), entry[name.as_str()].as_i64()?));
            self.best = Some(BestPoint {
                point: tunables.keys().filter_map(value).collect(),
                time,
                speedup: entry["speedup"].as_f64().unwrap_or(f64::NAN),
            });
        }
    }
}

/// A file that is being written.
pub(crate) struct SpaceFile {
    path: PathBuf,
    file: LockedFile,
    header: SpaceHeader,
    /// By the key of the point.
    entries: Map<String, Value>,
    tally: SpaceTally,
    unsynced: usize,
}

impl SpaceFile {
    /// The seed of a file; `None` if there is no file.
    ///
    /// # Errors
    /// If the file is no recorded space of kforge.
    pub(crate) fn recorded_seed(path: &Path) -> anyhow::Result<Option<u64>> {
        match read(path)? {
            Some(known) => Ok(Some(identity_of(&known, path)?.seed)),
            None => Ok(None),
        }
    }

    /// Creates a file, or continues one.
    ///
    /// # Errors
    /// A usage failure if the file is of another kernel, device or task, or if another process writes to it.
    pub(crate) fn open(path: &Path, header: SpaceHeader) -> anyhow::Result<Self> {
        let mut entries = Map::new();
        // Held until the new file is locked, so that no other process reads the old one meanwhile and replaces the new one.
        let _old = if path.exists() {
            Some(lock(path, files::open_for_append(path)?)?)
        } else {
            None
        };
        if let Some(mut known) = read(path)? {
            ensure_same(&known, &header, path)?;
            if let Some(Value::Object(cache)) = known.remove("cache") {
                entries = cache;
            }
        }
        let mut tally = SpaceTally::default();
        for entry in entries.values() {
            tally.add(&header.tunables, entry);
        }
        files::replace_durably(path, open_text(&header, &entries)?.as_bytes())?;
        let file = lock(path, files::open_for_append(path)?)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            header,
            entries,
            tally,
            unsynced: 0,
        })
    }

    pub(crate) fn has(&self, point: &IndexMap<String, i64>) -> bool {
        self.entries.contains_key(&SpaceEntry::key_of(point))
    }

    pub(crate) fn tally(&self) -> &SpaceTally {
        &self.tally
    }

    /// Appends a point. Returns its entry.
    pub(crate) fn append(&mut self, entry: &SpaceEntry) -> anyhow::Result<&Value> {
        let key = SpaceEntry::key_of(&entry.point);
        let value = entry.to_json();
        let line = format!("{}:{value},\n", Value::from(key.as_str()));
        files::append(&mut self.file.0, &self.path, line.as_bytes())?;
        self.unsynced += 1;
        if self.unsynced >= POINTS_PER_SYNC {
            files::sync(&self.file, &self.path)?;
            self.unsynced = 0;
        }
        self.tally.add(&self.header.tunables, &value);
        Ok(self.entries.entry(key).or_insert(value))
    }

    /// Completes the file, and writes the T4 file next to it. Returns the T4 file's path.
    pub(crate) fn close(self) -> anyhow::Result<PathBuf> {
        let mut text = open_text(&self.header, &self.entries)?;
        if !self.entries.is_empty() {
            text.truncate(text.len() - ",\n".len());
        } else {
            text.truncate(text.len() - "\n".len());
        }
        text += CLOSING;
        files::replace_durably(&self.path, text.as_bytes())?;
        let t4_path = t4_path(&self.path);
        let t4_text = t4::write(&self.header, self.entries.values())?;
        files::replace_durably(&t4_path, t4_text.as_bytes())?;
        Ok(t4_path)
    }
}

/// `NAME.json` has its T4 file at `NAME.t4.json`.
fn t4_path(path: &Path) -> PathBuf {
    path.with_extension("t4.json")
}

/// An open file with these points.
fn open_text(header: &SpaceHeader, entries: &Map<String, Value>) -> anyhow::Result<String> {
    let mut text = serde_json::to_string(&header.to_json())?;
    text.truncate(text.len() - "}".len());
    text += ",\"cache\":{\n";
    for (key, entry) in entries {
        text += &format!("{}:{entry},\n", Value::from(key.as_str()));
    }
    Ok(text)
}

/// The contents of a file, open or closed. `None` if there is none. A line that a loss of power has torn is left out.
fn read(path: &Path) -> anyhow::Result<Option<Map<String, Value>>> {
    if !path.exists() {
        return Ok(None);
    }
    let text = files::read(path)?;
    let whole_lines = text.rfind('\n').map_or("", |end| &text[..end]);
    let document = parse(&text)
        .or_else(|| parse(&closed(&text)))
        .or_else(|| parse(&closed(whole_lines)));
    match document {
        Some(document) => Ok(Some(document)),
        None => Err(not_ours(path).into()),
    }
}

fn parse(text: &str) -> Option<Map<String, Value>> {
    serde_json::from_str(text).ok()
}

/// An open file with its brackets.
fn closed(text: &str) -> String {
    format!("{}{CLOSING}", text.trim_end().trim_end_matches(','))
}

fn identity_of(known: &Map<String, Value>, path: &Path) -> anyhow::Result<SpaceIdentity> {
    let identity = known.get("kforge").cloned().ok_or_else(|| not_ours(path))?;
    Ok(serde_json::from_value(identity).map_err(|_| not_ours(path))?)
}

fn not_ours(path: &Path) -> Failure {
    Failure::usage(format!(
        "`{}` is no recorded space that this version of kforge has written",
        path.display()
    ))
    .hint("name another file with `--output`")
}

/// Compares a file with what is to be measured now.
fn ensure_same(
    known: &Map<String, Value>,
    header: &SpaceHeader,
    path: &Path,
) -> anyhow::Result<()> {
    let found = identity_of(known, path)?;
    let wanted = &header.identity;
    let text = |key: &str| known.get(key).and_then(Value::as_str).unwrap_or_default();
    let digits = |digest: Digest| digest.to_string()[..8].to_owned();
    let differences = [
        (
            "device",
            text("device_name").to_owned(),
            header.device.clone(),
        ),
        ("architecture", found.arch.clone(), wanted.arch.clone()),
        ("task", found.task.clone(), wanted.task.clone()),
        // Before the files of the task, which have the baseline.
        ("baseline", found.baseline.clone(), wanted.baseline.clone()),
        (
            "version of the task's files",
            digits(found.task_digest),
            digits(wanted.task_digest),
        ),
        (
            "kernel",
            format!("{} {}", text("kernel_name"), digits(found.family)),
            format!("{} {}", header.kernel, digits(wanted.family)),
        ),
        ("cache state", found.cache.clone(), wanted.cache.clone()),
        (
            "list of workloads",
            found.workloads.join(", "),
            wanted.workloads.join(", "),
        ),
        (
            "number of samples",
            found.samples.to_string(),
            wanted.samples.to_string(),
        ),
        ("seed", found.seed.to_string(), wanted.seed.to_string()),
        (
            "set of checks",
            digits(Digest::of(&found.checked)),
            digits(Digest::of(&wanted.checked)),
        ),
    ];
    match differences
        .iter()
        .find(|(_, found, wanted)| found != wanted)
    {
        None => Ok(()),
        Some((what, found, wanted)) => Err(Failure::usage(format!(
            "`{}` was recorded with another {what}: `{found}`, not `{wanted}`",
            path.display()
        ))
        .hint("name another file with `--output`")
        .into()),
    }
}

/// Locks an open file until it is dropped.
fn lock(path: &Path, file: File) -> anyhow::Result<LockedFile> {
    match file.try_lock() {
        Ok(()) => Ok(LockedFile(file)),
        Err(std::fs::TryLockError::WouldBlock) => Err(Failure::usage(format!(
            "another process writes to `{}`",
            path.display()
        ))
        .hint("wait until it has ended, or name another file with `--output`")
        .into()),
        Err(std::fs::TryLockError::Error(error)) if files::has_no_locks(&error) => {
            Ok(LockedFile(file))
        }
        Err(std::fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("failed to lock `{}`", path.display()))
        }
    }
}
