//! What a process may do by who it is: its user, its capabilities, its limits.
//!
//! Only system calls, so that all of it may stand between fork and exec. Nothing here gives more than there was.

use std::io;

/// Nobody, as every Linux has it.
const NOBODY: u32 = 65534;

const CAP_KILL: u32 = 5;
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;
/// More than there are.
const MAX_CAPABILITIES: u32 = 64;

/// `struct __user_cap_header_struct`, version 3.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    process: i32,
}

/// `struct __user_cap_data_struct`: the lower and the upper 32 capabilities.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilitySets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

impl CapabilityHeader {
    /// Of this thread.
    fn new() -> Self {
        Self {
            version: 0x2008_0522,
            process: 0,
        }
    }
}

/// Whether this process can start others as nobody and still signal them.
pub(super) fn has_capabilities_for_nobody() -> bool {
    let mut header = CapabilityHeader::new();
    let mut sets = [CapabilitySets::default(); 2];
    // SAFETY: the header is read, and two sets are written, as its version says.
    let asked = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) };
    let has = |capability: u32| sets[0].effective & 1 << capability != 0;
    // SAFETY: no preconditions.
    let is_root = unsafe { libc::geteuid() } == 0;
    is_root && asked == 0 && [CAP_KILL, CAP_SETGID, CAP_SETUID].into_iter().all(has)
}

/// Gives up every capability, and the user if asked to; nothing started from here on can have more.
pub(super) fn drop_privileges(become_nobody: bool) -> io::Result<()> {
    // SAFETY: plain numbers.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        // Ends with the first that does not exist, or at once where it is not allowed: then there is nothing to lose.
        for capability in 0..MAX_CAPABILITIES {
            if libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 {
                break;
            }
        }
        // Older systems have no such set.
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        );
    }
    if become_nobody {
        // The system's calls rather than libc's, which would look for threads to tell.
        // SAFETY: plain numbers, and an empty list.
        unsafe {
            check_long(libc::syscall(
                libc::SYS_setgroups,
                0,
                std::ptr::null::<u32>(),
            ))?;
            check_long(libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY))?;
            check_long(libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY))?;
        }
    }
    let mut header = CapabilityHeader::new();
    let none = [CapabilitySets::default(); 2];
    // SAFETY: both are read, as the version says.
    check_long(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, none.as_ptr()) })
}

/// Lowers a limit of this process. One that is lower already stays.
pub(super) fn lower_limit(resource: libc::__rlimit_resource_t, wanted: u64) -> io::Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls read and write this one value.
    unsafe {
        check(libc::getrlimit(resource, &raw mut limit))?;
        limit.rlim_max = limit.rlim_max.min(wanted);
        limit.rlim_cur = limit.rlim_max;
        check(libc::setrlimit(resource, &raw const limit))
    }
}

/// Descriptors from this one on are closed when another program begins.
pub(super) fn mark_close_on_exec(first: u32) {
    const CLOSE_ON_EXEC: u32 = 4;
    // SAFETY: plain numbers. Older systems lack the call: there every descriptor of this program says so itself.
    unsafe {
        libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_ON_EXEC);
    }
}

/// This process dies with the thread that started it. A change of user forgets it, so it comes after.
pub(super) fn die_with_parent() -> io::Result<()> {
    // SAFETY: plain numbers.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })
}

pub(super) fn check(result: libc::c_int) -> io::Result<()> {
    check_long(result.into())
}

pub(super) fn check_long(result: libc::c_long) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
