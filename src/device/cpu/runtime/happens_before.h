// Decides which accesses happened before which: the order that barriers, `__syncwarp` and release/acquire pairs create
// (happened-before: Lamport 1978; vector clocks as in FastTrack, Flanagan and Freund 2009).
//
// A thread's clock counts its releases. An access is ordered before a thread if the access's clock is below a bound that
// the thread knows: for all threads of its block, the clock of the last barrier; for lanes of its warp, the clock of the
// last `__syncwarp`; for all others, what it has acquired. A fence makes the earlier accesses that a thread knows visible;
// a later atomic or volatile write releases them; a read of that location acquires them.

#pragma once

#include <stdint.h>
#include <string.h>

#include <map>
#include <memory>
#include <vector>

#include "block.h"

namespace kforge {

// The bounds that a release publishes. Immutable once it is shared.
struct VectorClock {
    std::vector<uint32_t> block_bounds;  // by block of the launch: a bound for all threads of the block
    // Bounds for single threads: all threads of one block, and some of others. A key is block << 16 | thread.
    uint32_t dense_block = ~0u;
    std::vector<uint32_t> dense_bounds;
    std::map<uint64_t, uint32_t> sparse_bounds;

    bool covers(uint32_t block, uint32_t thread, uint32_t clock) const {
        if (block < block_bounds.size() && clock < block_bounds[block]) return true;
        if (block == dense_block) return thread < dense_bounds.size() && clock < dense_bounds[thread];
        const auto found = sparse_bounds.find(static_cast<uint64_t>(block) << 16 | thread);
        return found != sparse_bounds.end() && clock < found->second;
    }

    // Makes `block` the dense block. Few bounds of the previous one exceed its bound for the whole block, so they fit in the map.
    void move_to(uint32_t block, size_t threads) {
        if (dense_block == block) return;
        for (size_t thread = 0; thread < dense_bounds.size(); ++thread) remember(dense_block, thread, dense_bounds[thread]);
        dense_block = block;
        dense_bounds.assign(threads, 0);
    }

    void add(const VectorClock& other) {
        if (other.block_bounds.size() > block_bounds.size()) block_bounds.resize(other.block_bounds.size());
        for (size_t i = 0; i < other.block_bounds.size(); ++i) block_bounds[i] = other.block_bounds[i] > block_bounds[i] ? other.block_bounds[i] : block_bounds[i];
        if (other.dense_block == dense_block && other.dense_bounds.size() == dense_bounds.size()) {
            for (size_t i = 0; i < dense_bounds.size(); ++i) dense_bounds[i] = other.dense_bounds[i] > dense_bounds[i] ? other.dense_bounds[i] : dense_bounds[i];
        } else {
            for (size_t thread = 0; thread < other.dense_bounds.size(); ++thread) remember(other.dense_block, thread, other.dense_bounds[thread]);
        }
        for (const auto& [key, bound] : other.sparse_bounds) remember(static_cast<uint32_t>(key >> 16), key & 0xffff, bound);
    }

  private:
    void remember(uint32_t block, size_t thread, uint32_t bound) {
        if (bound == 0 || (block < block_bounds.size() && bound <= block_bounds[block])) return;
        if (block == dense_block) {
            if (thread < dense_bounds.size() && bound > dense_bounds[thread]) dense_bounds[thread] = bound;
            return;
        }
        uint32_t& own = sparse_bounds[static_cast<uint64_t>(block) << 16 | thread];
        if (bound > own) own = bound;
    }
};
using ClockRef = std::shared_ptr<const VectorClock>;

// The maximum of both, bound by bound.
inline ClockRef join(const ClockRef& a, const ClockRef& b, uint32_t block, size_t threads) {
    if (!a || a == b) return b;
    if (!b) return a;
    auto sum = std::make_shared<VectorClock>(*a);
    sum->move_to(block, threads);
    sum->add(*b);
    return sum;
}

// The clocks of the running block. Blocks run one after the other.
struct BlockClocks {
    uint32_t block;    // index within the launch
    uint32_t threads;  // of the block
    uint32_t base;     // every thread's clock at the last barrier; accesses below it are ordered before all threads
    uint32_t max_clock;
    uint32_t visible_base;  // accesses below it were made visible by a fence
    bool any_visible;
    bool any_acquired;
    uint32_t clock[MAX_THREADS];
    uint32_t visible[MAX_THREADS];       // bound of each thread's visible accesses
    uint32_t known[MAX_THREADS][LANES];  // bound of what a thread knows of each lane of its warp
    ClockRef acquired[MAX_THREADS];       // everything that a thread has acquired
    ClockRef last_acquired[MAX_THREADS];  // what it acquired last

    void begin(uint32_t of_block, uint32_t of_threads) {
        block = of_block;
        threads = of_threads;
        base = max_clock = 1;
        visible_base = 0;
        any_visible = false;
        if (any_acquired) {
            for (ClockRef& each : acquired) each.reset();
            for (ClockRef& each : last_acquired) each.reset();
        }
        any_acquired = false;
        for (uint32_t thread = 0; thread < threads; ++thread) clock[thread] = 1;
        memset(visible, 0, threads * sizeof(visible[0]));
        memset(known, 0, threads * sizeof(known[0]));
    }

    void tick(uint32_t thread) {
        if (++clock[thread] > max_clock) max_clock = clock[thread];
    }

    bool is_ordered(uint32_t thread, uint32_t other_block, uint32_t other, uint32_t other_clock) const {
        if (other_block == block) {
            if (other == thread || other_clock < base) return true;
            if (other / LANES == thread / LANES && other_clock < known[thread][other % LANES]) return true;
        }
        return acquired[thread] && acquired[thread]->covers(other_block, other, other_clock);
    }

    void barrier() {
        base = ++max_clock;
        for (uint32_t thread = 0; thread < threads; ++thread) clock[thread] = base;
        if (!any_acquired) return;
        ClockRef all;
        for (uint32_t thread = 0; thread < threads; ++thread) all = join(all, acquired[thread], block, threads);
        for (uint32_t thread = 0; thread < threads; ++thread) acquired[thread] = all;
    }

    void sync(uint32_t first_thread, uint32_t lanes) {
        uint32_t row[LANES] = {};
        ClockRef all;
        for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
            const uint32_t lane = static_cast<uint32_t>(__builtin_ctz(rest));
            const uint32_t thread = first_thread + lane;
            for (uint32_t other = 0; other < LANES; ++other) {
                if (known[thread][other] > row[other]) row[other] = known[thread][other];
            }
            if (clock[thread] + 1 > row[lane]) row[lane] = clock[thread] + 1;
            if (any_acquired) all = join(all, acquired[thread], block, threads);
        }
        for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
            const uint32_t thread = first_thread + static_cast<uint32_t>(__builtin_ctz(rest));
            memcpy(known[thread], row, sizeof(row));
            if (any_acquired) acquired[thread] = all;
            tick(thread);
        }
    }

    void fence(uint32_t thread) {
        any_visible = true;
        if (base > visible_base) visible_base = base;
        const uint32_t first = thread - thread % LANES;
        for (uint32_t lane = 0; lane < LANES && first + lane < MAX_THREADS; ++lane) {
            if (known[thread][lane] > visible[first + lane]) visible[first + lane] = known[thread][lane];
        }
        visible[thread] = clock[thread] + 1;
        tick(thread);
    }

    // What a release by this thread publishes: the visible part of what it knows. Null if there is nothing.
    ClockRef release(uint32_t thread) const {
        if (!any_visible) return acquired[thread];
        auto published = std::make_shared<VectorClock>();
        published->block_bounds.resize(block + 1);
        published->dense_block = block;
        published->dense_bounds.assign(threads, 0);
        const uint32_t block_bound = base < visible_base ? base : visible_base;
        published->block_bounds[block] = block_bound;
        for (uint32_t other = 0; other < threads; ++other) {
            if (visible[other] <= block_bound) continue;
            uint32_t bound = base;
            if (other == thread) bound = clock[thread] + 1;
            else if (other / LANES == thread / LANES && known[thread][other % LANES] > bound) bound = known[thread][other % LANES];
            // Directly after its fence the release itself is included: a thread that acquires it may write there.
            const bool just_fenced = other == thread && visible[thread] == clock[thread];
            if (visible[other] < bound && !just_fenced) bound = visible[other];
            if (bound > block_bound) published->dense_bounds[other] = bound;
        }
        if (acquired[thread]) published->add(*acquired[thread]);
        return published;
    }

    void acquire(uint32_t thread, const ClockRef& released) {
        // A polling thread acquires the same release again and again.
        if (!released || last_acquired[thread] == released) return;
        last_acquired[thread] = released;
        any_acquired = true;
        acquired[thread] = join(acquired[thread], released, block, threads);
    }
};

}  // namespace kforge
