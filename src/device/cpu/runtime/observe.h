// Hooks of the scheduler for the race build: observing synchronisation, and choosing the next thread by a seeded schedule.
//
// In the fast build every hook is empty and threads run in order. The race build uses synchronisation to order accesses, and
// shuffles threads by a seed.

#pragma once

#include <stdint.h>

#if defined(KFORGE_RACE) || defined(KFORGE_BOUNDS)
#define KFORGE_INSPECTED 1
#endif

namespace kforge {

struct Worker;
struct Warp;

#if defined(KFORGE_RACE)
void observe_barrier(Worker& w);                      // all live threads have arrived and are about to be released
void observe_sync(const Warp& warp, uint32_t lanes);  // these lanes have met in `__syncwarp`
bool is_shuffled();
uint32_t scheduled_thread(Worker& w);  // the next thread to run, if the order is shuffled
#else
inline void observe_barrier(Worker&) {}
inline void observe_sync(const Warp&, uint32_t) {}
constexpr bool is_shuffled() { return false; }
inline uint32_t scheduled_thread(Worker&) { return 0; }
#endif

}  // namespace kforge
