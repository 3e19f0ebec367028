//! What holds a candidate and its compiler: Landlock for files, seccomp for system calls, no capability, limits.
//!
//! Everything is made before a fork and put on between fork and exec by system calls alone, so that neither ever runs a first
//! instruction outside. What a machine lacks is left out and said; nothing here decides whether that is good enough. A
//! candidate's process then takes more away from itself (`runtime/confine.h`); that only narrows what stands here.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::Context;

mod privileges;
mod probe;
mod rules;
mod seccomp;

pub use probe::{SandboxSupport, require_sandbox, sandbox_support};
pub(super) use seccomp::system_call_name as name_of_call;

use rules::LandlockRules;
use seccomp::SeccompFilter;

/// Where a machine's own tools, headers and libraries lie.
const SYSTEM_PATHS: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ld.so.preload",
    "/etc/alternatives",
    "/nix/store",
    "/gnu/store",
    // What `-mcpu=native` is decided by on some machines.
    "/proc/cpuinfo",
    "/sys/devices/system/cpu",
];
/// Of it, what a program needs that is not linked statically.
const LIBRARY_PATHS: &[&str] = &[
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/local/lib",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/ld.so.cache",
    "/nix/store",
    "/gnu/store",
];

/// Limits that nothing that runs here ever needs to reach.
const COMMON_LIMITS: &[(libc::__rlimit_resource_t, u64)] = &[
    (libc::RLIMIT_CORE, 0),
    (libc::RLIMIT_MEMLOCK, 0),
    (libc::RLIMIT_MSGQUEUE, 0),
    (libc::RLIMIT_SIGPENDING, 64),
    (libc::RLIMIT_NICE, 0),
    (libc::RLIMIT_RTPRIO, 0),
];
/// Tasks of the user nobody, all programs of the machine together: to count them says little of one, but ends a bomb.
const MAX_NOBODY_TASKS: u64 = 4096;
const MAX_CANDIDATE_FILES: u64 = 16;
const MAX_CANDIDATE_STACK: u64 = 8 << 20;

/// Its first argument, as a candidate's process sees it.
const CANDIDATE_NAME: &CStr = c"kernel";

/// What one process will be held by.
pub(super) struct Confinement {
    rules: Option<LandlockRules>,
    filter: Option<&'static SeccompFilter>,
    become_nobody: bool,
    limits: Vec<(libc::__rlimit_resource_t, u64)>,
    /// Descriptors from this one on go.
    first_closed: u32,
    /// Opened before, because a candidate's process may open nothing.
    executable: Option<OwnedFd>,
}

impl Confinement {
    /// For a candidate's process, which keeps descriptors 0 to 3. `limits` come on top of those that all have.
    pub(super) fn for_candidate(
        executable: &Path,
        limits: &[(libc::__rlimit_resource_t, u64)],
    ) -> anyhow::Result<Self> {
        static FILTERS: [OnceLock<Option<SeccompFilter>>; 2] = [OnceLock::new(), OnceLock::new()];
        let found = sandbox_support();
        let opened = File::open(executable)
            .with_context(|| format!("failed to open `{}`", executable.display()))?;
        let is_static = !needs_loader(&opened);
        let libraries: Vec<_> = match is_static {
            true => Vec::new(),
            false => LIBRARY_PATHS.iter().map(PathBuf::from).collect(),
        };
        let rules = match found.landlock {
            Some(_) => LandlockRules::for_candidate(&opened, &libraries)?,
            None => None,
        };
        let filter = FILTERS[usize::from(is_static)]
            .get_or_init(|| SeccompFilter::for_candidate(!is_static))
            .as_ref()
            .filter(|_| found.seccomp);
        let mut limits = [
            COMMON_LIMITS,
            &[
                (libc::RLIMIT_NOFILE, MAX_CANDIDATE_FILES),
                (libc::RLIMIT_STACK, MAX_CANDIDATE_STACK),
            ],
            limits,
        ]
        .concat();
        if found.runs_as_nobody {
            limits.push((libc::RLIMIT_NPROC, MAX_NOBODY_TASKS));
        }
        Ok(Self {
            rules,
            filter,
            become_nobody: found.runs_as_nobody,
            limits,
            first_closed: 4,
            executable: Some(opened.into()),
        })
    }

    /// For a compiler and its children: it reads the system's folders and `readable`, and writes in one folder.
    pub(super) fn for_compiler(
        readable: &[PathBuf],
        writable: &Path,
        limits: &[(libc::__rlimit_resource_t, u64)],
    ) -> anyhow::Result<Self> {
        static FILTER: OnceLock<Option<SeccompFilter>> = OnceLock::new();
        let found = sandbox_support();
        let readable: Vec<_> = SYSTEM_PATHS
            .iter()
            .map(PathBuf::from)
            .chain(readable.iter().cloned())
            .collect();
        let rules = match found.landlock {
            Some(_) => LandlockRules::for_compiler(&readable, writable)?,
            None => None,
        };
        let filter = FILTER.get_or_init(SeccompFilter::for_compiler).as_ref();
        Ok(Self {
            rules,
            filter: filter.filter(|_| found.seccomp),
            become_nobody: false,
            limits: [COMMON_LIMITS, limits].concat(),
            first_closed: 3,
            executable: None,
        })
    }

    /// For CUDA's compiler, which starts nothing: it reads libraries and `readable`, and writes nowhere.
    pub(super) fn for_nvrtc(
        readable: &[PathBuf],
        limits: &[(libc::__rlimit_resource_t, u64)],
    ) -> anyhow::Result<Self> {
        static FILTER: OnceLock<Option<SeccompFilter>> = OnceLock::new();
        let found = sandbox_support();
        let libraries = LIBRARY_PATHS.iter().map(PathBuf::from);
        let readable: Vec<_> = libraries.chain(readable.iter().cloned()).collect();
        let rules = match found.landlock {
            Some(_) => LandlockRules::for_reader(&readable)?,
            None => None,
        };
        let filter = FILTER.get_or_init(SeccompFilter::for_compiler).as_ref();
        Ok(Self {
            rules,
            filter: filter.filter(|_| found.seccomp),
            become_nobody: false,
            limits: [COMMON_LIMITS, limits].concat(),
            first_closed: 3,
            executable: None,
        })
    }

    /// Moves what it has open under this number elsewhere: the process puts something else there before it is confined.
    pub(super) fn avoid_descriptor(&mut self, number: RawFd) -> anyhow::Result<()> {
        let rules = self.rules.as_mut().map(LandlockRules::descriptor_mut);
        for descriptor in [rules, self.executable.as_mut()].into_iter().flatten() {
            if descriptor.as_raw_fd() == number {
                *descriptor = descriptor
                    .try_clone()
                    .context("failed to move a descriptor")?;
            }
        }
        Ok(())
    }

    /// Puts all of it on this process. Only system calls: this stands between fork and exec.
    pub(super) fn apply(&self) -> io::Result<()> {
        privileges::mark_close_on_exec(self.first_closed);
        for (resource, limit) in &self.limits {
            privileges::lower_limit(*resource, *limit)?;
        }
        privileges::drop_privileges(self.become_nobody)?;
        privileges::die_with_parent()?;
        if let Some(rules) = &self.rules {
            rules.apply()?;
        }
        // Last: it would stand in the way of all the others.
        match self.filter {
            Some(filter) => filter.apply(),
            None => Ok(()),
        }
    }

    /// Begins the executable that this was made for, without environment, by its descriptor: no folder on the way to it needs to
    /// be open to whoever runs it. Returns only if that fails.
    pub(super) fn execute(&self) -> io::Error {
        let Some(executable) = &self.executable else {
            return io::ErrorKind::NotFound.into();
        };
        let arguments = [CANDIDATE_NAME.as_ptr(), std::ptr::null()];
        let environment = [std::ptr::null::<libc::c_char>()];
        // SAFETY: strings and lists that end with null, alive until the call replaces this program or fails.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                executable.as_raw_fd(),
                c"".as_ptr(),
                arguments.as_ptr(),
                environment.as_ptr(),
                libc::AT_EMPTY_PATH,
            );
        }
        io::Error::last_os_error()
    }
}

/// Whether an executable names a loader, which reads libraries before it begins.
fn needs_loader(executable: &File) -> bool {
    const HEADER_BYTES: usize = 64;
    const LOADER: u32 = 3;
    let mut bytes = [0u8; 1024];
    let Ok(read) = executable.read_at(&mut bytes, 0) else {
        return true;
    };
    let bytes = &bytes[..read];
    let half = |at: usize| {
        bytes
            .get(at..at + 2)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u16::from_le_bytes)
    };
    let (Some(size), Some(count)) = (half(54), half(56)) else {
        return true;
    };
    // The table lies behind the header in whatever a linker makes; anything else is taken for the worse.
    (0..usize::from(count)).any(|index| {
        let at = HEADER_BYTES + index * usize::from(size);
        let kind = bytes
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u32::from_le_bytes);
        kind.is_none_or(|kind| kind == LOADER)
    })
}

/// Keeps this process, which must have one thread yet, and all that it starts from writing anywhere but below `writable`, from the
/// network and from signals to others. `false` where the system cannot.
pub(super) fn confine_worker(writable: &[PathBuf]) -> anyhow::Result<bool> {
    if rules::landlock_version().is_none() {
        return Ok(false);
    }
    let Some(rules) = LandlockRules::for_worker(writable)? else {
        return Ok(false);
    };
    // SAFETY: no memory is passed.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Ok(false);
    }
    rules
        .apply()
        .context("failed to put a Landlock ruleset on")?;
    Ok(true)
}

/// The folders that belong to a compiler which does not lie among the system's own: where it really is, and what it says
/// that it searches.
pub(super) fn compiler_folders(
    compiler: &Path,
    search_folders: impl FnOnce() -> String,
) -> Vec<PathBuf> {
    let Ok(real) = compiler.canonicalize() else {
        return Vec::new();
    };
    let is_the_systems = |path: &Path| SYSTEM_PATHS.iter().any(|system| path.starts_with(system));
    if is_the_systems(&real) {
        return Vec::new();
    }
    let mut folders: Vec<PathBuf> = real.parent().map(Path::to_owned).into_iter().collect();
    // `PREFIX/bin/c++` belongs to all of PREFIX, unless that is somebody's home or all there is.
    let home = std::env::var_os("HOME").map(PathBuf::from);
    if let Some(prefix) = real
        .parent()
        .filter(|folder| folder.ends_with("bin"))
        .and_then(Path::parent)
        && prefix.parent().is_some()
        && !home.is_some_and(|home| home.starts_with(prefix))
    {
        folders.push(prefix.to_owned());
    }
    let search_folders = search_folders();
    let named = search_folders
        .lines()
        .filter_map(|line| line.split_once(": "))
        .flat_map(|(_, list)| list.trim_start_matches('=').split(':'));
    folders.extend(
        named
            .filter_map(|folder| Path::new(folder).canonicalize().ok())
            .filter(|folder| !is_the_systems(folder) && folder.parent().is_some()),
    );
    folders.sort();
    folders.dedup();
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn avoid_descriptor_moves_open_descriptors() {
        let program = std::env::current_exe().unwrap();
        let mut confinement = Confinement::for_candidate(&program, &[]).unwrap();
        let numbers = |confinement: &Confinement| -> Vec<RawFd> {
            let rules = confinement.rules.as_ref().map(LandlockRules::descriptor);
            let both = [rules, confinement.executable.as_ref()];
            both.into_iter().flatten().map(AsRawFd::as_raw_fd).collect()
        };
        for number in numbers(&confinement) {
            confinement.avoid_descriptor(number).unwrap();
            let now = numbers(&confinement);
            assert!(!now.contains(&number), "{number} is among {now:?}");
        }
    }
}
