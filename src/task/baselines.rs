//! Finds the baselines of a task in Python (`kernels/TASK/baselines.py`) and the tables of measured baselines
//! (`kernels/TASK/baselines/DEVICE-PROFILE.json`).
//!
//! Like the best known kernel, they are not part of the task and do not affect its digest. This module only reads; `kforge baselines` writes
//! the tables.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;

use super::TaskFiles;
use super::best::read;
use super::files::KERNELS;
use crate::base::Failure;

const PYTHON_FILE: &str = "baselines.py";

impl TaskFiles {
    /// The text of the task's baselines in Python and its name in messages: the file in the kernels folder, else the embedded one, else
    /// `None`.
    ///
    /// # Errors
    /// If the file exists and cannot be read.
    pub(crate) fn python_baselines(&self) -> Result<Option<[String; 2]>, Failure> {
        let path = self.kernels_folder.join(PYTHON_FILE);
        if let Some(text) = read(&path)? {
            return Ok(Some([text, path.display().to_string()]));
        }
        let embedded = KERNELS.get_file(format!("{}/{PYTHON_FILE}", self.name));
        let text = embedded.and_then(|file| file.contents_utf8());
        let name = format!("kernels/{}/{PYTHON_FILE} (embedded)", self.name);
        Ok(text.map(|text| [text.to_owned(), name]))
    }

    /// Path of the table of baselines on a device.
    pub(crate) fn baseline_table(&self, device: &str, profile: &str) -> PathBuf {
        let folder = self.kernels_folder.join("baselines");
        folder.join(table_name(device, profile))
    }

    /// The text of the table of baselines on a device: the file in the kernels folder, else the embedded one, else `None`.
    ///
    /// # Errors
    /// If the file exists and cannot be read.
    pub(crate) fn read_baseline_table(
        &self,
        device: &str,
        profile: &str,
    ) -> Result<Option<String>, Failure> {
        if let Some(text) = read(&self.baseline_table(device, profile))? {
            return Ok(Some(text));
        }
        let name = table_name(device, profile);
        let embedded = KERNELS.get_file(format!("{}/baselines/{name}", self.name));
        let text = embedded.and_then(|file| file.contents_utf8());
        Ok(text.map(str::to_owned))
    }
}

impl TaskFiles {
    /// The texts of all tables: the files in the kernels folder, and the embedded ones that no file replaces. What cannot be read is left out:
    /// a table only adds a figure to a verdict.
    pub(super) fn read_baseline_tables(&self) -> Vec<String> {
        let mut tables = BTreeMap::new();
        let embedded = KERNELS.get_dir(format!("{}/baselines", self.name));
        for file in embedded.iter().flat_map(|folder| folder.files()) {
            let name = file.path().file_name().map(OsStr::to_owned);
            tables.extend(name.zip(file.contents_utf8().map(str::to_owned)));
        }
        let files = std::fs::read_dir(self.kernels_folder.join("baselines"));
        for file in files.into_iter().flatten().flatten() {
            let path = file.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                let text = std::fs::read_to_string(&path).ok();
                tables.extend(text.map(|text| (file.file_name(), text)));
            }
        }
        tables.into_values().collect()
    }
}

/// `nvidia-h200-full.json`.
fn table_name(device: &str, profile: &str) -> String {
    let mut name = String::new();
    for letter in device.chars().flat_map(char::to_lowercase) {
        if letter.is_ascii_alphanumeric() {
            name.push(letter);
        } else if !name.ends_with('-') && !name.is_empty() {
            name.push('-');
        }
    }
    format!("{}-{profile}.json", name.trim_end_matches('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tables_are_plain() {
        assert_eq!(table_name("NVIDIA H200", "full"), "nvidia-h200-full.json");
        assert_eq!(
            table_name("Intel(R) Xeon(R) CPU @ 2.20GHz", "quick"),
            "intel-r-xeon-r-cpu-2-20ghz-quick.json"
        );
    }

    #[test]
    fn every_shipped_task_has_baselines_in_python() {
        for name in super::super::embedded_names() {
            let files = TaskFiles::find(name).unwrap();
            let [text, _] = files.python_baselines().unwrap().unwrap();
            assert!(text.contains("BASELINES = {"), "{name}");
        }
    }
}
