//! Drops the privileges of a process: its user, its capabilities, its resource limits.
//!
//! Makes system calls only, so it may run between fork and exec. Nothing here ever grants a privilege.

use std::io;

/// The user and group id of `nobody` on Linux.
const NOBODY: u32 = 65534;

const CAP_KILL: u32 = 5;
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;
const CAP_SYS_PTRACE: u32 = 19;
/// An upper bound for capability numbers.
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
    /// For the calling thread.
    fn new() -> Self {
        Self {
            version: 0x2008_0522,
            process: 0,
        }
    }
}

/// Whether this process can start others as the user `nobody` and still signal them and see their memory.
pub(super) fn has_capabilities_for_nobody() -> bool {
    const NEEDED_CAPABILITIES: [u32; 4] = [CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SYS_PTRACE];
    let mut header = CapabilityHeader::new();
    let mut sets = [CapabilitySets::default(); 2];
    // SAFETY: reads the header and writes two sets, as version 3 specifies.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) };
    let has = |capability: u32| sets[0].effective & 1 << capability != 0;
    // SAFETY: no preconditions.
    let is_root = unsafe { libc::geteuid() } == 0;
    is_root && result == 0 && NEEDED_CAPABILITIES.into_iter().all(has)
}

/// Drops every capability permanently, and changes the user to `nobody` if requested.
pub(super) fn drop_privileges(become_nobody: bool) -> io::Result<()> {
    // SAFETY: plain numbers.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        // Fails for the first capability that does not exist, and at once for a process that has none to drop.
        for capability in 0..MAX_CAPABILITIES {
            if libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 {
                break;
            }
        }
        // Older kernels have no ambient set.
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        );
    }
    if become_nobody {
        // Raw system calls: libc's functions would also change the user of all other threads.
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
    // SAFETY: reads both, as version 3 specifies.
    check_long(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, none.as_ptr()) })
}

/// Lowers a limit of this process. A limit that is already lower is kept.
pub(super) fn lower_limit(resource: libc::__rlimit_resource_t, wanted: u64) -> io::Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls access this one value only.
    unsafe {
        check(libc::getrlimit(resource, &raw mut limit))?;
        limit.rlim_max = limit.rlim_max.min(wanted);
        limit.rlim_cur = limit.rlim_max;
        check(libc::setrlimit(resource, &raw const limit))
    }
}

/// Marks this descriptor and all higher ones to be closed on exec.
pub(super) fn mark_close_on_exec(first: u32) {
    const CLOSE_ON_EXEC: u32 = 4;
    // SAFETY: plain numbers. Older kernels lack the call; there, every descriptor of this program was opened with O_CLOEXEC.
    unsafe {
        libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_ON_EXEC);
    }
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
