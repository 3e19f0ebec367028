//! The best kernel ever known of a task: `kernels/TASK/best.cu`, with its verdict beside it as `best.json`.
//!
//! No part of the task: neither one of its starting kernels nor in its digest. Only reads; what may stand there is decided by
//! whoever promotes.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::TaskFiles;
use super::files::KERNELS;
use crate::base::Failure;

/// The best kernel that is known of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BestKnown {
    pub source: String,
    /// What `best.json` says; `None` where there is none.
    pub verdict: Option<String>,
    /// What messages call it: its path, or that of its copy within the program.
    pub origin: String,
}

impl TaskFiles {
    /// Where the best kernel is kept.
    pub(crate) fn best_source(&self) -> PathBuf {
        self.kernels_folder.join("best.cu")
    }

    /// Where its verdict is kept.
    pub(crate) fn best_verdict(&self) -> PathBuf {
        self.kernels_folder.join("best.json")
    }

    /// The best kernel: that of the working tree, else that within the program; `None` where neither has one.
    ///
    /// # Errors
    /// Where a file is there and cannot be read.
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

fn read(path: &Path) -> Result<Option<String>, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(
            Failure::usage(format!("failed to read `{}`: {error}", path.display()))
                .hint("the best kernel of a task is a text file that you may read"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A copy of a shipped task with its kernels, in a folder of its own.
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
