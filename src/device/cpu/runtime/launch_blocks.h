// Runs the blocks of one launch on an operating system thread.
//
// Included by runtime.cpp only. Threads of a block are scheduled in block.h; launches are prepared in runtime.cpp.

#pragma once

#include "process_state.h"

namespace kforge {

void run_threads() {
    Worker& w = *worker;
    run_threads_of(w, w.stack_of[w.thread]);
}

static void poison_shared() {
    if (arena.statics_used != 0) memset(arena.statics, 0xff, arena.statics_used);
    if (job.shared_bytes != 0) memset(kforge_dynamic_shared, 0xff, job.shared_bytes);
    for (const SharedVariable& variable : SharedVariables()) memset(variable.address(), 0xff, variable.bytes);
}

// Starts the next block of the launch. Blocks are handed out in order, a few at a time, because one may wait for an earlier one.
static bool next_block(Worker& w) {
#if defined(KFORGE_RACE)
    race_end_block();
#endif
    if (arena.first_block == arena.end_block) {
        const uint64_t first = __atomic_fetch_add(&job.claimed, job.chunk, __ATOMIC_RELAXED);
        if (first >= job.blocks) return false;
        arena.first_block = first;
        arena.end_block = first + job.chunk < job.blocks ? first + job.chunk : job.blocks;
        current_block.x = static_cast<uint32_t>(first % gridDim[0]);
        current_block.y = static_cast<uint32_t>(first / gridDim[0] % gridDim[1]);
        current_block.z = static_cast<uint32_t>(first / gridDim[0] / gridDim[1]);
    } else if (++current_block.x == gridDim[0]) {
        current_block.x = 0;
        if (++current_block.y == gridDim[1]) {
            current_block.y = 0;
            ++current_block.z;
        }
    }
    ++arena.first_block;
    poison_shared();
    reset_block(w);
#if defined(KFORGE_RACE)
    race_begin_block(w, arena.first_block - 1);
#elif defined(KFORGE_BOUNDS)
    renew_shared();
#endif
    return true;
}

// The bounds and race builds run on one operating system thread, which therefore sees all blocks of a launch.
static void begin_launch([[maybe_unused]] Worker& w) {
#if defined(KFORGE_RACE)
    race_begin_launch(w, job.blocks);
#elif defined(KFORGE_BOUNDS)
    forget_shared();
#endif
#if defined(KFORGE_INSPECTED)
    if (job.shared_bytes != 0) mark_shared(reinterpret_cast<uintptr_t>(kforge_dynamic_shared), job.shared_bytes);
#endif
}

static void run_blocks(Worker& w) {
    w.entry = job.entry;
    w.arguments = job.arguments;
    w.next_block = next_block;
    w.thread_count = blockDim[0] * blockDim[1] * blockDim[2];
    w.warp_count = (w.thread_count + LANES - 1) / LANES;
    for (uint32_t thread = 0, x = 0, y = 0, z = 0; thread < w.thread_count; ++thread) {
        w.positions[thread] = {x, y, z, thread % LANES};
        if (++x == blockDim[0]) {
            x = 0;
            if (++y == blockDim[1]) {
                y = 0;
                ++z;
            }
        }
    }
    arena.statics_used = arena.gaps = 0;
    arena.first_block = arena.end_block = 0;
    kforge_shared_generation = job.launch_generation;
    kforge_dynamic_shared = arena.dynamic_end - ((job.shared_bytes + 15) & ~15u);
    begin_launch(w);
    if (!next_block(w)) return;
    fault_context.block = &current_block.x;
    fault_context.thread = &current_thread.x;
    const uint32_t stack = w.stacks.take();
    const uint32_t first = w.thread;
    start(w, first, stack);
    w.contexts[first] = new_context(run_threads, w.stacks.top(stack));
    swap_context(&w.home, &w.contexts[first]);
#if defined(KFORGE_RACE)
    race_end_launch();
#endif
    fault_context.block = nullptr;
    fault_context.thread = nullptr;
}

}  // namespace kforge
