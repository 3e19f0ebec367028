// Where the threads of the process are while it is stopped, and how a run of the plan begins without a trace of earlier runs.
//
// All code here is in the section `kforge_rest`. At every stop the judge checks that each thread is in this section, at the stack
// pointer of its first stop, and then restores all memory (saved_memory.rs). So nothing is left but registers, which are reset here
// before the run goes on. Included by runtime.cpp only.

#pragma once

#include "process_state.h"

#if defined(__linux__)
#include <sys/auxv.h>
#endif

namespace kforge {

#if defined(__clang__)
#define KFORGE_REST __attribute__((section("kforge_rest"), noinline))
#else
#define KFORGE_REST __attribute__((section("kforge_rest"), noinline, noclone))
#endif

// Found at the start.
static struct {
    uint32_t extended_low;  // the register sets that XRSTOR resets
    uint32_t extended_high;
    bool has_segment_bases;  // programs can change the bases of the segments
    long process;
    long main_thread;
} machine;

#if defined(__x86_64__)

// As XRSTOR reads it: no register set is present, so each gets its initial value; MXCSR has its default.
alignas(64) static const uint8_t INITIAL_REGISTERS[576] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x1f};
constexpr uint32_t DEFAULT_MXCSR = 0x1f80;
// Interrupts are enabled, and the bit that is always set.
constexpr int INITIAL_FLAGS = 0x202;

static void find_registers() {
    constexpr unsigned long FSGSBASE = 1 << 1;
#if defined(__AVX__)
    asm volatile("xgetbv" : "=a"(machine.extended_low), "=d"(machine.extended_high) : "c"(0));
#endif
#if defined(__linux__)
    machine.has_segment_bases = (getauxval(AT_HWCAP2) & FSGSBASE) != 0;
#endif
}

static inline __attribute__((always_inline)) uintptr_t thread_base() {
    uintptr_t base;
    asm volatile("movq %%fs:0, %0" : "=r"(base));
    return base;
}

static inline __attribute__((always_inline)) void reset_registers(const volatile uintptr_t& base) {
// This machine's compiler options say what its system supports: with AVX there is XRSTOR.
#if defined(__AVX__)
    asm volatile("xrstor64 %0"
                 :
                 : "m"(INITIAL_REGISTERS), "a"(machine.extended_low), "d"(machine.extended_high)
                 : "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14",
                   "xmm15" KFORGE_VECTOR_REGISTERS);
#else
    asm volatile("fninit\n\tldmxcsr %0" : : "m"(DEFAULT_MXCSR) : "memory");
#endif
    // Empty selectors that differ in their lowest bits are all valid, so they could hold a mark. Loading one may change the segment's base.
    const uint32_t selector = 0;
    asm volatile("movl %0, %%ds\n\tmovl %0, %%es" : : "r"(selector));
    if (machine.has_segment_bases) {
        asm volatile("movl %0, %%fs\n\tmovl %0, %%gs" : : "r"(selector));
        asm volatile("wrfsbase %0" : : "r"(base));
        asm volatile("wrgsbase %0" : : "r"(uintptr_t(0)));
    }
    // Flags that no instruction of the runtime changes. Below the red zone, which may hold values of the caller.
    asm volatile("lea -256(%%rsp), %%rsp\n\tpushq %0\n\tpopfq\n\tlea 256(%%rsp), %%rsp" : : "i"(INITIAL_FLAGS) : "cc", "memory");
    // The caller's registers come back from the stack, and the others are cleared: a function that is called with fewer arguments than it
    // has would find in them what an earlier launch has left.
    asm volatile("xorl %%r8d, %%r8d\n\txorl %%r9d, %%r9d\n\txorl %%r10d, %%r10d\n\txorl %%r11d, %%r11d"
                 :
                 :
                 : "memory", "cc", "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15");
}

#elif defined(__aarch64__)

static void find_registers() {}

static inline __attribute__((always_inline)) uintptr_t thread_base() {
    uintptr_t base;
    asm volatile("mrs %0, tpidr_el0" : "=r"(base));
    return base;
}

#define KFORGE_CLEAR(n) "movi v" #n ".2d, #0\n\t"
static inline __attribute__((always_inline)) void reset_registers(const volatile uintptr_t& base) {
    asm volatile(
        "msr fpcr, xzr\n\tmsr fpsr, xzr\n\tmsr nzcv, xzr\n\tmsr tpidr_el0, %0\n\t"  //
        KFORGE_CLEAR(0) KFORGE_CLEAR(1) KFORGE_CLEAR(2) KFORGE_CLEAR(3) KFORGE_CLEAR(4) KFORGE_CLEAR(5) KFORGE_CLEAR(6) KFORGE_CLEAR(7)
        KFORGE_CLEAR(8) KFORGE_CLEAR(9) KFORGE_CLEAR(10) KFORGE_CLEAR(11) KFORGE_CLEAR(12) KFORGE_CLEAR(13) KFORGE_CLEAR(14) KFORGE_CLEAR(15)
        KFORGE_CLEAR(16) KFORGE_CLEAR(17) KFORGE_CLEAR(18) KFORGE_CLEAR(19) KFORGE_CLEAR(20) KFORGE_CLEAR(21) KFORGE_CLEAR(22) KFORGE_CLEAR(23)
        KFORGE_CLEAR(24) KFORGE_CLEAR(25) KFORGE_CLEAR(26) KFORGE_CLEAR(27) KFORGE_CLEAR(28) KFORGE_CLEAR(29) KFORGE_CLEAR(30) KFORGE_CLEAR(31)
        :
        : "r"(base)
        : "cc", "memory", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9",
          "v10", "v11", "v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27", "v28", "v29",
          "v30", "v31");
}
#undef KFORGE_CLEAR

#endif

static void find_machine() {
    find_registers();
#if defined(__linux__)
    machine.process = system_call(__NR_getpid);
    machine.main_thread = system_call(__NR_gettid);
#endif
}

// Stops the whole process until the judge continues it. For the main thread.
KFORGE_REST static void stop_process() {
    const volatile uintptr_t base = thread_base();
#if defined(__linux__)
    system_call(__NR_tgkill, machine.process, machine.main_thread, SIGSTOP);
#else
    raise(SIGSTOP);
#endif
    reset_registers(base);
}

// Waits until a run gives the helpers a job. The wait is short during a run, and between runs the process is stopped.
KFORGE_REST static void wait_for_run() {
    const volatile uintptr_t base = thread_base();
    // From here on the stack of this thread does not change.
    __atomic_fetch_add(&job.resting, 1, __ATOMIC_ACQ_REL);
    wake(job.wake_count);
    for (uint32_t spins = 0;; ++spins) {
        const uint32_t seen = count_wakes(job.wake_count);
        if (__atomic_load_n(&job.generation, __ATOMIC_ACQUIRE) != 0) break;
        if (spins < SPINS_BEFORE_YIELD) {
            relax();
        } else {
            leave_core(job.wake_count, seen);
        }
    }
    reset_registers(base);
}

}  // namespace kforge
