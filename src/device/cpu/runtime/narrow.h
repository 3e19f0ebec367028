// Helpers shared by the two 16-bit floating-point types: access to bits, and rounding into a narrower type. The types
// themselves are in half.h, bfloat16.h and narrow_type.h.

#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <type_traits>

#include "language.h"
#include "vectors.h"

namespace kforge {

inline uint32_t bits_of(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, sizeof(bits));
    return bits;
}
inline float float_of(uint32_t bits) {
    float value;
    __builtin_memcpy(&value, &bits, sizeof(value));
    return value;
}
inline uint64_t bits_of(double value) {
    uint64_t bits;
    __builtin_memcpy(&bits, &value, sizeof(bits));
    return bits;
}
inline double double_of(uint64_t bits) {
    double value;
    __builtin_memcpy(&value, &bits, sizeof(value));
    return value;
}

template <typename N>
inline N narrow_of(uint16_t bits) {
    N value;
    __builtin_memcpy(&value, &bits, sizeof(bits));
    return value;
}
template <typename N>
inline uint16_t narrow_bits(const N& value) {
    uint16_t bits;
    __builtin_memcpy(&bits, &value, sizeof(bits));
    return bits;
}

// Prevents the optimiser from fusing a product with the sum that uses it. gcc's own barrier is lost when it vectorises.
template <typename F>
inline __attribute__((always_inline)) F unfused(F value) {
#if defined(__aarch64__)
    asm("" : "+w"(value));
#else
    asm("" : "+x"(value));
#endif
    return value;
}

// Prevents a sum from being regrouped under -ffast-math.
template <typename F>
inline __attribute__((always_inline)) F separate(F value) {
#if !defined(__clang__) && __GNUC__ >= 12
    return __builtin_assoc_barrier(value);
#else
    return unfused(value);
#endif
}

// Rounds to odd. Rounding the result again into a narrower type then gives the same as rounding once.
inline float odd_float(double value) {
    const float nearest = (float)value;
    const double back = nearest;
    if (back == value || value != value || (bits_of(nearest) & 1) != 0) return nearest;
    return float_of(bits_of(nearest) + (fabs(back) < fabs(value) ? 1u : ~0u));
}

// a + b, rounded to odd.
inline double odd_sum(double a, double b) {
    const double sum = separate(a + b);
    const double virtual_b = separate(sum - a);
    const double error = separate(a - separate(sum - virtual_b)) + separate(b - virtual_b);
    if (__builtin_expect(!(error != 0) || error != error || (bits_of(sum) & 1) != 0, 1)) return sum;
    return double_of(bits_of(sum) + ((error > 0) == (sum > 0) ? 1u : ~(uint64_t)0));
}

// An integer as a double that rounds into a narrower type as the integer itself would. `auto`: see `simd.h`.
template <typename I>
inline auto odd_double(I value) {
    if constexpr (sizeof(I) < 8) return (double)value;
    const bool negative = value < 0;
    uint64_t magnitude = negative ? 0 - (uint64_t)value : (uint64_t)value;
    if (magnitude >> 53 != 0) magnitude = (magnitude >> 11 | ((magnitude & 0x7ff) != 0)) << 11;
    return negative ? -(double)magnitude : (double)magnitude;
}

// Converts to an integer as the GPU does. A value that does not fit becomes the nearest limit. A NaN becomes zero, or only
// the highest bit set if either type has 64 bits. `auto`: see `simd.h`.
template <typename I, typename F>
inline auto to_integer(F value) {
    if (value != value) return sizeof(I) == 8 || (sizeof(F) == 8 && sizeof(I) == 4) ? (I)((I)1 << (8 * sizeof(I) - 1)) : (I)0;
    constexpr I least = std::numeric_limits<I>::min();
    constexpr I most = std::numeric_limits<I>::max();
    if (value <= (F)least) return least;
    if (value >= (F)most) return most;
    return (I)value;
}

// One step to the next number, for the rounding modes other than to nearest.
inline uint16_t step_to_zero(uint16_t bits, float rounded, float exact) { return (uint16_t)(bits - (fabsf(rounded) > fabsf(exact))); }
inline uint16_t step_down(uint16_t bits, float rounded, float exact) { return rounded > exact ? (uint16_t)((bits & 0x8000) != 0 ? bits + 1 : bits - 1) : bits; }
inline uint16_t step_up(uint16_t bits, float rounded, float exact) { return rounded < exact ? (uint16_t)((bits & 0x8000) != 0 ? bits - 1 : bits + 1) : bits; }


// Rounds a number that a double holds exactly or rounded to odd.
template <typename N>
inline N narrow_directed(double exact, int direction) {
    const N nearest(exact);
    const double rounded = (double)(float)nearest;
    if (rounded == exact || exact != exact) return nearest;
    const bool above = rounded > exact;
    const bool wanted = direction == 0 ? exact < 0 : direction > 0;
    if (above == wanted) return nearest;
    // Numbers with the same sign compare like their magnitudes as integers.
    const uint16_t bits = narrow_bits(nearest);
    if ((bits & 0x7fff) == 0) return narrow_of<N>((uint16_t)(wanted ? 1 : 0x8001));
    return narrow_of<N>((uint16_t)(bits + (((bits & 0x8000) == 0) == wanted ? 1 : -1)));
}

}  // namespace kforge
