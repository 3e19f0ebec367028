// How the threads of the process wait for each other.
//
// A wait is short while each thread has a core of its own, so a thread looks again and again: how fast the system wakes a thread must not
// count in the time of a kernel. The process of an oracle is never timed. Its threads sleep, and leave their cores to others.
//
// All functions are inlined, because a thread at rest must not leave the section of rest.h. Included by process_state.h only.

#pragma once

#include <limits.h>
#include <sched.h>
#include <stdint.h>
#include <time.h>

#include "confine.h"
#include "fiber.h"

#if defined(__linux__)
#include <linux/futex.h>
#endif

#define KFORGE_WAIT static inline __attribute__((always_inline))

namespace kforge {

// How often a waiting thread looks before it lets another thread use its core.
constexpr uint32_t SPINS_BEFORE_YIELD = 2000;

// Whether the threads of this process sleep while they wait. Set once, at the start.
static bool waits_asleep;

#if defined(__linux__)

// The longest sleep. A stop of the process gives `wake_count` an earlier value, so a wake may be missed.
static const timespec LONGEST_SLEEP = {0, 1000000};

#endif

// The number of wakes. A thread that waits reads it, looks a last time, and sleeps if it has not changed.
KFORGE_WAIT uint32_t count_wakes(const uint32_t& wake_count) { return __atomic_load_n(&wake_count, __ATOMIC_ACQUIRE); }

// Lets others use this core: until the next wake if this process may sleep.
KFORGE_WAIT void leave_core([[maybe_unused]] uint32_t& wake_count, [[maybe_unused]] uint32_t seen) {
#if defined(__linux__)
    if (waits_asleep) {
        system_call(__NR_futex, reinterpret_cast<long>(&wake_count), FUTEX_WAIT_PRIVATE, seen, reinterpret_cast<long>(&LONGEST_SLEEP));
    } else {
        system_call(__NR_sched_yield);
    }
#else
    sched_yield();
#endif
}

// Wakes the threads that sleep. Call it after the change that they wait for.
KFORGE_WAIT void wake([[maybe_unused]] uint32_t& wake_count) {
#if defined(__linux__)
    if (!waits_asleep) return;
    __atomic_fetch_add(&wake_count, 1, __ATOMIC_ACQ_REL);
    system_call(__NR_futex, reinterpret_cast<long>(&wake_count), FUTEX_WAKE_PRIVATE, INT_MAX);
#endif
}

}  // namespace kforge
