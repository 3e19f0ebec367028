// What the process of a candidate takes away from itself: system calls, by filters that can only be narrowed.
//
// The judge has put a filter on the process before it existed; here stand those that need to know more: the process's own
// number, and that everything is set up. Where the machine has no such filters nothing happens. Nothing here uses libc: the
// first of them is put on before libc is set up.

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

// `confine_start`, once; see start.cpp.
extern "C" void kforge_confine_start();

namespace kforge {

// The answer is that of the system: negative for an error.
inline __attribute__((always_inline)) long system_call(long number, long a = 0, long b = 0, long c = 0) {
#if defined(__x86_64__)
    long result;
    asm volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long x8 asm("x8") = number;
    register long x0 asm("x0") = a;
    register long x1 asm("x1") = b;
    register long x2 asm("x2") = c;
    asm volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    return x0;
#else
    return -38;
#endif
}

// A filter under construction. Jumps are counted from here, so that whoever writes rules need not.
struct Filter {
    sock_filter code[128];
    unsigned short length = 0;

    void add(unsigned short kind, uint32_t value, uint8_t when_true = 0, uint8_t when_false = 0) {
        code[length++] = {kind, when_true, when_false, value};
    }
    void load(size_t offset) { add(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(offset)); }
    void load_call() { load(offsetof(seccomp_data, nr)); }
    // The lower half: all that is compared here is 32 bits wide, on little-endian machines.
    void load_argument(int index) { load(offsetof(seccomp_data, args) + 8u * static_cast<unsigned>(index)); }
    void answer(uint32_t action) { add(BPF_RET | BPF_K, action); }
    void answer_if(uint32_t value, uint32_t action) {
        add(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1);
        answer(action);
    }
    void answer_if_any(uint32_t bits, uint32_t action) {
        add(BPF_JMP | BPF_JSET | BPF_K, bits, 0, 1);
        answer(action);
    }
    // The rules up to `end` are for this call alone.
    unsigned short begin(uint32_t call) {
        add(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 0);
        return length;
    }
    void end(unsigned short start) { code[start - 1].jf = static_cast<uint8_t>(length - start); }

    // For all threads. On a machine without filters this fails, and the judge knows.
    void put_on() {
        const sock_fprog program = {length, code};
        system_call(__NR_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, reinterpret_cast<long>(&program));
    }
};

// Before libc is set up, and before the first instruction of a candidate: what needs the process's own number, and what was
// needed to start it.
inline void confine_start() {
    Filter filter;
    filter.load_call();
    filter.answer_if(__NR_execve, SECCOMP_RET_TRAP);
    filter.answer_if(__NR_execveat, SECCOMP_RET_TRAP);
    const unsigned short kill = filter.begin(__NR_tgkill);
    filter.load_argument(0);
    filter.answer_if(static_cast<uint32_t>(system_call(__NR_getpid)), SECCOMP_RET_ALLOW);
    filter.answer(SECCOMP_RET_TRAP);
    filter.end(kill);
    const unsigned short write = filter.begin(__NR_write);
    filter.load_argument(0);
    filter.answer_if(1, SECCOMP_RET_ALLOW);
    filter.answer_if(2, SECCOMP_RET_ALLOW);
    filter.answer(SECCOMP_RET_TRAP);
    filter.end(write);
    filter.answer(SECCOMP_RET_ALLOW);
    filter.put_on();
}

// Before a candidate's constructors, once all threads are there: all that a kernel may still ask of the system. No file, no
// thread, no memory that is shared or executed, and no signal's handler, so that the runtime's stay in force.
inline void confine_kernel() {
    constexpr uint32_t OPEN[] = {
        __NR_futex,           __NR_munmap,  __NR_madvise,         __NR_brk,    __NR_mremap,     __NR_rt_sigprocmask, __NR_rt_sigreturn,
        __NR_sigaltstack,     __NR_tgkill,  __NR_write,           __NR_exit,   __NR_exit_group, __NR_sched_yield,    __NR_clock_gettime,
        __NR_clock_nanosleep, __NR_gettid,  __NR_nanosleep,       __NR_getpid, __NR_getrandom,  __NR_restart_syscall, __NR_getcpu,
        __NR_gettimeofday,    __NR_clock_getres, __NR_sched_getaffinity,
    };
    Filter filter;
    filter.load_call();
    for (uint32_t call : OPEN) filter.answer_if(call, SECCOMP_RET_ALLOW);
    const unsigned short protect = filter.begin(__NR_mprotect);
    filter.load_argument(2);
    filter.answer_if_any(PROT_EXEC, SECCOMP_RET_TRAP);
    filter.answer(SECCOMP_RET_ALLOW);
    filter.end(protect);
    const unsigned short map = filter.begin(__NR_mmap);
    filter.load_argument(2);
    filter.answer_if_any(PROT_EXEC, SECCOMP_RET_TRAP);
    filter.load_argument(4);
    filter.add(BPF_JMP | BPF_JEQ | BPF_K, 0xffffffff, 1, 0);
    filter.answer(SECCOMP_RET_TRAP);
    // Shared memory counts for no limit.
    filter.load_argument(3);
    filter.answer_if_any(MAP_SHARED, SECCOMP_RET_TRAP);
    filter.answer(SECCOMP_RET_ALLOW);
    filter.end(map);
    filter.answer(SECCOMP_RET_TRAP);
    filter.put_on();
}

}  // namespace kforge

#endif
