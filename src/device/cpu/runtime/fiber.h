// Fibers: contexts that swap in a few nanoseconds, and the stacks that they run on.
//
// A swap stores the stack pointer, the frame pointer and the address to resume at; the compiler saves whatever else is
// alive around the assembly, because the assembly declares every other register overwritten. It jumps rather than
// returns: the processor predicts returns from the calls it has seen, and every swap would be a misprediction.
// Floating-point control words are not switched: kernels have no way to change them.

#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

namespace kforge {

struct Context {
    void* resume;
    void* stack;
    void* frame;
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

[[noreturn]] inline __attribute__((always_inline)) void enter_context(const Context* to) {
    asm volatile(
        "movq 8(%0), %%rsp\n\t"
        "movq 16(%0), %%rbp\n\t"
        "jmpq *0(%0)\n\t"
        :
        : "S"(to)
        : "memory");
    __builtin_unreachable();
}

inline Context fresh_context(void (*function)(), char* stack_top) {
    // As after a call: 8 bytes below a multiple of 16, a return address of zero on top.
    void** top = reinterpret_cast<void**>(stack_top) - 1;
    *top = nullptr;
    return {reinterpret_cast<void*>(function), top, nullptr};
}

inline void relax() { asm volatile("pause" ::: "memory"); }

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
        "hint #36\n\t"  // a landing pad where branch targets are enforced, else nothing
        : "+r"(old), "+r"(next)
        :
        : "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16", "x17", "x18", "x19",
          "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28", "x30", "cc", "memory", "v0", "v1", "v2", "v3", "v4",
          "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19", "v20", "v21",
          "v22", "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31");
}

[[noreturn]] inline __attribute__((always_inline)) void enter_context(const Context* to) {
    register const Context* next asm("x1") = to;
    asm volatile(
        "ldp x16, x10, [x1]\n\t"
        "ldr x29, [x1, #16]\n\t"
        "mov sp, x10\n\t"
        "br x16\n\t"
        :
        : "r"(next)
        : "memory");
    __builtin_unreachable();
}

inline Context fresh_context(void (*function)(), char* stack_top) { return {reinterpret_cast<void*>(function), stack_top, nullptr}; }

inline void relax() { asm volatile("yield" ::: "memory"); }

#else
#error "kforge runs kernels on x86-64 and aarch64 processors only"
#endif

// The stacks of one operating system thread. Addresses are reserved at once, memory comes with the first touch, and a
// stack is used again as soon as its thread has ended, the warmest first.
class StackPool {
  public:
    static constexpr size_t STACK_BYTES = 64 << 10;
    static constexpr size_t GUARD_STACK_BYTES = 64 << 10;
    static constexpr uint32_t STACKS = 1025;  // one per thread of the largest block, and the one that starts the next

    bool reserve() {
        void* start = mmap(nullptr, STRIDE * STACKS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
        if (start == MAP_FAILED) return false;
        // A huge page would touch the stacks of sixteen threads at once.
        madvise(start, STRIDE * STACKS, MADV_NOHUGEPAGE);
        base_ = static_cast<char*>(start);
        return true;
    }

    uint32_t take() {
        if (free_count_ != 0) return free_[--free_count_];
        guard(made_);
        return made_++;
    }

    void give_back(uint32_t stack) { free_[free_count_++] = static_cast<uint16_t>(stack); }

    // Tops are spread over a page: at equal offsets they would all compete for the same lines of the first cache.
    char* top(uint32_t stack) const { return base_ + STRIDE * (stack + 1) - (stack % 8) * 512; }

    // Whether a fault at this address means that a stack ran over.
    bool in_guard(uintptr_t address) const {
        const uintptr_t base = reinterpret_cast<uintptr_t>(base_);
        return base_ != nullptr && address >= base && address < base + STRIDE * STACKS && (address - base) % STRIDE < GUARD_STACK_BYTES;
    }

  private:
    static constexpr size_t STRIDE = STACK_BYTES + GUARD_STACK_BYTES;

    void guard(uint32_t stack) {
        char* start = base_ + STRIDE * stack;
        constexpr int GUARD_INSTALL = 102;  // MADV_GUARD_INSTALL, Linux 6.13: no further mapping is made
        if (madvise(start, GUARD_STACK_BYTES, GUARD_INSTALL) == 0) return;
        // Where the limit of mappings is reached the stack stays unguarded, which costs a message, not an answer.
        (void)mprotect(start, GUARD_STACK_BYTES, PROT_NONE);
    }

    char* base_ = nullptr;
    uint32_t made_ = 0;
    uint32_t free_count_ = 0;
    uint16_t free_[STACKS];
};

}  // namespace kforge
