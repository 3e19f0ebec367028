// What the scheduler tells whoever watches it, and who runs next where a schedule is asked for.
//
// The fast build watches nothing and takes threads in order: there, all of this is empty. The race build counts the
// waits of threads as order between their accesses, and shuffles their turns by a seed.

#pragma once

#include <stdint.h>

#if defined(KFORGE_RACE) || defined(KFORGE_BOUNDS)
#define KFORGE_INSPECTED 1
#endif

namespace kforge {

struct Worker;
struct Warp;

#if defined(KFORGE_RACE)
void observe_barrier(Worker& w);                  // all live threads have arrived, and will be let go
void observe_sync(const Warp& warp, uint32_t lanes);  // these lanes have met in `__syncwarp`
bool is_shuffled();
uint32_t scheduled_thread(Worker& w);  // who runs next, where turns are shuffled
#else
inline void observe_barrier(Worker&) {}
inline void observe_sync(const Warp&, uint32_t) {}
constexpr bool is_shuffled() { return false; }
inline uint32_t scheduled_thread(Worker&) { return 0; }
#endif

}  // namespace kforge
