//! Tests which sandbox mechanisms work on this machine.
//!
//! Each test runs once per kforge process: a short-lived fork applies the real mechanism to itself and tries something that it
//! denies. What the kernel claims to support is not enough.

use std::sync::OnceLock;

use super::privileges;
use super::rules::{self, LandlockRules};
use super::seccomp::SystemCallPolicy;
use crate::base::Failure;

/// The sandbox mechanisms that work on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SandboxSupport {
    /// The Landlock version, if it denied access to a file.
    pub landlock: Option<u32>,
    /// Whether a denied system call ended a process.
    pub seccomp: bool,
    /// Whether candidates run as the user `nobody`, which only root can start them as.
    pub runs_as_nobody: bool,
}

/// A mechanism that does not work on this machine, and what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MissingMechanism {
    pub name: &'static str,
    pub remedy: &'static str,
}

impl SandboxSupport {
    /// The text in a verdict's `sandbox` field.
    pub(crate) fn describe(&self) -> &'static str {
        match (self.landlock.is_some(), self.seccomp) {
            (true, true) => "landlock+seccomp",
            (true, false) => "landlock (no seccomp)",
            (false, true) => "seccomp (no landlock)",
            (false, false) => "none",
        }
    }

    /// The mechanisms that do not work, with remedies.
    pub(crate) fn missing(&self) -> Vec<MissingMechanism> {
        let landlock = MissingMechanism {
            name: "Landlock",
            remedy: "use Linux 5.13 or later with the security module `landlock` (boot parameter `lsm=landlock,…`); in a container, allow `landlock_create_ruleset` in its seccomp profile",
        };
        let seccomp = MissingMechanism {
            name: "seccomp",
            remedy: "use a kernel with CONFIG_SECCOMP_FILTER on x86_64 or aarch64; in a container, allow `seccomp` in its seccomp profile",
        };
        let mut missing = Vec::new();
        missing.extend(self.landlock.is_none().then_some(landlock));
        missing.extend((!self.seccomp).then_some(seccomp));
        missing
    }
}

/// The mechanisms that work here; tested on the first call.
pub fn sandbox_support() -> &'static SandboxSupport {
    static FOUND: OnceLock<SandboxSupport> = OnceLock::new();
    FOUND.get_or_init(|| SandboxSupport {
        landlock: rules::landlock_version().filter(|_| landlock_works()),
        seccomp: seccomp_works(),
        runs_as_nobody: privileges::has_capabilities_for_nobody() && can_run_as_nobody(),
    })
}

/// Fails unless every mechanism works.
///
/// # Errors
/// `Failure::environment`, with the missing mechanisms and their remedies.
pub fn require_sandbox() -> Result<(), Failure> {
    let missing = sandbox_support().missing();
    let names: Vec<_> = missing.iter().map(|missing| missing.name).collect();
    let remedies: Vec<_> = missing.iter().map(|missing| missing.remedy).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!(
        "the full sandbox is required, but this machine has no {}",
        names.join(" and no ")
    );
    Err(Failure::environment(message).hint(remedies.join("; ")))
}

/// Whether a file that could be opened is denied once the rules apply.
fn landlock_works() -> bool {
    let Ok(Some(rules)) = LandlockRules::deny_all() else {
        return false;
    };
    let can_write = || {
        // SAFETY: a constant string; the descriptor is closed when this process ends.
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

/// Whether opening a socket ends the process once the filter is installed.
fn seccomp_works() -> bool {
    let Some(policy) = SystemCallPolicy::for_candidate(false) else {
        return false;
    };
    let ended = run_in_fork(|| {
        let is_applied = privileges::drop_privileges(false).is_ok() && policy.apply().is_ok();
        // SAFETY: plain numbers.
        is_applied && unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) } >= 0
    });
    ended == Some(libc::CLD_KILLED)
}

/// Whether the user `nobody` exists here: a user namespace may lack it.
fn can_run_as_nobody() -> bool {
    run_in_fork(|| privileges::drop_privileges(true).is_ok()) == Some(libc::CLD_EXITED)
}

/// Runs `attempt` in a fork of this process: CLD_EXITED if it returned true, CLD_KILLED if SIGSYS ended the fork. `attempt` may
/// make system calls only, because locks of other threads stay locked in the fork.
fn run_in_fork(attempt: impl Fn() -> bool) -> Option<i32> {
    // SAFETY: the fork makes system calls only and ends without running exit handlers.
    let child = unsafe { libc::fork() };
    match child {
        0 => {
            // A killed fork must not leave a core file.
            let has_no_core = privileges::lower_limit(libc::RLIMIT_CORE, 0).is_ok();
            let code = if has_no_core && attempt() { 0 } else { 1 };
            // SAFETY: ends the fork at once.
            unsafe { libc::_exit(code) }
        }
        child if child > 0 => {
            let mut status = 0;
            // SAFETY: `status` is valid to write to; the child was started here.
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
