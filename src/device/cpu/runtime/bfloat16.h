// `__nv_bfloat16` and `__nv_bfloat162`: the upper half of a float, computed in float and rounded to nearest even. Most of the
// type is in narrow_type.h.

#pragma once

#include "narrow.h"

namespace kforge {

inline float bfloat16_to_float(uint16_t bits) { return float_of((uint32_t)bits << 16); }

inline uint16_t float_to_bfloat16(float value) {
    const uint32_t bits = bits_of(value);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    // Rounding a NaN could carry into the sign.
    return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? (bits >> 16 | 0x40) : rounded);
}

}  // namespace kforge

struct __nv_bfloat16_raw {
    unsigned short x;
};
struct __nv_bfloat162_raw {
    unsigned short x, y;
};

#define KFORGE_NARROW __nv_bfloat16
#define KFORGE_NARROW_2 __nv_bfloat162
#define KFORGE_NARROW_RAW __nv_bfloat16_raw
#define KFORGE_NARROW_2_RAW __nv_bfloat162_raw
#define KFORGE_NARROW_FROM_FLOAT(value) ::kforge::float_to_bfloat16(value)
#define KFORGE_NARROW_TO_FLOAT(bits) ::kforge::bfloat16_to_float(bits)
#define KFORGE_NARROW_INFINITY 0x7f80
#define KFORGE_NARROW_NAN 0x7fff
// Half a unit in the last place, as bits of a float; and the smallest normal number.
#define KFORGE_NARROW_HALF_UNIT 0x8000
#define KFORGE_NARROW_LEAST_NORMAL 0x1p-126f
#include "narrow_type.h"
#undef KFORGE_NARROW
#undef KFORGE_NARROW_2
#undef KFORGE_NARROW_RAW
#undef KFORGE_NARROW_2_RAW
#undef KFORGE_NARROW_FROM_FLOAT
#undef KFORGE_NARROW_TO_FLOAT
#undef KFORGE_NARROW_INFINITY
#undef KFORGE_NARROW_NAN
#undef KFORGE_NARROW_HALF_UNIT
#undef KFORGE_NARROW_LEAST_NORMAL

typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;

// ---- Conversions by name ----

inline __nv_bfloat16 __float2bfloat16(float a) { return __nv_bfloat16(a); }
inline __nv_bfloat16 __float2bfloat16_rn(float a) { return __nv_bfloat16(a); }
inline __nv_bfloat16 __float2bfloat16_rz(float a) { return ::kforge::narrow_of<__nv_bfloat16>(::kforge::step_to_zero(__nv_bfloat16(a).__x, __nv_bfloat16(a), a)); }
inline __nv_bfloat16 __float2bfloat16_rd(float a) { return ::kforge::narrow_of<__nv_bfloat16>(::kforge::step_down(__nv_bfloat16(a).__x, __nv_bfloat16(a), a)); }
inline __nv_bfloat16 __float2bfloat16_ru(float a) { return ::kforge::narrow_of<__nv_bfloat16>(::kforge::step_up(__nv_bfloat16(a).__x, __nv_bfloat16(a), a)); }
inline __nv_bfloat16 __double2bfloat16(double a) { return __nv_bfloat16(a); }
inline float __bfloat162float(__nv_bfloat16 a) { return a; }
inline __nv_bfloat162 __float2bfloat162_rn(float a) { return __nv_bfloat162(__nv_bfloat16(a), __nv_bfloat16(a)); }
inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b) { return __nv_bfloat162(__nv_bfloat16(a), __nv_bfloat16(b)); }
inline __nv_bfloat162 __float22bfloat162_rn(float2 a) { return __nv_bfloat162(__nv_bfloat16(a.x), __nv_bfloat16(a.y)); }
inline float2 __bfloat1622float2(__nv_bfloat162 a) { return float2{a.x, a.y}; }
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 a) { return __nv_bfloat162(a, a); }
inline __nv_bfloat162 make_bfloat162(__nv_bfloat16 a, __nv_bfloat16 b) { return __nv_bfloat162(a, b); }

#define KFORGE_BFLOAT16_TO(name, type)                                                                        \
    inline type __bfloat162##name##_rn(__nv_bfloat16 a) { return ::kforge::to_integer<type>(rintf(a)); }      \
    inline type __bfloat162##name##_rz(__nv_bfloat16 a) { return ::kforge::to_integer<type>(truncf(a)); }     \
    inline type __bfloat162##name##_rd(__nv_bfloat16 a) { return ::kforge::to_integer<type>(floorf(a)); }     \
    inline type __bfloat162##name##_ru(__nv_bfloat16 a) { return ::kforge::to_integer<type>(ceilf(a)); }      \
    inline __nv_bfloat16 __##name##2bfloat16_rn(type a) { return __nv_bfloat16(a); }  \
    inline __nv_bfloat16 __##name##2bfloat16_rz(type a) { return ::kforge::narrow_directed<__nv_bfloat16>(::kforge::odd_double(a), 0); }  \
    inline __nv_bfloat16 __##name##2bfloat16_rd(type a) { return ::kforge::narrow_directed<__nv_bfloat16>(::kforge::odd_double(a), -1); } \
    inline __nv_bfloat16 __##name##2bfloat16_ru(type a) { return ::kforge::narrow_directed<__nv_bfloat16>(::kforge::odd_double(a), 1); }
KFORGE_BFLOAT16_TO(int, int)
KFORGE_BFLOAT16_TO(uint, unsigned int)
KFORGE_BFLOAT16_TO(short, short)
KFORGE_BFLOAT16_TO(ushort, unsigned short)
KFORGE_BFLOAT16_TO(ll, long long)
KFORGE_BFLOAT16_TO(ull, unsigned long long)
#undef KFORGE_BFLOAT16_TO

inline signed char __bfloat162char_rz(__nv_bfloat16 a) { return ::kforge::to_integer<signed char>((float)a); }
inline unsigned char __bfloat162uchar_rz(__nv_bfloat16 a) { return ::kforge::to_integer<unsigned char>((float)a); }
inline short __bfloat16_as_short(__nv_bfloat16 a) { return (short)::kforge::narrow_bits(a); }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 a) { return ::kforge::narrow_bits(a); }
inline __nv_bfloat16 __short_as_bfloat16(short a) { return ::kforge::narrow_of<__nv_bfloat16>((unsigned short)a); }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short a) { return ::kforge::narrow_of<__nv_bfloat16>(a); }

// ---- Pairs ----

inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 a) { return a.x; }
inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 a) { return a.y; }
inline __nv_bfloat162 __low2bfloat162(__nv_bfloat162 a) { return __nv_bfloat162(a.x, a.x); }
inline __nv_bfloat162 __high2bfloat162(__nv_bfloat162 a) { return __nv_bfloat162(a.y, a.y); }
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 a, __nv_bfloat16 b) { return __nv_bfloat162(a, b); }
inline __nv_bfloat162 __lows2bfloat162(__nv_bfloat162 a, __nv_bfloat162 b) { return __nv_bfloat162(a.x, b.x); }
inline __nv_bfloat162 __highs2bfloat162(__nv_bfloat162 a, __nv_bfloat162 b) { return __nv_bfloat162(a.y, b.y); }

#define CUDART_INF_BF16 __ushort_as_bfloat16((unsigned short)0x7f80)
#define CUDART_NAN_BF16 __ushort_as_bfloat16((unsigned short)0x7fff)
#define CUDART_MAX_NORMAL_BF16 __ushort_as_bfloat16((unsigned short)0x7f7f)
#define CUDART_MIN_DENORM_BF16 __ushort_as_bfloat16((unsigned short)0x0001)
#define CUDART_ONE_BF16 __ushort_as_bfloat16((unsigned short)0x3f80)
#define CUDART_ZERO_BF16 __ushort_as_bfloat16((unsigned short)0x0000)
