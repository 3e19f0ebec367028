//! NVIDIA's own tools on this machine, and whether the driver lets users count what a kernel does. Runs none of them.

use std::path::{Path, PathBuf};

/// What the driver was loaded with.
const PARAMETERS: &str = "/proc/driver/nvidia/params";

/// A program of the toolkit's, such as `ncu`: on the path, in the toolkit that the environment names, or in the usual folders.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let named = ["CUDA_HOME", "CUDA_PATH"].map(std::env::var_os);
    let toolkits = named.into_iter().flatten().map(PathBuf::from);
    let usual = ["/usr/local/cuda", "/opt/cuda"].map(PathBuf::from);
    let toolkits = toolkits.chain(usual);
    let folders = std::env::split_paths(&path)
        .chain(
            toolkits.flat_map(|toolkit| [toolkit.join("bin"), toolkit.join("compute-sanitizer")]),
        )
        .chain(versions("/opt/nvidia/nsight-compute"));
    let mut programs = folders.map(|folder| folder.join(name));
    programs.find(|program| program.is_file())
}

/// The folders of a tool that lies there once for each version, newest first.
fn versions(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    found.sort();
    found.reverse();
    found
}

/// Whether only an administrator may read a GPU's counters; `None` where the system does not tell.
pub fn counters_need_an_administrator() -> Option<bool> {
    parameter(&std::fs::read_to_string(Path::new(PARAMETERS)).ok()?)
}

fn parameter(text: &str) -> Option<bool> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let mut values = lines.filter(|(name, _)| name.trim() == "RmProfilingAdminOnly");
    Some(values.next()?.1.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::parameter;

    #[test]
    fn the_driver_tells_who_may_count() {
        let text = |value: &str| {
            format!("ResmanDebugLevel: 4294967295\nRmProfilingAdminOnly: {value}\nA: 0\n")
        };
        assert_eq!(parameter(&text("1")), Some(true));
        assert_eq!(parameter(&text("0")), Some(false));
        assert_eq!(parameter("A: 0\n"), None);
    }
}
