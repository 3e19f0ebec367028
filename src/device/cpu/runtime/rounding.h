// Arithmetic and conversions whose names specify the rounding, such as `__fadd_rz`.
//
// The processor rounds to nearest. The directed modes step from that result to its neighbour if the exact result is on that
// side. None of these operations is ever fused with another, as on the GPU.

#pragma once

#include "narrow.h"

namespace kforge {

// `exact` is the result in double, rounded to odd if a double cannot hold it. Direction 0 is towards zero.
inline float directed(float nearest, double exact, int direction) {
    if ((double)nearest == exact || exact != exact) return nearest;
    const bool above = (double)nearest > exact;
    const bool wanted = direction == 0 ? exact < 0 : direction > 0;
    return above == wanted ? nearest : nextafterf(nearest, wanted ? __builtin_inff() : -__builtin_inff());
}

// `rest` has the sign of (exact result - nearest result). An infinite result of finite operands has overflowed.
inline double directed(double nearest, double rest, bool finite, int direction) {
    if (!finite) return nearest;
    const bool overflowed = __builtin_isinf(nearest);
    if (!overflowed && (rest == 0 || rest != rest)) return nearest;
    const bool above = overflowed ? nearest > 0 : rest < 0;
    const bool wanted = direction == 0 ? nearest < 0 : direction > 0;
    return above == wanted ? nearest : nextafter(nearest, wanted ? __builtin_inf() : -__builtin_inf());
}

// The exact rounding error of a sum.
inline double sum_rest(double a, double b, double sum) {
    const double virtual_b = separate(sum - a);
    return separate(a - separate(sum - virtual_b)) + separate(b - virtual_b);
}

#if defined(__aarch64__)
typedef long double Wide;
#else
typedef __float128 Wide;
#endif
// Only the sign of the result is needed, and it is exact: the product is exact in the wider type.
inline double fused_rest(double a, double b, double c, double nearest) {
    const Wide product = (Wide)a * (Wide)b;
    const Wide sum = product + (Wide)c;
    if (sum != (Wide)nearest) return sum > (Wide)nearest ? 1 : -1;
    const Wide virtual_c = sum - product;
    const Wide rest = (product - (sum - virtual_c)) + ((Wide)c - virtual_c);
    return rest > 0 ? 1 : rest < 0 ? -1 : 0;
}

inline bool is_finite(double value) { return __builtin_isfinite(value); }

}  // namespace kforge

#define KFORGE_ROUNDED(name, parameters, single, exact)                                                            \
    inline float name##_rn parameters { return ::kforge::separate(single); }                                       \
    inline float name##_rz parameters { return ::kforge::directed(single, exact, 0); }                             \
    inline float name##_rd parameters { return ::kforge::directed(single, exact, -1); }                            \
    inline float name##_ru parameters { return ::kforge::directed(single, exact, 1); }
KFORGE_ROUNDED(__fadd, (float a, float b), a + b, ::kforge::odd_sum((double)a, (double)b))
KFORGE_ROUNDED(__fsub, (float a, float b), a - b, ::kforge::odd_sum((double)a, -(double)b))
KFORGE_ROUNDED(__fmul, (float a, float b), ::kforge::unfused(a * b), (double)a * (double)b)
KFORGE_ROUNDED(__fdiv, (float a, float b), a / b, (double)a / (double)b)
KFORGE_ROUNDED(__fmaf, (float a, float b, float c), __builtin_fmaf(a, b, c), ::kforge::odd_sum((double)a * (double)b, (double)c))
KFORGE_ROUNDED(__fmaf_ieee, (float a, float b, float c), __builtin_fmaf(a, b, c), ::kforge::odd_sum((double)a * (double)b, (double)c))
KFORGE_ROUNDED(__frcp, (float a), 1.0f / a, 1.0 / (double)a)
KFORGE_ROUNDED(__fsqrt, (float a), sqrtf(a), sqrt((double)a))
#undef KFORGE_ROUNDED
inline float __frsqrt_rn(float a) { return (float)(1.0 / sqrt((double)a)); }

#define KFORGE_ROUNDED(name, parameters, arguments, finite, nearest_result, rest)                                                        \
    inline double name##_rn parameters { return ::kforge::separate(nearest_result); }                                                    \
    inline double kforge_rounded##name(int direction, KFORGE_UNPACK parameters) {                                                        \
        const double r = ::kforge::separate(nearest_result);                                                                             \
        return ::kforge::directed(r, rest, finite, direction);                                                   \
    }                                                                                                                                    \
    inline double name##_rz parameters { return kforge_rounded##name(0, KFORGE_UNPACK arguments); }                                      \
    inline double name##_rd parameters { return kforge_rounded##name(-1, KFORGE_UNPACK arguments); }                                     \
    inline double name##_ru parameters { return kforge_rounded##name(1, KFORGE_UNPACK arguments); }
#define KFORGE_UNPACK(...) __VA_ARGS__
KFORGE_ROUNDED(__dadd, (double a, double b), (a, b), ::kforge::is_finite(a) && ::kforge::is_finite(b), a + b, ::kforge::sum_rest(a, b, r))
KFORGE_ROUNDED(__dsub, (double a, double b), (a, b), ::kforge::is_finite(a) && ::kforge::is_finite(b), a - b, ::kforge::sum_rest(a, -b, r))
KFORGE_ROUNDED(__dmul, (double a, double b), (a, b), ::kforge::is_finite(a) && ::kforge::is_finite(b), ::kforge::unfused(a * b), __builtin_fma(a, b, -r))
KFORGE_ROUNDED(__ddiv, (double a, double b), (a, b), ::kforge::is_finite(a) && b != 0, a / b, b < 0 ? -__builtin_fma(-r, b, a) : __builtin_fma(-r, b, a))
KFORGE_ROUNDED(__drcp, (double a), (a), a != 0, 1.0 / a, a < 0 ? -__builtin_fma(-r, a, 1.0) : __builtin_fma(-r, a, 1.0))
KFORGE_ROUNDED(__dsqrt, (double a), (a), ::kforge::is_finite(a), sqrt(a), __builtin_fma(-r, r, a))
KFORGE_ROUNDED(__fma, (double a, double b, double c), (a, b, c), ::kforge::is_finite(a) && ::kforge::is_finite(b) && ::kforge::is_finite(c), __builtin_fma(a, b, c), ::kforge::fused_rest(a, b, c, r))
#undef KFORGE_UNPACK
#undef KFORGE_ROUNDED

// ---- Conversions ----

#define KFORGE_TO_INTEGER(from, from_type, to, to_type)                                                                  \
    inline to_type __##from##2##to##_rn(from_type a) { return ::kforge::to_integer<to_type>(__builtin_rint(a)); }        \
    inline to_type __##from##2##to##_rz(from_type a) { return ::kforge::to_integer<to_type>(__builtin_trunc(a)); }       \
    inline to_type __##from##2##to##_rd(from_type a) { return ::kforge::to_integer<to_type>(__builtin_floor(a)); }       \
    inline to_type __##from##2##to##_ru(from_type a) { return ::kforge::to_integer<to_type>(__builtin_ceil(a)); }
#define KFORGE_TO_INTEGERS(from, from_type)                      \
    KFORGE_TO_INTEGER(from, from_type, int, int)                 \
    KFORGE_TO_INTEGER(from, from_type, uint, unsigned int)       \
    KFORGE_TO_INTEGER(from, from_type, ll, long long)            \
    KFORGE_TO_INTEGER(from, from_type, ull, unsigned long long)
KFORGE_TO_INTEGERS(double, double)
#undef KFORGE_TO_INTEGER
#define KFORGE_TO_INTEGER(from, from_type, to, to_type)                                                                   \
    inline to_type __##from##2##to##_rn(from_type a) { return ::kforge::to_integer<to_type>(__builtin_rintf(a)); }        \
    inline to_type __##from##2##to##_rz(from_type a) { return ::kforge::to_integer<to_type>(__builtin_truncf(a)); }       \
    inline to_type __##from##2##to##_rd(from_type a) { return ::kforge::to_integer<to_type>(__builtin_floorf(a)); }       \
    inline to_type __##from##2##to##_ru(from_type a) { return ::kforge::to_integer<to_type>(__builtin_ceilf(a)); }
KFORGE_TO_INTEGERS(float, float)
#undef KFORGE_TO_INTEGER
#undef KFORGE_TO_INTEGERS

#define KFORGE_FROM_INTEGER(from, from_type)                                                                                                   \
    inline float __##from##2float_rn(from_type a) { return (float)a; }                                                                         \
    inline float __##from##2float_rz(from_type a) { return ::kforge::directed((float)a, ::kforge::odd_double(a), 0); }                         \
    inline float __##from##2float_rd(from_type a) { return ::kforge::directed((float)a, ::kforge::odd_double(a), -1); }                        \
    inline float __##from##2float_ru(from_type a) { return ::kforge::directed((float)a, ::kforge::odd_double(a), 1); }
KFORGE_FROM_INTEGER(int, int)
KFORGE_FROM_INTEGER(uint, unsigned)
KFORGE_FROM_INTEGER(ll, long long)
KFORGE_FROM_INTEGER(ull, unsigned long long)
#undef KFORGE_FROM_INTEGER
inline double __int2double_rn(int a) { return (double)a; }
inline double __uint2double_rn(unsigned a) { return (double)a; }
#define KFORGE_FROM_INTEGER(from, from_type)                                                                                                   \
    inline double __##from##2double_rn(from_type a) { return (double)a; }                                                                      \
    inline double __##from##2double_rz(from_type a) { return ::kforge::directed((double)a, (double)((__int128)a - (__int128)(double)a), true, 0); }  \
    inline double __##from##2double_rd(from_type a) { return ::kforge::directed((double)a, (double)((__int128)a - (__int128)(double)a), true, -1); } \
    inline double __##from##2double_ru(from_type a) { return ::kforge::directed((double)a, (double)((__int128)a - (__int128)(double)a), true, 1); }
KFORGE_FROM_INTEGER(ll, long long)
KFORGE_FROM_INTEGER(ull, unsigned long long)
#undef KFORGE_FROM_INTEGER
inline float __double2float_rn(double a) { return (float)a; }
inline float __double2float_rz(double a) { return ::kforge::directed((float)a, a, 0); }
inline float __double2float_rd(double a) { return ::kforge::directed((float)a, a, -1); }
inline float __double2float_ru(double a) { return ::kforge::directed((float)a, a, 1); }
