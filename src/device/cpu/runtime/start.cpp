// The first instructions of a candidate's process: takes away what the process no longer needs, then begins as any other does.
//
// Runs before libc and before every constructor, on the bare stack that the system gives. Does nothing else.

#include "confine.h"

#if defined(__linux__)
// A loader, where there is one, has run the first constructors before this: they have called it then.
extern "C" __attribute__((used, visibility("hidden"))) void kforge_confine_start() {
    static bool done;
    if (done) return;
    done = true;
    kforge::confine_start();
}
#endif

// The registers that tell `_start` something are kept.
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
