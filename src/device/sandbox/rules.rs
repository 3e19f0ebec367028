//! Which files a process may reach, as a ruleset of Landlock.
//!
//! Rulesets are made before a fork; a process puts one on itself with a single system call, and its children inherit it.
//! Network and signals are shut as well where the system knows how to.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::Context;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, Scope,
};

/// The newest version that the rules know; older systems leave out what they lack.
const NEWEST_ABI: ABI = ABI::V6;

/// What may be reached; all else is shut.
#[derive(Debug)]
pub(super) struct LandlockRules {
    descriptor: OwnedFd,
}

impl LandlockRules {
    /// For a candidate: nothing but to be started, and the folders of libraries where it has to be loaded.
    pub(super) fn for_candidate(
        executable: &File,
        libraries: &[PathBuf],
    ) -> anyhow::Result<Option<Self>> {
        let start = AccessFs::Execute | AccessFs::ReadFile;
        let created = new_ruleset()?.add_rule(PathBeneath::new(executable, start))?;
        Self::with_paths(created, libraries, AccessFs::from_read(NEWEST_ABI))
    }

    /// For a compiler: its tools and headers, and one folder to write in.
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
        let nothing = AccessFs::ReadFile | AccessFs::WriteFile;
        let created = new_ruleset()?
            .add_rule(PathBeneath::new(PathFd::new(writable)?, write))?
            .add_rule(PathBeneath::new(PathFd::new("/dev/null")?, nothing))?;
        Self::with_paths(created, readable, AccessFs::from_read(NEWEST_ABI))
    }

    /// For who reads, and writes nowhere.
    pub(super) fn for_reader(readable: &[PathBuf]) -> anyhow::Result<Option<Self>> {
        Self::with_paths(new_ruleset()?, readable, AccessFs::from_read(NEWEST_ABI))
    }

    /// For who opens a GPU: reads everything, starts programs, and writes only where it must.
    pub(super) fn for_worker(writable: &[PathBuf]) -> anyhow::Result<Option<Self>> {
        let read = AccessFs::from_read(NEWEST_ABI);
        let created = new_ruleset()?.add_rule(PathBeneath::new(PathFd::new("/")?, read))?;
        Self::with_paths(created, writable, AccessFs::from_all(NEWEST_ABI))
    }

    /// Nothing at all.
    pub(super) fn deny_all() -> anyhow::Result<Option<Self>> {
        Self::with_paths(new_ruleset()?, &[], BitFlags::EMPTY)
    }

    fn with_paths(
        mut created: RulesetCreated,
        paths: &[PathBuf],
        access: BitFlags<AccessFs>,
    ) -> anyhow::Result<Option<Self>> {
        for path in paths {
            // What is not there needs no rule.
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

    /// Puts them on this thread, for good. Only a system call: may stand between fork and exec.
    pub(super) fn apply(&self) -> io::Result<()> {
        // SAFETY: no memory is passed; the descriptor is open as long as self lives.
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
        .context("failed to make a Landlock ruleset")
}

/// The version of Landlock that the system answers with; `None` where it has none, or has it switched off.
pub(super) fn landlock_version() -> Option<u32> {
    const ASK_FOR_VERSION: libc::c_uint = 1;
    // SAFETY: with this flag no memory is read.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0usize,
            ASK_FOR_VERSION,
        )
    };
    u32::try_from(version).ok().filter(|version| *version > 0)
}
