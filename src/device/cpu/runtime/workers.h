// The operating system threads of the process: their memory, the cores they run on, and the jobs they share.
//
// Included by runtime.cpp only.

#pragma once

#include "rest.h"

namespace kforge {

static void* reserve(size_t bytes) {
    void* start = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) fail(FAULT_PROTOCOL, "failed to reserve %zu bytes of address space", bytes);
    return start;
}

// The most threads that a block of the plan has.
static uint32_t largest_block() {
    uint64_t largest = 1;
    for (uint32_t i = 0; i < control_page->launch_count && i < MAX_LAUNCHES; ++i) {
        const uint32_t(&block)[3] = control_page->launches[i].block;
        const uint64_t threads = static_cast<uint64_t>(block[0]) * block[1] * block[2];
        if (threads > largest) largest = threads;
    }
    return largest < MAX_THREADS ? static_cast<uint32_t>(largest) : MAX_THREADS;
}

static Worker* make_worker() {
    void* memory = mmap(nullptr, sizeof(Worker) + SIGNAL_STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) fail(FAULT_PROTOCOL, "failed to allocate the state of a thread");
    Worker* made = static_cast<Worker*>(memory);
    handle_signals_apart(static_cast<char*>(memory) + sizeof(Worker), SIGNAL_STACK_BYTES);
    if (!made->stacks.reserve(largest_block())) fail(FAULT_PROTOCOL, "failed to reserve the stacks of a block");

    char* shared = static_cast<char*>(reserve(2 * (SHARED_REGION_BYTES + SHARED_GUARD_BYTES)));
    arena.statics = shared;
    arena.dynamic_end = shared + 2 * SHARED_REGION_BYTES + SHARED_GUARD_BYTES;
    if (mprotect(arena.statics, SHARED_REGION_BYTES, PROT_READ | PROT_WRITE) != 0 ||
        mprotect(arena.dynamic_end - SHARED_REGION_BYTES, SHARED_REGION_BYTES, PROT_READ | PROT_WRITE) != 0) {
        fail(FAULT_PROTOCOL, "failed to allocate shared memory");
    }
    fault_context.stacks = &made->stacks;
    fault_context.shared_end = arena.dynamic_end;
    fault_context.shared_guard_bytes = SHARED_GUARD_BYTES;
    worker = made;
#if defined(KFORGE_RACE)
    race_set_up_shared(reinterpret_cast<uintptr_t>(shared), reinterpret_cast<uintptr_t>(arena.dynamic_end) + SHARED_GUARD_BYTES);
#elif defined(KFORGE_BOUNDS)
    find_shared(reinterpret_cast<uintptr_t>(shared), reinterpret_cast<uintptr_t>(arena.dynamic_end) + SHARED_GUARD_BYTES);
    map_shadow(made->stacks.start(), made->stacks.end());
#endif
    return made;
}

template <typename Condition>
static void wait_until(Condition condition) {
    for (uint32_t spins = 0; !condition(); ++spins) {
        if (spins < SPINS_BEFORE_YIELD) {
            relax();
            continue;
        }
        const uint32_t seen = count_wakes(job.wake_count);
        if (!condition()) leave_core(job.wake_count, seen);
    }
}

// Pins each thread to its own core. Otherwise two threads may share a core for the life of the process, and the judge would
// compare placements instead of kernels. If pinning is refused, the thread stays where the system puts it.
static void pin_to_core(uint32_t thread) {
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
    uint32_t index = thread % static_cast<uint32_t>(CPU_COUNT(&allowed));
    for (int core = 0; core < CPU_SETSIZE; ++core) {
        if (!CPU_ISSET(core, &allowed) || index-- != 0) continue;
        cpu_set_t own;
        CPU_ZERO(&own);
        CPU_SET(core, &own);
        sched_setaffinity(0, sizeof(own), &own);
        return;
    }
}

// A helper works on jobs during a run, and rests between runs. `seen` is the last job that it has done.
static void* run_helper(void* number) {
    pin_to_core(static_cast<uint32_t>(reinterpret_cast<uintptr_t>(number)));
    Worker* own = make_worker();
    for (;;) {
        wait_for_run();
        for (uint32_t seen = 0;;) {
            wait_until([seen] { return __atomic_load_n(&job.generation, __ATOMIC_ACQUIRE) != seen; });
            seen = __atomic_load_n(&job.generation, __ATOMIC_ACQUIRE);
            if (seen == 0) break;
            job.work(*own);
            __atomic_fetch_add(&job.finished, 1, __ATOMIC_ACQ_REL);
            wake(job.wake_count);
        }
    }
    return nullptr;
}

// Waits until all helpers rest. A run that needed no helper has left them at rest.
static void rest_helpers() {
    if (job.generation != 0) {
        __atomic_store_n(&job.resting, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&job.generation, 0, __ATOMIC_RELEASE);
        wake(job.wake_count);
    }
    wait_until([] { return __atomic_load_n(&job.resting, __ATOMIC_ACQUIRE) == job.threads - 1; });
}

static void wait_for_helpers() {
    wait_until([] { return __atomic_load_n(&job.finished, __ATOMIC_ACQUIRE) == job.threads - 1; });
}

static void run_on_all(void (*work)(Worker&)) {
    job.work = work;
    job.claimed = 0;
    __atomic_store_n(&job.finished, 0, __ATOMIC_RELAXED);
    __atomic_fetch_add(&job.generation, 1, __ATOMIC_RELEASE);
    wake(job.wake_count);
    work(*worker);
    wait_for_helpers();
}

}  // namespace kforge
