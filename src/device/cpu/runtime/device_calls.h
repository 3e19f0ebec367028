// The functions of the runtime that candidates call (declared in runtime.h): waiting, shared memory, traps, clocks.
//
// Included by runtime.cpp only. Choosing the next thread is left to block.h.

#pragma once

#include "process_state.h"

namespace kforge {

FiberSwitch arrive_at_collective(uint32_t mask, Collective kind, uint64_t value, uint32_t source_lane) {
    Worker& w = *worker;
    Warp& warp = *w.warp;
    const uint32_t lane = w.thread % LANES;
    const uint32_t bit = 1u << lane;
    const uint64_t key = static_cast<uint64_t>(kind) << 32 | mask;
#if defined(KFORGE_INSPECTED)
    w.sites[w.thread] = __builtin_return_address(0);
#endif
    if (__builtin_expect((mask & bit) == 0, 0)) {
        record_site(w);
        fail(FAULT_SYNC_ERROR, "lane %u called `%s` with mask 0x%08x, which does not include it", lane, name_of(kind), mask);
    }
    warp.values[lane] = value;
    warp.sources[lane] = static_cast<uint8_t>(source_lane);
    warp.keys[lane] = key;
    if (warp.waiting == 0) {
        warp.key = key;
    } else if (__builtin_expect(key != warp.key, 0)) {
        warp.mixed = true;
    }
    warp.waiting |= bit;
    const uint32_t group = mask & warp.live;
    if ((group & ~warp.waiting) == 0 && (__builtin_expect(!warp.mixed, 1) || all_agree(warp, group, key))) {
        complete(warp, group, kind);
        return {&w.contexts[w.thread], nullptr};
    }
    warp.ready &= ~bit;
    if (is_shuffled()) return prepare_switch(w, scheduled_thread(w));
    // Run the lanes that this lane waits for first.
    const uint32_t waited_for = warp.ready & mask;
    return prepare_switch(w, waited_for != 0 ? (w.thread - lane) | next_lane(waited_for, lane) : next_thread(w));
}

FiberSwitch arrive_at_barrier(uint32_t predicate) {
    Worker& w = *worker;
#if defined(KFORGE_INSPECTED)
    w.sites[w.thread] = __builtin_return_address(0);
#endif
    w.votes += predicate;
    if (++w.arrived == w.live_threads) {
        release_barrier(w);
        return {&w.contexts[w.thread], nullptr};
    }
    const uint32_t bit = 1u << (w.thread % LANES);
    w.warp->at_barrier |= bit;
    w.warp->ready &= ~bit;
    if (is_shuffled()) return prepare_switch(w, scheduled_thread(w));
    const uint32_t ready = w.warp->ready;
    return prepare_switch(w, ready != 0 ? (w.thread & ~(LANES - 1)) | next_lane(ready, w.thread % LANES) : next_thread(w));
}

// The votes stay valid until every thread has read them: the next barrier needs all threads to arrive.
uint32_t barrier_vote(Vote vote) {
    const Worker& w = *worker;
    switch (vote) {
        case Vote::all: return w.released_votes == w.released;
        case Vote::any: return w.released_votes != 0;
        default: return w.released_votes;
    }
}

__attribute__((noinline)) uint32_t active_lanes(uint32_t source_id) {
    Worker& w = *worker;
    Warp& warp = *w.warp;
    const uint32_t lane = w.thread % LANES;
    warp.values[lane] = source_id;
    warp.querying |= 1u << lane;
    warp.ready &= ~(1u << lane);
    const uint32_t next = next_thread(w);
    if (next != w.thread) suspend_for(w, next);
    return static_cast<uint32_t>(warp.contexts[lane].result);
}

__attribute__((noinline)) void yield() {
    Worker& w = *worker;
    // A constructor calls this before there is a block.
    if (w.live_threads == 0) {
        sched_yield();
        return;
    }
    const uint32_t next = next_in_turn(w);
    // The only live thread of its block waits for another block, whose thread may need this core.
    if (next == w.thread) {
        sched_yield();
    } else {
        suspend_for(w, next);
    }
}

static void limit_static_shared(size_t bytes) {
    if (bytes > MAX_STATIC_SHARED_BYTES) {
        fail(FAULT_LIMIT_EXCEEDED, "the kernel has %zu bytes of static shared memory, and compilers for GPUs allow at most %u: take it from dynamic shared memory",
             bytes, MAX_STATIC_SHARED_BYTES);
    }
}

__attribute__((noinline)) void* allocate_shared(SharedSlot& slot, size_t bytes, size_t alignment) {
    const size_t start = (arena.statics_used + alignment - 1) & ~(alignment - 1);
    limit_static_shared(start + bytes - arena.gaps);
    const size_t total = start + bytes + job.variable_bytes + job.shared_bytes - arena.gaps;
    if (total > MAX_SHARED_BYTES) {
        fail(FAULT_LIMIT_EXCEEDED, "the kernel needs %zu bytes of shared memory (%u of them dynamic), but a block has at most %u", total, job.shared_bytes,
             MAX_SHARED_BYTES);
    }
    arena.statics_used = start + bytes;
    slot.address = arena.statics + start;
    slot.generation = kforge_shared_generation;
    memset(slot.address, 0xff, bytes);
#if defined(KFORGE_INSPECTED)
    mark_shared(reinterpret_cast<uintptr_t>(slot.address), bytes);
    arena.statics_used += SHARED_GAP_BYTES;
    arena.gaps += SHARED_GAP_BYTES;
#endif
    return slot.address;
}

[[noreturn]] static void fail_at(FaultKind kind, uint32_t line, const char* message) {
    if (control_page != nullptr) control_page->fault.line = line;
    fail(kind, "%s", message);
}

void reached_ptx(uint32_t line) { fail_at(FAULT_UNSUPPORTED, line, "`asm`: inline PTX cannot run on a CPU (`#ifdef KFORGE_CPU` selects other code)"); }

void reached_thread_local(uint32_t line) {
    fail_at(FAULT_REJECTED, line, "`thread_local` is not CUDA: a thread's own variables are its local variables");
}

void reached_launch(uint32_t line) { fail_at(FAULT_REJECTED, line, "a kernel must not launch another: list the launches in the header"); }

void device_trap() { abort_kernel("`__trap` was called"); }

void assertion_failed(const char* expression, const char* file, int line) { abort_kernel("assertion `%s` failed at %s:%d", expression, file, line); }

bool is_shared(const void* pointer) { return pointer >= arena.statics && pointer < arena.dynamic_end; }

uint64_t device_clock() {
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    uint64_t ticks;
    asm volatile("mrs %0, cntvct_el0" : "=r"(ticks));
    return ticks;
#endif
}

uint64_t global_timer() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1000000000u + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace kforge
