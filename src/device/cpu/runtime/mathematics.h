// CUDA's mathematical functions that <math.h> lacks, and the fast intrinsics with two leading underscores.
//
// The fast functions are inline and branch-free so that the compiler can vectorise them. As on the GPU they trade accuracy
// for speed: a few units in the last place near the middle of their range.

#pragma once

#include "language.h"

// Compilers call the library for these unless they may assume that there are no NaNs.
KFORGE_LIBRARY float fmaxf(float a, float b) KFORGE_AS_DECLARED { return a > b || b != b ? a : b; }
KFORGE_LIBRARY float fminf(float a, float b) KFORGE_AS_DECLARED { return a < b || b != b ? a : b; }
KFORGE_LIBRARY double fmax(double a, double b) KFORGE_AS_DECLARED { return a > b || b != b ? a : b; }
KFORGE_LIBRARY double fmin(double a, double b) KFORGE_AS_DECLARED { return a < b || b != b ? a : b; }

namespace kforge {

inline __attribute__((always_inline)) float as_float(int bits) {
    float value;
    __builtin_memcpy(&value, &bits, sizeof(value));
    return value;
}
inline __attribute__((always_inline)) int as_int(float value) {
    int bits;
    __builtin_memcpy(&bits, &value, sizeof(bits));
    return bits;
}

inline __attribute__((always_inline)) float fast_exp2(float x) {
    x = x > 129.0f ? 129.0f : x;
    x = x < -151.0f ? -151.0f : x;
    const float whole = __builtin_rintf(x);
    const float part = x - whole;
    // Seven terms of the Taylor series of 2^part are exact to float precision on [-1/2, 1/2].
    float power = 1.5403530e-4f;
    power = power * part + 1.3333558e-3f;
    power = power * part + 9.6181291e-3f;
    power = power * part + 5.5504109e-2f;
    power = power * part + 2.4022651e-1f;
    power = power * part + 6.9314718e-1f;
    power = power * part + 1.0f;
    // In two steps: the result may be subnormal or infinite although neither factor is.
    const int exponent = (int)whole;
    const int half = exponent >> 1;
    return power * as_float((half + 127) << 23) * as_float((exponent - half + 127) << 23);
}

inline __attribute__((always_inline)) float fast_log2(float x) {
    const bool subnormal = x < 1.17549435e-38f;
    const float normal = subnormal ? x * 8388608.0f : x;
    const int bits = as_int(normal);
    // The mantissa, in [sqrt(1/2), sqrt(2)).
    const int exponent = (bits - 0x3f3504f3) >> 23;
    const float t = as_float(bits - (exponent << 23)) - 1.0f;
    // log(1 + t) = t - t^2/2 + t^3 p(t).
    float p = 7.0376836292e-2f;
    p = p * t - 1.1514610310e-1f;
    p = p * t + 1.1676998740e-1f;
    p = p * t - 1.2420140846e-1f;
    p = p * t + 1.4249322787e-1f;
    p = p * t - 1.6668057665e-1f;
    p = p * t + 2.0000714765e-1f;
    p = p * t - 2.4999993993e-1f;
    p = p * t + 3.3333331174e-1f;
    const float natural = t + (t * t * (t * p - 0.5f));
    float result = natural * 1.44269504f + (float)(exponent - (subnormal ? 23 : 0));
    result = x == 0.0f ? -__builtin_inff() : result;
    result = x == __builtin_inff() ? x : result;
    return !(x >= 0.0f) ? __builtin_nanf("") : result;
}

// Sine (quarter 0) or cosine (quarter 1). Accurate for |x| up to a few thousand.
inline __attribute__((always_inline)) float fast_wave(float x, int quarter) {
    const float turns = __builtin_rintf(x * 0.636619772f);
    float r = __builtin_fmaf(turns, -1.57079637f, x);
    r = __builtin_fmaf(turns, 4.37113883e-8f, r);
    // For larger arguments no accuracy is left; the result only stays within [-1, 1].
    r = r > 0.8f ? 0.8f : r;
    r = r < -0.8f ? -0.8f : r;
    const int quadrant = (int)(fabsf(turns) < 1e9f ? turns : 0.0f) + quarter;
    const float square = r * r;
    const float sine = r + r * square * ((-1.9515295891e-4f * square + 8.3321608736e-3f) * square - 1.6666654611e-1f);
    const float cosine = 1.0f - 0.5f * square + square * square * ((2.443315711809948e-5f * square - 1.388731625493765e-3f) * square + 4.166664568298827e-2f);
    const float value = (quadrant & 1) != 0 ? cosine : sine;
    return (quadrant & 2) != 0 ? -value : value;
}

}  // namespace kforge

KFORGE_LIBRARY float __expf(float x) KFORGE_AS_DECLARED { return ::kforge::fast_exp2(x * 1.44269504f); }
KFORGE_LIBRARY float __exp10f(float x) KFORGE_AS_DECLARED { return ::kforge::fast_exp2(x * 3.32192809f); }
KFORGE_LIBRARY float __exp2f(float x) KFORGE_AS_DECLARED { return ::kforge::fast_exp2(x); }
KFORGE_LIBRARY float __logf(float x) KFORGE_AS_DECLARED { return ::kforge::fast_log2(x) * 0.693147181f; }
KFORGE_LIBRARY float __log2f(float x) KFORGE_AS_DECLARED { return ::kforge::fast_log2(x); }
KFORGE_LIBRARY float __log10f(float x) KFORGE_AS_DECLARED { return ::kforge::fast_log2(x) * 0.301029996f; }
KFORGE_LIBRARY float __powf(float x, float y) KFORGE_AS_DECLARED { return ::kforge::fast_exp2(y * ::kforge::fast_log2(x)); }
KFORGE_LIBRARY float __sinf(float x) KFORGE_AS_DECLARED { return ::kforge::fast_wave(x, 0); }
KFORGE_LIBRARY float __cosf(float x) KFORGE_AS_DECLARED { return ::kforge::fast_wave(x, 1); }
KFORGE_LIBRARY float __tanf(float x) KFORGE_AS_DECLARED { return ::kforge::fast_wave(x, 0) / ::kforge::fast_wave(x, 1); }
KFORGE_LIBRARY float __tanhf(float x) KFORGE_AS_DECLARED {
    const float bound = x > 10.0f ? 10.0f : x < -10.0f ? -10.0f : x;
    const float power = ::kforge::fast_exp2(bound * 2.88539008f);
    return fabsf(x) < 0.03f ? x - x * x * x * 0.333333333f : (power - 1.0f) / (power + 1.0f);
}
KFORGE_LIBRARY void __sincosf(float x, float* sine, float* cosine) KFORGE_AS_DECLARED {
    *sine = ::kforge::fast_wave(x, 0);
    *cosine = ::kforge::fast_wave(x, 1);
}

// ---- Functions that the C library lacks ----

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float rsqrt(float x) { return 1.0f / sqrtf(x); }
inline float rcbrtf(float x) { return 1.0f / cbrtf(x); }
inline double rcbrt(double x) { return 1.0 / cbrt(x); }
inline float sinpif(float x) { return (float)sin(3.14159265358979323846 * fmod((double)x, 2.0)); }
inline float cospif(float x) { return (float)cos(3.14159265358979323846 * fmod((double)x, 2.0)); }
inline double sinpi(double x) { return sin(3.14159265358979323846 * fmod(x, 2.0)); }
inline double cospi(double x) { return cos(3.14159265358979323846 * fmod(x, 2.0)); }
inline void sincospif(float x, float* sine, float* cosine) {
    *sine = sinpif(x);
    *cosine = cospif(x);
}
inline void sincospi(double x, double* sine, double* cosine) {
    *sine = sinpi(x);
    *cosine = cospi(x);
}
inline float normcdff(float x) { return 0.5f * erfcf(-x * 0.70710678f); }
inline double normcdf(double x) { return 0.5 * erfc(-x * 0.70710678118654752440); }
// Newton's method, starting from an approximation with three correct digits.
inline double erfinv(double x) {
    if (!(x > -1.0 && x < 1.0)) return x == 1.0 ? __builtin_inf() : x == -1.0 ? -__builtin_inf() : __builtin_nan("");
    const double logarithm = log1p(-x * x);
    const double half = 4.330746750799873 + 0.5 * logarithm;
    double y = copysign(sqrt(sqrt(half * half - logarithm / 0.147) - half), x);
    for (int step = 0; step < 3; ++step) y -= (erf(y) - x) / (1.1283791670955126 * exp(-y * y));
    return y;
}
inline double normcdfinv(double p) { return 1.4142135623730951 * erfinv(2.0 * p - 1.0); }
inline double erfcinv(double p) { return erfinv(1.0 - p); }
inline float erfinvf(float x) { return (float)erfinv((double)x); }
inline float erfcinvf(float p) { return (float)erfcinv((double)p); }
inline float normcdfinvf(float p) { return (float)normcdfinv((double)p); }
// Above 25 the factors overflow a double; there the first terms of the asymptotic series are accurate enough.
inline double erfcx(double x) {
    if (x < 25) return exp(x * x) * erfc(x);
    const double square = 1 / (x * x);
    return 0.56418958354775628 / x * (1 - square * (0.5 - square * (0.75 - square * 1.875)));
}
inline float erfcxf(float x) { return (float)erfcx((double)x); }
inline float rhypotf(float x, float y) { return 1.0f / hypotf(x, y); }
inline double rhypot(double x, double y) { return 1.0 / hypot(x, y); }
inline float norm3df(float x, float y, float z) { return sqrtf(x * x + y * y + z * z); }
inline double norm3d(double x, double y, double z) { return sqrt(x * x + y * y + z * z); }
inline float rnorm3df(float x, float y, float z) { return 1.0f / norm3df(x, y, z); }
inline float norm4df(float x, float y, float z, float w) { return sqrtf(x * x + y * y + z * z + w * w); }
inline double norm4d(double x, double y, double z, double w) { return sqrt(x * x + y * y + z * z + w * w); }
inline double rnorm3d(double x, double y, double z) { return 1.0 / norm3d(x, y, z); }
inline float rnorm4df(float x, float y, float z, float w) { return 1.0f / norm4df(x, y, z, w); }
inline double rnorm4d(double x, double y, double z, double w) { return 1.0 / norm4d(x, y, z, w); }
inline double norm(int count, const double* values) {
    double sum = 0;
    for (int i = 0; i < count; ++i) sum += values[i] * values[i];
    return sqrt(sum);
}
inline float normf(int count, const float* values) {
    double sum = 0;
    for (int i = 0; i < count; ++i) sum += (double)values[i] * values[i];
    return (float)sqrt(sum);
}
inline double rnorm(int count, const double* values) { return 1.0 / norm(count, values); }
inline float rnormf(int count, const float* values) { return 1.0f / normf(count, values); }
// Modified Bessel functions of the first kind, by their power series, in which all terms are positive.
inline double cyl_bessel_i0(double x) {
    const double quarter = 0.25 * x * x;
    double term = 1, sum = 1;
    for (int k = 1; k < 2000 && term > 1e-17 * sum; ++k) sum += term *= quarter / ((double)k * k);
    return sum;
}
inline double cyl_bessel_i1(double x) {
    const double quarter = 0.25 * x * x;
    double term = 0.5 * x, sum = term;
    for (int k = 1; k < 2000 && fabs(term) > 1e-17 * fabs(sum); ++k) sum += term *= quarter / ((double)k * (k + 1));
    return sum;
}
inline float cyl_bessel_i0f(float x) { return (float)cyl_bessel_i0((double)x); }
inline float cyl_bessel_i1f(float x) { return (float)cyl_bessel_i1((double)x); }
inline float fdividef(float x, float y) { return x / y; }
inline double fdivide(double x, double y) { return x / y; }
inline float __fdividef(float x, float y) { return x / y; }
inline float __saturatef(float x) { return x >= 1.0f ? 1.0f : x > 0.0f ? x : 0.0f; }

// ---- min and max with CUDA's rules for mixed argument types ----

#define KFORGE_EXTREMA(result, a_type, b_type)                                                                          \
    inline constexpr result max(a_type a, b_type b) { return (result)a > (result)b ? (result)a : (result)b; }           \
    inline constexpr result min(a_type a, b_type b) { return (result)a < (result)b ? (result)a : (result)b; }
KFORGE_EXTREMA(int, int, int)
KFORGE_EXTREMA(unsigned int, unsigned int, unsigned int)
KFORGE_EXTREMA(unsigned int, int, unsigned int)
KFORGE_EXTREMA(unsigned int, unsigned int, int)
KFORGE_EXTREMA(long, long, long)
KFORGE_EXTREMA(unsigned long, unsigned long, unsigned long)
KFORGE_EXTREMA(unsigned long, long, unsigned long)
KFORGE_EXTREMA(unsigned long, unsigned long, long)
KFORGE_EXTREMA(long long, long long, long long)
KFORGE_EXTREMA(unsigned long long, unsigned long long, unsigned long long)
KFORGE_EXTREMA(unsigned long long, long long, unsigned long long)
KFORGE_EXTREMA(unsigned long long, unsigned long long, long long)
#undef KFORGE_EXTREMA
inline float max(float a, float b) { return fmaxf(a, b); }
inline float min(float a, float b) { return fminf(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(float a, double b) { return fmax((double)a, b); }
inline double min(float a, double b) { return fmin((double)a, b); }
inline double max(double a, float b) { return fmax(a, (double)b); }
inline double min(double a, float b) { return fmin(a, (double)b); }
inline unsigned int umax(unsigned int a, unsigned int b) { return max(a, b); }
inline unsigned int umin(unsigned int a, unsigned int b) { return min(a, b); }
inline long long llmax(long long a, long long b) { return max(a, b); }
inline long long llmin(long long a, long long b) { return min(a, b); }
inline unsigned long long ullmax(unsigned long long a, unsigned long long b) { return max(a, b); }
inline unsigned long long ullmin(unsigned long long a, unsigned long long b) { return min(a, b); }
