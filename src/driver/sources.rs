//! The kernels of a task, by step: which step has which kernel, and their sources on demand.
//!
//! Reads kernel files of the run directory; `journal_writer` writes them. A changed file is an error.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::base::Digest;
use crate::base::files::read_recorded;
use crate::run::TaskDirectory;

/// Number of sources kept in memory. Parents are elites, so the same few are read again and again.
const MAX_TEXTS_IN_MEMORY: usize = 256;

/// The kernels that a task has tried.
pub(super) struct KernelSources {
    directory: TaskDirectory,
    /// By step. `None` if the step has no kernel yet, or will have none.
    kernels: Vec<Option<Digest>>,
    /// The first step that had the kernel. Its folder holds the source.
    first_steps: HashMap<Digest, u64>,
    /// The first kernel with each normal form. Kernels of journals of earlier versions are not in it.
    forms: HashMap<Digest, Digest>,
    texts: HashMap<Digest, Arc<str>>,
}

impl KernelSources {
    pub(super) fn new(directory: TaskDirectory) -> Self {
        Self {
            directory,
            kernels: Vec::new(),
            first_steps: HashMap::new(),
            forms: HashMap::new(),
            texts: HashMap::new(),
        }
    }

    /// The step whose folder holds this kernel. `None` if the kernel is new.
    pub(super) fn step_of(&self, kernel: Digest) -> Option<u64> {
        self.first_steps.get(&kernel).copied()
    }

    /// Records the kernel of a step.
    pub(super) fn add(&mut self, step: u64, kernel: Digest) {
        let index = usize::try_from(step).unwrap_or(usize::MAX);
        if index >= self.kernels.len() {
            self.kernels.resize(index + 1, None);
        }
        self.kernels[index] = Some(kernel);
        self.first_steps.entry(kernel).or_insert(step);
    }

    /// The first kernel with this normal form.
    pub(super) fn kernel_of_form(&self, form: Digest) -> Option<Digest> {
        self.forms.get(&form).copied()
    }

    /// Records the normal form of a kernel, if it has one.
    pub(super) fn add_form(&mut self, form: Option<Digest>, kernel: Digest) {
        if let Some(form) = form {
            self.forms.entry(form).or_insert(kernel);
        }
    }

    /// Keeps a source in memory.
    pub(super) fn cache_text(&mut self, kernel: Digest, text: Arc<str>) {
        if self.texts.len() >= MAX_TEXTS_IN_MEMORY {
            self.texts.clear();
        }
        self.texts.insert(kernel, text);
    }

    pub(super) fn has_kernel(&self, step: u64) -> bool {
        self.digest(step).is_some()
    }

    /// The source of a step's kernel.
    ///
    /// # Errors
    /// If the step has no kernel, or its file differs from the hash in the journal.
    pub(super) fn text(&mut self, step: u64) -> Result<Arc<str>> {
        let kernel = self
            .digest(step)
            .with_context(|| format!("step {step} has no kernel"))?;
        if let Some(text) = self.texts.get(&kernel) {
            return Ok(text.clone());
        }
        let path = self.directory.source(self.step_of(kernel).unwrap_or(step));
        let text: Arc<str> = read_recorded(&path, kernel, "kernel")?.into();
        self.cache_text(kernel, text.clone());
        Ok(text)
    }

    fn digest(&self, step: u64) -> Option<Digest> {
        *self.kernels.get(usize::try_from(step).ok()?)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::files;
    use crate::run::RunDirectory;

    #[test]
    fn edited_kernel_file_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let directory = RunDirectory::new(root.path())
            .create_task("softmax")
            .unwrap();
        let mut sources = KernelSources::new(directory.clone());
        sources.add(3, Digest::of("a"));
        sources.add(9, Digest::of("a"));
        assert_eq!(sources.step_of(Digest::of("a")), Some(3));
        assert!(sources.text(1).is_err() && sources.text(u64::MAX).is_err());
        assert!(sources.text(9).is_err(), "not written yet");
        files::create_folder(&directory.step(3)).unwrap();
        files::replace(&directory.source(3), b"b").unwrap();
        let error = sources.text(9).unwrap_err().to_string();
        assert!(
            error.contains("000003/kernel.cu` is not the kernel"),
            "{error}"
        );
        files::replace(&directory.source(3), b"a").unwrap();
        assert_eq!(&*sources.text(9).unwrap(), "a");
    }
}
