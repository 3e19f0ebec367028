// CUDA's atomic functions. They use relaxed ordering as in CUDA, and real atomic instructions, because blocks run on
// several cores.
//
// An operation that changes nothing may be a poll of a flag or a lock, so it lets other threads run now and then.

#pragma once

#include "bfloat16.h"
#include "half.h"
#include "language.h"

namespace kforge {

// Replaces *address by change(old) and returns the old value. `auto`: see `simd.h`.
template <typename Bits, typename T, typename Change>
inline auto atomic_change(T* address, Change change) {
    static_assert(sizeof(Bits) == sizeof(T), "the integer must have the size of the value");
    Bits* word = reinterpret_cast<Bits*>(address);
    Bits old = __atomic_load_n(word, __ATOMIC_RELAXED);
    for (;;) {
        T before;
        memcpy(&before, &old, sizeof(T));
        const T after = change(before);
        Bits next;
        memcpy(&next, &after, sizeof(T));
        if (next == old) polled();
        if (__atomic_compare_exchange_n(word, &old, next, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) return before;
    }
}

template <typename T>
inline T observed(T old, bool changed) {
    if (!changed) polled();
    return old;
}

}  // namespace kforge

// Every function also exists with a scope in its name. All use the widest scope, which is always correct.
#define KFORGE_ATOMIC(name, type, arguments, pass, ...)                \
    inline type name(type* address, arguments) { __VA_ARGS__ }         \
    inline type name##_block(type* address, arguments) { return name(address, pass); } \
    inline type name##_system(type* address, arguments) { return name(address, pass); }

#define KFORGE_FETCH(name, type, builtin) \
    KFORGE_ATOMIC(name, type, type value, value, return ::kforge::observed(builtin(address, value, __ATOMIC_RELAXED), value != 0);)
KFORGE_FETCH(atomicAdd, int, __atomic_fetch_add)
KFORGE_FETCH(atomicAdd, unsigned int, __atomic_fetch_add)
KFORGE_FETCH(atomicAdd, unsigned long long, __atomic_fetch_add)
KFORGE_FETCH(atomicSub, int, __atomic_fetch_sub)
KFORGE_FETCH(atomicSub, unsigned int, __atomic_fetch_sub)
KFORGE_FETCH(atomicOr, int, __atomic_fetch_or)
KFORGE_FETCH(atomicOr, unsigned int, __atomic_fetch_or)
KFORGE_FETCH(atomicOr, unsigned long long, __atomic_fetch_or)
KFORGE_FETCH(atomicXor, int, __atomic_fetch_xor)
KFORGE_FETCH(atomicXor, unsigned int, __atomic_fetch_xor)
KFORGE_FETCH(atomicXor, unsigned long long, __atomic_fetch_xor)
#undef KFORGE_FETCH

#define KFORGE_AND(type) \
    KFORGE_ATOMIC(atomicAnd, type, type value, value, return ::kforge::observed(__atomic_fetch_and(address, value, __ATOMIC_RELAXED), value != (type)-1);)
KFORGE_AND(int)
KFORGE_AND(unsigned int)
KFORGE_AND(unsigned long long)
#undef KFORGE_AND

#define KFORGE_EXCHANGE(type, bits)                                                                         \
    KFORGE_ATOMIC(atomicExch, type, type value, value, {                                                    \
        bits next, old;                                                                                     \
        memcpy(&next, &value, sizeof(next));                                                                \
        old = __atomic_exchange_n(reinterpret_cast<bits*>(address), next, __ATOMIC_RELAXED);                \
        type before;                                                                                        \
        memcpy(&before, &old, sizeof(old));                                                                 \
        return ::kforge::observed(before, old != next);                                                     \
    })
KFORGE_EXCHANGE(int, uint32_t)
KFORGE_EXCHANGE(unsigned int, uint32_t)
KFORGE_EXCHANGE(unsigned long long, uint64_t)
KFORGE_EXCHANGE(float, uint32_t)
#undef KFORGE_EXCHANGE

#define KFORGE_COMPARE_EXCHANGE(name, type)                                                                            \
    inline type name(type* address, type compare, type value) {                                                        \
        type old = compare;                                                                                            \
        const bool changed = __atomic_compare_exchange_n(address, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED); \
        return ::kforge::observed(old, changed && value != compare);                                                   \
    }
#define KFORGE_COMPARE_EXCHANGES(type)                \
    KFORGE_COMPARE_EXCHANGE(atomicCAS, type)          \
    KFORGE_COMPARE_EXCHANGE(atomicCAS_block, type)    \
    KFORGE_COMPARE_EXCHANGE(atomicCAS_system, type)
KFORGE_COMPARE_EXCHANGES(int)
KFORGE_COMPARE_EXCHANGES(unsigned int)
KFORGE_COMPARE_EXCHANGES(unsigned long long)
KFORGE_COMPARE_EXCHANGES(unsigned short)
#undef KFORGE_COMPARE_EXCHANGES
#undef KFORGE_COMPARE_EXCHANGE

#define KFORGE_CHANGE(name, type, bits, expression) \
    KFORGE_ATOMIC(name, type, type value, value, return ::kforge::atomic_change<bits>(address, [value](type old) -> type { return expression; });)
KFORGE_CHANGE(atomicMin, int, uint32_t, value < old ? value : old)
KFORGE_CHANGE(atomicMin, unsigned int, uint32_t, value < old ? value : old)
KFORGE_CHANGE(atomicMin, long long, uint64_t, value < old ? value : old)
KFORGE_CHANGE(atomicMin, unsigned long long, uint64_t, value < old ? value : old)
KFORGE_CHANGE(atomicMax, int, uint32_t, value > old ? value : old)
KFORGE_CHANGE(atomicMax, unsigned int, uint32_t, value > old ? value : old)
KFORGE_CHANGE(atomicMax, long long, uint64_t, value > old ? value : old)
KFORGE_CHANGE(atomicMax, unsigned long long, uint64_t, value > old ? value : old)
KFORGE_CHANGE(atomicInc, unsigned int, uint32_t, old >= value ? 0 : old + 1)
KFORGE_CHANGE(atomicDec, unsigned int, uint32_t, old == 0 || old > value ? value : old - 1)
KFORGE_CHANGE(atomicAdd, float, uint32_t, old + value)
KFORGE_CHANGE(atomicAdd, double, uint64_t, old + value)
KFORGE_CHANGE(atomicAdd, __half, uint16_t, __hadd(old, value))
KFORGE_CHANGE(atomicAdd, __nv_bfloat16, uint16_t, __hadd(old, value))
KFORGE_CHANGE(atomicAdd, __half2, uint32_t, __hadd2(old, value))
KFORGE_CHANGE(atomicAdd, __nv_bfloat162, uint32_t, __hadd2(old, value))
#undef KFORGE_CHANGE
#undef KFORGE_ATOMIC

// Each element is atomic, but the vector as a whole is not, as on the GPU.
#define KFORGE_VECTOR_ADD(name)                                                                                     \
    inline float2 name(float2* address, float2 value) { return float2{name(&address->x, value.x), name(&address->y, value.y)}; } \
    inline float4 name(float4* address, float4 value) {                                                             \
        return float4{name(&address->x, value.x), name(&address->y, value.y), name(&address->z, value.z), name(&address->w, value.w)}; \
    }
KFORGE_VECTOR_ADD(atomicAdd)
KFORGE_VECTOR_ADD(atomicAdd_block)
KFORGE_VECTOR_ADD(atomicAdd_system)
#undef KFORGE_VECTOR_ADD

// A compare-and-swap of 16 bytes, for any type that is aligned to 16, if the processor has an instruction for it.
#if defined(__GCC_HAVE_SYNC_COMPARE_AND_SWAP_16)
namespace kforge {
template <typename T>
inline T exchange_16(T* address, const T* compare, T value) {
    static_assert(sizeof(T) == 16 && alignof(T) == 16 && std::is_trivially_copyable<T>::value, "the type must have 16 bytes and be aligned to 16");
    unsigned __int128 next, assumed = 0, old;
    memcpy(&next, &value, 16);
    if (compare != nullptr) memcpy(&assumed, compare, 16);
    unsigned __int128* const word = reinterpret_cast<unsigned __int128*>(address);
    do {
        old = __sync_val_compare_and_swap(word, assumed, next);
        if (compare != nullptr || old == assumed) break;
        assumed = old;
    } while (true);
    if (old != assumed) polled();
    T before;
    memcpy(&before, &old, 16);
    return before;
}
template <typename T>
using If16 = std::enable_if_t<sizeof(T) == 16 && !std::is_arithmetic<T>::value, T>;
}  // namespace kforge
#define KFORGE_WIDE(scope)                                                                                                         \
    template <typename T>                                                                                                          \
    inline ::kforge::If16<T> atomicCAS##scope(T* address, T compare, T value) { return ::kforge::exchange_16(address, &compare, value); } \
    template <typename T>                                                                                                          \
    inline ::kforge::If16<T> atomicExch##scope(T* address, T value) { return ::kforge::exchange_16<T>(address, nullptr, value); }
KFORGE_WIDE()
KFORGE_WIDE(_block)
KFORGE_WIDE(_system)
#undef KFORGE_WIDE
#endif
