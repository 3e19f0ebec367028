//! NVIDIA's profiling tools: where they are installed, their arguments, and how to parse their output.
//!
//! Runs nothing: `worker` starts the tools. Their output is untrusted text.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

pub(crate) mod ncu;
pub(crate) mod sanitizer;

/// The file with the driver's parameters.
const DRIVER_PARAMETERS: &str = "/proc/driver/nvidia/params";

/// Finds a tool by its name. The error says in one line where it was searched for.
pub(crate) fn find(name: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let home = std::env::var_os("CUDA_HOME").map(PathBuf::from);
    find_in(name, &path, home.as_deref(), Path::new("/"))
}

/// Like `find`, with `root` in place of `/`.
fn find_in(name: &str, path: &OsStr, home: Option<&Path>, root: &Path) -> Result<PathBuf, String> {
    let mut folders: Vec<PathBuf> = std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .collect();
    folders.extend(home.map(|home| home.join("bin")));
    let toolkits = folders_by_version(&root.join("usr/local"), "cuda");
    folders.extend(toolkits.iter().map(|toolkit| toolkit.join("bin")));
    folders.extend(toolkits.iter().map(|toolkit| toolkit.join(name)));
    let makers = root.join("opt/nvidia/nsight-compute");
    folders.extend(folders_by_version(&makers, ""));
    folders.push(makers);
    let found = folders.into_iter().map(|folder| folder.join(name));
    let mut found = found.filter(|file| is_executable(file));
    found.next().ok_or_else(|| {
        format!(
            "no `{name}` in PATH, $CUDA_HOME/bin, /usr/local/cuda*/bin or /opt/nvidia/nsight-compute"
        )
    })
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let metadata = std::fs::metadata(file);
    metadata.is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// The subfolders whose names start with `beginning`, the highest version first.
fn folders_by_version(folder: &Path, beginning: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut named: Vec<(Vec<u32>, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let rest = name.strip_prefix(beginning)?;
            let numbers = rest.split(|letter: char| !letter.is_ascii_digit());
            let numbers = numbers.filter_map(|number| number.parse().ok()).collect();
            entry.path().is_dir().then(|| (numbers, entry.path()))
        })
        .collect();
    named.sort_by(|one, other| other.cmp(one));
    named.into_iter().map(|(_, path)| path).collect()
}

/// The version in the output of `--version`.
pub(crate) fn parse_version(output: &str) -> Option<String> {
    let after = output.split("Version ").nth(1)?;
    let version: String = (after.chars())
        .take_while(|letter| letter.is_ascii_digit() || *letter == '.')
        .collect();
    (!version.is_empty()).then_some(version)
}

/// Why this user may not read a GPU's performance counters, if that is known without trying.
pub(crate) fn counters_denied() -> Option<String> {
    // SAFETY: no preconditions; cannot fail.
    let is_root = unsafe { libc::geteuid() } == 0;
    counters_denied_by(&std::fs::read_to_string(DRIVER_PARAMETERS).ok()?, is_root)
}

fn counters_denied_by(parameters: &str, is_root: bool) -> Option<String> {
    let root_only = parameters
        .lines()
        .filter_map(|line| line.split_once(':'))
        .any(|(name, value)| name.trim() == "RmProfilingAdminOnly" && value.trim() == "1");
    (root_only && !is_root).then(|| {
        "the driver allows only root to read counters (RmProfilingAdminOnly: 1 in /proc/driver/nvidia/params)".to_owned()
    })
}

/// An argument list.
fn os_strings<const COUNT: usize>(words: [&OsStr; COUNT]) -> Vec<OsString> {
    words.into_iter().map(OsStr::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn create_tool(file: &Path) {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(file, PermissionsExt::from_mode(0o755)).unwrap();
    }

    #[test]
    fn tool_search_order_and_one_line_error() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let none = find_in("ncu", OsStr::new(""), None, root).unwrap_err();
        assert!(none.starts_with("no `ncu` in PATH") && !none.contains('\n'));
        let find_ncu = |path: &Path| find_in("ncu", path.as_os_str(), None, root).unwrap();
        let empty = Path::new("");
        for version in ["2024.3.2", "2025.10.0", "2025.3.1"] {
            create_tool(
                &root
                    .join("opt/nvidia/nsight-compute")
                    .join(version)
                    .join("ncu"),
            );
        }
        assert!(find_ncu(empty).ends_with("2025.10.0/ncu"));
        create_tool(&root.join("usr/local/cuda-12.9/bin/ncu"));
        create_tool(&root.join("usr/local/cuda-13.0/bin/ncu"));
        assert!(find_ncu(empty).ends_with("cuda-13.0/bin/ncu"));
        let home = root.join("home");
        create_tool(&home.join("bin/ncu"));
        let found = find_in("ncu", OsStr::new(""), Some(&home), root).unwrap();
        assert!(found.ends_with("home/bin/ncu"));
        let bin = root.join("bin");
        create_tool(&bin.join("ncu"));
        assert_eq!(find_ncu(&bin), bin.join("ncu"));
        // A file that is not executable is skipped.
        std::fs::set_permissions(bin.join("ncu"), PermissionsExt::from_mode(0o644)).unwrap();
        assert!(find_ncu(&bin).ends_with("cuda-13.0/bin/ncu"));
        create_tool(&root.join("usr/local/cuda-13.0/compute-sanitizer/compute-sanitizer"));
        assert!(find_in("compute-sanitizer", OsStr::new(""), None, root).is_ok());
    }

    #[test]
    fn version_is_parsed_from_tool_output() {
        let output = "NVIDIA (R) Nsight Compute Command Line Profiler\nCopyright (c) 2018-2025\nVersion 2025.3.0.0 (build 36273991) (public-release)\n";
        assert_eq!(parse_version(output).as_deref(), Some("2025.3.0.0"));
        assert_eq!(parse_version("Version x"), None);
        assert_eq!(parse_version(""), None);
    }

    #[test]
    fn driver_parameters_decide_counter_access() {
        let parameters = "ResmanDebugLevel: 4294967295\nRmProfilingAdminOnly: 1\n";
        assert!(counters_denied_by(parameters, false).is_some());
        assert!(counters_denied_by(parameters, true).is_none());
        assert!(counters_denied_by("RmProfilingAdminOnly: 0\n", false).is_none());
        assert!(counters_denied_by("", false).is_none());
    }
}
