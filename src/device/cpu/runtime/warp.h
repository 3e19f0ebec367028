// Warp-level intrinsics: shuffles, votes, reductions, matches.
//
// A lane that is named in a mask but has exited is ignored, as on hardware. A read from a lane that does not take part is undefined:
// see `absent_value`. Waiting and switching is done by `collective` in runtime.h.

#pragma once

#include "bfloat16.h"
#include "half.h"
#include "language.h"

namespace kforge {

// The bytes of a value, as a shuffle moves them.
template <typename T>
inline __attribute__((always_inline)) uint64_t to_bits(const T& value) {
    if constexpr (sizeof(T) == 4) {
        uint32_t bits;
        memcpy(&bits, &value, sizeof(T));
        return bits;
    } else {
        uint64_t bits = 0;
        memcpy(&bits, &value, sizeof(T));
        return bits;
    }
}

template <typename T>
inline __attribute__((always_inline)) T from_bits(uint64_t bits) {
    T value;
    memcpy(&value, &bits, sizeof(T));
    return value;
}

// Smaller integers are shuffled as `int`: CUDA's overloads convert them.
template <typename T>
struct Shuffled {
    static_assert(std::is_arithmetic<T>::value || std::is_enum<T>::value,
                  "a shuffle moves integers, floating-point numbers, `__half`, `__nv_bfloat16` and their two-wide forms");
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
    using type = std::conditional_t<std::is_integral<T>::value && (sizeof(T) < 4), int, T>;
};
template <>
struct Shuffled<__half> {
    using type = __half;
};
template <>
struct Shuffled<__half2> {
    using type = __half2;
};
template <>
struct Shuffled<__nv_bfloat16> {
    using type = __nv_bfloat16;
};
template <>
struct Shuffled<__nv_bfloat162> {
    using type = __nv_bfloat162;
};

template <typename T>
inline __attribute__((always_inline)) T exchange(unsigned mask, T value, unsigned source) {
    return from_bits<T>(collective(mask, Collective::shuffle, to_bits(value), source));
}

inline unsigned first_lane(int width) { return current_lane & ~(unsigned)(width - 1); }

}  // namespace kforge

template <typename T, typename S = typename ::kforge::Shuffled<T>::type>
inline S __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    return ::kforge::exchange<S>(mask, value, ::kforge::first_lane(width) + ((unsigned)source & (unsigned)(width - 1)));
}

template <typename T, typename S = typename ::kforge::Shuffled<T>::type>
inline S __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    const unsigned lane = ::kforge::current_lane;
    const bool inside = lane - ::kforge::first_lane(width) >= delta;
    return ::kforge::exchange<S>(mask, value, inside ? lane - delta : lane);
}

template <typename T, typename S = typename ::kforge::Shuffled<T>::type>
inline S __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    const unsigned lane = ::kforge::current_lane;
    const bool inside = (unsigned long long)lane + delta < ::kforge::first_lane(width) + (unsigned)width;
    return ::kforge::exchange<S>(mask, value, inside ? lane + delta : lane);
}

template <typename T, typename S = typename ::kforge::Shuffled<T>::type>
inline S __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32) {
    const unsigned lane = ::kforge::current_lane;
    const unsigned source = lane ^ (unsigned)lane_mask;
    return ::kforge::exchange<S>(mask, value, source < ::kforge::first_lane(width) + (unsigned)width ? source : lane);
}

// ---- Votes ----

inline unsigned __ballot_sync(unsigned mask, int predicate) {
    return (unsigned)::kforge::collective(mask, ::kforge::Collective::ballot, predicate != 0, 0);
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) {
    const uint64_t votes = ::kforge::collective(mask, ::kforge::Collective::ballot, predicate != 0, 0);
    return (uint32_t)votes == (uint32_t)(votes >> 32);
}
inline int __uni_sync(unsigned mask, int predicate) {
    const uint64_t votes = ::kforge::collective(mask, ::kforge::Collective::ballot, predicate != 0, 0);
    return (uint32_t)votes == 0 || (uint32_t)votes == (uint32_t)(votes >> 32);
}
// Lanes that wait at the same source location count as active together. A macro, because an optimiser may merge the calls of
// two branches into one.
#define __activemask() ::kforge::active_lanes(__COUNTER__)

// ---- Reductions and matches ----

#define KFORGE_REDUCE(name, type, kind)                                                             \
    inline type name(unsigned mask, type value) {                                                   \
        return (type)::kforge::collective(mask, ::kforge::Collective::kind, (uint64_t)(int64_t)value, 0); \
    }
KFORGE_REDUCE(__reduce_add_sync, int, add)
KFORGE_REDUCE(__reduce_add_sync, unsigned, add)
KFORGE_REDUCE(__reduce_min_sync, int, min_signed)
KFORGE_REDUCE(__reduce_min_sync, unsigned, min_unsigned)
KFORGE_REDUCE(__reduce_max_sync, int, max_signed)
KFORGE_REDUCE(__reduce_max_sync, unsigned, max_unsigned)
KFORGE_REDUCE(__reduce_and_sync, unsigned, bit_and)
KFORGE_REDUCE(__reduce_or_sync, unsigned, bit_or)
KFORGE_REDUCE(__reduce_xor_sync, unsigned, bit_xor)
#undef KFORGE_REDUCE

template <typename T>
inline unsigned __match_any_sync(unsigned mask, T value) {
    static_assert(std::is_arithmetic<T>::value && (sizeof(T) == 4 || sizeof(T) == 8), "a match compares values of 4 or 8 bytes");
    return (unsigned)::kforge::collective(mask, ::kforge::Collective::match_any, ::kforge::to_bits(value), 0);
}
template <typename T>
inline unsigned __match_all_sync(unsigned mask, T value, int* same) {
    static_assert(std::is_arithmetic<T>::value && (sizeof(T) == 4 || sizeof(T) == 8), "a match compares values of 4 or 8 bytes");
    const unsigned lanes = (unsigned)::kforge::collective(mask, ::kforge::Collective::match_all, ::kforge::to_bits(value), 0);
    *same = lanes != 0;
    return lanes;
}
