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

#include <memory>
#include <unordered_map>
#include <vector>

#include "block.h"

namespace kforge {

// What a release tells. Never changed once it is shared.
struct Knowledge {
    std::vector<uint32_t> whole;                    // by block of the launch: bound for all its threads
    std::unordered_map<uint64_t, uint32_t> single;  // block << 16 | thread: bound for one

    bool has(uint32_t block, uint32_t thread, uint32_t clock) const {
        if (block < whole.size() && clock < whole[block]) return true;
        const auto found = single.find(static_cast<uint64_t>(block) << 16 | thread);
        return found != single.end() && clock < found->second;
    }
    void add(const Knowledge& other) {
        if (other.whole.size() > whole.size()) whole.resize(other.whole.size());
        for (size_t i = 0; i < other.whole.size(); ++i) {
            if (other.whole[i] > whole[i]) whole[i] = other.whole[i];
        }
        for (const auto& [key, bound] : other.single) {
            const uint64_t block = key >> 16;
            if (block < whole.size() && bound <= whole[block]) continue;
            uint32_t& own = single[key];
            if (bound > own) own = bound;
        }
    }
};
using Told = std::shared_ptr<const Knowledge>;

inline Told both(const Told& a, const Told& b) {
    if (!a || a == b) return b;
    if (!b) return a;
    auto sum = std::make_shared<Knowledge>(*a);
    sum->add(*b);
    return sum;
}

// The clocks of the running block. Blocks run one after the other.
struct Clocks {
    uint32_t block;  // within the launch
    uint32_t base;   // every thread's clock at the last barrier: what is below is known to all
    uint32_t highest;
    uint32_t visible_base;  // below: made visible by somebody's fence
    bool any_visible;
    bool any_told;
    uint32_t clock[MAX_THREADS];
    uint32_t visible[MAX_THREADS];             // bound of what is visible of a thread
    uint32_t known[MAX_THREADS][LANES];        // bound of what a thread knows of each lane of its warp
    Told told[MAX_THREADS];                    // what it has acquired

    void begin(uint32_t of_block, uint32_t threads) {
        block = of_block;
        base = highest = 1;
        visible_base = 0;
        any_visible = false;
        if (any_told) {
            for (Told& each : told) each.reset();
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

    void barrier(uint32_t threads) {
        base = ++highest;
        for (uint32_t thread = 0; thread < threads; ++thread) clock[thread] = base;
        if (!any_told) return;
        Told all;
        for (uint32_t thread = 0; thread < threads; ++thread) all = both(all, told[thread]);
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
            if (any_told) all = both(all, told[thread]);
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
    Told release(uint32_t thread, uint32_t threads) const {
        if (!any_visible) return told[thread];
        auto telling = std::make_shared<Knowledge>();
        telling->whole.resize(block + 1);
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
            if (bound > whole) telling->single[static_cast<uint64_t>(block) << 16 | other] = bound;
        }
        if (told[thread]) telling->add(*told[thread]);
        return telling;
    }

    void acquire(uint32_t thread, const Told& news) {
        if (!news) return;
        any_told = true;
        told[thread] = both(told[thread], news);
    }
};

}  // namespace kforge
