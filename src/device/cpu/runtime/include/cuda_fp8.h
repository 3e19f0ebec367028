// The 8-bit floating-point types: E4M3 (largest value 448, no infinity), E5M2 (largest value 57344) and the exponent-only
// E8M0, with their vectors of two and four. Conversions round once, directly from the wider type, and to nearest even unless
// the name says otherwise.

#pragma once

typedef unsigned char __nv_fp8_storage_t;
typedef unsigned short __nv_fp8x2_storage_t;
typedef unsigned int __nv_fp8x4_storage_t;
typedef enum __nv_saturation_t { __NV_NOSAT, __NV_SATFINITE } __nv_saturation_t;
typedef enum __nv_fp8_interpretation_t { __NV_E4M3, __NV_E5M2 } __nv_fp8_interpretation_t;

namespace kforge {

// The parameters of a format.
struct Fp8Format {
    int mantissa_bits;
    int least_exponent;    // of normal numbers
    double largest;        // finite value
    double overflow_from;  // smallest magnitude that does not round to a finite number
    unsigned char largest_bits, overflow_bits, nan_bits;
};
inline constexpr Fp8Format fp8_format(__nv_fp8_interpretation_t kind) {
    return kind == __NV_E4M3 ? Fp8Format{3, -6, 448.0, 464.0, 0x7e, 0x7f, 0x7f} : Fp8Format{2, -14, 57344.0, 61440.0, 0x7b, 0x7c, 0x7f};
}

inline __attribute__((always_inline)) unsigned char double_to_fp8(double value, __nv_saturation_t saturate, __nv_fp8_interpretation_t kind) {
    const Fp8Format format = fp8_format(kind);
    const uint64_t bits = bits_of(value);
    const unsigned char sign = (unsigned char)(bits >> 56 & 0x80);
    const double magnitude = __builtin_fabs(value);
    if (value != value) {
        // The NaN keeps its sign and the upper bits of its payload.
        return (unsigned char)(kind == __NV_E4M3 ? 0x7f | sign : 0x7e | sign | (bits >> 50 & 3));
    }
    // Half way to overflow: E4M3 rounds down, because its largest value is even; E5M2 rounds up.
    if (kind == __NV_E4M3 ? magnitude > format.overflow_from : magnitude >= format.overflow_from) {
        return (unsigned char)(sign | (saturate == __NV_SATFINITE ? format.largest_bits : format.overflow_bits));
    }
    // In units of the last place; subnormals use the smallest exponent.
    int exponent = (int)(bits_of(magnitude) >> 52) - 1023;
    if (exponent < format.least_exponent) exponent = format.least_exponent;
    const double unit = double_of((uint64_t)(exponent - format.mantissa_bits + 1023) << 52);
    const int places = (int)__builtin_rint(magnitude / unit);
    // A carry into the exponent gives the next number, because codes are ordered.
    return (unsigned char)(sign | (((exponent - format.least_exponent) << format.mantissa_bits) + places));
}

inline __attribute__((always_inline)) float fp8_to_float(unsigned char bits, __nv_fp8_interpretation_t kind) {
    const int mantissa_bits = kind == __NV_E4M3 ? 3 : 2;
    const unsigned magnitude = bits & 0x7f;
    float value;
    if (kind == __NV_E4M3 ? magnitude == 0x7f : magnitude > 0x7c) {
        value = float_of(0x7fffffff);
    } else if (kind == __NV_E5M2 && magnitude == 0x7c) {
        value = __builtin_inff();
    } else {
        // A multiplication adjusts the exponent and also normalises subnormals.
        value = float_of(magnitude << (23 - mantissa_bits)) * (kind == __NV_E4M3 ? 0x1p120f : 0x1p112f);
    }
    return (bits & 0x80) != 0 && value == value ? -value : value;
}

}  // namespace kforge

// ---- Conversion functions ----

inline __nv_fp8_storage_t __nv_cvt_double_to_fp8(double x, __nv_saturation_t saturate, __nv_fp8_interpretation_t kind) { return ::kforge::double_to_fp8(x, saturate, kind); }
inline __nv_fp8_storage_t __nv_cvt_float_to_fp8(float x, __nv_saturation_t saturate, __nv_fp8_interpretation_t kind) {
    return x != x ? (__nv_fp8_storage_t)0x7f : ::kforge::double_to_fp8((double)x, saturate, kind);
}
inline __nv_fp8_storage_t __nv_cvt_halfraw_to_fp8(__half_raw x, __nv_saturation_t saturate, __nv_fp8_interpretation_t kind) {
    return __nv_cvt_float_to_fp8((float)__half(x), saturate, kind);
}
inline __nv_fp8_storage_t __nv_cvt_bfloat16raw_to_fp8(__nv_bfloat16_raw x, __nv_saturation_t saturate, __nv_fp8_interpretation_t kind) {
    return __nv_cvt_float_to_fp8((float)__nv_bfloat16(x), saturate, kind);
}
#define KFORGE_PAIR(name, pair, single)                                                                                          \
    inline __nv_fp8x2_storage_t name(pair x, __nv_saturation_t saturate, __nv_fp8_interpretation_t kind) {                       \
        return (__nv_fp8x2_storage_t)(single(KFORGE_FIRST(x), saturate, kind) | single(KFORGE_SECOND(x), saturate, kind) << 8);  \
    }
#define KFORGE_FIRST(pair) pair.x
#define KFORGE_SECOND(pair) pair.y
KFORGE_PAIR(__nv_cvt_double2_to_fp8x2, double2, __nv_cvt_double_to_fp8)
KFORGE_PAIR(__nv_cvt_float2_to_fp8x2, float2, __nv_cvt_float_to_fp8)
#undef KFORGE_FIRST
#undef KFORGE_SECOND
#define KFORGE_FIRST(pair) (__half_raw{pair.x})
#define KFORGE_SECOND(pair) (__half_raw{pair.y})
KFORGE_PAIR(__nv_cvt_halfraw2_to_fp8x2, __half2_raw, __nv_cvt_halfraw_to_fp8)
#undef KFORGE_FIRST
#undef KFORGE_SECOND
#define KFORGE_FIRST(pair) (__nv_bfloat16_raw{pair.x})
#define KFORGE_SECOND(pair) (__nv_bfloat16_raw{pair.y})
KFORGE_PAIR(__nv_cvt_bfloat16raw2_to_fp8x2, __nv_bfloat162_raw, __nv_cvt_bfloat16raw_to_fp8)
#undef KFORGE_FIRST
#undef KFORGE_SECOND
#undef KFORGE_PAIR

inline __half_raw __nv_cvt_fp8_to_halfraw(__nv_fp8_storage_t x, __nv_fp8_interpretation_t kind) {
    const float value = ::kforge::fp8_to_float(x, kind);
    return __half_raw{value != value ? (unsigned short)0x7fff : ::kforge::float_to_half(value)};
}
inline __half2_raw __nv_cvt_fp8x2_to_halfraw2(__nv_fp8x2_storage_t x, __nv_fp8_interpretation_t kind) {
    return __half2_raw{__nv_cvt_fp8_to_halfraw((__nv_fp8_storage_t)x, kind).x, __nv_cvt_fp8_to_halfraw((__nv_fp8_storage_t)(x >> 8), kind).x};
}

// ---- Classes ----

#define KFORGE_FP8(name, kind)                                                                                            \
    struct name {                                                                                                         \
        __nv_fp8_storage_t __x;                                                                                           \
        name() = default;                                                                                                 \
        explicit name(__half value) : __x(__nv_cvt_float_to_fp8((float)value, __NV_SATFINITE, kind)) {}                   \
        explicit name(__nv_bfloat16 value) : __x(__nv_cvt_float_to_fp8((float)value, __NV_SATFINITE, kind)) {}            \
        explicit name(float value) : __x(__nv_cvt_float_to_fp8(value, __NV_SATFINITE, kind)) {}                           \
        explicit name(double value) : __x(__nv_cvt_double_to_fp8(value, __NV_SATFINITE, kind)) {}                         \
        explicit name(short value) : name((float)value) {}                                                                \
        explicit name(unsigned short value) : name((float)value) {}                                                       \
        explicit name(int value) : name((float)value) {}                                                                  \
        explicit name(unsigned int value) : name((float)value) {}                                                         \
        explicit name(long value) : name((float)value) {}                                                                 \
        explicit name(unsigned long value) : name((float)value) {}                                                        \
        explicit name(long long value) : name((float)value) {}                                                            \
        explicit name(unsigned long long value) : name((float)value) {}                                                   \
        explicit operator float() const { return ::kforge::fp8_to_float(__x, kind); }                                     \
        explicit operator double() const { return (double)(float)*this; }                                                 \
        explicit operator __half() const { return __half(__nv_cvt_fp8_to_halfraw(__x, kind)); }                           \
        explicit operator __nv_bfloat16() const { return __nv_bfloat16((float)*this); }                                   \
        explicit operator bool() const { return (__x & 0x7f) != 0; }                                                      \
        KFORGE_FP8_INTEGERS                                                                                               \
    };
#define KFORGE_FP8_INTEGER(type) \
    explicit operator type() const { return ::kforge::to_integer<type>(__builtin_truncf((float)*this)); }
#define KFORGE_FP8_INTEGERS                                                                                  \
    KFORGE_FP8_INTEGER(char) KFORGE_FP8_INTEGER(signed char) KFORGE_FP8_INTEGER(unsigned char)               \
    KFORGE_FP8_INTEGER(short) KFORGE_FP8_INTEGER(unsigned short) KFORGE_FP8_INTEGER(int)                     \
    KFORGE_FP8_INTEGER(unsigned int) KFORGE_FP8_INTEGER(long) KFORGE_FP8_INTEGER(unsigned long)              \
    KFORGE_FP8_INTEGER(long long) KFORGE_FP8_INTEGER(unsigned long long)
KFORGE_FP8(__nv_fp8_e4m3, __NV_E4M3)
KFORGE_FP8(__nv_fp8_e5m2, __NV_E5M2)

#define KFORGE_FP8_2(name, kind)                                                                                          \
    struct __attribute__((aligned(2))) name {                                                                             \
        __nv_fp8x2_storage_t __x;                                                                                         \
        name() = default;                                                                                                 \
        explicit name(__half2 value) : name(float2{(float)value.x, (float)value.y}) {}                                    \
        explicit name(__nv_bfloat162 value) : name(float2{(float)value.x, (float)value.y}) {}                             \
        explicit name(float2 value) : __x(__nv_cvt_float2_to_fp8x2(value, __NV_SATFINITE, kind)) {}                       \
        explicit name(double2 value) : __x(__nv_cvt_double2_to_fp8x2(value, __NV_SATFINITE, kind)) {}                     \
        explicit operator __half2() const { return __half2(__nv_cvt_fp8x2_to_halfraw2(__x, kind)); }                      \
        explicit operator float2() const {                                                                                \
            return float2{::kforge::fp8_to_float((__nv_fp8_storage_t)__x, kind), ::kforge::fp8_to_float((__nv_fp8_storage_t)(__x >> 8), kind)}; \
        }                                                                                                                 \
    };
KFORGE_FP8_2(__nv_fp8x2_e4m3, __NV_E4M3)
KFORGE_FP8_2(__nv_fp8x2_e5m2, __NV_E5M2)

#define KFORGE_FP8_4(name, pair, kind)                                                                                    \
    struct __attribute__((aligned(4))) name {                                                                             \
        __nv_fp8x4_storage_t __x;                                                                                         \
        name() = default;                                                                                                 \
        explicit name(__half2 low, __half2 high) : __x(pair(low).__x | (unsigned)pair(high).__x << 16) {}                 \
        explicit name(__nv_bfloat162 low, __nv_bfloat162 high) : __x(pair(low).__x | (unsigned)pair(high).__x << 16) {}   \
        explicit name(float4 value) : __x(pair(float2{value.x, value.y}).__x | (unsigned)pair(float2{value.z, value.w}).__x << 16) {}     \
        explicit name(double4 value) : __x(pair(double2{value.x, value.y}).__x | (unsigned)pair(double2{value.z, value.w}).__x << 16) {}  \
        explicit operator float4() const {                                                                                \
            return float4{::kforge::fp8_to_float((__nv_fp8_storage_t)__x, kind), ::kforge::fp8_to_float((__nv_fp8_storage_t)(__x >> 8), kind),          \
                          ::kforge::fp8_to_float((__nv_fp8_storage_t)(__x >> 16), kind), ::kforge::fp8_to_float((__nv_fp8_storage_t)(__x >> 24), kind)}; \
        }                                                                                                                 \
    };
KFORGE_FP8_4(__nv_fp8x4_e4m3, __nv_fp8x2_e4m3, __NV_E4M3)
KFORGE_FP8_4(__nv_fp8x4_e5m2, __nv_fp8x2_e5m2, __NV_E5M2)

// ---- E8M0, a power of two: 2^(bits - 127); 0xff is a NaN ----

enum cudaRoundMode { cudaRoundNearest, cudaRoundZero, cudaRoundPosInf, cudaRoundMinInf };

inline __nv_fp8_storage_t __nv_cvt_float_to_e8m0(float x, __nv_saturation_t saturate, cudaRoundMode rounding) {
    const uint32_t bits = ::kforge::bits_of(x) & 0x7fffffff;
    if (bits > 0x7f800000) return 0xff;
    uint32_t exponent = bits >> 23;
    const uint32_t rest = bits & 0x7fffff;
    // 2^-127, the smallest power, is a subnormal float: half of the smallest normal one.
    const bool up = rounding == cudaRoundPosInf && (exponent == 0 ? rest > 0x400000 : rest != 0);
    if (up) ++exponent;
    if (exponent >= 0xff) return saturate == __NV_SATFINITE ? 0xfe : 0xff;
    return (__nv_fp8_storage_t)exponent;
}
inline __nv_bfloat16_raw __nv_cvt_e8m0_to_bf16raw(__nv_fp8_storage_t x) {
    return __nv_bfloat16_raw{(unsigned short)(x == 0xff ? 0x7fff : x == 0 ? 0x0040 : x << 7)};
}
struct __nv_fp8_e8m0 {
    __nv_fp8_storage_t __x;
    __nv_fp8_e8m0() = default;
    explicit __nv_fp8_e8m0(float value) : __x(__nv_cvt_float_to_e8m0(value, __NV_SATFINITE, cudaRoundPosInf)) {}
    explicit operator float() const { return (float)__nv_bfloat16(__nv_cvt_e8m0_to_bf16raw(__x)); }
    explicit operator double() const { return (double)(float)*this; }
    explicit operator __nv_bfloat16() const { return __nv_bfloat16(__nv_cvt_e8m0_to_bf16raw(__x)); }
};

#undef KFORGE_FP8
#undef KFORGE_FP8_2
#undef KFORGE_FP8_4
#undef KFORGE_FP8_INTEGER
#undef KFORGE_FP8_INTEGERS
