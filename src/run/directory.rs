//! The layout of a run directory. Every path inside a run directory is built here.
//!
//! Creates the folder of a task; otherwise touches no file.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::base::{Failure, files};

/// The folder of a run: `outputs/RUN`.
#[derive(Clone, Debug)]
pub struct RunDirectory {
    root: PathBuf,
}

/// The folder of a task of a run: `outputs/RUN/TASK`.
#[derive(Clone, Debug)]
pub struct TaskDirectory {
    root: PathBuf,
}

/// Names of files in the run directory, which a task must not have.
const RESERVED_NAMES: [&str; 6] = [
    "run.yaml",
    "lock",
    "lock.owner",
    "events.jsonl",
    "summary.json",
    "report.html",
];

impl RunDirectory {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The record of the run. A folder with this file is a run directory.
    pub(crate) fn record(&self) -> PathBuf {
        self.root.join("run.yaml")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.root.join("events.jsonl")
    }

    /// The report of the run, for a browser.
    pub(crate) fn report(&self) -> PathBuf {
        self.root.join("report.html")
    }

    pub(crate) fn summary(&self) -> PathBuf {
        self.root.join("summary.json")
    }

    /// The folder of a task, created if it is missing.
    pub(crate) fn create_task(&self, name: &str) -> Result<TaskDirectory> {
        let task = self.task_for_reading(name)?;
        files::create_folder_durably(&task.root.join("steps"))?;
        Ok(task)
    }

    /// The folder of a task. It may not exist.
    ///
    /// # Errors
    /// A usage failure if the name is reserved or could lead out of the run directory.
    pub fn task_for_reading(&self, name: &str) -> Result<TaskDirectory> {
        let is_plain =
            !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0']);
        if !is_plain || RESERVED_NAMES.contains(&name) {
            return Err(Failure::usage(format!(
                "the task name `{name}` cannot be used as a folder name in a run directory"
            ))
            .hint("rename the task's folder")
            .into());
        }
        Ok(TaskDirectory {
            root: self.root.join(name),
        })
    }
}

impl TaskDirectory {
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub fn journal(&self) -> PathBuf {
        self.root.join("events.jsonl")
    }

    /// The folder of a step. Its name has at least six digits.
    pub(crate) fn step(&self, step: u64) -> PathBuf {
        self.root.join("steps").join(format!("{step:06}"))
    }

    pub(crate) fn source(&self, step: u64) -> PathBuf {
        self.step(step).join("kernel.cu")
    }

    /// The folder of a model request. `ask`: number of the request within the step, from 1.
    pub(crate) fn request_folder(&self, step: u64, ask: u32) -> PathBuf {
        self.step(step).join(format!("ask-{ask}"))
    }

    pub fn prompt(&self, step: u64, ask: u32) -> PathBuf {
        self.request_folder(step, ask).join("prompt.md")
    }

    pub fn response(&self, step: u64, ask: u32) -> PathBuf {
        self.request_folder(step, ask).join("response.md")
    }

    /// The trace of a step's last reply.
    pub(crate) fn trace(&self, step: u64) -> PathBuf {
        self.step(step).join("trace.json")
    }

    /// The edits of a step's replies, and the result of each.
    pub(crate) fn edits(&self, step: u64) -> PathBuf {
        self.step(step).join("edits.json")
    }

    /// A copy of the journal's verdict, for people.
    pub(crate) fn verdict(&self, step: u64) -> PathBuf {
        self.step(step).join("verdict.json")
    }

    pub(crate) fn compile_log(&self, step: u64) -> PathBuf {
        self.step(step).join("compile.log")
    }

    /// The profiler's own report on a step's kernel.
    pub(crate) fn profiler_report(&self, step: u64) -> PathBuf {
        self.step(step).join("kernel.ncu-rep")
    }

    /// The run's own copy of a warm start. `number`: its position in the record, from 1.
    pub(crate) fn warm_start(&self, number: usize) -> PathBuf {
        self.root.join("from").join(format!("{number}.cu"))
    }

    pub(crate) fn best_source(&self) -> PathBuf {
        self.root.join("best.cu")
    }

    /// What helped, for people and later runs.
    pub(crate) fn lessons(&self) -> PathBuf {
        self.root.join("lessons.md")
    }

    pub(crate) fn best_verdict(&self) -> PathBuf {
        self.root.join("best.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_folder_stays_inside_the_run() {
        let root = tempfile::tempdir().unwrap();
        let run = RunDirectory::new(root.path());
        for name in ["", "..", "a/b", "/etc", "lock", ".hidden", "run.yaml"] {
            assert!(run.create_task(name).is_err(), "{name}");
        }
        let task = run.create_task("gdn_decode").unwrap();
        assert_eq!(
            task.source(7),
            root.path().join("gdn_decode/steps/000007/kernel.cu")
        );
        assert!(task.step(1_234_567).ends_with("steps/1234567"));
    }
}
