// The runtime's interface to the CUDA headers: the position of a thread, waiting, shared memory, faults, entries.
//
// Candidate code calls everything here through the CUDA names in the other headers and never includes this file directly.
// Threads are fibers that never leave their operating system thread, so thread-local addresses stay valid across any wait.

#pragma once

#include <stddef.h>
#include <stdint.h>

#include "switch.h"

// The initial-exec model would cost a second load at every use. Everything is linked into one executable, so local-exec works.
#define KFORGE_THREAD_LOCAL extern __thread __attribute__((tls_model("local-exec")))

namespace kforge {

// One per declaration of static shared memory, template instantiation and operating system thread.
struct SharedSlot {
    uint32_t generation;  // the launch in which `address` was assigned
    void* address;
};

// An operation that the lanes of a warp perform together. The last lane of the mask to arrive computes all results.
enum class Collective : uint8_t {
    sync,
    shuffle,
    ballot,  // result: (participating lanes << 32) | lanes whose value is not zero
    match_any,
    match_all,
    add,
    min_signed,
    max_signed,
    min_unsigned,
    max_unsigned,
    bit_and,
    bit_or,
    bit_xor,
};

enum class Vote : uint32_t { count, all, any };

struct Entry {
    void (*run)(const void* const* arguments);  // runs one thread of the kernel
    uint32_t argument_count;
};

KFORGE_THREAD_LOCAL uint32_t current_lane asm("kforge_lane");
KFORGE_THREAD_LOCAL uint32_t shared_generation asm("kforge_shared_generation");
KFORGE_THREAD_LOCAL void* const dynamic_shared asm("kforge_dynamic_shared");

// The running thread, and the thread that runs next if the running one has to wait; `next` is null if it does not.
struct FiberSwitch {
    Context* own;
    const Context* next;
};

FiberSwitch arrive_at_collective(uint32_t mask, Collective kind, uint64_t value, uint32_t source_lane) asm("kforge_collective");
FiberSwitch arrive_at_barrier(uint32_t predicate) asm("kforge_block_barrier");
// The vote of the barrier that this thread has just passed.
uint32_t barrier_vote(Vote vote) asm("kforge_barrier_vote");

// Waits until every live lane of `mask` has called with the same mask and kind. Returns the result for this lane.
inline __attribute__((always_inline)) uint64_t collective(uint32_t mask, Collective kind, uint64_t value, uint32_t source_lane) {
    const FiberSwitch fiber_switch = arrive_at_collective(mask, kind, value, source_lane);
    if (fiber_switch.next != nullptr) swap_context(fiber_switch.own, fiber_switch.next);
    return fiber_switch.own->result;
}

// Waits until every live thread of the block has called.
inline __attribute__((always_inline)) void block_barrier(uint32_t predicate) {
    const FiberSwitch fiber_switch = arrive_at_barrier(predicate);
    if (fiber_switch.next != nullptr) swap_context(fiber_switch.own, fiber_switch.next);
}

// The lanes of this warp at the same source location, once no other lane can run.
uint32_t active_lanes(uint32_t source_id) asm("kforge_active_lanes");
// Lets other threads of the block run. Called where a thread polls a location that another thread may write.
void yield() asm("kforge_yield");

void* allocate_shared(SharedSlot& slot, size_t bytes, size_t alignment) asm("kforge_allocate_shared");
// A variable in shared memory at namespace scope. In a section of their own, so that the runtime can poison and count them like the others.
// No constructor registers them: a kernel must not run code before its first launch.
struct SharedVariable {
    void* (*address)();
    size_t bytes;
};

[[noreturn]] void device_trap() asm("kforge_trap");
// Take the place of inline PTX, of a `thread_local` in a function and of a launch, with the line of the kernel file.
[[noreturn]] void reached_ptx(uint32_t line) asm("kforge_reached_ptx");
[[noreturn]] void reached_thread_local(uint32_t line) asm("kforge_reached_thread_local");
[[noreturn]] void reached_launch(uint32_t line) asm("kforge_reached_launch");
[[noreturn]] void assertion_failed(const char* expression, const char* file, int line) asm("kforge_assertion_failed");
bool is_shared(const void* pointer) asm("kforge_is_shared");
uint64_t device_clock() asm("kforge_clock");
uint64_t global_timer() asm("kforge_global_timer");

inline __attribute__((always_inline)) void* shared_static(SharedSlot& slot, size_t bytes, size_t alignment) {
    if (__builtin_expect(slot.generation != shared_generation, 0)) return allocate_shared(slot, bytes, alignment);
    return slot.address;
}

inline __attribute__((always_inline)) void* shared_dynamic() { return dynamic_shared; }

// A thread that reads the same value again and again waits for another thread. Fibers are not preempted, so a polling thread
// must yield now and then; otherwise the thread that it waits for never runs.
KFORGE_THREAD_LOCAL uint32_t poll_count asm("kforge_poll_count");
inline __attribute__((always_inline)) void polled() {
    if (__builtin_expect((++poll_count & 127) == 0, 0)) yield();
}

}  // namespace kforge

#define KFORGE_DYNAMIC_SHARED(type, name) KFORGE_THREAD_LOCAL type* const name asm("kforge_dynamic_shared")
#define KFORGE_JOIN_(a, b) a##b
#define KFORGE_JOIN(a, b) KFORGE_JOIN_(a, b)
#if defined(__APPLE__)
#define KFORGE_SHARED_SECTION "__DATA,kforge_shared"
#else
#define KFORGE_SHARED_SECTION "kforge_shared"
#endif
#define KFORGE_SHARED_VARIABLE(name)                                                                                       \
    __attribute__((section(KFORGE_SHARED_SECTION), used)) static constexpr ::kforge::SharedVariable KFORGE_JOIN(kforge_shared_variable_, __COUNTER__) = { \
        []() -> void* { return (void*)&name; }, sizeof(name)}
