// `__half` and `__half2`: IEEE binary16, computed in float and rounded to nearest even. Most of the type is in narrow_type.h.

#pragma once

#include "narrow.h"

namespace kforge {

#if defined(__FLT16_MAX__) && (defined(__F16C__) || defined(__aarch64__))

inline float half_to_float(uint16_t bits) {
    _Float16 half;
    __builtin_memcpy(&half, &bits, sizeof(bits));
    return (float)half;
}

inline uint16_t float_to_half(float value) {
    const _Float16 half = (_Float16)value;
    uint16_t bits;
    __builtin_memcpy(&bits, &half, sizeof(bits));
    return bits;
}

#else

inline float half_to_float(uint16_t bits) {
    const uint32_t sign = (uint32_t)(bits & 0x8000) << 16;
    const uint32_t magnitude = bits & 0x7fff;
    // A multiplication adds 112 to the exponent and also normalises subnormals.
    const float moved = float_of(magnitude << 13) * 0x1p112f;
    uint32_t result = bits_of(moved);
    if (magnitude >= 0x7c00) result = magnitude == 0x7c00 ? 0x7f800000 : (0x7fc00000 | magnitude << 13);
    return float_of(result | sign);
}

inline uint16_t float_to_half(float value) {
    const uint32_t bits = bits_of(value);
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    const uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
    if (magnitude >= 0x477ff000) return (uint16_t)(sign | 0x7c00);  // rounds to 65536 or more
    if (magnitude < 0x38800000) {
        // A subnormal: adding one half makes the processor round at the right bit.
        return (uint16_t)(sign | (bits_of(float_of(magnitude) + 0.5f) - 0x3f000000));
    }
    return (uint16_t)(sign | ((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13));
}

#endif

}  // namespace kforge

struct __half_raw {
    unsigned short x;
};
struct __half2_raw {
    unsigned short x, y;
};

#define KFORGE_NARROW __half
#define KFORGE_NARROW_2 __half2
#define KFORGE_NARROW_RAW __half_raw
#define KFORGE_NARROW_2_RAW __half2_raw
#define KFORGE_NARROW_FROM_FLOAT(value) ::kforge::float_to_half(value)
#define KFORGE_NARROW_TO_FLOAT(bits) ::kforge::half_to_float(bits)
#define KFORGE_NARROW_INFINITY 0x7c00
#define KFORGE_NARROW_NAN 0x7fff
// Half a unit in the last place, as bits of a float; and the smallest normal number.
#define KFORGE_NARROW_HALF_UNIT 0x1000
#define KFORGE_NARROW_LEAST_NORMAL 0x1p-14f
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

typedef __half half;
typedef __half2 half2;
typedef __half __nv_half;
typedef __half2 __nv_half2;

// ---- Conversions by name ----

inline __half __float2half(float a) { return __half(a); }
inline __half __float2half_rn(float a) { return __half(a); }
inline __half __float2half_rz(float a) { return ::kforge::narrow_of<__half>(::kforge::step_to_zero(__half(a).__x, __half(a), a)); }
inline __half __float2half_rd(float a) { return ::kforge::narrow_of<__half>(::kforge::step_down(__half(a).__x, __half(a), a)); }
inline __half __float2half_ru(float a) { return ::kforge::narrow_of<__half>(::kforge::step_up(__half(a).__x, __half(a), a)); }
inline __half __double2half(double a) { return __half(a); }
inline float __half2float(__half a) { return a; }
inline __half2 __float2half2_rn(float a) { return __half2(__half(a), __half(a)); }
inline __half2 __floats2half2_rn(float a, float b) { return __half2(__half(a), __half(b)); }
inline __half2 __float22half2_rn(float2 a) { return __half2(__half(a.x), __half(a.y)); }
inline float2 __half22float2(__half2 a) { return float2{a.x, a.y}; }
inline __half2 __half2half2(__half a) { return __half2(a, a); }
inline __half2 make_half2(__half a, __half b) { return __half2(a, b); }

#define KFORGE_HALF_TO(name, type)                                                                        \
    inline type __half2##name##_rn(__half a) { return ::kforge::to_integer<type>(rintf(a)); }             \
    inline type __half2##name##_rz(__half a) { return ::kforge::to_integer<type>(truncf(a)); }            \
    inline type __half2##name##_rd(__half a) { return ::kforge::to_integer<type>(floorf(a)); }            \
    inline type __half2##name##_ru(__half a) { return ::kforge::to_integer<type>(ceilf(a)); }             \
    inline __half __##name##2half_rn(type a) { return __half(a); }  \
    inline __half __##name##2half_rz(type a) { return ::kforge::narrow_directed<__half>(::kforge::odd_double(a), 0); }  \
    inline __half __##name##2half_rd(type a) { return ::kforge::narrow_directed<__half>(::kforge::odd_double(a), -1); } \
    inline __half __##name##2half_ru(type a) { return ::kforge::narrow_directed<__half>(::kforge::odd_double(a), 1); }
KFORGE_HALF_TO(int, int)
KFORGE_HALF_TO(uint, unsigned int)
KFORGE_HALF_TO(short, short)
KFORGE_HALF_TO(ushort, unsigned short)
KFORGE_HALF_TO(ll, long long)
KFORGE_HALF_TO(ull, unsigned long long)
#undef KFORGE_HALF_TO

inline signed char __half2char_rz(__half a) { return ::kforge::to_integer<signed char>((float)a); }
inline unsigned char __half2uchar_rz(__half a) { return ::kforge::to_integer<unsigned char>((float)a); }
inline short __half_as_short(__half a) { return (short)::kforge::narrow_bits(a); }
inline unsigned short __half_as_ushort(__half a) { return ::kforge::narrow_bits(a); }
inline __half __short_as_half(short a) { return ::kforge::narrow_of<__half>((unsigned short)a); }
inline __half __ushort_as_half(unsigned short a) { return ::kforge::narrow_of<__half>(a); }

// ---- Pairs ----

inline __half __low2half(__half2 a) { return a.x; }
inline __half __high2half(__half2 a) { return a.y; }
inline __half2 __low2half2(__half2 a) { return __half2(a.x, a.x); }
inline __half2 __high2half2(__half2 a) { return __half2(a.y, a.y); }
inline __half2 __halves2half2(__half a, __half b) { return __half2(a, b); }
inline __half2 __lows2half2(__half2 a, __half2 b) { return __half2(a.x, b.x); }
inline __half2 __highs2half2(__half2 a, __half2 b) { return __half2(a.y, b.y); }

#define CUDART_INF_FP16 __ushort_as_half((unsigned short)0x7c00)
#define CUDART_NAN_FP16 __ushort_as_half((unsigned short)0x7fff)
#define CUDART_MAX_NORMAL_FP16 __ushort_as_half((unsigned short)0x7bff)
#define CUDART_MIN_DENORM_FP16 __ushort_as_half((unsigned short)0x0001)
#define CUDART_ONE_FP16 __ushort_as_half((unsigned short)0x3c00)
#define CUDART_ZERO_FP16 __ushort_as_half((unsigned short)0x0000)
