//! The sandbox of candidates and compilers: Landlock rules for files, seccomp filters for system calls, dropped capabilities and
//! resource limits.
//!
//! Everything is prepared before a fork and installed between fork and exec by system calls alone, so that the new program runs
//! no instruction outside the sandbox. Mechanisms that the machine lacks are left out and reported (`probe`); nothing here
//! decides whether the rest is good enough. A candidate's process narrows its sandbox further (`runtime/confine.h`).

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::Context;

use crate::base::process::ParentTie;

mod privileges;
mod probe;
mod rules;
mod seccomp;
mod system_calls;

pub use probe::{SandboxSupport, require_sandbox, sandbox_support};
pub(super) use system_calls::system_call_name;

use rules::LandlockRules;
use seccomp::SystemCallPolicy;

/// A resource and the highest value that its limit may have.
pub(super) type Limit = (libc::__rlimit_resource_t, u64);

/// The system's own tools, headers and libraries.
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
    // `-mcpu=native` reads these on some machines.
    "/proc/cpuinfo",
    "/sys/devices/system/cpu",
];
/// The part of `SYSTEM_PATHS` that a dynamically linked program needs.
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

/// Limits for candidates and compilers alike.
const COMMON_LIMITS: &[Limit] = &[
    (libc::RLIMIT_CORE, 0),
    (libc::RLIMIT_MEMLOCK, 0),
    (libc::RLIMIT_MSGQUEUE, 0),
    // What waits in the queue of signals outlives a launch, and a signal that finds it full is refused: so there is no queue.
    (libc::RLIMIT_SIGPENDING, 0),
    (libc::RLIMIT_NICE, 0),
    (libc::RLIMIT_RTPRIO, 0),
];
/// Tasks of the user `nobody` on the whole machine. The count includes other programs, so the limit is high; it stops fork bombs.
const MAX_NOBODY_TASKS: u64 = 4096;
const MAX_CANDIDATE_FILES: u64 = 16;
const MAX_CANDIDATE_STACK: u64 = 8 << 20;

/// The first argument (`argv[0]`) of a candidate's process.
const CANDIDATE_NAME: &CStr = c"kernel";

/// Everything that confines one process.
pub(super) struct Confinement {
    rules: Option<LandlockRules>,
    policy: Option<&'static SystemCallPolicy>,
    become_nobody: bool,
    tie: ParentTie,
    limits: Vec<Limit>,
    /// The first descriptor to close on exec.
    first_closed: u32,
    /// Opened in advance, because a candidate's process may open nothing.
    executable: Option<OwnedFd>,
}

impl Confinement {
    /// For a candidate's process, which keeps descriptors 0 to 3. `limits` are added to the common limits.
    pub(super) fn for_candidate(executable: &Path, limits: &[Limit]) -> anyhow::Result<Self> {
        static POLICIES: [OnceLock<Option<SystemCallPolicy>>; 2] =
            [OnceLock::new(), OnceLock::new()];
        let support = sandbox_support();
        let opened = File::open(executable)
            .with_context(|| format!("failed to open `{}`", executable.display()))?;
        let with_loader = needs_loader(&opened);
        let rules = match support.landlock {
            Some(_) => {
                let libraries = if with_loader { LIBRARY_PATHS } else { &[] };
                let libraries: Vec<_> = libraries.iter().map(PathBuf::from).collect();
                LandlockRules::for_candidate(&opened, &libraries)?
            }
            None => None,
        };
        let policy = POLICIES[usize::from(with_loader)]
            .get_or_init(|| SystemCallPolicy::for_candidate(with_loader));
        let own_limits = [
            (libc::RLIMIT_NOFILE, MAX_CANDIDATE_FILES),
            (libc::RLIMIT_STACK, MAX_CANDIDATE_STACK),
        ];
        let mut limits = [COMMON_LIMITS, &own_limits, limits].concat();
        if support.runs_as_nobody {
            limits.push((libc::RLIMIT_NPROC, MAX_NOBODY_TASKS));
        }
        Ok(Self {
            rules,
            policy: policy.as_ref().filter(|_| support.seccomp),
            become_nobody: support.runs_as_nobody,
            tie: ParentTie::new(),
            limits,
            first_closed: 4,
            executable: Some(opened.into()),
        })
    }

    /// For a compiler and its children: they read the system's folders and `readable`, and write in one folder.
    pub(super) fn for_compiler(
        readable: &[PathBuf],
        writable: &Path,
        limits: &[Limit],
    ) -> anyhow::Result<Self> {
        let readable = with_paths(SYSTEM_PATHS, readable);
        Self::for_compiling(limits, || LandlockRules::for_compiler(&readable, writable))
    }

    /// For NVRTC, which starts no other program: it reads libraries and `readable`, and writes nowhere.
    pub(super) fn for_nvrtc(readable: &[PathBuf], limits: &[Limit]) -> anyhow::Result<Self> {
        let readable = with_paths(LIBRARY_PATHS, readable);
        Self::for_compiling(limits, || LandlockRules::for_reader(&readable))
    }

    fn for_compiling(
        limits: &[Limit],
        rules: impl FnOnce() -> anyhow::Result<Option<LandlockRules>>,
    ) -> anyhow::Result<Self> {
        static POLICY: OnceLock<Option<SystemCallPolicy>> = OnceLock::new();
        let support = sandbox_support();
        let rules = match support.landlock {
            Some(_) => rules()?,
            None => None,
        };
        let policy = POLICY.get_or_init(SystemCallPolicy::for_compiler);
        Ok(Self {
            rules,
            policy: policy.as_ref().filter(|_| support.seccomp),
            become_nobody: false,
            tie: ParentTie::new(),
            limits: [COMMON_LIMITS, limits].concat(),
            first_closed: 3,
            executable: None,
        })
    }

    /// Moves its own descriptors away from `number`, where the process will put something else before it is confined.
    pub(super) fn avoid_descriptor(&mut self, number: RawFd) -> anyhow::Result<()> {
        let rules = self.rules.as_mut().map(LandlockRules::descriptor_mut);
        for descriptor in [rules, self.executable.as_mut()].into_iter().flatten() {
            if descriptor.as_raw_fd() == number {
                *descriptor = descriptor
                    .try_clone()
                    .context("failed to duplicate a descriptor")?;
            }
        }
        Ok(())
    }

    /// Confines this process, a new child, and ties it to its parent. Makes system calls only, so it may run between fork and
    /// exec. Must be made by the process that forks.
    pub(super) fn apply(&self) -> io::Result<()> {
        self.tie.lead_group()?;
        privileges::mark_close_on_exec(self.first_closed);
        for (resource, limit) in &self.limits {
            privileges::lower_limit(*resource, *limit)?;
        }
        privileges::drop_privileges(self.become_nobody)?;
        // After the change of user, which clears it.
        self.tie.die_with_parent()?;
        if let Some(rules) = &self.rules {
            rules.apply()?;
        }
        // Last, because it forbids the system calls of all other steps.
        match self.policy {
            Some(policy) => policy.apply(),
            None => Ok(()),
        }
    }

    /// Executes the program that this confinement was made for, with an empty environment. Uses its descriptor, so that the user
    /// it runs as needs no access to the folders on its path. Returns only if exec fails.
    pub(super) fn execute(&self) -> io::Error {
        let Some(executable) = &self.executable else {
            return io::ErrorKind::NotFound.into();
        };
        let arguments = [CANDIDATE_NAME.as_ptr(), std::ptr::null()];
        let environment = [std::ptr::null::<libc::c_char>()];
        // SAFETY: strings and null-terminated lists, which live until the call replaces this program or fails.
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

fn with_paths(fixed: &[&str], others: &[PathBuf]) -> Vec<PathBuf> {
    let fixed = fixed.iter().map(PathBuf::from);
    fixed.chain(others.iter().cloned()).collect()
}

/// Whether an ELF executable names a loader, which reads libraries before the program starts.
fn needs_loader(executable: &File) -> bool {
    const HEADER_BYTES: usize = 64;
    const PT_INTERP: u32 = 3;
    let mut bytes = [0u8; 1024];
    let Ok(read) = executable.read_at(&mut bytes, 0) else {
        return true;
    };
    let bytes = &bytes[..read];
    let read_u16 = |at: usize| {
        let bytes = bytes.get(at..at + 2)?;
        bytes.try_into().ok().map(u16::from_le_bytes)
    };
    let (Some(entry_bytes), Some(count)) = (read_u16(54), read_u16(56)) else {
        return true;
    };
    // Linkers put the program headers directly after the file header. Anything unreadable counts as needing a loader.
    (0..usize::from(count)).any(|index| {
        let at = HEADER_BYTES + index * usize::from(entry_bytes);
        let bytes = bytes.get(at..at + 4);
        let kind = bytes.and_then(|bytes| bytes.try_into().ok().map(u32::from_le_bytes));
        kind.is_none_or(|kind| kind == PT_INTERP)
    })
}

/// Keeps this process and everything it starts from writing anywhere but below `writable`, from using the network, and from
/// signalling other processes. The process must still have a single thread. `false` if the system cannot do it.
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
        .context("failed to apply a Landlock ruleset")?;
    Ok(true)
}

/// The folders of a compiler that is not one of the system's own: where its executable really is, and the folders that it says
/// it searches. Empty for a compiler of the system.
pub(super) fn compiler_folders(
    compiler: &Path,
    search_folders: impl FnOnce() -> String,
) -> Vec<PathBuf> {
    let Ok(executable) = compiler.canonicalize() else {
        return Vec::new();
    };
    let is_system_path = |path: &Path| SYSTEM_PATHS.iter().any(|system| path.starts_with(system));
    if is_system_path(&executable) {
        return Vec::new();
    }
    let folder = executable.parent();
    let mut folders: Vec<PathBuf> = folder.map(Path::to_owned).into_iter().collect();
    // `PREFIX/bin/c++` belongs to all of PREFIX, unless that contains the user's home folder or is the root.
    let home = std::env::var_os("HOME").map(PathBuf::from);
    if let Some(prefix) = folder
        .filter(|folder| folder.ends_with("bin"))
        .and_then(Path::parent)
        && prefix.parent().is_some()
        && !home.is_some_and(|home| home.starts_with(prefix))
    {
        folders.push(prefix.to_owned());
    }
    let search_folders = search_folders();
    let searched = search_folders
        .lines()
        .filter_map(|line| line.split_once(": "))
        .flat_map(|(_, list)| list.trim_start_matches('=').split(':'));
    folders.extend(
        searched
            .filter_map(|folder| Path::new(folder).canonicalize().ok())
            .filter(|folder| !is_system_path(folder) && folder.parent().is_some()),
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
