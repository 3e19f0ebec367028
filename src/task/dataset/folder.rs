//! The files of a dataset folder. Reads none of them.

use std::path::{Path, PathBuf};

/// The name of a file without its extension.
pub(super) fn stem_of(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}

/// Whether a definition is alone in the folder of its problem, as in SOL-ExecBench.
pub(super) fn is_problem(definition: &Path) -> bool {
    definition
        .file_name()
        .is_some_and(|name| name == "definition.json")
}

/// All files below a folder whose names end in an extension, sorted.
pub(super) fn files_below(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            // A link to a folder is not followed: it may lead back.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
