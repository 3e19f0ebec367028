//! `--dataset`: the dataset whose definitions a command takes as tasks.
//!
//! Only remembers the folder; `task` looks into it when a task is named that is found nowhere else.

use std::path::PathBuf;

use crate::task::use_dataset;

/// The flag of every command that takes tasks.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct DatasetArg {
    /// FlashInfer-Bench dataset: its definitions are tasks too. Default: `$FIB_DATASET_PATH`.
    #[arg(long, value_name = "DIR")]
    dataset: Option<PathBuf>,
}

impl DatasetArg {
    /// Uses the dataset for the rest of the process.
    pub(super) fn apply(&self) {
        if let Some(folder) = &self.dataset {
            use_dataset(folder.clone());
        }
    }
}
