// Seccomp filters that the process of a candidate installs on itself. A filter can only be narrowed.
//
// The judge has installed a first filter before the process started (`sandbox/seccomp.rs`). The filters here need to know
// more: the process's own id, and that everything is set up. On a machine without seccomp nothing happens. Nothing here
// uses libc, because the first filter is installed before libc is initialised.

#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(__linux__)

#include <asm/unistd.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>

// Calls `confine_start` once; see start.cpp.
extern "C" void kforge_confine_start();

namespace kforge {

// A raw system call. Returns what the system returns: a negative number is an error.
inline __attribute__((always_inline)) long system_call(long number, long a = 0, long b = 0, long c = 0, long d = 0) {
#if defined(__x86_64__)
    long result;
    register long r10 asm("r10") = d;
    asm volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long x8 asm("x8") = number;
    register long x0 asm("x0") = a;
    register long x1 asm("x1") = b;
    register long x2 asm("x2") = c;
    register long x3 asm("x3") = d;
    asm volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
    return x0;
#else
    return -38;
#endif
}

constexpr uint32_t OUT_OF_MEMORY = 12;  // ENOMEM
constexpr uint32_t INVALID = 22;        // EINVAL

// A filter under construction. Computes jump offsets, so that rules need not.
struct Filter {
    sock_filter code[128];
    unsigned short length = 0;

    void add(unsigned short kind, uint32_t value, uint8_t when_true = 0, uint8_t when_false = 0) {
        code[length++] = {kind, when_true, when_false, value};
    }
    void load(size_t offset) { add(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(offset)); }
    void load_call() { load(offsetof(seccomp_data, nr)); }
    // The lower half of an argument: everything compared here is 32 bits wide, and both architectures are little-endian.
    void load_argument(int index) { load(offsetof(seccomp_data, args) + 8u * static_cast<unsigned>(index)); }
    void load_upper_half(int index) { load(offsetof(seccomp_data, args) + 8u * static_cast<unsigned>(index) + 4); }
    void return_action(uint32_t action) { add(BPF_RET | BPF_K, action); }
    void return_if_equal(uint32_t value, uint32_t action) {
        add(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1);
        return_action(action);
    }
    void return_if_any_bit(uint32_t bits, uint32_t action) {
        add(BPF_JMP | BPF_JSET | BPF_K, bits, 0, 1);
        return_action(action);
    }
    // The rules up to `end_call` apply to this call only.
    unsigned short begin_call(uint32_t call) {
        add(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 0);
        return length;
    }
    void end_call(unsigned short start) { code[start - 1].jf = static_cast<uint8_t>(length - start); }

    // Installs the filter on all threads. Fails on a machine without seccomp; the judge has detected that already.
    void install() {
        const sock_fprog program = {length, code};
        system_call(__NR_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, reinterpret_cast<long>(&program));
    }
};

// Runs before libc is initialised and before the first instruction of a candidate. Limits signals to the process itself,
// writes to standard output and error, and forbids what was needed to start the process.
inline void confine_start() {
    Filter filter;
    filter.load_call();
    filter.return_if_equal(__NR_execve, SECCOMP_RET_TRAP);
    filter.return_if_equal(__NR_execveat, SECCOMP_RET_TRAP);
    const unsigned short kill = filter.begin_call(__NR_tgkill);
    filter.load_argument(0);
    filter.return_if_equal(static_cast<uint32_t>(system_call(__NR_getpid)), SECCOMP_RET_ALLOW);
    filter.return_action(SECCOMP_RET_TRAP);
    filter.end_call(kill);
    const unsigned short write = filter.begin_call(__NR_write);
    filter.load_argument(0);
    filter.return_if_equal(1, SECCOMP_RET_ALLOW);
    filter.return_if_equal(2, SECCOMP_RET_ALLOW);
    filter.return_action(SECCOMP_RET_TRAP);
    filter.end_call(write);
    filter.return_action(SECCOMP_RET_ALLOW);
    filter.install();
}

// Calls that a kernel may make with any arguments: none of them keeps anything that a later call could read.
constexpr uint32_t KERNEL_CALLS[] = {
    __NR_futex,     __NR_rt_sigreturn, __NR_tgkill,          __NR_write,  __NR_exit_group,   __NR_sched_yield,       __NR_gettid,       __NR_nanosleep,
    __NR_getpid,    __NR_getrandom,    __NR_restart_syscall, __NR_getcpu, __NR_gettimeofday, __NR_sched_getaffinity, __NR_clock_getres,
};
// The clocks of the time of day and of the machine. Those of processor time say how much the process has done in earlier launches.
constexpr uint32_t KERNEL_CLOCKS[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME};

inline void allow_clocks(Filter& filter) {
    constexpr uint32_t CALLS[] = {__NR_clock_gettime, __NR_clock_nanosleep};
    for (uint32_t call : CALLS) {
        const unsigned short start = filter.begin_call(call);
        filter.load_argument(0);
        for (uint32_t clock : KERNEL_CLOCKS) filter.return_if_equal(clock, SECCOMP_RET_ALLOW);
        filter.return_action(SECCOMP_RET_ERRNO | INVALID);
        filter.end_call(start);
    }
}

#if defined(KFORGE_BOUNDS) || defined(KFORGE_RACE)

// These builds run once, and their runtime allocates memory meanwhile.
inline void allow_memory(Filter& filter) {
    constexpr uint32_t CALLS[] = {__NR_munmap, __NR_madvise, __NR_brk, __NR_mremap, __NR_rt_sigprocmask, __NR_sigaltstack, __NR_exit};
    for (uint32_t call : CALLS) filter.return_if_equal(call, SECCOMP_RET_ALLOW);
    const unsigned short protect = filter.begin_call(__NR_mprotect);
    filter.load_argument(2);
    filter.return_if_any_bit(PROT_EXEC, SECCOMP_RET_TRAP);
    filter.return_action(SECCOMP_RET_ALLOW);
    filter.end_call(protect);
    const unsigned short map = filter.begin_call(__NR_mmap);
    filter.load_argument(2);
    filter.return_if_any_bit(PROT_EXEC, SECCOMP_RET_TRAP);
    filter.load_argument(4);
    filter.add(BPF_JMP | BPF_JEQ | BPF_K, 0xffffffff, 1, 0);
    filter.return_action(SECCOMP_RET_TRAP);
    // Shared memory is not counted by any limit.
    filter.load_argument(3);
    filter.return_if_any_bit(MAP_SHARED, SECCOMP_RET_TRAP);
    filter.return_action(SECCOMP_RET_ALLOW);
    filter.end_call(map);
}

#else

// Mappings, the end of the heap, the alternate stack and the signal mask would outlive a launch. The C library's own allocations
// fail. A signal may be blocked to end the process, but the mask cannot be read.
inline void allow_memory(Filter& filter) {
    filter.return_if_equal(__NR_brk, SECCOMP_RET_ERRNO | OUT_OF_MEMORY);
    filter.return_if_equal(__NR_mmap, SECCOMP_RET_ERRNO | OUT_OF_MEMORY);
    const unsigned short mask = filter.begin_call(__NR_rt_sigprocmask);
    filter.load_argument(2);
    filter.add(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0);
    filter.return_action(SECCOMP_RET_TRAP);
    filter.load_upper_half(2);
    filter.add(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0);
    filter.return_action(SECCOMP_RET_TRAP);
    filter.return_action(SECCOMP_RET_ALLOW);
    filter.end_call(mask);
}

#endif

// Runs before a candidate's constructors, once all threads and all memory exist: only what a kernel may still call stays allowed. No
// files, no threads, no mappings, and no signal handlers, so that the runtime's handlers stay installed.
inline void confine_kernel() {
    Filter filter;
    filter.load_call();
    for (uint32_t call : KERNEL_CALLS) filter.return_if_equal(call, SECCOMP_RET_ALLOW);
    allow_clocks(filter);
    allow_memory(filter);
    filter.return_action(SECCOMP_RET_TRAP);
    filter.install();
}

}  // namespace kforge

#endif
