// Which accesses a thread knows to have happened before: the order that barriers, `__syncwarp`, and releases that are
// acquired give (happened-before: Lamport 1978; vector clocks as in FastTrack, Flanagan and Freund 2009).
//
// A thread's clock counts what it has released. An access is known if its clock is below a bound: for all threads of a
// block, the clock of its last barrier; for lanes of the same warp, what `__syncwarp` told; for others, what was acquired.
// A fence makes the earlier accesses that a thread knows visible; a later atomic or volatile write releases them, and
// whoever reads it has acquired them.

#pragma once

#include <stdint.h>
#include <string.h>

#include <map>
#include <memory>
#include <vector>

#include "block.h"

namespace kforge {

// What a release tells. Never changed once it is shared.
struct Knowledge {
    std::vector<uint32_t> whole;  // by block of the launch: bound for all its threads
    // Bounds of single threads: all of one block, and some of others. A key is block << 16 | thread.
    uint32_t near = ~0u;
    std::vector<uint32_t> bounds;
    std::map<uint64_t, uint32_t> far;

    bool has(uint32_t block, uint32_t thread, uint32_t clock) const {
        if (block < whole.size() && clock < whole[block]) return true;
        if (block == near) return thread < bounds.size() && clock < bounds[thread];
        const auto found = far.find(static_cast<uint64_t>(block) << 16 | thread);
        return found != far.end() && clock < found->second;
    }

    // What is told of another block is little, once that block is no longer the running one.
    void move_to(uint32_t block, size_t threads) {
        if (near == block) return;
        for (size_t thread = 0; thread < bounds.size(); ++thread) remember(near, thread, bounds[thread]);
        near = block;
        bounds.assign(threads, 0);
    }

    void add(const Knowledge& other) {
        if (other.whole.size() > whole.size()) whole.resize(other.whole.size());
        for (size_t i = 0; i < other.whole.size(); ++i) whole[i] = other.whole[i] > whole[i] ? other.whole[i] : whole[i];
        if (other.near == near && other.bounds.size() == bounds.size()) {
            for (size_t i = 0; i < bounds.size(); ++i) bounds[i] = other.bounds[i] > bounds[i] ? other.bounds[i] : bounds[i];
        } else {
            for (size_t thread = 0; thread < other.bounds.size(); ++thread) remember(other.near, thread, other.bounds[thread]);
        }
        for (const auto& [key, bound] : other.far) remember(static_cast<uint32_t>(key >> 16), key & 0xffff, bound);
    }

  private:
    void remember(uint32_t block, size_t thread, uint32_t bound) {
        if (bound == 0 || (block < whole.size() && bound <= whole[block])) return;
        if (block == near) {
            if (thread < bounds.size() && bound > bounds[thread]) bounds[thread] = bound;
            return;
        }
        uint32_t& own = far[static_cast<uint64_t>(block) << 16 | thread];
        if (bound > own) own = bound;
    }
};
using Told = std::shared_ptr<const Knowledge>;

// All that either knows.
inline Told both(const Told& a, const Told& b, uint32_t block, size_t threads) {
    if (!a || a == b) return b;
    if (!b) return a;
    auto sum = std::make_shared<Knowledge>(*a);
    sum->move_to(block, threads);
    sum->add(*b);
    return sum;
}

// The clocks of the running block. Blocks run one after the other.
struct Clocks {
    uint32_t block;  // within the launch
    uint32_t threads;  // of it
    uint32_t base;   // every thread's clock at the last barrier: what is below is known to all
    uint32_t highest;
    uint32_t visible_base;  // below: made visible by somebody's fence
    bool any_visible;
    bool any_told;
    uint32_t clock[MAX_THREADS];
    uint32_t visible[MAX_THREADS];             // bound of what is visible of a thread
    uint32_t known[MAX_THREADS][LANES];        // bound of what a thread knows of each lane of its warp
    Told told[MAX_THREADS];                    // what it has acquired
    Told latest[MAX_THREADS];                  // of that, the last part

    void begin(uint32_t of_block, uint32_t of_threads) {
        block = of_block;
        threads = of_threads;
        base = highest = 1;
        visible_base = 0;
        any_visible = false;
        if (any_told) {
            for (Told& each : told) each.reset();
            for (Told& each : latest) each.reset();
        }
        any_told = false;
        for (uint32_t thread = 0; thread < threads; ++thread) clock[thread] = 1;
        memset(visible, 0, threads * sizeof(visible[0]));
        memset(known, 0, threads * sizeof(known[0]));
    }

    void tick(uint32_t thread) {
        if (++clock[thread] > highest) highest = clock[thread];
    }

    bool knows(uint32_t thread, uint32_t other_block, uint32_t other, uint32_t other_clock) const {
        if (other_block == block) {
            if (other == thread || other_clock < base) return true;
            if (other / LANES == thread / LANES && other_clock < known[thread][other % LANES]) return true;
        }
        return told[thread] && told[thread]->has(other_block, other, other_clock);
    }

    void barrier() {
        base = ++highest;
        for (uint32_t thread = 0; thread < threads; ++thread) clock[thread] = base;
        if (!any_told) return;
        Told all;
        for (uint32_t thread = 0; thread < threads; ++thread) all = both(all, told[thread], block, threads);
        for (uint32_t thread = 0; thread < threads; ++thread) told[thread] = all;
    }

    void sync(uint32_t first_thread, uint32_t lanes) {
        uint32_t row[LANES] = {};
        Told all;
        for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
            const uint32_t lane = static_cast<uint32_t>(__builtin_ctz(rest));
            const uint32_t thread = first_thread + lane;
            for (uint32_t other = 0; other < LANES; ++other) {
                if (known[thread][other] > row[other]) row[other] = known[thread][other];
            }
            if (clock[thread] + 1 > row[lane]) row[lane] = clock[thread] + 1;
            if (any_told) all = both(all, told[thread], block, threads);
        }
        for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
            const uint32_t thread = first_thread + static_cast<uint32_t>(__builtin_ctz(rest));
            memcpy(known[thread], row, sizeof(row));
            if (any_told) told[thread] = all;
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

    // What a release by this thread tells: of what it knows, what is visible. Null where that is nothing.
    Told release(uint32_t thread) const {
        if (!any_visible) return told[thread];
        auto telling = std::make_shared<Knowledge>();
        telling->whole.resize(block + 1);
        telling->near = block;
        telling->bounds.assign(threads, 0);
        const uint32_t whole = base < visible_base ? base : visible_base;
        telling->whole[block] = whole;
        for (uint32_t other = 0; other < threads; ++other) {
            if (visible[other] <= whole) continue;
            uint32_t bound = base;
            if (other == thread) bound = clock[thread] + 1;
            else if (other / LANES == thread / LANES && known[thread][other % LANES] > bound) bound = known[thread][other % LANES];
            // Right behind its fence the release itself is told too: whoever reads it may write there.
            const bool just_fenced = other == thread && visible[thread] == clock[thread];
            if (visible[other] < bound && !just_fenced) bound = visible[other];
            if (bound > whole) telling->bounds[other] = bound;
        }
        if (told[thread]) telling->add(*told[thread]);
        return telling;
    }

    void acquire(uint32_t thread, const Told& news) {
        // Who polls reads the same again and again.
        if (!news || latest[thread] == news) return;
        latest[thread] = news;
        any_told = true;
        told[thread] = both(told[thread], news, block, threads);
    }
};

}  // namespace kforge
