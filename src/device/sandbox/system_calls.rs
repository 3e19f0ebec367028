//! The system calls that candidates may make and compilers may not, and the names of all of them.
//!
//! Lists only; `seccomp` makes filters of them. The lists were made for x86_64 and aarch64.

use syscalls::Sysno;

/// The flags with which a C library calls `clone` to start a thread. Any other flags start a process, or worse.
pub(super) const THREAD_FLAGS: u32 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID) as u32;

/// Flags of `clone` that no compiler needs: new namespaces and tracing.
pub(super) const NAMESPACE_FLAGS: &[u32] = &[
    libc::CLONE_NEWNS as u32,
    libc::CLONE_NEWCGROUP as u32,
    libc::CLONE_NEWUTS as u32,
    libc::CLONE_NEWIPC as u32,
    libc::CLONE_NEWUSER as u32,
    libc::CLONE_NEWPID as u32,
    libc::CLONE_NEWNET as u32,
    libc::CLONE_PTRACE as u32,
];

/// The calls that a candidate's process may make with any arguments, until its runtime narrows the list (`runtime/confine.h`).
pub(super) const CANDIDATE_CALLS: &[Sysno] = &[
    // Needed to start the process and to narrow the list.
    Sysno::execveat,
    Sysno::rt_sigaction,
    Sysno::set_tid_address,
    Sysno::set_robust_list,
    Sysno::rseq,
    #[cfg(target_arch = "x86_64")]
    Sysno::arch_prctl,
    Sysno::mmap,
    Sysno::mprotect,
    Sysno::close,
    Sysno::write,
    // Needed throughout.
    Sysno::futex,
    Sysno::munmap,
    Sysno::madvise,
    Sysno::brk,
    Sysno::mremap,
    Sysno::rt_sigprocmask,
    Sysno::rt_sigreturn,
    Sysno::sigaltstack,
    Sysno::tgkill,
    Sysno::exit,
    Sysno::exit_group,
    Sysno::sched_yield,
    Sysno::sched_getaffinity,
    Sysno::clock_gettime,
    Sysno::clock_getres,
    Sysno::clock_nanosleep,
    Sysno::nanosleep,
    Sysno::gettimeofday,
    Sysno::getpid,
    Sysno::gettid,
    Sysno::getcpu,
    Sysno::getrandom,
    Sysno::restart_syscall,
];

/// What a loader needs in addition, if programs cannot be linked statically.
pub(super) const LOADER_CALLS: &[Sysno] = &[
    Sysno::openat,
    Sysno::read,
    Sysno::pread64,
    Sysno::fstat,
    #[cfg(target_arch = "aarch64")]
    Sysno::fstatat,
    #[cfg(not(target_arch = "aarch64"))]
    Sysno::newfstatat,
    Sysno::faccessat,
    #[cfg(target_arch = "x86_64")]
    Sysno::access,
];

/// Calls that read a symbolic link.
pub(super) const READ_LINK_CALLS: &[Sysno] = &[
    Sysno::readlinkat,
    #[cfg(target_arch = "x86_64")]
    Sysno::readlink,
];

/// The calls that no compiler needs.
pub(super) const COMPILER_DENIED_CALLS: &[Sysno] = &[
    // The network.
    Sysno::socket,
    Sysno::socketpair,
    Sysno::connect,
    Sysno::bind,
    Sysno::listen,
    Sysno::accept,
    Sysno::accept4,
    Sysno::sendto,
    Sysno::sendmsg,
    Sysno::sendmmsg,
    Sysno::recvfrom,
    Sysno::recvmsg,
    Sysno::recvmmsg,
    // Other processes.
    Sysno::ptrace,
    Sysno::process_vm_readv,
    Sysno::process_vm_writev,
    Sysno::process_madvise,
    Sysno::pidfd_open,
    Sysno::pidfd_getfd,
    Sysno::pidfd_send_signal,
    Sysno::kill,
    Sysno::tkill,
    Sysno::rt_sigqueueinfo,
    Sysno::rt_tgsigqueueinfo,
    Sysno::kcmp,
    Sysno::setpgid,
    Sysno::setsid,
    Sysno::setpriority,
    Sysno::sched_setscheduler,
    Sysno::sched_setattr,
    // Mounts, and other ways to reach a file without its path.
    Sysno::open_by_handle_at,
    Sysno::name_to_handle_at,
    Sysno::mount,
    Sysno::umount2,
    Sysno::move_mount,
    Sysno::open_tree,
    Sysno::fsopen,
    Sysno::fsconfig,
    Sysno::fsmount,
    Sysno::fspick,
    Sysno::mount_setattr,
    Sysno::pivot_root,
    Sysno::chroot,
    Sysno::unshare,
    Sysno::setns,
    Sysno::mknodat,
    #[cfg(target_arch = "x86_64")]
    Sysno::mknod,
    // Large parts of the kernel that have a history of security bugs.
    Sysno::io_uring_setup,
    Sysno::io_uring_enter,
    Sysno::io_uring_register,
    Sysno::io_setup,
    Sysno::bpf,
    Sysno::perf_event_open,
    Sysno::userfaultfd,
    Sysno::keyctl,
    Sysno::add_key,
    Sysno::request_key,
    Sysno::fanotify_init,
    Sysno::inotify_init1,
    // System V shared memory and queues, which outlive a process.
    Sysno::shmget,
    Sysno::shmat,
    Sysno::msgget,
    Sysno::semget,
    Sysno::mq_open,
    // Administration of the machine.
    Sysno::kexec_load,
    Sysno::init_module,
    Sysno::finit_module,
    Sysno::delete_module,
    Sysno::reboot,
    Sysno::swapon,
    Sysno::swapoff,
    Sysno::acct,
    Sysno::quotactl,
    Sysno::syslog,
    Sysno::sethostname,
    Sysno::setdomainname,
    Sysno::settimeofday,
    Sysno::clock_settime,
    Sysno::clock_adjtime,
    Sysno::adjtimex,
    #[cfg(target_arch = "x86_64")]
    Sysno::iopl,
    #[cfg(target_arch = "x86_64")]
    Sysno::ioperm,
    #[cfg(target_arch = "x86_64")]
    Sysno::modify_ldt,
    Sysno::personality,
];

/// The name of a system call, for messages. `None` if the number is not a native call.
pub(in crate::device) fn system_call_name(number: u64) -> Option<&'static str> {
    let call = Sysno::new(usize::try_from(number).ok()?)?;
    Some(call.name())
}
