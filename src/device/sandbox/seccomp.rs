//! Seccomp filters for candidates and compilers.
//!
//! A candidate gets a list of allowed system calls, a compiler a list of denied ones (`system_calls`). Filters are built before
//! a fork; installing them takes system calls only. The filters that a candidate's process installs on itself later are in
//! `runtime/confine.h`. Nothing here decides whether a machine without seccomp is good enough.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use syscalls::Sysno;

use super::system_calls::{
    CANDIDATE_CALLS, COMPILER_DENIED_CALLS, LOADER_CALLS, NAMESPACE_FLAGS, READ_LINK_CALLS,
    THREAD_FLAGS,
};

/// The architecture that the lists in `system_calls` were made for; `None` on all others.
const TARGET: Option<TargetArch> = if cfg!(all(target_arch = "x86_64", target_pointer_width = "64"))
{
    Some(TargetArch::x86_64)
} else if cfg!(all(target_arch = "aarch64", target_endian = "little")) {
    Some(TargetArch::aarch64)
} else {
    None
};

/// The rules of one filter by call number. A call with no rules matches whatever its arguments are.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Filters that are installed together, in this order.
///
/// Every filter sees every system call, and Linux applies the strictest result: kill, then trap, then error, then allow.
/// A filter of `seccompiler` has two results, so a policy with more results needs several filters. Each of them kills a process
/// that uses another architecture's system calls, because those numbers mean something else.
#[derive(Clone, Debug)]
pub(super) struct SystemCallPolicy {
    programs: Vec<BpfProgram>,
}

impl SystemCallPolicy {
    /// For a candidate's process: a call that is not allowed does not happen and raises SIGSYS. `None` on an architecture that
    /// the lists were not made for.
    pub(super) fn for_candidate(with_loader: bool) -> Option<Self> {
        let target = TARGET?;
        let loader_calls = if with_loader { LOADER_CALLS } else { &[] };
        // `clone3` and the calls that read a link are here so that the error below applies instead of the trap. The x32 ABI
        // needs no rule: none of its numbers is in the list.
        let mut allowed = rules_for(
            [
                CANDIDATE_CALLS,
                loader_calls,
                &[Sysno::clone3],
                READ_LINK_CALLS,
            ]
            .concat(),
        );
        let mut allow_with = |call: Sysno, conditions| {
            allowed.insert(call.id().into(), vec![rule(conditions)]);
        };
        allow_with(Sysno::clone, vec![low_half_is(0, THREAD_FLAGS)]);
        allow_with(Sysno::sched_setaffinity, vec![is_zero(0)]);
        // `SECCOMP_SET_MODE_FILTER` with `SECCOMP_FILTER_FLAG_TSYNC`: the runtime narrows the policy later.
        allow_with(Sysno::seccomp, vec![low_half_is(0, 1), low_half_is(1, 1)]);
        // Only to read the process's own limits: the pointer to new limits is null.
        allow_with(Sysno::prlimit64, vec![is_zero(0), is_zero(2)]);
        Some(Self {
            programs: vec![
                fail_clone3(target),
                // libc asks for the path of the program and works without it.
                fail(rules_for(READ_LINK_CALLS.to_vec()), libc::ENOENT, target),
                // Last: it does not allow the calls that install these filters.
                program(allowed, SeccompAction::Allow, SeccompAction::Trap, target),
            ],
        })
    }

    /// For a compiler and its children: a denied call fails with EPERM, and the process continues. `None` on an architecture that
    /// the lists were not made for.
    pub(super) fn for_compiler() -> Option<Self> {
        let target = TARGET?;
        let mut denied = rules_for(COMPILER_DENIED_CALLS.to_vec());
        // Several rules for one call: any of these flags is enough.
        let has_flag = NAMESPACE_FLAGS.iter().map(|flag| {
            let operator = SeccompCmpOp::MaskedEq((*flag).into());
            rule(vec![condition(
                0,
                SeccompCmpArgLen::Dword,
                operator,
                (*flag).into(),
            )])
        });
        denied.insert(Sysno::clone.id().into(), has_flag.collect());
        Some(Self {
            programs: vec![
                fail_clone3(target),
                #[cfg(target_arch = "x86_64")]
                deny_x32(),
                fail(denied, libc::EPERM, target),
            ],
        })
    }

    /// Installs the filters on this thread, permanently. Makes system calls only, so it may run between fork and exec.
    pub(super) fn apply(&self) -> io::Result<()> {
        for program in &self.programs {
            seccompiler::apply_filter(program).map_err(|error| match error {
                seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => error,
                _ => io::ErrorKind::Other.into(),
            })?;
        }
        Ok(())
    }
}

/// A filter that lets `clone3` fail as on an old Linux, so that libraries use `clone`: the flags of `clone3` are in memory, where a
/// filter cannot see them.
fn fail_clone3(target: TargetArch) -> BpfProgram {
    fail(rules_for(vec![Sysno::clone3]), libc::ENOSYS, target)
}

/// A filter that lets these calls fail with an error, and allows all others.
fn fail(rules: Rules, error: i32, target: TargetArch) -> BpfProgram {
    let action = SeccompAction::Errno(error as u32);
    program(rules, action, SeccompAction::Allow, target)
}

/// Denies all calls of the x32 ABI: its table is not the native one, so a list of denied native calls does not cover them.
/// Their numbers have bit 30 set. Written out here because `seccompiler` compares numbers for equality only.
#[cfg(target_arch = "x86_64")]
fn deny_x32() -> BpfProgram {
    const X32_BIT: u32 = 0x4000_0000;
    const NUMBER_OFFSET: u32 = 0;
    let instruction = |code: u32, k: u32, jf: u8| seccompiler::sock_filter {
        code: code as u16,
        jt: 0,
        jf,
        k,
    };
    let error = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    vec![
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, NUMBER_OFFSET, 0),
        instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, X32_BIT, 1),
        instruction(libc::BPF_RET | libc::BPF_K, error, 0),
        instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0),
    ]
}

fn program(
    rules: Rules,
    matched: SeccompAction,
    otherwise: SeccompAction,
    target: TargetArch,
) -> BpfProgram {
    SeccompFilter::new(rules, otherwise, matched, target)
        .and_then(TryInto::try_into)
        .expect("a filter of constant rules is valid")
}

fn rules_for(calls: Vec<Sysno>) -> Rules {
    let numbers = calls.into_iter().map(|call| call.id().into());
    numbers.map(|number| (number, Vec::new())).collect()
}

fn rule(conditions: Vec<SeccompCondition>) -> SeccompRule {
    SeccompRule::new(conditions).expect("a rule has a condition")
}

/// Compares the lower 32 bits of an argument. Flags and operations have no more, and Linux ignores the upper half.
fn low_half_is(argument: u8, value: u32) -> SeccompCondition {
    condition(
        argument,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Eq,
        value.into(),
    )
}

fn is_zero(argument: u8) -> SeccompCondition {
    condition(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)
}

fn condition(
    argument: u8,
    length: SeccompCmpArgLen,
    operator: SeccompCmpOp,
    value: u64,
) -> SeccompCondition {
    SeccompCondition::new(argument, length, operator, value)
        .expect("a system call has six arguments")
}

#[cfg(test)]
#[path = "seccomp_tests.rs"]
mod tests;
