//! A toolkit: the NVRTC library and its headers, as installed on this machine.
//!
//! Plain paths, and the stamps of files. Never loads the library. `toolkit_search` finds a toolkit, and `toolkit_cache` caches the result
//! of the search.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

/// Headers without which a toolkit is incomplete, and the Python package that contains each.
pub(super) const REQUIRED_HEADERS: &[(&str, &str)] = &[
    ("cuda_fp16.h", "nvidia-cuda-runtime"),
    ("cooperative_groups.h", "nvidia-cuda-runtime"),
    ("nv/target", "nvidia-cuda-cccl"),
];

/// Files whose stamps are part of [`Toolkit::identity`], in addition to the required headers. The empty name is the folder itself.
const IDENTIFYING_FILES: [&str; 6] = [
    "",
    "cuda_bf16.hpp",
    "cuda_fp16.hpp",
    "cuda_runtime_api.h",
    "cuda/std/version",
    "cutlass/version.h",
];

/// The NVRTC library and the folders with its headers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Toolkit {
    /// Full path of the library.
    pub library: PathBuf,
    /// Folders with the headers of CUDA and CCCL.
    pub includes: Vec<PathBuf>,
    /// The folder with the headers of CUTLASS, if it is installed.
    pub cutlass: Option<PathBuf>,
}

impl Toolkit {
    /// All include folders, in order.
    pub(super) fn folders(&self) -> impl Iterator<Item = &PathBuf> {
        self.includes.iter().chain(&self.cutlass)
    }

    pub(super) fn has_header(&self, name: &str) -> bool {
        self.folders().any(|folder| folder.join(name).is_file())
    }

    /// A text with the path and the stamp of the library and of some headers. It changes when one of them changes, so it is part of
    /// the key of every compiled kernel.
    pub(super) fn identity(&self) -> String {
        let mut text = format!(
            "{} {:?}\n",
            self.library.display(),
            file_stamp(&self.library)
        );
        for folder in self.folders() {
            let required = REQUIRED_HEADERS.iter().map(|(name, _)| *name);
            for file in required
                .chain(IDENTIFYING_FILES)
                .map(|name| folder.join(name))
            {
                text += &format!("{} {:?}\n", file.display(), file_stamp(&file));
            }
        }
        text
    }
}

/// Modification time (seconds, nanoseconds) and size of a file or folder. A changed stamp means that the file has changed.
pub(super) type FileStamp = (u64, u32, u64);

/// The stamp of a path; `None` if it does not exist.
pub(super) fn file_stamp(path: &Path) -> Option<FileStamp> {
    let metadata = path.metadata().ok()?;
    let modified = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some((modified.as_secs(), modified.subsec_nanos(), metadata.len()))
}
