// Switches from one fiber to another in a few nanoseconds. Inlined at every place where a kernel waits.
//
// The assembly stores the stack pointer, the frame pointer and the address at which to resume. It declares every other
// register as overwritten, so the compiler saves what is alive. The code is inlined into the kernel and jumps instead of
// returning: a processor predicts a return from the most recent call, which may belong to another fiber, and every wait
// would be mispredicted. Floating-point control words are not switched, because kernels cannot change them.

#pragma once

#include <stdint.h>

namespace kforge {

struct Context {
    void* resume;
    void* stack;
    void* frame;
    uint64_t result;  // of the collective that the fiber waits for
};

#if defined(__x86_64__)

#if defined(__AVX512F__)
#define KFORGE_VECTOR_REGISTERS                                                                                         \
    , "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", \
        "xmm28", "xmm29", "xmm30", "xmm31", "k1", "k2", "k3", "k4", "k5", "k6", "k7"
#else
#define KFORGE_VECTOR_REGISTERS
#endif

inline __attribute__((always_inline)) void swap_context(Context* from, const Context* to) {
    asm volatile(
        "leaq 1f(%%rip), %%rax\n\t"
        "movq %%rax, 0(%0)\n\t"
        "movq %%rsp, 8(%0)\n\t"
        "movq %%rbp, 16(%0)\n\t"
        "movq 8(%1), %%rsp\n\t"
        "movq 16(%1), %%rbp\n\t"
        "jmpq *0(%1)\n"
        "1:\n\t"
        : "+D"(from), "+S"(to)
        :
        : "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "cc", "memory", "xmm0", "xmm1",
          "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14",
          "xmm15" KFORGE_VECTOR_REGISTERS);
}

#elif defined(__aarch64__)

inline __attribute__((always_inline)) void swap_context(Context* from, const Context* to) {
    register Context* old asm("x0") = from;
    register const Context* next asm("x1") = to;
    asm volatile(
        "adr x9, 1f\n\t"
        "mov x10, sp\n\t"
        "stp x9, x10, [x0]\n\t"
        "str x29, [x0, #16]\n\t"
        "ldp x9, x10, [x1]\n\t"
        "ldr x29, [x1, #16]\n\t"
        "mov sp, x10\n\t"
        "br x9\n"
        "1:\n\t"
        "hint #36\n\t"  // a landing pad if branch targets are enforced; otherwise no effect
        : "+r"(old), "+r"(next)
        :
        : "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16", "x17", "x18", "x19",
          "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28", "x30", "cc", "memory", "v0", "v1", "v2", "v3", "v4",
          "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19", "v20", "v21",
          "v22", "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31");
}

#else
#error "kforge runs kernels on x86-64 and aarch64 processors only"
#endif

}  // namespace kforge
