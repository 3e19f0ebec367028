// The keywords and built-ins that CUDA adds to C++: qualifiers, thread indices, barriers, fences, assertions.
//
// What this backend cannot run (inline PTX, tensor cores, clusters, bulk copies) is not declared anywhere.

#pragma once

#include <cstddef>
// Without the special functions of C++17, such as Bessel functions: a GPU has none of them under these names, and gcc would instantiate
// all of their templates again for every kernel.
#undef _GLIBCXX_USE_STD_SPEC_FUNCS
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cfloat>
#include <climits>
#include <limits>
#include <type_traits>
#include <utility>

#include "runtime.h"
#include "vectors.h"

// Sources select their device code by these macros. The architecture is that of the reference GPU (sm_90).
#define __CUDACC__ 1
// As NVRTC: a source leaves out its host code by this macro.
#define __CUDACC_RTC__ 1
// Only here: selects other code for the CPU, for example instead of inline PTX.
#define KFORGE_CPU 1
#define __CUDA_ARCH__ 900
#define __CUDACC_VER_MAJOR__ 12
#define __CUDACC_VER_MINOR__ 8
#define CUDART_VERSION 12080

// Launchers for the host take it. Nothing here has a stream.
typedef struct CUstream_st* cudaStream_t;

// Sources name the namespace of the tensor cores beside code for other devices. It has no members here.
namespace nvcuda {
namespace wmma {}
}  // namespace nvcuda

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __maxnreg__(...)
#define __builtin_align__(bytes) __align__(bytes)
#define __inline_hint__ inline
#define __align__(bytes) __attribute__((aligned(bytes)))
// Without `inline`: sources often write both, and `inline` may appear only once.
#define __forceinline__ __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#if !defined(__clang__)
#define __builtin_assume(condition) ((condition) ? (void)0 : __builtin_unreachable())
#endif
#define __assume(condition) __builtin_assume(condition)

extern const __thread __attribute__((tls_model("local-exec"))) uint3 threadIdx;
extern const __thread __attribute__((tls_model("local-exec"))) uint3 blockIdx;
extern const dim3 blockDim;
extern const dim3 gridDim;
// Known to the optimiser but not a constant expression, as on the GPU: to read the other member of a union never is one.
namespace kforge {
static const union {
    unsigned initial;
    int value;
} warp_size = {32};
}  // namespace kforge
static const int& warpSize = ::kforge::warp_size.value;

// ---- Barriers and fences ----

inline __attribute__((always_inline)) void __syncthreads() { ::kforge::block_barrier(0); }
#define KFORGE_BARRIER(name, vote)                                           \
    inline __attribute__((always_inline)) int name(int predicate) {          \
        ::kforge::block_barrier(predicate != 0);                             \
        return (int)::kforge::barrier_vote(::kforge::Vote::vote);            \
    }
KFORGE_BARRIER(__syncthreads_count, count)
KFORGE_BARRIER(__syncthreads_and, all)
KFORGE_BARRIER(__syncthreads_or, any)
#undef KFORGE_BARRIER
inline void __syncwarp(unsigned mask = 0xffffffffu) { ::kforge::collective(mask, ::kforge::Collective::sync, 0, 0); }

// A fence orders what this thread wrote before what it writes next, for threads of other blocks too, which may run on another
// core. Threads that poll with volatile reads usually have a fence in their loop, so a fence counts as a poll.
inline void __threadfence() {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    ::kforge::polled();
}
inline void __threadfence_block() {
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    ::kforge::polled();
}
inline void __threadfence_system() { __threadfence(); }
inline void __nanosleep(unsigned) { ::kforge::yield(); }

// ---- Clocks and faults ----

// The C library declares these names, so the definition must match its declaration. No code is emitted for the definition.
#define KFORGE_LIBRARY extern "C" inline __attribute__((always_inline, gnu_inline))
#if defined(__GLIBC__)
#define KFORGE_AS_DECLARED noexcept
#else
#define KFORGE_AS_DECLARED
#endif
KFORGE_LIBRARY clock_t clock() KFORGE_AS_DECLARED { return (clock_t)::kforge::device_clock(); }
inline long long clock64() { return (long long)::kforge::device_clock(); }
inline unsigned long long __clock64() { return ::kforge::device_clock(); }
inline unsigned long long __globaltimer() { return ::kforge::global_timer(); }
[[noreturn]] inline void __trap() { ::kforge::device_trap(); }
inline void __brkpt() {}
inline void __prof_trigger(int) {}

// ---- Loads and stores with a cache hint; the hint has no effect here ----

#define KFORGE_LOAD(name) \
    template <typename T> \
    inline __attribute__((always_inline)) T name(const T* address) { return *address; }
KFORGE_LOAD(__ldg)
KFORGE_LOAD(__ldca)
KFORGE_LOAD(__ldcs)
KFORGE_LOAD(__ldlu)
#undef KFORGE_LOAD

// These two read memory again at every call. Only a polling thread has a reason to call the second.
#define KFORGE_LOAD(name)                                                        \
    template <typename T>                                                        \
    inline __attribute__((always_inline)) T name(const T* address) {             \
        __atomic_signal_fence(__ATOMIC_ACQUIRE);                                 \
        return *address;                                                         \
    }
KFORGE_LOAD(__ldcg)
#undef KFORGE_LOAD
template <typename T>
inline __attribute__((always_inline)) T __ldcv(const T* address) {
    ::kforge::polled();
    __atomic_signal_fence(__ATOMIC_ACQUIRE);
    return *address;
}

#define KFORGE_STORE(name)                                                       \
    template <typename T, typename V>                                            \
    inline __attribute__((always_inline)) void name(T* address, const V& value) { *address = value; }
KFORGE_STORE(__stwb)
KFORGE_STORE(__stcg)
KFORGE_STORE(__stcs)
KFORGE_STORE(__stwt)
#undef KFORGE_STORE

// ---- Address spaces: there is only one, so an address is the same in each ----

inline size_t __cvta_generic_to_global(const void* pointer) { return (size_t)pointer; }
inline size_t __cvta_generic_to_shared(const void* pointer) { return (size_t)pointer; }
inline size_t __cvta_generic_to_local(const void* pointer) { return (size_t)pointer; }
inline size_t __cvta_generic_to_constant(const void* pointer) { return (size_t)pointer; }
inline size_t __cvta_generic_to_grid_constant(const void* pointer) { return (size_t)pointer; }
inline void* __cvta_global_to_generic(size_t address) { return (void*)address; }
inline void* __cvta_shared_to_generic(size_t address) { return (void*)address; }
inline void* __cvta_local_to_generic(size_t address) { return (void*)address; }
inline void* __cvta_constant_to_generic(size_t address) { return (void*)address; }
inline unsigned int __isShared(const void* pointer) { return ::kforge::is_shared(pointer); }
// Local variables are on the thread's stack.
inline unsigned int __isLocal(const void* pointer) { return (size_t)pointer - (size_t)__builtin_frame_address(0) < (64u << 10); }
inline unsigned int __isGlobal(const void* pointer) { return !__isShared(pointer) && !__isLocal(pointer); }
