// The state of the process that runs a candidate: CUDA's built-in variables, shared memory, and the current job.
//
// Included by runtime.cpp and its parts only; all of them are one translation unit.

#pragma once

#include "runtime.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>

#include "block.h"
#include "control.h"
#include "fault.h"
#include "waits.h"
#if defined(KFORGE_RACE)
#include "race_hooks.h"
#elif defined(KFORGE_BOUNDS)
#include "bounds.h"
#endif

extern "C" {
// Candidates see these as `const` variables of CUDA types.
__thread kforge::ThreadPosition threadIdx __attribute__((aligned(16)));
__thread kforge::ThreadPosition blockIdx __attribute__((aligned(16)));
__thread uint32_t kforge_lane;
__thread uint32_t kforge_shared_generation;
__thread uint32_t kforge_poll_count;
__thread void* kforge_dynamic_shared;
uint32_t blockDim[3];
uint32_t gridDim[3];

// Defined by the generated end of the translation unit (entry.h).
extern const kforge::Entry kforge_entries[];
extern const uint32_t kforge_entry_count;
}

namespace kforge {

constexpr uint32_t MAX_SHARED_BYTES = 227 << 10;
// Of these, variables with a size of their own have at most so much, because compilers for GPUs allow no more.
constexpr uint32_t MAX_STATIC_SHARED_BYTES = 48 << 10;
#if defined(KFORGE_INSPECTED)
constexpr size_t SHARED_REGION_BYTES = 1 << 20;  // leaves room for gaps between variables
#else
constexpr size_t SHARED_REGION_BYTES = 228 << 10;
#endif
constexpr size_t SHARED_GUARD_BYTES = 64 << 10;
constexpr size_t SIGNAL_STACK_BYTES = 64 << 10;

// The first of the candidate's shared variables, and one past the last. The linker defines them if there are any.
#if defined(__APPLE__)
extern "C" const SharedVariable first_shared_variable asm("section$start$__DATA$kforge_shared");
extern "C" const SharedVariable end_of_shared_variables asm("section$end$__DATA$kforge_shared");
#else
extern "C" __attribute__((weak)) const SharedVariable first_shared_variable asm("__start_kforge_shared");
extern "C" __attribute__((weak)) const SharedVariable end_of_shared_variables asm("__stop_kforge_shared");
#endif

struct SharedVariables {
    const SharedVariable *first = &first_shared_variable, *last = &end_of_shared_variables;

    // Both addresses may be the same, or null, which the compiler must not assume to be impossible.
    SharedVariables() { asm("" : "+r"(first), "+r"(last)); }
    const SharedVariable* begin() const { return first; }
    const SharedVariable* end() const { return last; }
};

// The shared memory of an operating system thread, and its position in the launch.
struct Arena {
    char* statics;
    char* dynamic_end;
    size_t statics_used;
    size_t gaps;  // bytes of `statics_used` that are gaps between variables
    uint64_t first_block;  // the next block of the current chunk; `end_block`: one past its last
    uint64_t end_block;
};
static __thread Arena arena;

// The job that all operating system threads work on. `generation` counts the jobs of a run; increasing it starts one, and 0 sends
// the helpers to rest. `resting` counts the helpers that rest. `wake_count` changes after each change of the first three (waits.h).
static struct {
    alignas(64) uint32_t generation;
    alignas(64) uint32_t finished;
    alignas(64) uint32_t resting;
    alignas(64) uint32_t wake_count;
    alignas(64) uint64_t claimed;
    alignas(64) void (*work)(Worker&);
    uint32_t threads;
    uint64_t blocks;
    uint64_t chunk;
    uint32_t launch_generation;
    const Entry* entry;
    const void* const* arguments;
    uint32_t shared_bytes;
    size_t variable_bytes;
    char* zero_start;
    uint64_t zero_bytes;
} job;

}  // namespace kforge
