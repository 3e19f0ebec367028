// Fibers: how one starts, and the pool of stacks they run on.
//
// Switching between fibers is in switch.h; choosing the next one is in block.h.

#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "switch.h"

namespace kforge {

#if defined(__x86_64__)

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

inline Context new_context(void (*function)(), char* stack_top) {
    // The state just after a call: 8 bytes below a multiple of 16, with a return address of zero on top.
    void** top = reinterpret_cast<void**>(stack_top) - 1;
    *top = nullptr;
    return {reinterpret_cast<void*>(function), top, nullptr, 0};
}

inline void relax() { asm volatile("pause" ::: "memory"); }

#elif defined(__aarch64__)

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

inline Context new_context(void (*function)(), char* stack_top) { return {reinterpret_cast<void*>(function), stack_top, nullptr, 0}; }

inline void relax() { asm volatile("yield" ::: "memory"); }

#endif

// The stacks of one operating system thread. All are mapped at the start, with their guards, because a candidate's process may not
// change its mappings later; memory comes on first touch. A stack is reused as soon as its thread exits, the most recently used first.
class StackPool {
  public:
#if defined(KFORGE_RACE) || defined(KFORGE_BOUNDS)
    static constexpr size_t STACK_BYTES = 256 << 10;  // frames are larger with instrumentation
#else
    static constexpr size_t STACK_BYTES = 64 << 10;
#endif
    static constexpr size_t GUARD_STACK_BYTES = 64 << 10;
    static constexpr uint32_t MAX_STACKS = 1025;

    // Reserves one stack for each thread of a block, and one for the thread that starts the next block.
    bool reserve(uint32_t block_threads) {
        count_ = block_threads + 1;
        void* start = mmap(nullptr, STRIDE * count_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
        if (start == MAP_FAILED) return false;
        // A huge page would cover the stacks of sixteen threads.
        madvise(start, STRIDE * count_, MADV_NOHUGEPAGE);
        base_ = static_cast<char*>(start);
        for (uint32_t stack = 0; stack < count_; ++stack) guard(stack);
        return true;
    }

    uint32_t take() { return free_count_ != 0 ? free_[--free_count_] : made_++; }

    uintptr_t start() const { return reinterpret_cast<uintptr_t>(base_); }
    uintptr_t end() const { return start() + STRIDE * count_; }

    void give_back(uint32_t stack) { free_[free_count_++] = static_cast<uint16_t>(stack); }

    // Stack tops are spread over a page: at equal offsets they would compete for the same first-level cache lines.
    char* top(uint32_t stack) const { return base_ + STRIDE * (stack + 1) - (stack % 8) * 512; }

    // Whether a fault at this address is a stack overflow.
    bool in_guard(uintptr_t address) const {
        const uintptr_t base = reinterpret_cast<uintptr_t>(base_);
        return base_ != nullptr && address >= base && address < base + STRIDE * count_ && (address - base) % STRIDE < GUARD_STACK_BYTES;
    }

  private:
    static constexpr size_t STRIDE = STACK_BYTES + GUARD_STACK_BYTES;

    void guard(uint32_t stack) {
        char* start = base_ + STRIDE * stack;
        constexpr int GUARD_INSTALL = 102;  // MADV_GUARD_INSTALL (Linux 6.13): needs no separate mapping
        if (madvise(start, GUARD_STACK_BYTES, GUARD_INSTALL) == 0) return;
        // At the limit of mappings the stack stays unguarded. This only costs the message for an overflow.
        (void)mprotect(start, GUARD_STACK_BYTES, PROT_NONE);
    }

    char* base_ = nullptr;
    uint32_t count_ = 0;
    uint32_t made_ = 0;
    uint32_t free_count_ = 0;
    uint16_t free_[MAX_STACKS];
};

}  // namespace kforge
