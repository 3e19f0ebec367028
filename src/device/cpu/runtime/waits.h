// How the threads of the process wait for each other.
//
// A wait is short while each thread has a core of its own, so a thread looks again and again: how fast the system wakes a thread must not
// count in the time of a kernel. Where others use its core too, a wait lasts until they let the other thread run. Looking then takes time
// from all of them, so a thread that finds its core used sleeps a little between two looks. The process of an oracle is never timed. Its
// threads sleep until they are woken.
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

// A yield that takes longer has given the core to others. If nobody wants the core, it takes about a microsecond.
constexpr int64_t LONG_YIELD_NANOSECONDS = 30000;
// So many yields of one wait must be long before a thread sleeps: a stop of the process makes one yield long, and no run may start asleep.
constexpr uint32_t LONG_YIELDS_BEFORE_NAP = 2;
static const timespec NAP = {0, 100000};
// The longest sleep. A stop of the process gives `wake_count` an earlier value, so a wake may be missed.
static const timespec LONGEST_SLEEP = {0, 1000000};

#endif

// The number of wakes. A thread that waits reads it, looks a last time, and sleeps if it has not changed.
KFORGE_WAIT uint32_t count_wakes(const uint32_t& wake_count) { return __atomic_load_n(&wake_count, __ATOMIC_ACQUIRE); }

#if defined(__linux__)

KFORGE_WAIT int64_t nanoseconds() {
    timespec now;
    system_call(__NR_clock_gettime, CLOCK_MONOTONIC, reinterpret_cast<long>(&now));
    return static_cast<int64_t>(now.tv_sec) * 1000000000 + now.tv_nsec;
}

#endif

// Lets others use this core: until the next wake if this process may sleep. `long_yields` counts the caller's long yields.
KFORGE_WAIT void leave_core([[maybe_unused]] uint32_t& wake_count, [[maybe_unused]] uint32_t seen, [[maybe_unused]] uint32_t& long_yields) {
#if defined(__linux__)
    if (waits_asleep) {
        system_call(__NR_futex, reinterpret_cast<long>(&wake_count), FUTEX_WAIT_PRIVATE, seen, reinterpret_cast<long>(&LONGEST_SLEEP));
        return;
    }
    if (long_yields >= LONG_YIELDS_BEFORE_NAP) system_call(__NR_nanosleep, reinterpret_cast<long>(&NAP));
    const int64_t start = nanoseconds();
    system_call(__NR_sched_yield);
    if (nanoseconds() - start > LONG_YIELD_NANOSECONDS) ++long_yields;
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
