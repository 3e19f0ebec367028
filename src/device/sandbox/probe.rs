//! What this machine can hold a process by: not what it says, but what a process that tries finds shut.
//!
//! Looked at once for each process of kforge, by short-lived copies of it that put the real thing on themselves.

use std::sync::OnceLock;

use super::privileges;
use super::rules::{self, LandlockRules};
use super::seccomp::SeccompFilter;
use crate::base::Failure;

/// What is in force here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SandboxSupport {
    /// Its version, where a file really was out of reach.
    pub landlock: Option<u32>,
    /// Whether a call that is not open really ended a process.
    pub seccomp: bool,
    /// Whether candidates run as nobody: only root can start them so.
    pub runs_as_nobody: bool,
}

/// Something that this machine lacks, and what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MissingMechanism {
    pub name: &'static str,
    pub remedy: &'static str,
}

impl SandboxSupport {
    /// What a verdict says.
    pub(crate) fn describe(&self) -> &'static str {
        match (self.landlock.is_some(), self.seccomp) {
            (true, true) => "landlock+seccomp",
            (true, false) => "landlock (no seccomp)",
            (false, true) => "seccomp (no landlock)",
            (false, false) => "none",
        }
    }

    /// What is not in force, with remedies.
    pub(crate) fn missing(&self) -> Vec<MissingMechanism> {
        let landlock = MissingMechanism {
            name: "Landlock",
            remedy: "use Linux 5.13 or later with `landlock` among its security modules (boot parameter `lsm=landlock,…`); in a container, let its seccomp profile pass `landlock_create_ruleset`",
        };
        let seccomp = MissingMechanism {
            name: "seccomp",
            remedy: "use a kernel with CONFIG_SECCOMP_FILTER on x86_64 or aarch64; in a container, let its seccomp profile pass `seccomp`",
        };
        let mut missing = Vec::new();
        missing.extend(self.landlock.is_none().then_some(landlock));
        missing.extend((!self.seccomp).then_some(seccomp));
        missing
    }
}

/// What is in force here; found out the first time that anybody asks.
pub fn sandbox_support() -> &'static SandboxSupport {
    static FOUND: OnceLock<SandboxSupport> = OnceLock::new();
    FOUND.get_or_init(|| SandboxSupport {
        landlock: rules::landlock_version().filter(|_| landlock_works()),
        seccomp: seccomp_works(),
        runs_as_nobody: privileges::has_capabilities_for_nobody() && can_run_as_nobody(),
    })
}

/// Refuses a machine on which something is missing, for those who would rather not judge at all.
///
/// # Errors
/// `Failure::environment` that names what is missing.
pub fn require_sandbox() -> Result<(), Failure> {
    let missing = sandbox_support().missing();
    let names: Vec<_> = missing.iter().map(|missing| missing.name).collect();
    let remedies: Vec<_> = missing.iter().map(|missing| missing.remedy).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!(
        "a sandbox is required, and this machine has no {}",
        names.join(" and no ")
    );
    Err(Failure::environment(message).hint(remedies.join("; ")))
}

/// A file that could be written a moment ago, and then could not.
fn landlock_works() -> bool {
    let Ok(Some(rules)) = LandlockRules::deny_all() else {
        return false;
    };
    let can_write = || {
        // SAFETY: a constant string; the descriptor ends with this process.
        unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) >= 0 }
    };
    let holds = run_in_fork(|| {
        can_write()
            && privileges::drop_privileges(false).is_ok()
            && rules.apply().is_ok()
            && !can_write()
    });
    holds == Some(libc::CLD_EXITED)
}

/// A socket that nobody gets.
fn seccomp_works() -> bool {
    let Some(filter) = SeccompFilter::for_candidate(false) else {
        return false;
    };
    let ended = run_in_fork(|| {
        let is_on = privileges::drop_privileges(false).is_ok() && filter.apply().is_ok();
        // SAFETY: plain numbers.
        is_on && unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) } >= 0
    });
    ended == Some(libc::CLD_KILLED)
}

/// Another user namespace may have no such user.
fn can_run_as_nobody() -> bool {
    run_in_fork(|| privileges::drop_privileges(true).is_ok()) == Some(libc::CLD_EXITED)
}

/// Tries something in a copy of this process that lasts as long as it takes: CLD_EXITED where it says yes, CLD_KILLED where
/// the system ended it by SIGSYS. Only system calls may be made in it, because other threads' locks stay as they were.
fn run_in_fork(attempt: impl Fn() -> bool) -> Option<i32> {
    // SAFETY: the copy makes system calls only, and ends without running anything that this process left to be run.
    let child = unsafe { libc::fork() };
    match child {
        0 => {
            // No file is left behind by one that is ended.
            let is_quiet = privileges::lower_limit(libc::RLIMIT_CORE, 0).is_ok();
            let code = if is_quiet && attempt() { 0 } else { 1 };
            // SAFETY: ends the copy at once.
            unsafe { libc::_exit(code) }
        }
        child if child > 0 => {
            let mut status = 0;
            // SAFETY: `status` is a valid place; the child is this function's own.
            while unsafe { libc::waitpid(child, &raw mut status, 0) } < 0 {
                if std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
                    return None;
                }
            }
            if libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS {
                return Some(libc::CLD_KILLED);
            }
            (libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0).then_some(libc::CLD_EXITED)
        }
        _ => None,
    }
}
