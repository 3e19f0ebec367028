//! Landlock rulesets: which files a process may access.
//!
//! A ruleset is built before a fork. A process applies it to itself with one system call, and its children inherit it. The
//! network and signals to other processes are denied as well if the kernel supports that.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::Context;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, Scope,
};

/// The newest Landlock version that the rules use. Older kernels ignore the parts that they lack.
const NEWEST_ABI: ABI = ABI::V6;

/// The allowed accesses; everything else is denied.
#[derive(Debug)]
pub(super) struct LandlockRules {
    descriptor: OwnedFd,
}

impl LandlockRules {
    /// For a candidate: it may only be started, and read the folders of `libraries` if it needs a loader.
    pub(super) fn for_candidate(
        executable: &File,
        libraries: &[PathBuf],
    ) -> anyhow::Result<Option<Self>> {
        let start = AccessFs::Execute | AccessFs::ReadFile;
        let created = new_ruleset()?.add_rule(PathBeneath::new(executable, start))?;
        Self::with_paths(created, libraries, AccessFs::from_read(NEWEST_ABI))
    }

    /// For a compiler: it may read its tools and headers, and write in one folder.
    pub(super) fn for_compiler(
        readable: &[PathBuf],
        writable: &Path,
    ) -> anyhow::Result<Option<Self>> {
        let write = AccessFs::from_read(NEWEST_ABI)
            | AccessFs::WriteFile
            | AccessFs::Truncate
            | AccessFs::MakeReg
            | AccessFs::MakeDir
            | AccessFs::RemoveFile
            | AccessFs::RemoveDir
            | AccessFs::Refer;
        let dev_null = AccessFs::ReadFile | AccessFs::WriteFile;
        let created = new_ruleset()?
            .add_rule(PathBeneath::new(PathFd::new(writable)?, write))?
            .add_rule(PathBeneath::new(PathFd::new("/dev/null")?, dev_null))?;
        Self::with_paths(created, readable, AccessFs::from_read(NEWEST_ABI))
    }

    /// For a process that reads `readable` and writes nowhere.
    pub(super) fn for_reader(readable: &[PathBuf]) -> anyhow::Result<Option<Self>> {
        Self::with_paths(new_ruleset()?, readable, AccessFs::from_read(NEWEST_ABI))
    }

    /// For a process that opens a GPU: it may read everything, start programs, and write below `writable` only.
    pub(super) fn for_worker(writable: &[PathBuf]) -> anyhow::Result<Option<Self>> {
        let read = AccessFs::from_read(NEWEST_ABI);
        let created = new_ruleset()?.add_rule(PathBeneath::new(PathFd::new("/")?, read))?;
        Self::with_paths(created, writable, AccessFs::from_all(NEWEST_ABI))
    }

    /// Denies every access.
    pub(super) fn deny_all() -> anyhow::Result<Option<Self>> {
        Self::with_paths(new_ruleset()?, &[], BitFlags::EMPTY)
    }

    fn with_paths(
        mut created: RulesetCreated,
        paths: &[PathBuf],
        access: BitFlags<AccessFs>,
    ) -> anyhow::Result<Option<Self>> {
        for path in paths {
            // A missing path needs no rule.
            let Ok(metadata) = path.metadata() else {
                continue;
            };
            let access = if metadata.is_dir() {
                access
            } else {
                access & AccessFs::from_file(NEWEST_ABI)
            };
            created = created.add_rule(PathBeneath::new(PathFd::new(path)?, access))?;
        }
        let descriptor: Option<OwnedFd> = created.into();
        Ok(descriptor.map(|descriptor| Self { descriptor }))
    }

    #[cfg(test)]
    pub(super) fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }

    pub(super) fn descriptor_mut(&mut self) -> &mut OwnedFd {
        &mut self.descriptor
    }

    /// Applies the rules to this thread, permanently. Makes one system call only, so it may run between fork and exec.
    pub(super) fn apply(&self) -> io::Result<()> {
        // SAFETY: no memory is passed; the descriptor stays open as long as self lives.
        let result = unsafe {
            libc::syscall(
                libc::SYS_landlock_restrict_self,
                self.descriptor.as_raw_fd(),
                0,
            )
        };
        if result == 0 {
            return Ok(());
        }
        Err(io::Error::last_os_error())
    }
}

fn new_ruleset() -> anyhow::Result<RulesetCreated> {
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST_ABI))?
        .handle_access(AccessNet::from_all(NEWEST_ABI))?
        .scope(Scope::from_all(NEWEST_ABI))?
        .create()
        .context("failed to create a Landlock ruleset")
}

/// The Landlock version of the kernel; `None` if it has none or it is disabled.
pub(super) fn landlock_version() -> Option<u32> {
    const CREATE_RULESET_VERSION: libc::c_uint = 1;
    // SAFETY: with this flag no memory is read.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0usize,
            CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version).ok().filter(|version| *version > 0)
}
