// Chooses which thread runs next in the race build: one of four schedules, selected by a seed.
//
// The same seed gives the same order of threads. Fibers switch only where they wait, so a schedule is a choice at every wait.

#pragma once

#include "block.h"

namespace kforge {

enum class Schedule : uint32_t {
    in_order,     // as in the fast build
    warp_greedy,  // one random warp for as long as it can run, its lanes in random order
    reversed,     // the last warp and lane first
    random,       // any ready thread
};

// xorshift64* (Marsaglia; Vigna).
static uint64_t schedule_state = 1;
static Schedule schedule = Schedule::in_order;

static uint32_t draw(uint32_t below) {
    schedule_state ^= schedule_state >> 12;
    schedule_state ^= schedule_state << 25;
    schedule_state ^= schedule_state >> 27;
    return static_cast<uint32_t>((schedule_state * 0x2545f4914f6cdd1dull >> 33) % below);
}

static void begin_schedule(uint64_t seed) {
    schedule = static_cast<Schedule>(seed % 4);
    schedule_state = seed * 0x9e3779b97f4a7c15ull | 1;
}

static uint32_t nth_lane(uint32_t lanes, uint32_t n) {
    for (; n != 0; --n) lanes &= lanes - 1;
    return static_cast<uint32_t>(__builtin_ctz(lanes));
}

static uint32_t random_lane(uint32_t lanes) { return nth_lane(lanes, draw(static_cast<uint32_t>(__builtin_popcount(lanes)))); }

bool is_shuffled() { return schedule != Schedule::in_order; }

// If only lanes that wait in `active_lanes` are left, `next_thread` resolves them.
uint32_t scheduled_thread(Worker& w) {
    const uint32_t own = w.thread / LANES;
    if (schedule == Schedule::warp_greedy && w.warps[own].ready != 0) return own * LANES + random_lane(w.warps[own].ready);
    uint32_t able = 0;
    for (uint32_t i = 0; i < w.warp_count; ++i) able += w.warps[i].ready != 0;
    if (able == 0) return next_thread(w);
    uint32_t wanted = schedule == Schedule::reversed ? able - 1 : draw(able);
    for (uint32_t i = 0;; ++i) {
        const uint32_t ready = w.warps[i].ready;
        if (ready == 0 || wanted-- != 0) continue;
        const uint32_t lane = schedule == Schedule::reversed ? 31 - static_cast<uint32_t>(__builtin_clz(ready)) : random_lane(ready);
        return i * LANES + lane;
    }
}

}  // namespace kforge
