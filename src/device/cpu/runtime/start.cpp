// The first instructions of a candidate's process: installs the first seccomp filter, then continues at `_start`.
//
// Runs before libc is initialised and before every constructor, on the initial stack. Does nothing else.

#include "confine.h"

#if defined(__linux__)
// If there is a loader, it has run the first constructors before this, and they have already called this function.
extern "C" __attribute__((used, visibility("hidden"))) void kforge_confine_start() {
    static bool done;
    if (done) return;
    done = true;
    kforge::confine_start();
}
#endif

// Preserves the registers that `_start` reads.
#if defined(__linux__) && defined(__x86_64__)
asm(R"(
    .text
    .globl kforge_start
    .type kforge_start, @function
kforge_start:
    push %rdx
    sub $8, %rsp
    call kforge_confine_start
    add $8, %rsp
    pop %rdx
    xor %ebp, %ebp
    jmp _start
)");
#elif defined(__linux__) && defined(__aarch64__)
asm(R"(
    .text
    .globl kforge_start
    .type kforge_start, %function
kforge_start:
    stp x0, x30, [sp, #-16]!
    bl kforge_confine_start
    ldp x0, x30, [sp], #16
    b _start
)");
#endif
