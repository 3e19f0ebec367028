//! Reads the best known kernel of a task: `kernels/TASK/best.cu`, and its verdict `best.json`.
//!
//! The best known kernel is not part of the task: it is not a starting kernel, and it does not affect the digest. This module only
//! reads; `kforge promote` writes these files.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::TaskFiles;
use super::files::KERNELS;
use crate::base::Failure;

/// The best known kernel of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BestKnown {
    pub source: String,
    /// Text of `best.json`; `None` if there is no such file.
    pub verdict: Option<String>,
    /// Its name in messages: the path, or the path of the embedded copy.
    pub origin: String,
}

impl TaskFiles {
    /// Path of the best known kernel.
    pub(crate) fn best_source(&self) -> PathBuf {
        self.kernels_folder.join("best.cu")
    }

    /// Path of its verdict.
    pub(crate) fn best_verdict(&self) -> PathBuf {
        self.kernels_folder.join("best.json")
    }

    /// The best known kernel: the file in the kernels folder, else the embedded one, else `None`.
    ///
    /// # Errors
    /// If a file exists and cannot be read.
    pub(crate) fn best_known(&self) -> Result<Option<BestKnown>, Failure> {
        let path = self.best_source();
        if let Some(source) = read(&path)? {
            return Ok(Some(BestKnown {
                source,
                verdict: read(&self.best_verdict())?,
                origin: path.display().to_string(),
            }));
        }
        let embedded = |file: &str| {
            let file = KERNELS.get_file(format!("{}/{file}", self.name))?;
            Some(file.contents_utf8()?.to_owned())
        };
        Ok(embedded("best.cu").map(|source| BestKnown {
            source,
            verdict: embedded("best.json"),
            origin: format!("kernels/{}/best.cu (embedded)", self.name),
        }))
    }
}

pub(super) fn read(path: &Path) -> Result<Option<String>, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(Failure::unreadable(
            &format!("`{}`", path.display()),
            &error,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Copies the shipped task `softmax` with its kernels to `root`.
    fn copy_softmax(root: &Path) -> TaskFiles {
        let shipped = TaskFiles::find("softmax").unwrap();
        for (folder, files) in [("tasks", &shipped.files), ("kernels", &shipped.kernels)] {
            let folder = root.join(folder).join("softmax");
            std::fs::create_dir_all(&folder).unwrap();
            for (name, text) in files {
                std::fs::write(folder.join(name), text).unwrap();
            }
        }
        TaskFiles::find(&root.join("tasks/softmax").display().to_string()).unwrap()
    }

    #[test]
    fn best_kernel_does_not_change_the_task() {
        let root = tempfile::tempdir().unwrap();
        let files = copy_softmax(root.path());
        let folder = root.path().canonicalize().unwrap().join("kernels/softmax");
        assert_eq!(files.kernels_folder, folder);
        assert_eq!(files.best_known().unwrap(), None);
        let before = files.load().unwrap();
        std::fs::write(folder.join("best.cu"), "a kernel").unwrap();
        std::fs::write(folder.join("best.json"), "{}").unwrap();
        let files = copy_softmax(root.path());
        let best = files.best_known().unwrap().unwrap();
        assert_eq!(
            (best.source.as_str(), best.verdict.as_deref()),
            ("a kernel", Some("{}"))
        );
        let after = files.load().unwrap();
        assert_eq!(before.digest, after.digest);
        assert!(after.starting_kernels().all(|(name, _)| name != "best.cu"));
    }

    #[test]
    fn warm_starts_do_not_change_the_digest() {
        let task = TaskFiles::find("softmax").unwrap().load().unwrap();
        let names = |task: &super::super::Task| {
            let starts = task.starting_kernels();
            starts.map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
        };
        let given = || {
            let one = |name: &str| (name.to_owned(), format!("text of {name}"));
            vec![one("from best"), one("from a.cu")]
        };
        let mut before = task.clone();
        before.start_from(given(), false);
        let mut expected = vec!["from best".to_owned(), "from a.cu".to_owned()];
        expected.extend(names(&task));
        assert_eq!(names(&before), expected);
        let mut alone = task.clone();
        alone.start_from(given(), true);
        assert_eq!(names(&alone), expected[..2]);
        for changed in [&before, &alone] {
            assert_eq!(changed.digest, task.digest);
            assert_eq!(changed.baseline(), task.baseline());
        }
        alone.start_from(Vec::new(), true);
        assert_eq!(alone.starting_kernels().count(), 0);
    }
}
