//! What each policy decides about single system calls, by interpreting its filters as the kernel does.

use libc::{SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_TRAP};
use syscalls::Sysno;

use super::SystemCallPolicy;

#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;

/// `struct seccomp_data`.
#[derive(Clone, Copy)]
struct Call {
    number: u32,
    architecture: u32,
    arguments: [u64; 6],
}

fn call(number: Sysno, arguments: &[u64]) -> Call {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    Call {
        number: number.id() as u32,
        architecture: NATIVE,
        arguments: all,
    }
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.architecture,
            _ => {
                let (index, half) = ((offset - 16) / 8, (offset - 16) % 8 / 4);
                (self.arguments[index as usize] >> (32 * half)) as u32
            }
        }
    }
}

/// Runs one program; the instructions are those of classic BPF (`linux/bpf_common.h`).
fn run(program: &seccompiler::BpfProgram, call: Call) -> u32 {
    let (mut accumulator, mut at) = (0u32, 0usize);
    loop {
        let instruction = &program[at];
        let (code, k) = (u32::from(instruction.code), instruction.k);
        at += 1;
        let mut jump = |condition: bool| {
            at += usize::from(if condition {
                instruction.jt
            } else {
                instruction.jf
            });
        };
        const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
        const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
        const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        const GREATER: u32 = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
        const NOT_LESS: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
        const ALWAYS: u32 = libc::BPF_JMP | libc::BPF_JA;
        const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
        match code {
            LOAD => accumulator = call.word(k),
            AND => accumulator &= k,
            EQUAL => jump(accumulator == k),
            GREATER => jump(accumulator > k),
            NOT_LESS => jump(accumulator >= k),
            ALWAYS => at += k as usize,
            RETURN => return k,
            _ => panic!("unknown instruction {code:#x}"),
        }
    }
}

/// The strictest result of all filters: the smallest as a signed number (`seccomp(2)`).
fn decide(policy: &SystemCallPolicy, call: Call) -> u32 {
    let results = policy
        .programs
        .iter()
        .map(|program| run(program, call) as i32);
    results.min().unwrap() as u32
}

fn fails(error: i32) -> u32 {
    SECCOMP_RET_ERRNO | error as u32
}

#[test]
fn candidate_may_only_make_listed_calls() {
    let policy = SystemCallPolicy::for_candidate(false).unwrap();
    for (number, arguments, expected) in [
        (Sysno::futex, &[][..], SECCOMP_RET_ALLOW),
        (Sysno::write, &[7], SECCOMP_RET_ALLOW),
        (Sysno::socket, &[], SECCOMP_RET_TRAP),
        (Sysno::openat, &[], SECCOMP_RET_TRAP),
        (Sysno::execve, &[], SECCOMP_RET_TRAP),
        (Sysno::ptrace, &[], SECCOMP_RET_TRAP),
        (Sysno::clone3, &[], fails(libc::ENOSYS)),
        (Sysno::readlinkat, &[], fails(libc::ENOENT)),
    ] {
        assert_eq!(
            decide(&policy, call(number, arguments)),
            expected,
            "{number}"
        );
    }
    let with_loader = SystemCallPolicy::for_candidate(true).unwrap();
    assert_eq!(
        decide(&with_loader, call(Sysno::openat, &[])),
        SECCOMP_RET_ALLOW
    );
    assert_eq!(
        decide(&with_loader, call(Sysno::socket, &[])),
        SECCOMP_RET_TRAP
    );
}

#[test]
fn candidate_arguments_are_compared() {
    let policy = SystemCallPolicy::for_candidate(false).unwrap();
    let thread = u64::from(super::THREAD_FLAGS);
    const HIGH: u64 = 1 << 32;
    for (number, arguments, expected) in [
        (Sysno::clone, &[thread][..], SECCOMP_RET_ALLOW),
        (Sysno::clone, &[thread | HIGH], SECCOMP_RET_ALLOW),
        (Sysno::clone, &[libc::SIGCHLD as u64], SECCOMP_RET_TRAP),
        (
            Sysno::clone,
            &[thread | libc::CLONE_NEWNS as u64],
            SECCOMP_RET_TRAP,
        ),
        (Sysno::sched_setaffinity, &[0], SECCOMP_RET_ALLOW),
        (Sysno::sched_setaffinity, &[1], SECCOMP_RET_TRAP),
        (Sysno::sched_setaffinity, &[HIGH], SECCOMP_RET_TRAP),
        (Sysno::seccomp, &[1, 1], SECCOMP_RET_ALLOW),
        (Sysno::seccomp, &[1, 0], SECCOMP_RET_TRAP),
        (Sysno::seccomp, &[2, 1], SECCOMP_RET_TRAP),
        (Sysno::prlimit64, &[0, 7, 0], SECCOMP_RET_ALLOW),
        (Sysno::prlimit64, &[9, 7, 0], SECCOMP_RET_TRAP),
        (Sysno::prlimit64, &[0, 7, 1], SECCOMP_RET_TRAP),
        (Sysno::prlimit64, &[0, 7, HIGH], SECCOMP_RET_TRAP),
    ] {
        let found = decide(&policy, call(number, arguments));
        assert_eq!(found, expected, "{number} {arguments:x?}");
    }
}

#[test]
fn compiler_calls_on_the_list_fail() {
    let policy = SystemCallPolicy::for_compiler().unwrap();
    for (number, arguments, expected) in [
        (Sysno::openat, &[][..], SECCOMP_RET_ALLOW),
        (Sysno::execve, &[], SECCOMP_RET_ALLOW),
        (Sysno::socket, &[], fails(libc::EPERM)),
        (Sysno::ptrace, &[], fails(libc::EPERM)),
        (Sysno::clone3, &[], fails(libc::ENOSYS)),
        (Sysno::clone, &[libc::SIGCHLD as u64], SECCOMP_RET_ALLOW),
    ] {
        assert_eq!(
            decide(&policy, call(number, arguments)),
            expected,
            "{number}"
        );
    }
    for flag in super::NAMESPACE_FLAGS {
        let arguments = [u64::from(*flag | libc::SIGCHLD as u32)];
        let found = decide(&policy, call(Sysno::clone, &arguments));
        assert_eq!(found, fails(libc::EPERM), "{flag:#x}");
    }
}

#[test]
fn calls_of_other_architectures_end_the_process() {
    for policy in [
        SystemCallPolicy::for_candidate(false).unwrap(),
        SystemCallPolicy::for_candidate(true).unwrap(),
        SystemCallPolicy::for_compiler().unwrap(),
    ] {
        let mut foreign = call(Sysno::write, &[1]);
        foreign.architecture = 0x4000_0003;
        assert_eq!(decide(&policy, foreign), SECCOMP_RET_KILL_PROCESS);
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn x32_calls_are_never_allowed() {
    let candidate = SystemCallPolicy::for_candidate(false).unwrap();
    let compiler = SystemCallPolicy::for_compiler().unwrap();
    for number in (0..1024).chain([0x3fff_ffff]) {
        let mut x32 = call(Sysno::read, &[]);
        x32.number = 0x4000_0000 | number;
        assert_eq!(decide(&candidate, x32), SECCOMP_RET_TRAP, "{number}");
        assert_eq!(decide(&compiler, x32), fails(libc::EPERM), "{number}");
    }
}
