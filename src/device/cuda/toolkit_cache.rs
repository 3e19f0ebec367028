//! Finds NVRTC and its headers, and caches the result together with everything that it depends on.
//!
//! A cached result is used only while no file that decided the search has changed: running Python for a new search takes longer
//! than compiling a kernel.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::toolkit::{FileStamp, Toolkit, file_stamp};
use super::toolkit_search::ToolkitSearch;
use crate::base::{Digest, Failure};
use crate::device::cache;

/// Environment variables that the result depends on.
const DECIDING_VARIABLES: &[&str] = &[
    "CUDA_HOME",
    "CUDA_PATH",
    "CUTLASS_PATH",
    "KFORGE_PYTHON",
    "LD_LIBRARY_PATH",
    "VIRTUAL_ENV",
    "PATH",
];

/// A cached search result, and the files that it depends on.
#[derive(Serialize, Deserialize)]
struct CachedToolkit {
    kforge: String,
    toolkit: Toolkit,
    witnesses: Vec<(PathBuf, Option<FileStamp>)>,
}

/// Finds NVRTC and its headers.
///
/// # Errors
/// `Failure::environment` that names what is missing and the command that installs it.
pub(super) fn find_toolkit() -> Result<Toolkit, Failure> {
    let file = cache_file();
    if let Some(toolkit) = load(&file) {
        return Ok(toolkit);
    }
    let mut search = ToolkitSearch::default();
    let toolkit = search.run()?;
    let cached = CachedToolkit {
        kforge: env!("CARGO_PKG_VERSION").to_owned(),
        toolkit: toolkit.clone(),
        witnesses: search.witnesses,
    };
    // If this fails, the next process searches again.
    if let (Ok(text), Some(folder)) = (serde_json::to_vec(&cached), file.parent()) {
        let _ = cache::create_folder(folder).map(|()| cache::write_atomically(&file, &text));
    }
    Ok(toolkit)
}

/// The cache file for the current values of the deciding variables.
fn cache_file() -> PathBuf {
    let values = DECIDING_VARIABLES.iter().map(|name| {
        let value = std::env::var_os(name).unwrap_or_default();
        format!("{name}={}\n", value.to_string_lossy())
    });
    let key = Digest::of(values.collect::<String>());
    cache::folder().join("toolkits").join(format!("{key}.json"))
}

fn load(file: &Path) -> Option<Toolkit> {
    let cached: CachedToolkit = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    let is_current = cached
        .witnesses
        .iter()
        .all(|(path, known)| file_stamp(path) == *known);
    (is_current && cached.kforge == env!("CARGO_PKG_VERSION")).then_some(cached.toolkit)
}
