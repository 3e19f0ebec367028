//! Searches this machine for NVRTC and its headers: in the folders that environment variables name, the loader's folders, the usual
//! installation folders, and Python packages.
//!
//! Loads no library and caches nothing. Records every path that decided the search (a witness): `toolkit_cache` searches again when one of
//! them has changed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::toolkit::{FileStamp, REQUIRED_HEADERS, Toolkit, file_stamp};
use crate::base::process::read_output;
use crate::base::{Failure, environment};

/// The first display driver that runs code of CUDA 13.
const MIN_DRIVER_FOR_CUDA_13: u32 = 580;
/// How long `ldconfig` or `python3` may take to print its folders.
const PROGRAM_LIMIT: Duration = Duration::from_secs(30);

/// A location that may contain the library, the headers, or both.
#[derive(Clone, Debug, Default)]
struct ToolkitLocation {
    /// Newest first.
    libraries: Vec<PathBuf>,
    includes: Vec<PathBuf>,
}

/// A search in progress.
#[derive(Default)]
pub(super) struct ToolkitSearch {
    /// The paths that the result depends on. Each has the stamp that it had during the search.
    pub(super) witnesses: Vec<(PathBuf, Option<FileStamp>)>,
}

impl ToolkitSearch {
    pub(super) fn run(&mut self) -> Result<Toolkit, Failure> {
        let packages = self.python_package_folders();
        let locations = self.locations(&packages);
        let cutlass = self.find_cutlass(&packages);
        let Some((library, includes)) =
            complete_location(&locations).or_else(|| combined_location(&locations))
        else {
            return Err(missing_toolkit(
                "NVRTC was not found (`libnvrtc.so.13` or `.12`)",
            ));
        };
        if let Some((header, package)) = first_missing_header(&includes) {
            return Err(missing_toolkit(&format!(
                "NVRTC is at `{}`, but CUDA's header `{header}` was not found (package `{package}`)",
                library.display()
            )));
        }
        self.record_witness(&library);
        Ok(Toolkit {
            library,
            includes,
            cutlass,
        })
    }

    /// All locations, in the order of preference.
    fn locations(&mut self, packages: &[PathBuf]) -> Vec<ToolkitLocation> {
        let mut of_packages = Vec::new();
        for folder in packages {
            of_packages.extend(self.search_python_packages(folder));
        }
        let mut locations = Vec::new();
        // The packages of an explicitly named Python come first.
        if std::env::var_os("KFORGE_PYTHON").is_some() {
            locations.extend(of_packages.clone());
        }
        for name in ["CUDA_HOME", "CUDA_PATH"] {
            locations.extend(env_value(name).map(|root| self.search_root(Path::new(&root))));
        }
        locations.push(self.search_loader_paths());
        for root in self.usual_roots() {
            locations.push(self.search_root(&root));
        }
        locations.extend(of_packages);
        locations
    }

    /// Records the stamp of a path that the result depends on. Returns whether the path exists.
    fn record_witness(&mut self, path: &Path) -> bool {
        let stamp = file_stamp(path);
        if !self.witnesses.iter().any(|(known, _)| known == path) {
            self.witnesses.push((path.to_owned(), stamp));
        }
        stamp.is_some()
    }

    fn libraries_in(&mut self, folder: &Path) -> Vec<PathBuf> {
        self.record_witness(folder);
        let names = ["libnvrtc.so.13", "libnvrtc.so.12"].iter();
        names
            .map(|name| folder.join(name))
            .filter(|file| file.is_file())
            .collect()
    }

    /// Searches a folder in which a CUDA toolkit may be installed.
    fn search_root(&mut self, root: &Path) -> ToolkitLocation {
        let mut location = ToolkitLocation::default();
        if !self.record_witness(root) {
            return location;
        }
        for folder in [
            "lib64",
            "lib",
            "targets/x86_64-linux/lib",
            "targets/sbsa-linux/lib",
        ] {
            let libraries = self.libraries_in(&root.join(folder));
            location.libraries.extend(libraries);
        }
        for folder in [
            "include",
            "targets/x86_64-linux/include",
            "targets/sbsa-linux/include",
        ] {
            location
                .includes
                .extend(self.headers_in(&root.join(folder)));
        }
        newest_first(&mut location.libraries);
        location
    }

    /// An include folder, and CCCL's folder inside it. Each is left out if it has no required header.
    fn headers_in(&mut self, folder: &Path) -> Vec<PathBuf> {
        let has_some = |folder: &PathBuf| {
            let mut headers = REQUIRED_HEADERS.iter();
            headers.any(|(name, _)| folder.join(name).is_file())
        };
        let folders: Vec<_> = [folder.to_owned(), folder.join("cccl")]
            .into_iter()
            .filter(has_some)
            .filter_map(|folder| folder.canonicalize().ok())
            .collect();
        for folder in &folders {
            self.record_witness(folder);
        }
        folders
    }

    /// Searches `LD_LIBRARY_PATH` and the folders that `ldconfig` lists.
    fn search_loader_paths(&mut self) -> ToolkitLocation {
        let mut folders: Vec<PathBuf> = env_value("LD_LIBRARY_PATH")
            .map(|list| std::env::split_paths(&list).collect())
            .unwrap_or_default();
        self.record_witness(Path::new("/etc/ld.so.cache"));
        for program in ["ldconfig", "/sbin/ldconfig"] {
            let mut command = Command::new(program);
            command.arg("-p").env_clear();
            let Ok(text) = read_output(&mut command, PROGRAM_LIMIT) else {
                continue;
            };
            let lines = text.lines().filter(|line| line.contains("libnvrtc.so."));
            let listed =
                lines.filter_map(|line| Path::new(line.split_once("=> ")?.1.trim()).parent());
            folders.extend(listed.map(Path::to_owned));
            break;
        }
        let mut location = ToolkitLocation::default();
        for folder in folders.iter().filter(|folder| folder.is_absolute()) {
            location.libraries.extend(self.libraries_in(folder));
            // `PREFIX/include` next to `PREFIX/lib64`, except for the system's own prefixes.
            let prefix = folder
                .parent()
                .filter(|prefix| ![Path::new("/"), Path::new("/usr")].contains(prefix));
            if let Some(prefix) = prefix {
                let includes = self.headers_in(&prefix.join("include"));
                location.includes.extend(includes);
            }
        }
        newest_first(&mut location.libraries);
        location
    }

    /// The usual installation folders, the newest version first.
    fn usual_roots(&mut self) -> Vec<PathBuf> {
        let local = Path::new("/usr/local");
        self.record_witness(local);
        let entries = std::fs::read_dir(local).into_iter().flatten().flatten();
        let mut versions: Vec<_> = entries
            .map(|entry| entry.path())
            .filter(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with("cuda-"))
            })
            .collect();
        let number = |path: &PathBuf| -> Vec<u32> {
            let name = path.to_string_lossy().into_owned();
            let (_, version) = name.rsplit_once('-').unwrap_or_default();
            version
                .split('.')
                .filter_map(|part| part.parse().ok())
                .collect()
        };
        versions.sort_by_key(|path| std::cmp::Reverse(number(path)));
        let first = [local.join("cuda")].into_iter();
        first
            .chain(versions)
            .chain([PathBuf::from("/opt/cuda")])
            .collect()
    }

    /// Python's package folders, those of `KFORGE_PYTHON` or of the virtual environment first.
    fn python_package_folders(&mut self) -> Vec<PathBuf> {
        let mut folders = Vec::new();
        let environment = env_value("VIRTUAL_ENV").map(|root| PathBuf::from(root).join("lib"));
        let versions = environment
            .iter()
            .flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten());
        folders.extend(versions.map(|entry| entry.path().join("site-packages")));
        let named = env_value("KFORGE_PYTHON");
        let mut command = Command::new(named.clone().unwrap_or_else(|| "python3".into()));
        environment::withheld_variables().iter().for_each(|name| {
            command.env_remove(name);
        });
        command.args(["-c", "import sys; print('\\n'.join(sys.path))"]);
        let text = read_output(&mut command, PROGRAM_LIMIT).unwrap_or_default();
        let listed = text
            .lines()
            .filter(|line| line.ends_with("-packages"))
            .map(PathBuf::from);
        if named.is_some() {
            folders.splice(0..0, listed).for_each(drop);
        } else {
            folders.extend(listed);
        }
        let mut seen = Vec::new();
        folders.retain(|folder| {
            folder.is_dir() && !seen.contains(folder) && {
                seen.push(folder.clone());
                true
            }
        });
        for folder in &folders {
            self.record_witness(folder);
        }
        folders
    }

    /// In CUDA 13 all packages share the folder `nvidia/cu13`; before, each package had its own.
    fn search_python_packages(&mut self, packages: &Path) -> Vec<ToolkitLocation> {
        let root = packages.join("nvidia");
        self.record_witness(&root);
        let mut shared = ToolkitLocation::default();
        let mut separate = ToolkitLocation::default();
        let entries = std::fs::read_dir(&root).into_iter().flatten().flatten();
        let mut folders: Vec<_> = entries.map(|entry| entry.path()).collect();
        folders.sort();
        for folder in folders {
            let is_shared = folder
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("cu1"));
            let location = if is_shared {
                &mut shared
            } else {
                &mut separate
            };
            let libraries = self.libraries_in(&folder.join("lib"));
            location.libraries.extend(libraries);
            location
                .includes
                .extend(self.headers_in(&folder.join("include")));
        }
        newest_first(&mut shared.libraries);
        newest_first(&mut separate.libraries);
        vec![shared, separate]
    }

    fn find_cutlass(&mut self, packages: &[PathBuf]) -> Option<PathBuf> {
        let mut folders: Vec<PathBuf> = Vec::new();
        folders.extend(env_value("CUTLASS_PATH").map(|root| PathBuf::from(root).join("include")));
        for root in ["/usr/local/cutlass", "/opt/cutlass"] {
            folders.push(Path::new(root).join("include"));
        }
        let of_packages = packages.iter();
        folders.extend(of_packages.map(|folder| folder.join("cutlass_library/source/include")));
        for folder in &folders {
            self.record_witness(folder);
        }
        let found = folders
            .into_iter()
            .find(|folder| folder.join("cutlass/cutlass.h").is_file());
        found.and_then(|folder| folder.canonicalize().ok())
    }
}

/// The first location that has a suitable library and all required headers.
fn complete_location(locations: &[ToolkitLocation]) -> Option<(PathBuf, Vec<PathBuf>)> {
    locations.iter().find_map(|location| {
        let library = suitable_library(&location.libraries)?;
        first_missing_header(&location.includes)
            .is_none()
            .then(|| (library.clone(), location.includes.clone()))
    })
}

/// The first suitable library of any location, with the include folders of all locations that add a required header.
fn combined_location(locations: &[ToolkitLocation]) -> Option<(PathBuf, Vec<PathBuf>)> {
    let libraries = locations.iter();
    let library = suitable_library(libraries.flat_map(|location| &location.libraries))?;
    let mut includes: Vec<PathBuf> = Vec::new();
    for folder in locations.iter().flat_map(|location| &location.includes) {
        let adds_header = REQUIRED_HEADERS.iter().any(|(name, _)| {
            folder.join(name).is_file() && !includes.iter().any(|known| known.join(name).is_file())
        });
        if adds_header {
            includes.push(folder.clone());
        }
    }
    Some((library.clone(), includes))
}

/// The first library that this machine's driver supports.
fn suitable_library<'a>(libraries: impl IntoIterator<Item = &'a PathBuf>) -> Option<&'a PathBuf> {
    let limit = max_supported_major();
    let mut libraries = libraries.into_iter();
    libraries.find(|library| major_version(library).is_some_and(|major| major <= limit))
}

fn env_value(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The first required header that is in none of the folders, and its package.
fn first_missing_header(includes: &[PathBuf]) -> Option<(&'static str, &'static str)> {
    let is_missing = |name: &str| !includes.iter().any(|folder| folder.join(name).is_file());
    let mut headers = REQUIRED_HEADERS.iter().copied();
    headers.find(|(name, _)| is_missing(name))
}

fn newest_first(libraries: &mut [PathBuf]) {
    libraries.sort_by_key(|library| std::cmp::Reverse(major_version(library)));
}

fn major_version(library: &Path) -> Option<u32> {
    library.extension()?.to_str()?.parse().ok()
}

/// The newest CUDA version whose code this machine's driver runs; without a driver, the newest known one.
fn max_supported_major() -> u32 {
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    let driver = text.split_whitespace().find_map(|word| {
        let (major, rest) = word.split_once('.')?;
        rest.starts_with(|digit: char| digit.is_ascii_digit())
            .then(|| major.parse::<u32>().ok())?
    });
    match driver {
        Some(driver) if driver < MIN_DRIVER_FOR_CUDA_13 => 12,
        _ => 13,
    }
}

fn missing_toolkit(message: &str) -> Failure {
    let packages = match max_supported_major() {
        12 => {
            "nvidia-cuda-nvrtc-cu12 nvidia-cuda-runtime-cu12 nvidia-cuda-cccl-cu12 nvidia-cuda-nvcc-cu12"
        }
        _ => "nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cuda-cccl nvidia-cuda-crt",
    };
    Failure::environment(message).hint(format!(
        "run `pip install {packages}`, and set KFORGE_PYTHON to that Python if it is not `python3`; or set CUDA_HOME to a CUDA toolkit"
    ))
}
