//! Which system calls a process may make, as programs for the system's filter.
//!
//! A candidate gets a list of what is open, its compiler a list of what is not. Programs are made before a fork; putting one on
//! is a single system call. What a process takes away from itself once it runs stands in `runtime/confine.h`.

use std::io;

use libc::{c_long, sock_filter};

/// The offset of fields in what a filter looks at (`struct seccomp_data`).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// How this architecture is called there; `None` where the lists below were not drawn up for it.
const NATIVE: Option<u32> = if cfg!(all(target_arch = "x86_64", target_pointer_width = "64")) {
    Some(0xc000_003e)
} else if cfg!(all(target_arch = "aarch64", target_endian = "little")) {
    Some(0xc000_00b7)
} else {
    None
};

/// Calls of the x32 ABI have this bit; its table is not that of the native one.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

/// What a C library asks of `clone` for a thread; anything else makes a process, or worse.
const THREAD_FLAGS: u32 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID) as u32;
const NAMESPACE_FLAGS: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_PTRACE) as u32;

/// What a candidate's process may call until its runtime takes more away, whatever the arguments.
const CANDIDATE_CALLS: &[c_long] = &[
    // To be started, and to narrow this further.
    libc::SYS_execveat,
    libc::SYS_rt_sigaction,
    libc::SYS_set_tid_address,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_arch_prctl,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_close,
    libc::SYS_write,
    // For as long as it lives.
    libc::SYS_futex,
    libc::SYS_munmap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_mremap,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getcpu,
    libc::SYS_getrandom,
    libc::SYS_restart_syscall,
];

/// What a loader needs besides, where programs cannot be linked statically.
const LOADER_CALLS: &[c_long] = &[
    libc::SYS_openat,
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_faccessat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
];

/// What no compiler needs.
const COMPILER_DENIED_CALLS: &[c_long] = &[
    // The network.
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_kcmp,
    libc::SYS_setpgid,
    libc::SYS_setsid,
    libc::SYS_setpriority,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setattr,
    // Ways around a file's name.
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mknodat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
    // The kernel's larger surfaces.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_setup,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_fanotify_init,
    libc::SYS_inotify_init1,
    // System V's shared memory and queues, which outlive a process.
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_msgget,
    libc::SYS_semget,
    libc::SYS_mq_open,
    // The machine.
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    libc::SYS_personality,
];

/// A program for the system's filter.
#[derive(Clone, Debug)]
pub(super) struct SeccompFilter {
    code: Vec<sock_filter>,
}

impl SeccompFilter {
    /// For a candidate's process, from before it exists: what is not open is answered with SIGSYS, and does not happen.
    /// `None` on an architecture that the lists were not drawn up for.
    pub(super) fn for_candidate(with_loader: bool) -> Option<Self> {
        let mut filter = Self::begin()?;
        // No number of the x32 ABI is on the list.
        filter.load(NUMBER);
        for call in CANDIDATE_CALLS {
            filter.answer_if(*call as u32, libc::SECCOMP_RET_ALLOW);
        }
        if with_loader {
            for call in LOADER_CALLS {
                filter.answer_if(*call as u32, libc::SECCOMP_RET_ALLOW);
            }
        }
        // Its flags lie in memory, where no filter can look: libraries then fall back on `clone`.
        filter.answer_if(libc::SYS_clone3 as u32, failing(libc::ENOSYS));
        // libc asks what the program is called; it can do without.
        filter.answer_if(libc::SYS_readlinkat as u32, failing(libc::ENOENT));
        #[cfg(target_arch = "x86_64")]
        filter.answer_if(libc::SYS_readlink as u32, failing(libc::ENOENT));
        filter.only_with(libc::SYS_clone, &[(0, THREAD_FLAGS)]);
        filter.only_with(libc::SYS_sched_setaffinity, &[(0, 0)]);
        filter.only_with(libc::SYS_seccomp, &[(0, 1), (1, 1)]);
        // Only to ask for its own limits: the place of new ones is null, both halves of it.
        filter.only_with(libc::SYS_prlimit64, &[(0, 0), (2, 0)]);
        filter.answer(libc::SECCOMP_RET_TRAP);
        Some(filter)
    }

    /// For a compiler and its children: what is closed fails, and they go on.
    pub(super) fn for_compiler() -> Option<Self> {
        let mut filter = Self::begin()?;
        filter.load(NUMBER);
        #[cfg(target_arch = "x86_64")]
        filter.answer_from(X32, failing(libc::EPERM));
        for call in COMPILER_DENIED_CALLS {
            filter.answer_if(*call as u32, failing(libc::EPERM));
        }
        filter.answer_if(libc::SYS_clone3 as u32, failing(libc::ENOSYS));
        let start = filter.begin_rules(libc::SYS_clone as u32);
        filter.load(ARGUMENTS);
        filter.answer_if_any(NAMESPACE_FLAGS, failing(libc::EPERM));
        filter.answer(libc::SECCOMP_RET_ALLOW);
        filter.end_rules(start);
        filter.answer(libc::SECCOMP_RET_ALLOW);
        Some(filter)
    }

    /// Puts it on this thread, for good. Only a system call: may stand between fork and exec.
    pub(super) fn apply(&self) -> io::Result<()> {
        let program = libc::sock_fprog {
            len: self.code.len() as u16,
            filter: self.code.as_ptr().cast_mut(),
        };
        // SAFETY: the program lives until the call returns; the system copies it, and only reads.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                0,
                &raw const program,
            )
        };
        if result == 0 {
            return Ok(());
        }
        Err(io::Error::last_os_error())
    }

    /// Calls of another architecture's table end the process: their numbers mean something else.
    fn begin() -> Option<Self> {
        let native = NATIVE?;
        let mut filter = Self { code: Vec::new() };
        filter.load(ARCHITECTURE);
        filter.add(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, native, (1, 0));
        filter.answer(libc::SECCOMP_RET_KILL_PROCESS);
        Some(filter)
    }

    fn add(&mut self, code: u32, value: u32, (when_true, when_false): (u8, u8)) {
        self.code.push(sock_filter {
            code: code as u16,
            jt: when_true,
            jf: when_false,
            k: value,
        });
    }

    fn load(&mut self, offset: u32) {
        self.add(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, (0, 0));
    }

    fn answer(&mut self, action: u32) {
        self.add(libc::BPF_RET | libc::BPF_K, action, (0, 0));
    }

    fn answer_if(&mut self, value: u32, action: u32) {
        self.add(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, (0, 1));
        self.answer(action);
    }

    #[cfg(target_arch = "x86_64")]
    fn answer_from(&mut self, least: u32, action: u32) {
        self.add(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, least, (0, 1));
        self.answer(action);
    }

    fn answer_if_any(&mut self, bits: u32, action: u32) {
        self.add(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, bits, (0, 1));
        self.answer(action);
    }

    /// A call that is open with these arguments only, which are compared in both halves where they are to be null.
    fn only_with(&mut self, call: c_long, arguments: &[(u32, u32)]) {
        let start = self.begin_rules(call as u32);
        for (index, value) in arguments {
            // Little-endian: the lower half comes first. Flags and numbers are 32 bits wide, whatever is above them.
            let halves: &[(u32, u32)] = if *value == 0 {
                &[(0, 0), (4, 0)]
            } else {
                &[(0, *value)]
            };
            for (half, value) in halves {
                self.load(ARGUMENTS + 8 * index + half);
                let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
                self.add(equal, *value, (1, 0));
                self.answer(libc::SECCOMP_RET_TRAP);
            }
        }
        self.answer(libc::SECCOMP_RET_ALLOW);
        self.end_rules(start);
    }

    /// The rules that follow, up to their end, are for one call; each way through them ends with an answer.
    fn begin_rules(&mut self, call: u32) -> usize {
        self.add(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, call, (0, 0));
        self.code.len()
    }

    fn end_rules(&mut self, start: usize) {
        self.code[start - 1].jf = (self.code.len() - start) as u8;
    }
}

fn failing(error: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | error as u32
}

/// The name of a call that a process was stopped at, where it is one that people try.
pub(in crate::device) fn system_call_name(number: u64) -> Option<&'static str> {
    macro_rules! names {
        ($($name:ident = $number:ident),* $(,)?) => {
            &[$((stringify!($name), libc::$number)),*]
        };
    }
    const NAMES: &[(&str, c_long)] = names![
        openat = SYS_openat,
        openat2 = SYS_openat2,
        read = SYS_read,
        write = SYS_write,
        pread64 = SYS_pread64,
        pwrite64 = SYS_pwrite64,
        readv = SYS_readv,
        writev = SYS_writev,
        lseek = SYS_lseek,
        close = SYS_close,
        fstat = SYS_fstat,
        newfstatat = SYS_newfstatat,
        statx = SYS_statx,
        readlinkat = SYS_readlinkat,
        unlinkat = SYS_unlinkat,
        mkdirat = SYS_mkdirat,
        renameat2 = SYS_renameat2,
        ftruncate = SYS_ftruncate,
        fallocate = SYS_fallocate,
        dup = SYS_dup,
        dup3 = SYS_dup3,
        fcntl = SYS_fcntl,
        ioctl = SYS_ioctl,
        pipe2 = SYS_pipe2,
        memfd_create = SYS_memfd_create,
        mmap = SYS_mmap,
        mprotect = SYS_mprotect,
        mlock = SYS_mlock,
        socket = SYS_socket,
        socketpair = SYS_socketpair,
        connect = SYS_connect,
        bind = SYS_bind,
        sendto = SYS_sendto,
        clone = SYS_clone,
        clone3 = SYS_clone3,
        execve = SYS_execve,
        execveat = SYS_execveat,
        wait4 = SYS_wait4,
        kill = SYS_kill,
        tkill = SYS_tkill,
        tgkill = SYS_tgkill,
        rt_sigaction = SYS_rt_sigaction,
        rt_sigqueueinfo = SYS_rt_sigqueueinfo,
        rt_tgsigqueueinfo = SYS_rt_tgsigqueueinfo,
        setitimer = SYS_setitimer,
        timer_create = SYS_timer_create,
        timerfd_create = SYS_timerfd_create,
        clock_settime = SYS_clock_settime,
        settimeofday = SYS_settimeofday,
        adjtimex = SYS_adjtimex,
        ptrace = SYS_ptrace,
        process_vm_readv = SYS_process_vm_readv,
        process_vm_writev = SYS_process_vm_writev,
        prctl = SYS_prctl,
        prlimit64 = SYS_prlimit64,
        seccomp = SYS_seccomp,
        setuid = SYS_setuid,
        setgid = SYS_setgid,
        setresuid = SYS_setresuid,
        setpgid = SYS_setpgid,
        setsid = SYS_setsid,
        getppid = SYS_getppid,
        getuid = SYS_getuid,
        unshare = SYS_unshare,
        setns = SYS_setns,
        mount = SYS_mount,
        bpf = SYS_bpf,
        io_uring_setup = SYS_io_uring_setup,
        sched_setaffinity = SYS_sched_setaffinity,
        sched_setscheduler = SYS_sched_setscheduler,
        getdents64 = SYS_getdents64,
        uname = SYS_uname,
        sysinfo = SYS_sysinfo,
    ];
    #[cfg(target_arch = "x86_64")]
    const OLDER: &[(&str, c_long)] = names![
        open = SYS_open,
        creat = SYS_creat,
        stat = SYS_stat,
        access = SYS_access,
        readlink = SYS_readlink,
        unlink = SYS_unlink,
        mkdir = SYS_mkdir,
        rename = SYS_rename,
        dup2 = SYS_dup2,
        pipe = SYS_pipe,
        fork = SYS_fork,
        vfork = SYS_vfork,
        alarm = SYS_alarm,
        time = SYS_time,
        arch_prctl = SYS_arch_prctl,
    ];
    #[cfg(not(target_arch = "x86_64"))]
    const OLDER: &[(&str, c_long)] = &[];
    let mut known = NAMES.iter().chain(OLDER);
    known
        .find(|(_, known)| u64::try_from(*known) == Ok(number))
        .map(|(name, _)| *name)
}
