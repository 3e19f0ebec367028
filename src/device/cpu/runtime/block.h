// Schedules the threads of one block on one operating system thread: which thread runs, which waits, which runs next.
//
// Every CUDA thread is a fiber. A thread starts on the stack of the thread that just exited, so a kernel that never waits
// runs all its threads as plain calls on one stack. A thread that waits keeps its stack and switches directly to the next
// ready lane of its warp; another warp runs only when the whole warp waits. The last thread to arrive at a collective or a
// barrier computes the results, releases the others and continues. Exited threads are not counted, as on hardware. If no
// thread can run, the kernel is deadlocked, which is reported as a fault. Blocks are run by
// launch_blocks.h, launches by runtime.cpp.

#pragma once

#include <stdint.h>
#include <string.h>

#include "fault.h"
#include "fiber.h"
#include "observe.h"
#include "runtime.h"

namespace kforge {

constexpr uint32_t LANES = 32;
constexpr uint32_t MAX_THREADS = 1024;
constexpr uint32_t MAX_WARPS = MAX_THREADS / LANES;

struct Warp {
    uint32_t live;        // lanes that have not exited
    uint32_t ready;       // lanes that can run, including unstarted lanes and the running one
    uint32_t started;     // lanes that have a stack
    uint32_t waiting;     // lanes in a collective
    uint32_t at_barrier;  // lanes in a block barrier
    uint32_t querying;    // lanes that wait in `active_lanes`
    uint64_t key;         // mask and kind of the first lane in `waiting`
    bool mixed;           // some lane in `waiting` has a different key
    uint8_t sources[LANES];
    uint64_t keys[LANES];
    uint64_t values[LANES];
    Context* contexts;  // of its lanes; results go there, because a lane may call again before the others read their result
};

// The state of one operating system thread.
struct Worker {
    // What the running thread reads through CUDA names is in thread-local variables, not here.
    Warp* warp;
    uint32_t thread;  // the running one
    uint32_t warp_count;
    uint32_t thread_count;
    uint32_t live_threads;
    uint32_t arrived;  // threads at the block barrier
    uint32_t votes;
    uint32_t released;  // threads that the last barrier released; `released_votes`: how many of them voted yes
    uint32_t released_votes;
    const Entry* entry;
    const void* const* arguments;
    bool (*next_block)(Worker&);  // prepares the next block of the launch; false if none is left
    Context home;
    StackPool stacks;
    Context contexts[MAX_THREADS];
    uint16_t stack_of[MAX_THREADS];
#if defined(KFORGE_INSPECTED)
    void* sites[MAX_THREADS];  // return address of the call in which a thread waits
#endif
    ThreadPosition positions[MAX_THREADS];
    Warp warps[MAX_WARPS];
};

static __thread Worker* worker = nullptr;

// `threadIdx` and `blockIdx`; constants for the candidate.
KFORGE_THREAD_LOCAL ThreadPosition current_thread asm("threadIdx");
KFORGE_THREAD_LOCAL ThreadPosition current_block asm("blockIdx");

void run_threads();  // entry point of every fiber

inline const char* name_of(Collective kind) {
    switch (kind) {
        case Collective::sync: return "__syncwarp";
        case Collective::shuffle: return "__shfl_sync";
        case Collective::ballot: return "__ballot_sync";
        case Collective::match_any: return "__match_any_sync";
        case Collective::match_all: return "__match_all_sync";
        default: return "__reduce_sync";
    }
}

inline uint32_t next_lane(uint32_t lanes, uint32_t lane) {
    const uint32_t behind = lanes & (~0u << lane);
    return static_cast<uint32_t>(__builtin_ctz(behind != 0 ? behind : lanes));
}

// Makes a thread the running one, and sets the variables that it reads.
inline void make_current(Worker& w, uint32_t thread) {
    w.thread = thread;
    w.warp = &w.warps[thread / LANES];
    current_thread = w.positions[thread];
    current_lane = thread % LANES;
}

inline void record_site([[maybe_unused]] const Worker& w) {
#if defined(KFORGE_INSPECTED)
    if (control_page != nullptr) control_page->fault.site = reinterpret_cast<uint64_t>(w.sites[w.thread]);
#endif
}

// Records the site of one thread that waits at the barrier, as an example for all of them.
inline void record_waiting_site(Worker& w) {
    for (uint32_t i = 0; i < w.warp_count; ++i) {
        if (w.warps[i].at_barrier == 0) continue;
        make_current(w, i * LANES + static_cast<uint32_t>(__builtin_ctz(w.warps[i].at_barrier)));
        record_site(w);
        return;
    }
}

// Reports that no thread of the block can run. The record names one thread that waits.
[[noreturn]] inline void report_deadlock(Worker& w) {
    char waits[160] = "";
    for (uint32_t i = 0; i < w.warp_count && waits[0] == 0; ++i) {
        const Warp& warp = w.warps[i];
        if (warp.waiting == 0) continue;
        const uint32_t lane = static_cast<uint32_t>(__builtin_ctz(warp.waiting));
        const uint32_t mask = static_cast<uint32_t>(warp.keys[lane]);
        const uint32_t missing = mask & warp.live & ~warp.waiting;
        const ThreadPosition& position = w.positions[i * LANES + lane];
        make_current(w, i * LANES + lane);
        record_site(w);
        const char* name = name_of(static_cast<Collective>(warp.keys[lane] >> 32));
        if (missing != 0) {
            snprintf(waits, sizeof(waits), "thread (%u, %u, %u) waits in `%s` with mask 0x%08x for lanes 0x%08x", position.x, position.y, position.z,
                     name, mask, missing);
        } else {
            snprintf(waits, sizeof(waits), "thread (%u, %u, %u) waits in `%s` with mask 0x%08x, while other lanes of its warp wait with a different mask or in a different call",
                     position.x, position.y, position.z, name, mask);
        }
    }
    if (w.arrived != 0) {
        if (control_page != nullptr) control_page->fault.other_site = waits[0] != 0 ? control_page->fault.site : 0;
        record_waiting_site(w);
        fail(FAULT_SYNC_ERROR, "deadlock: %u of %u live threads reached `__syncthreads`, %u never reach it%s%s", w.arrived, w.live_threads,
             w.live_threads - w.arrived, waits[0] != 0 ? "; " : "", waits);
    }
    fail(FAULT_SYNC_ERROR, "deadlock: %s", waits);
}

// When no lane of a warp can run, the lanes that wait in `active_lanes` at the same source location are active together.
inline void resolve_queries(Warp& warp) {
    const uint32_t first = static_cast<uint32_t>(__builtin_ctz(warp.querying));
    uint32_t together = 0;
    for (uint32_t lane = first; lane < LANES; ++lane) {
        if ((warp.querying >> lane & 1) != 0 && warp.values[lane] == warp.values[first]) together |= 1u << lane;
    }
    for (uint32_t lane = first; lane < LANES; ++lane) {
        if ((together >> lane & 1) != 0) warp.contexts[lane].result = together;
    }
    warp.querying &= ~together;
    warp.ready |= together;
}

// The next thread that can run: a lane of the same warp, or else of the next warp that has a ready lane.
inline __attribute__((noinline)) uint32_t next_thread(Worker& w) {
    Warp& own = *w.warp;
    const uint32_t index = w.thread / LANES;
    if (own.ready == 0 && own.querying != 0) resolve_queries(own);
    if (own.ready != 0) return index * LANES + next_lane(own.ready, w.thread % LANES);
    for (uint32_t step = 1, i = index; step < w.warp_count; ++step) {
        i = i + 1 == w.warp_count ? 0 : i + 1;
        Warp& warp = w.warps[i];
        if (warp.ready == 0 && warp.querying != 0) resolve_queries(warp);
        if (warp.ready != 0) return i * LANES + static_cast<uint32_t>(__builtin_ctz(warp.ready));
    }
    report_deadlock(w);
}

// The next ready thread in block order, for a thread that polls: every other thread gets a turn.
inline uint32_t next_in_turn(const Worker& w) {
    const uint32_t index = w.thread / LANES;
    const uint32_t lane = w.thread % LANES;
    const uint32_t above = w.warp->ready & ~((2u << lane) - 1);
    if (above != 0) return index * LANES + static_cast<uint32_t>(__builtin_ctz(above));
    for (uint32_t step = 1, i = index; step < w.warp_count; ++step) {
        i = i + 1 == w.warp_count ? 0 : i + 1;
        if (w.warps[i].ready != 0) return i * LANES + static_cast<uint32_t>(__builtin_ctz(w.warps[i].ready));
    }
    return index * LANES + static_cast<uint32_t>(__builtin_ctz(w.warp->ready));
}

// Records that a thread is about to run for the first time.
inline void start(Worker& w, uint32_t thread, uint32_t stack) {
    w.warp->started |= 1u << (thread % LANES);
    w.stack_of[thread] = static_cast<uint16_t>(stack);
}

inline __attribute__((noinline)) void start_fiber(Worker& w, uint32_t thread) {
    const uint32_t stack = w.stacks.take();
    start(w, thread, stack);
    w.contexts[thread] = new_context(run_threads, w.stacks.top(stack));
}

// Makes `next` the running thread, except for the switch of stacks itself.
inline FiberSwitch prepare_switch(Worker& w, uint32_t next) {
    Context* const own = &w.contexts[w.thread];
    make_current(w, next);
    if (__builtin_expect((w.warp->started >> (next % LANES) & 1) == 0, 0)) start_fiber(w, next);
    return {own, &w.contexts[next]};
}

// Suspends the running thread until another thread switches back to it.
inline void suspend_for(Worker& w, uint32_t next) {
    const FiberSwitch fiber_switch = prepare_switch(w, next);
    swap_context(fiber_switch.own, fiber_switch.next);
}

inline void release_barrier(Worker& w) {
    observe_barrier(w);
    for (uint32_t i = 0; i < w.warp_count; ++i) {
        Warp& warp = w.warps[i];
        warp.ready |= warp.at_barrier;
        warp.at_barrier = 0;
    }
    w.released = w.arrived;
    w.released_votes = w.votes;
    w.votes = 0;
    w.arrived = 0;
}

inline uint64_t reduce(Collective kind, uint64_t a, uint64_t b) {
    switch (kind) {
        case Collective::add: return a + b;
        case Collective::min_signed: return static_cast<int64_t>(b) < static_cast<int64_t>(a) ? b : a;
        case Collective::max_signed: return static_cast<int64_t>(b) > static_cast<int64_t>(a) ? b : a;
        case Collective::min_unsigned: return b < a ? b : a;
        case Collective::max_unsigned: return b > a ? b : a;
        case Collective::bit_and: return a & b;
        case Collective::bit_or: return a | b;
        default: return a ^ b;
    }
}

// Computes the results of all collectives except `sync` and `shuffle`.
inline __attribute__((noinline)) void compute_results(Warp& warp, uint32_t group, Collective kind) {
    const uint32_t first = static_cast<uint32_t>(__builtin_ctz(group));
    uint64_t common = 0;
    bool same = true;
    switch (kind) {
        case Collective::match_any:
            for (uint32_t rest = group; rest != 0; rest &= rest - 1) {
                const uint32_t lane = static_cast<uint32_t>(__builtin_ctz(rest));
                uint32_t equal = 0;
                for (uint32_t other = 0; other < LANES; ++other) equal |= static_cast<uint32_t>(warp.values[other] == warp.values[lane]) << other;
                warp.contexts[lane].result = equal & group;
            }
            return;
        case Collective::ballot:
            for (uint32_t lane = 0; lane < LANES; ++lane) common |= static_cast<uint64_t>(warp.values[lane] != 0) << lane;
            common = static_cast<uint64_t>(group) << 32 | (common & group);
            break;
        case Collective::match_all:
            for (uint32_t rest = group; rest != 0; rest &= rest - 1) same = same && warp.values[__builtin_ctz(rest)] == warp.values[first];
            common = same ? group : 0;
            break;
        default:
            common = warp.values[first];
            for (uint32_t rest = group & (group - 1); rest != 0; rest &= rest - 1) common = reduce(kind, common, warp.values[__builtin_ctz(rest)]);
    }
    for (uint32_t rest = group; rest != 0; rest &= rest - 1) warp.contexts[__builtin_ctz(rest)].result = common;
}

// The value of a lane that takes no part in a shuffle. CUDA leaves it undefined, so the judge chooses between two values that any use
// shows: large and of opposite signs as a number of every width. The bounds and race builds record the first such shuffle.
inline __attribute__((noinline)) uint64_t absent_value([[maybe_unused]] const Warp& warp, [[maybe_unused]] uint32_t lane, [[maybe_unused]] uint32_t source) {
    constexpr uint64_t LARGE = 0x7bff7bff7bff7bff;
    constexpr uint64_t NEGATIVE = 0xfbfffbfffbfffbff;
#if defined(KFORGE_INSPECTED)
    ControlPage::AbsentRead& read = control_page->absent_read;
    if (read.reason == 0) {
        const Worker& w = *worker;
        const uint32_t thread = static_cast<uint32_t>(warp.contexts - w.contexts) + lane;
        read.site = reinterpret_cast<uint64_t>(w.sites[thread]);
        memcpy(read.block, &current_block, sizeof(read.block));
        memcpy(read.thread, &w.positions[thread], sizeof(read.thread));
        read.lane = source;
        read.reason = (warp.live >> source & 1) != 0 ? ABSENT_UNNAMED : ABSENT_EXITED;
    }
#endif
    return (control_page->seed & SEED_ABSENT_BIT) != 0 ? LARGE : NEGATIVE;
}

// All lanes of `group` have arrived with the same mask and kind: computes each result and releases the lanes.
inline void complete(Warp& warp, uint32_t group, Collective kind) {
    warp.waiting &= ~group;
    warp.ready |= group;
    if (warp.waiting == 0) warp.mixed = false;
    if (kind == Collective::sync) {
        observe_sync(warp, group);
        return;
    }
    if (kind != Collective::shuffle) {
        compute_results(warp, group, kind);
    } else if (group == ~0u) {
#pragma GCC unroll 4
        for (uint32_t lane = 0; lane < LANES; ++lane) warp.contexts[lane].result = warp.values[warp.sources[lane]];
    } else {
        for (uint32_t rest = group; rest != 0; rest &= rest - 1) {
            const uint32_t lane = static_cast<uint32_t>(__builtin_ctz(rest));
            const uint32_t source = warp.sources[lane];
            warp.contexts[lane].result = (group >> source & 1) != 0 ? warp.values[source] : absent_value(warp, lane, source);
        }
    }
}

// Whether every lane of `group` waits with this key.
inline bool all_agree(const Warp& warp, uint32_t group, uint64_t key) {
    for (uint32_t rest = group; rest != 0; rest &= rest - 1) {
        if (warp.keys[__builtin_ctz(rest)] != key) return false;
    }
    return true;
}

// Completes collectives for which only the lane that just exited was missing.
inline void complete_after_exit(Warp& warp) {
    for (uint32_t rest = warp.waiting; rest != 0;) {
        const uint64_t key = warp.keys[__builtin_ctz(rest)];
        const uint32_t group = static_cast<uint32_t>(key) & warp.live;
        rest &= ~group;
        if ((group & ~warp.waiting) != 0 || !all_agree(warp, group, key)) continue;
        complete(warp, group, static_cast<Collective>(key >> 32));
    }
}

// Removes the running thread, which has returned from its kernel, from its block.
inline void exit_thread(Worker& w) {
    Warp& warp = *w.warp;
    const uint32_t bit = 1u << (w.thread % LANES);
    warp.live &= ~bit;
    warp.ready &= ~bit;
    w.live_threads -= 1;
    if (__builtin_expect(warp.waiting != 0, 0)) complete_after_exit(warp);
    if (__builtin_expect(w.arrived != 0, 0) && w.arrived == w.live_threads) release_barrier(w);
}

inline __attribute__((always_inline)) void run_threads_of(Worker& w, uint32_t stack) {
    for (;;) {
        w.entry->run(w.arguments);
        exit_thread(w);
        if (w.live_threads == 0) {
            if (!w.next_block(w)) {
                w.stacks.give_back(stack);
                enter_context(&w.home);
            }
            start(w, w.thread, stack);
            continue;
        }
        const uint32_t ready = w.warp->ready;
        const uint32_t next = is_shuffled() ? scheduled_thread(w)
                              : ready != 0  ? (w.thread & ~(LANES - 1)) | next_lane(ready, w.thread % LANES)
                                            : next_thread(w);
        make_current(w, next);
        if ((w.warp->started >> (next % LANES) & 1) != 0) {
            w.stacks.give_back(stack);
            enter_context(&w.contexts[next]);
        }
        start(w, next, stack);
    }
}

// Makes all threads of the block ready and selects the first one to run.
inline void reset_block(Worker& w) {
    for (uint32_t i = 0; i < w.warp_count; ++i) {
        Warp& warp = w.warps[i];
        const uint32_t lanes = w.thread_count - i * LANES;
        warp.contexts = w.contexts + i * LANES;
        warp.live = lanes >= LANES ? ~0u : (1u << lanes) - 1;
        warp.ready = warp.live;
        warp.started = 0;
        warp.waiting = 0;
        warp.at_barrier = 0;
        warp.querying = 0;
        warp.mixed = false;
    }
    w.live_threads = w.thread_count;
    w.arrived = 0;
    w.votes = 0;
    make_current(w, 0);
    if (is_shuffled()) make_current(w, scheduled_thread(w));
}

}  // namespace kforge
