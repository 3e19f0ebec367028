//! Finds the system's C++ compiler and describes it.
//!
//! Runs the compiler only to ask for its version and its folders. `toolchain` compiles with it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::base::Failure;
use crate::base::process::read_output;

/// How long a compiler may take to print its version or its folders.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A C++ compiler that runs.
#[derive(Clone, Debug)]
pub struct HostCompiler {
    pub path: PathBuf,
    /// The first line of `--version`.
    pub version: String,
}

/// The first of `$CXX`, `c++`, `g++` and `clang++` that runs.
///
/// # Errors
/// `Failure::environment` if none of them runs.
pub fn find_compiler() -> Result<HostCompiler, Failure> {
    let from_environment = std::env::var("CXX").ok().filter(|name| !name.is_empty());
    let names = from_environment.iter().map(String::as_str);
    for name in names.chain(["c++", "g++", "clang++"]) {
        let Some(path) = find_in_path(name) else {
            continue;
        };
        // It compiles without an environment too.
        let mut command = Command::new(&path);
        command.arg("--version").env_clear();
        if let Ok(text) = read_output(&mut command, ANSWER_LIMIT) {
            let version = text.lines().next().unwrap_or_default().to_owned();
            return Ok(HostCompiler { path, version });
        }
    }
    Err(Failure::environment(
        "no C++ compiler was found: tried `$CXX`, `c++`, `g++` and `clang++`",
    )
    .hint("install one, for example with `apt install g++`, or set the environment variable CXX"))
}

fn find_in_path(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Path::new(name).is_file().then(|| PathBuf::from(name));
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// The folders in which a compiler searches for its parts, as it prints them.
pub(super) fn search_folders(compiler: &Path) -> String {
    let mut command = Command::new(compiler);
    command.arg("-print-search-dirs").env_clear();
    read_output(&mut command, ANSWER_LIMIT).unwrap_or_default()
}

/// The properties of the processor that `-march=native` depends on.
pub(super) fn processor_description() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let is_relevant = |line: &&str| {
        let keys = ["model name", "flags", "CPU part", "Features"];
        keys.iter().any(|key| line.starts_with(key))
    };
    let first = text.split("\n\n").next().unwrap_or_default();
    let lines: Vec<_> = first.lines().filter(is_relevant).collect();
    lines.concat()
}
