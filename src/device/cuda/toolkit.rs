//! Where NVRTC and the headers lie on this machine: what the environment names, the loader's folders, the usual ones, and what
//! Python's packages brought.
//!
//! Loads nothing. What was found is remembered, with everything that it was decided by, because asking Python takes longer than
//! compiling.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::base::{Digest, Failure, environment};
use crate::device::cache;

/// What decides, besides files.
const DECIDING_VARIABLES: &[&str] = &[
    "CUDA_HOME",
    "CUDA_PATH",
    "CUTLASS_PATH",
    "KFORGE_PYTHON",
    "LD_LIBRARY_PATH",
    "VIRTUAL_ENV",
    "PATH",
];
/// From this version on the display driver runs what CUDA 13 makes.
const MIN_DRIVER_FOR_CUDA_13: u32 = 580;
/// Headers without which honest kernels do not compile, with the package that has each.
const REQUIRED_HEADERS: &[(&str, &str)] = &[
    ("cuda_fp16.h", "nvidia-cuda-runtime"),
    ("cooperative_groups.h", "nvidia-cuda-runtime"),
    ("nv/target", "nvidia-cuda-cccl"),
];

/// NVRTC with its headers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Toolkit {
    /// The library, by its full path.
    pub library: PathBuf,
    /// Folders of CUDA's own headers and of CCCL's.
    pub includes: Vec<PathBuf>,
    /// The folder of CUTLASS's headers, if it is installed.
    pub cutlass: Option<PathBuf>,
}

/// What was found, and by what it was decided.
#[derive(Serialize, Deserialize)]
struct CachedToolkit {
    kforge: String,
    toolkit: Toolkit,
    witnesses: Vec<(PathBuf, Option<FileStamp>)>,
}

/// When and how large; another file or an installed package has another.
type FileStamp = (u64, u32, u64);

/// Finds NVRTC and its headers.
///
/// # Errors
/// `Failure::environment` that names what is missing, with the line that installs it.
pub(super) fn find_toolkit() -> Result<Toolkit, Failure> {
    let file = cache_file();
    if let Some(toolkit) = load_cached(&file) {
        return Ok(toolkit);
    }
    let mut search = ToolkitSearch::default();
    let toolkit = search.run()?;
    let kept = CachedToolkit {
        kforge: env!("CARGO_PKG_VERSION").to_owned(),
        toolkit: toolkit.clone(),
        witnesses: search.witnesses,
    };
    // Where it cannot be kept, the next process searches again.
    if let (Ok(text), Some(folder)) = (serde_json::to_vec(&kept), file.parent()) {
        let _ = cache::create_folder(folder).map(|()| cache::write_atomically(&file, &text));
    }
    Ok(toolkit)
}

impl Toolkit {
    /// All folders that `#include` looks in, in their order.
    pub(super) fn folders(&self) -> impl Iterator<Item = &PathBuf> {
        self.includes.iter().chain(&self.cutlass)
    }

    pub(super) fn has_header(&self, name: &str) -> bool {
        self.folders().any(|folder| folder.join(name).is_file())
    }

    /// The same for the same files.
    pub(super) fn identity(&self) -> String {
        let mut text = format!(
            "{} {:?}\n",
            self.library.display(),
            file_stamp(&self.library)
        );
        for folder in self.folders() {
            let known = REQUIRED_HEADERS.iter().map(|(name, _)| *name);
            let names = known.chain([
                "",
                "cuda_bf16.hpp",
                "cuda_fp16.hpp",
                "cuda_runtime_api.h",
                "cuda/std/version",
                "cutlass/version.h",
            ]);
            for file in names.map(|name| folder.join(name)) {
                text += &format!("{} {:?}\n", file.display(), file_stamp(&file));
            }
        }
        text
    }
}

fn cache_file() -> PathBuf {
    let values = DECIDING_VARIABLES.iter().map(|name| {
        let value = std::env::var_os(name).unwrap_or_default();
        format!("{name}={}\n", value.to_string_lossy())
    });
    let key = Digest::of(values.collect::<String>());
    cache::folder().join("toolkits").join(format!("{key}.json"))
}

fn load_cached(file: &Path) -> Option<Toolkit> {
    let kept: CachedToolkit = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    let holds = kept
        .witnesses
        .iter()
        .all(|(path, known)| file_stamp(path) == *known);
    (holds && kept.kforge == env!("CARGO_PKG_VERSION")).then_some(kept.toolkit)
}

fn file_stamp(path: &Path) -> Option<FileStamp> {
    let metadata = path.metadata().ok()?;
    let modified = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some((modified.as_secs(), modified.subsec_nanos(), metadata.len()))
}

/// A place that may hold both.
#[derive(Clone, Debug, Default)]
struct ToolkitLocation {
    /// Newest first.
    libraries: Vec<PathBuf>,
    includes: Vec<PathBuf>,
}

#[derive(Default)]
struct ToolkitSearch {
    witnesses: Vec<(PathBuf, Option<FileStamp>)>,
}

impl ToolkitSearch {
    fn run(&mut self) -> Result<Toolkit, Failure> {
        let packages = self.python_package_folders();
        let named = std::env::var_os("KFORGE_PYTHON").is_some();
        let of_packages = packages
            .iter()
            .flat_map(|folder| self.search_python_packages(folder));
        let of_packages: Vec<_> = of_packages.collect();
        let mut places = Vec::new();
        if named {
            places.extend(of_packages.clone());
        }
        for name in ["CUDA_HOME", "CUDA_PATH"] {
            places.extend(env_value(name).map(|root| self.search_root(Path::new(&root))));
        }
        places.push(self.search_loader_paths());
        for root in self.usual_roots() {
            places.push(self.search_root(&root));
        }
        places.extend(of_packages);
        let cutlass = self.find_cutlass(&packages);
        let most = max_supported_major();
        let suits = |library: &&PathBuf| major_version(library).is_some_and(|major| major <= most);
        // A place that has both goes before one that has half.
        let whole = places.iter().find_map(|place| {
            let library = place.libraries.iter().find(suits)?;
            first_missing_header(&place.includes)
                .is_none()
                .then(|| (library.clone(), place.includes.clone()))
        });
        let parts = || {
            let library = places
                .iter()
                .flat_map(|place| &place.libraries)
                .find(suits)?;
            let mut includes: Vec<PathBuf> = Vec::new();
            for folder in places.iter().flat_map(|place| &place.includes) {
                // Each folder that brings something which the others lack.
                let brings = REQUIRED_HEADERS.iter().any(|(name, _)| {
                    folder.join(name).is_file()
                        && !includes.iter().any(|known| known.join(name).is_file())
                });
                if brings {
                    includes.push(folder.clone());
                }
            }
            Some((library.clone(), includes))
        };
        let Some((library, includes)) = whole.or_else(parts) else {
            return Err(missing_toolkit(
                "NVRTC was not found (`libnvrtc.so.13` or `.12`)",
            ));
        };
        if let Some((header, package)) = first_missing_header(&includes) {
            let message = format!(
                "NVRTC is at `{}`, and CUDA's header `{header}` was not found (package `{package}`)",
                library.display()
            );
            return Err(missing_toolkit(&message));
        }
        self.record_witness(&library);
        Ok(Toolkit {
            library,
            includes,
            cutlass,
        })
    }

    /// Remembers how a path was when it was looked at.
    fn record_witness(&mut self, path: &Path) -> bool {
        let found = file_stamp(path);
        if !self.witnesses.iter().any(|(known, _)| known == path) {
            self.witnesses.push((path.to_owned(), found));
        }
        found.is_some()
    }

    fn libraries_in(&mut self, folder: &Path) -> Vec<PathBuf> {
        self.record_witness(folder);
        let names = ["libnvrtc.so.13", "libnvrtc.so.12"].iter();
        names
            .map(|name| folder.join(name))
            .filter(|file| file.is_file())
            .collect()
    }

    fn search_root(&mut self, root: &Path) -> ToolkitLocation {
        let mut place = ToolkitLocation::default();
        if !self.record_witness(root) {
            return place;
        }
        for folder in [
            "lib64",
            "lib",
            "targets/x86_64-linux/lib",
            "targets/sbsa-linux/lib",
        ] {
            place
                .libraries
                .extend(self.libraries_in(&root.join(folder)));
        }
        for folder in [
            "include",
            "targets/x86_64-linux/include",
            "targets/sbsa-linux/include",
        ] {
            place.includes.extend(self.headers_in(&root.join(folder)));
        }
        newest_first(&mut place.libraries);
        place
    }

    /// A folder of headers with CCCL's below it; nothing where it has none of CUDA's.
    fn headers_in(&mut self, folder: &Path) -> Vec<PathBuf> {
        let both = [folder.to_owned(), folder.join("cccl")];
        let has_some = |folder: &PathBuf| {
            REQUIRED_HEADERS
                .iter()
                .any(|(name, _)| folder.join(name).is_file())
        };
        let folders = both
            .into_iter()
            .filter(has_some)
            .filter_map(|folder| folder.canonicalize().ok());
        let folders: Vec<_> = folders.collect();
        for folder in &folders {
            self.record_witness(folder);
        }
        folders
    }

    fn search_loader_paths(&mut self) -> ToolkitLocation {
        let mut folders: Vec<PathBuf> = env_value("LD_LIBRARY_PATH")
            .map(|list| std::env::split_paths(&list).collect())
            .unwrap_or_default();
        self.record_witness(Path::new("/etc/ld.so.cache"));
        for program in ["ldconfig", "/sbin/ldconfig"] {
            let listed = Command::new(program)
                .arg("-p")
                .env_clear()
                .stdin(Stdio::null())
                .output();
            let Ok(listed) = listed else { continue };
            let text = String::from_utf8_lossy(&listed.stdout).into_owned();
            let known = text.lines().filter(|line| line.contains("libnvrtc.so."));
            let known =
                known.filter_map(|line| Path::new(line.split_once("=> ")?.1.trim()).parent());
            folders.extend(known.map(Path::to_owned));
            break;
        }
        let mut place = ToolkitLocation::default();
        for folder in folders.iter().filter(|folder| folder.is_absolute()) {
            place.libraries.extend(self.libraries_in(folder));
            // `PREFIX/lib64` beside `PREFIX/include`; the system's own headers are no CUDA's.
            let prefix = folder
                .parent()
                .filter(|prefix| ![Path::new("/"), Path::new("/usr")].contains(prefix));
            if let Some(prefix) = prefix {
                place
                    .includes
                    .extend(self.headers_in(&prefix.join("include")));
            }
        }
        newest_first(&mut place.libraries);
        place
    }

    fn usual_roots(&mut self) -> Vec<PathBuf> {
        let local = Path::new("/usr/local");
        self.record_witness(local);
        let versions = std::fs::read_dir(local).into_iter().flatten().flatten();
        let mut versions: Vec<_> = versions
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

    /// Folders that Python takes packages from.
    fn python_package_folders(&mut self) -> Vec<PathBuf> {
        let mut folders = Vec::new();
        let environment = env_value("VIRTUAL_ENV").map(|root| PathBuf::from(root).join("lib"));
        let versions = environment
            .iter()
            .flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten());
        folders.extend(versions.map(|entry| entry.path().join("site-packages")));
        let named = env_value("KFORGE_PYTHON");
        let python = named.clone().unwrap_or_else(|| "python3".into());
        let mut command = Command::new(python);
        environment::withheld_variables().iter().for_each(|name| {
            command.env_remove(name);
        });
        let asked = command
            .args(["-c", "import sys; print('\\n'.join(sys.path))"])
            .stdin(Stdio::null())
            .output();
        let text = asked
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .unwrap_or_default();
        let known = text
            .lines()
            .filter(|line| line.ends_with("-packages"))
            .map(PathBuf::from);
        match named {
            // Its packages come first: somebody meant them.
            Some(_) => folders.splice(0..0, known).for_each(drop),
            None => folders.extend(known),
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

    /// `nvidia/cu13` holds all of CUDA 13; before it every package had a folder of its own.
    fn search_python_packages(&mut self, packages: &Path) -> Vec<ToolkitLocation> {
        let root = packages.join("nvidia");
        self.record_witness(&root);
        let mut whole = ToolkitLocation::default();
        let mut parts = ToolkitLocation::default();
        let entries = std::fs::read_dir(&root).into_iter().flatten().flatten();
        let mut folders: Vec<_> = entries.map(|entry| entry.path()).collect();
        folders.sort();
        for folder in folders {
            let is_whole = folder
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("cu1"));
            let place = if is_whole { &mut whole } else { &mut parts };
            place
                .libraries
                .extend(self.libraries_in(&folder.join("lib")));
            place
                .includes
                .extend(self.headers_in(&folder.join("include")));
        }
        newest_first(&mut whole.libraries);
        newest_first(&mut parts.libraries);
        vec![whole, parts]
    }

    fn find_cutlass(&mut self, packages: &[PathBuf]) -> Option<PathBuf> {
        let mut folders: Vec<PathBuf> = Vec::new();
        folders.extend(env_value("CUTLASS_PATH").map(|root| PathBuf::from(root).join("include")));
        for root in ["/usr/local/cutlass", "/opt/cutlass"] {
            folders.push(Path::new(root).join("include"));
        }
        folders.extend(
            packages
                .iter()
                .map(|folder| folder.join("cutlass_library/source/include")),
        );
        for folder in &folders {
            self.record_witness(folder);
        }
        let found = folders
            .into_iter()
            .find(|folder| folder.join("cutlass/cutlass.h").is_file());
        found.and_then(|folder| folder.canonicalize().ok())
    }
}

fn env_value(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The first header that is in none of the folders, and its package.
fn first_missing_header(includes: &[PathBuf]) -> Option<(&'static str, &'static str)> {
    let lacks = |name: &str| !includes.iter().any(|folder| folder.join(name).is_file());
    REQUIRED_HEADERS
        .iter()
        .copied()
        .find(|(name, _)| lacks(name))
}

fn newest_first(libraries: &mut [PathBuf]) {
    libraries.sort_by_key(|library| std::cmp::Reverse(major_version(library)));
}

fn major_version(library: &Path) -> Option<u32> {
    library.extension()?.to_str()?.parse().ok()
}

/// The newest CUDA whose machine code this machine's driver takes; where there is none, the newest there is.
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
        "`pip install {packages}`, and let KFORGE_PYTHON name that Python if it is not `python3`; or let CUDA_HOME name a toolkit"
    ))
}
