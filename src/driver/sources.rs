//! The kernels of a task, by step: which were tried, and their text on demand.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Result;

use crate::base::{Digest, files};
use crate::run::TaskDirectory;

/// How many texts are kept in memory. Parents are elites, so the same few are read again and again.
const MAX_TEXTS_IN_MEMORY: usize = 256;

pub(super) struct KernelSources {
    directory: TaskDirectory,
    /// By step; `None` where the step has no kernel, or none yet.
    kernels: Vec<Option<Digest>>,
    /// The step whose folder holds the text.
    holders: HashMap<Digest, u64>,
    texts: HashMap<Digest, Arc<str>>,
}

impl KernelSources {
    pub(super) fn new(directory: TaskDirectory) -> Self {
        Self {
            directory,
            kernels: Vec::new(),
            holders: HashMap::new(),
            texts: HashMap::new(),
        }
    }

    /// The step that already has this kernel in its folder.
    pub(super) fn holder(&self, kernel: Digest) -> Option<u64> {
        self.holders.get(&kernel).copied()
    }

    /// Notes a step's kernel; the first step of a kernel holds its text.
    pub(super) fn add(&mut self, step: u64, kernel: Digest) {
        let index = usize::try_from(step).unwrap_or(usize::MAX);
        if index >= self.kernels.len() {
            self.kernels.resize(index + 1, None);
        }
        self.kernels[index] = Some(kernel);
        self.holders.entry(kernel).or_insert(step);
    }

    /// Keeps a text at hand that was just made.
    pub(super) fn cache_text(&mut self, kernel: Digest, text: Arc<str>) {
        if self.texts.len() >= MAX_TEXTS_IN_MEMORY {
            self.texts.clear();
        }
        self.texts.insert(kernel, text);
    }

    pub(super) fn has_kernel(&self, step: u64) -> bool {
        self.digest(step).is_some()
    }

    /// The text of a step's kernel, as it was when the journal named it.
    pub(super) fn text(&mut self, step: u64) -> Result<Arc<str>> {
        let Some(kernel) = self.digest(step) else {
            anyhow::bail!("step {step} has no kernel");
        };
        if let Some(text) = self.texts.get(&kernel) {
            return Ok(text.clone());
        }
        let path = self.directory.source(self.holder(kernel).unwrap_or(step));
        let text: Arc<str> = files::read_recorded(&path, kernel, "kernel")?.into();
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
        assert_eq!(sources.holder(Digest::of("a")), Some(3));
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
