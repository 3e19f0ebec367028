// One 16-bit floating-point type, its two-element vector, and CUDA's functions for both. Included once for `__half` and once
// for `__nv_bfloat16`, with the names as macros, so it has no include guard.
//
// The conversions are exactly those of CUDA, including which are implicit, so that the same expressions are ambiguous.

struct KFORGE_NARROW {
    unsigned short __x;

    KFORGE_NARROW() = default;
    constexpr KFORGE_NARROW(const KFORGE_NARROW_RAW& raw) : __x(raw.x) {}
    KFORGE_NARROW(float value) : __x(KFORGE_NARROW_FROM_FLOAT(value)) {}
    KFORGE_NARROW(double value) : __x(KFORGE_NARROW_FROM_FLOAT(::kforge::odd_float(value))) {}
#define KFORGE_FROM(type) \
    KFORGE_NARROW(type value) : __x(KFORGE_NARROW_FROM_FLOAT(::kforge::odd_float(::kforge::odd_double(value)))) {}
    KFORGE_FROM(short)
    KFORGE_FROM(unsigned short)
    KFORGE_FROM(int)
    KFORGE_FROM(unsigned int)
    KFORGE_FROM(long)
    KFORGE_FROM(unsigned long)
    KFORGE_FROM(long long)
    KFORGE_FROM(unsigned long long)
#undef KFORGE_FROM

    operator float() const { return KFORGE_NARROW_TO_FLOAT(__x); }
    operator KFORGE_NARROW_RAW() const { return KFORGE_NARROW_RAW{__x}; }
    constexpr operator bool() const { return (__x & 0x7fff) != 0; }
#define KFORGE_TO(type) \
    operator type() const { return ::kforge::to_integer<type>((float)*this); }
    KFORGE_TO(char)
    KFORGE_TO(signed char)
    KFORGE_TO(unsigned char)
    KFORGE_TO(short)
    KFORGE_TO(unsigned short)
    KFORGE_TO(int)
    KFORGE_TO(unsigned int)
    KFORGE_TO(long)
    KFORGE_TO(unsigned long)
    KFORGE_TO(long long)
    KFORGE_TO(unsigned long long)
#undef KFORGE_TO

#define KFORGE_ASSIGN(type) \
    KFORGE_NARROW& operator=(type value) { return *this = KFORGE_NARROW(value); }
    KFORGE_ASSIGN(float)
    KFORGE_ASSIGN(double)
    KFORGE_ASSIGN(short)
    KFORGE_ASSIGN(unsigned short)
    KFORGE_ASSIGN(int)
    KFORGE_ASSIGN(unsigned int)
    KFORGE_ASSIGN(long long)
    KFORGE_ASSIGN(unsigned long long)
#undef KFORGE_ASSIGN
};

struct __attribute__((aligned(4))) KFORGE_NARROW_2 {
    KFORGE_NARROW x, y;

    KFORGE_NARROW_2() = default;
    KFORGE_NARROW_2(const KFORGE_NARROW& x, const KFORGE_NARROW& y) : x(x), y(y) {}
    KFORGE_NARROW_2(const KFORGE_NARROW_2_RAW& raw) : x(KFORGE_NARROW_RAW{raw.x}), y(KFORGE_NARROW_RAW{raw.y}) {}
    operator KFORGE_NARROW_2_RAW() const { return KFORGE_NARROW_2_RAW{x.__x, y.__x}; }
};

// ---- Arithmetic ----

inline KFORGE_NARROW __hadd(KFORGE_NARROW a, KFORGE_NARROW b) { return KFORGE_NARROW((float)a + (float)b); }
inline KFORGE_NARROW __hsub(KFORGE_NARROW a, KFORGE_NARROW b) { return KFORGE_NARROW((float)a - (float)b); }
inline KFORGE_NARROW __hmul(KFORGE_NARROW a, KFORGE_NARROW b) { return KFORGE_NARROW((float)a * (float)b); }
inline KFORGE_NARROW __hdiv(KFORGE_NARROW a, KFORGE_NARROW b) { return KFORGE_NARROW((float)a / (float)b); }
inline KFORGE_NARROW __hadd_rn(KFORGE_NARROW a, KFORGE_NARROW b) { return __hadd(a, b); }
inline KFORGE_NARROW __hsub_rn(KFORGE_NARROW a, KFORGE_NARROW b) { return __hsub(a, b); }
inline KFORGE_NARROW __hmul_rn(KFORGE_NARROW a, KFORGE_NARROW b) { return __hmul(a, b); }
// Rounded once. If the float result is not half way between two narrow numbers, it rounds as the exact sum would. Otherwise
// the product is exact in double, and the sum is rounded to odd.
inline KFORGE_NARROW __hfma(KFORGE_NARROW a, KFORGE_NARROW b, KFORGE_NARROW c) {
    const float sum = __builtin_fmaf(a, b, c);
    const bool tie = (::kforge::bits_of(sum) & (2 * KFORGE_NARROW_HALF_UNIT - 1)) == KFORGE_NARROW_HALF_UNIT;
    if (__builtin_expect(!tie && (fabsf(sum) >= KFORGE_NARROW_LEAST_NORMAL || sum == 0.0f), 1)) return KFORGE_NARROW(sum);
    return KFORGE_NARROW(::kforge::odd_float(::kforge::odd_sum((double)(float)a * (double)(float)b, (double)(float)c)));
}
inline KFORGE_NARROW __hneg(KFORGE_NARROW a) { return ::kforge::narrow_of<KFORGE_NARROW>(a.__x ^ 0x8000); }
inline KFORGE_NARROW __habs(KFORGE_NARROW a) { return ::kforge::narrow_of<KFORGE_NARROW>(a.__x & 0x7fff); }
inline KFORGE_NARROW __hsaturate(KFORGE_NARROW a) {
    const float value = a;
    return value >= 1.0f ? KFORGE_NARROW(1.0f) : value > 0.0f ? a : KFORGE_NARROW(0.0f);  // a NaN becomes zero
}
inline KFORGE_NARROW __hadd_sat(KFORGE_NARROW a, KFORGE_NARROW b) { return __hsaturate(__hadd(a, b)); }
inline KFORGE_NARROW __hsub_sat(KFORGE_NARROW a, KFORGE_NARROW b) { return __hsaturate(__hsub(a, b)); }
inline KFORGE_NARROW __hmul_sat(KFORGE_NARROW a, KFORGE_NARROW b) { return __hsaturate(__hmul(a, b)); }
inline KFORGE_NARROW __hfma_sat(KFORGE_NARROW a, KFORGE_NARROW b, KFORGE_NARROW c) { return __hsaturate(__hfma(a, b, c)); }

inline bool __hisnan(KFORGE_NARROW a) { return (a.__x & 0x7fff) > KFORGE_NARROW_INFINITY; }
inline int __hisinf(KFORGE_NARROW a) { return a.__x == KFORGE_NARROW_INFINITY ? 1 : a.__x == (KFORGE_NARROW_INFINITY | 0x8000) ? -1 : 0; }

// The minimum or maximum of a number and a NaN is the number; -0 is less than +0.
inline KFORGE_NARROW __hmax(KFORGE_NARROW a, KFORGE_NARROW b) {
    const float x = a, y = b;
    if (x == y) return (a.__x & 0x8000) != 0 ? b : a;
    return x > y || y != y ? a : b;
}
inline KFORGE_NARROW __hmin(KFORGE_NARROW a, KFORGE_NARROW b) {
    const float x = a, y = b;
    if (x == y) return (a.__x & 0x8000) != 0 ? a : b;
    return x < y || y != y ? a : b;
}
inline KFORGE_NARROW __hmax_nan(KFORGE_NARROW a, KFORGE_NARROW b) {
    return __hisnan(a) || __hisnan(b) ? ::kforge::narrow_of<KFORGE_NARROW>(KFORGE_NARROW_NAN) : __hmax(a, b);
}
inline KFORGE_NARROW __hmin_nan(KFORGE_NARROW a, KFORGE_NARROW b) {
    return __hisnan(a) || __hisnan(b) ? ::kforge::narrow_of<KFORGE_NARROW>(KFORGE_NARROW_NAN) : __hmin(a, b);
}
inline KFORGE_NARROW __hfma_relu(KFORGE_NARROW a, KFORGE_NARROW b, KFORGE_NARROW c) { return __hmax_nan(__hfma(a, b, c), KFORGE_NARROW(0.0f)); }

// ---- Comparisons: ordered; the variants with `u` are true for NaNs ----

#define KFORGE_COMPARE(name, operation)                                                                                   \
    inline bool __h##name(KFORGE_NARROW a, KFORGE_NARROW b) { return (float)a operation (float)b; }                       \
    inline bool __h##name##u(KFORGE_NARROW a, KFORGE_NARROW b) { return __hisnan(a) || __hisnan(b) || (float)a operation (float)b; }
KFORGE_COMPARE(eq, ==)
KFORGE_COMPARE(le, <=)
KFORGE_COMPARE(ge, >=)
KFORGE_COMPARE(lt, <)
KFORGE_COMPARE(gt, >)
#undef KFORGE_COMPARE
inline bool __hne(KFORGE_NARROW a, KFORGE_NARROW b) { return !__hisnan(a) && !__hisnan(b) && (float)a != (float)b; }
inline bool __hneu(KFORGE_NARROW a, KFORGE_NARROW b) { return (float)a != (float)b; }

// ---- Functions ----

#define KFORGE_FUNCTION(name, expression)                                                                           \
    inline KFORGE_NARROW h##name(KFORGE_NARROW a) {                                                                 \
        const float x = a;                                                                                          \
        return KFORGE_NARROW(expression);                                                                           \
    }                                                                                                               \
    inline KFORGE_NARROW_2 h2##name(KFORGE_NARROW_2 a) { return KFORGE_NARROW_2(h##name(a.x), h##name(a.y)); }
KFORGE_FUNCTION(exp, expf(x))
KFORGE_FUNCTION(exp2, exp2f(x))
KFORGE_FUNCTION(exp10, exp10f(x))
KFORGE_FUNCTION(log, logf(x))
KFORGE_FUNCTION(log2, log2f(x))
KFORGE_FUNCTION(log10, log10f(x))
KFORGE_FUNCTION(sin, sinf(x))
KFORGE_FUNCTION(cos, cosf(x))
KFORGE_FUNCTION(tanh, tanhf(x))
KFORGE_FUNCTION(tanh_approx, tanhf(x))
KFORGE_FUNCTION(sqrt, sqrtf(x))
KFORGE_FUNCTION(rsqrt, 1.0f / sqrtf(x))
KFORGE_FUNCTION(rcp, 1.0f / x)
KFORGE_FUNCTION(ceil, ceilf(x))
KFORGE_FUNCTION(floor, floorf(x))
KFORGE_FUNCTION(trunc, truncf(x))
KFORGE_FUNCTION(rint, rintf(x))
#undef KFORGE_FUNCTION

// The C library has a `long double` overload of each of these, so a call would be ambiguous without one for this type.
#define KFORGE_FUNCTION(name) \
    inline float name(KFORGE_NARROW a) { return name((float)a); }
KFORGE_FUNCTION(exp)
KFORGE_FUNCTION(exp2)
KFORGE_FUNCTION(expm1)
KFORGE_FUNCTION(log)
KFORGE_FUNCTION(log2)
KFORGE_FUNCTION(log10)
KFORGE_FUNCTION(log1p)
KFORGE_FUNCTION(sqrt)
KFORGE_FUNCTION(cbrt)
KFORGE_FUNCTION(sin)
KFORGE_FUNCTION(cos)
KFORGE_FUNCTION(tan)
KFORGE_FUNCTION(asin)
KFORGE_FUNCTION(acos)
KFORGE_FUNCTION(atan)
KFORGE_FUNCTION(sinh)
KFORGE_FUNCTION(cosh)
KFORGE_FUNCTION(tanh)
KFORGE_FUNCTION(erf)
KFORGE_FUNCTION(fabs)
KFORGE_FUNCTION(floor)
KFORGE_FUNCTION(ceil)
KFORGE_FUNCTION(round)
KFORGE_FUNCTION(rint)
KFORGE_FUNCTION(trunc)
#undef KFORGE_FUNCTION
inline float pow(KFORGE_NARROW a, int b) { return powf(a, (float)b); }
inline float fmax(KFORGE_NARROW a, KFORGE_NARROW b) { return fmaxf(a, b); }
inline float fmin(KFORGE_NARROW a, KFORGE_NARROW b) { return fminf(a, b); }
inline float fma(KFORGE_NARROW a, KFORGE_NARROW b, KFORGE_NARROW c) { return fmaf(a, b, c); }

// ---- Vectors of two: the same functions, element by element ----

#define KFORGE_UNARY_2(name) \
    inline KFORGE_NARROW_2 name##2(KFORGE_NARROW_2 a) { return KFORGE_NARROW_2(name(a.x), name(a.y)); }
#define KFORGE_BINARY_2_AS(pair_name, name) \
    inline KFORGE_NARROW_2 pair_name(KFORGE_NARROW_2 a, KFORGE_NARROW_2 b) { return KFORGE_NARROW_2(name(a.x, b.x), name(a.y, b.y)); }
#define KFORGE_BINARY_2(name) KFORGE_BINARY_2_AS(name##2, name)
#define KFORGE_TERNARY_2_AS(pair_name, name)                                                         \
    inline KFORGE_NARROW_2 pair_name(KFORGE_NARROW_2 a, KFORGE_NARROW_2 b, KFORGE_NARROW_2 c) {      \
        return KFORGE_NARROW_2(name(a.x, b.x, c.x), name(a.y, b.y, c.y));                            \
    }
KFORGE_UNARY_2(__hneg)
KFORGE_UNARY_2(__habs)
KFORGE_BINARY_2(__hadd)
KFORGE_BINARY_2(__hsub)
KFORGE_BINARY_2(__hmul)
KFORGE_BINARY_2_AS(__h2div, __hdiv)
KFORGE_BINARY_2_AS(__hadd2_rn, __hadd)
KFORGE_BINARY_2_AS(__hsub2_rn, __hsub)
KFORGE_BINARY_2_AS(__hmul2_rn, __hmul)
KFORGE_BINARY_2_AS(__hadd2_sat, __hadd_sat)
KFORGE_BINARY_2_AS(__hsub2_sat, __hsub_sat)
KFORGE_BINARY_2_AS(__hmul2_sat, __hmul_sat)
KFORGE_BINARY_2(__hmax)
KFORGE_BINARY_2(__hmin)
KFORGE_BINARY_2_AS(__hmax2_nan, __hmax_nan)
KFORGE_BINARY_2_AS(__hmin2_nan, __hmin_nan)
KFORGE_TERNARY_2_AS(__hfma2, __hfma)
KFORGE_TERNARY_2_AS(__hfma2_sat, __hfma_sat)
KFORGE_TERNARY_2_AS(__hfma2_relu, __hfma_relu)
#undef KFORGE_UNARY_2
#undef KFORGE_BINARY_2
#undef KFORGE_BINARY_2_AS
#undef KFORGE_TERNARY_2_AS
// a * b + c for complex numbers.
inline KFORGE_NARROW_2 __hcmadd(KFORGE_NARROW_2 a, KFORGE_NARROW_2 b, KFORGE_NARROW_2 c) {
    return KFORGE_NARROW_2(__hfma(__hneg(a.y), b.y, __hfma(a.x, b.x, c.x)), __hfma(a.y, b.x, __hfma(a.x, b.y, c.y)));
}
inline KFORGE_NARROW_2 __hisnan2(KFORGE_NARROW_2 a) { return KFORGE_NARROW_2(KFORGE_NARROW((float)__hisnan(a.x)), KFORGE_NARROW((float)__hisnan(a.y))); }

#define KFORGE_COMPARE_2(name)                                                                                                         \
    inline KFORGE_NARROW_2 __h##name##2(KFORGE_NARROW_2 a, KFORGE_NARROW_2 b) {                                                        \
        return KFORGE_NARROW_2(KFORGE_NARROW((float)__h##name(a.x, b.x)), KFORGE_NARROW((float)__h##name(a.y, b.y)));                  \
    }                                                                                                                                  \
    inline KFORGE_NARROW_2 __h##name##u2(KFORGE_NARROW_2 a, KFORGE_NARROW_2 b) {                                                       \
        return KFORGE_NARROW_2(KFORGE_NARROW((float)__h##name##u(a.x, b.x)), KFORGE_NARROW((float)__h##name##u(a.y, b.y)));            \
    }                                                                                                                                  \
    inline unsigned __h##name##2_mask(KFORGE_NARROW_2 a, KFORGE_NARROW_2 b) {                                                          \
        return (__h##name(a.x, b.x) ? 0xffffu : 0u) | (__h##name(a.y, b.y) ? 0xffff0000u : 0u);                                        \
    }                                                                                                                                  \
    inline unsigned __h##name##u2_mask(KFORGE_NARROW_2 a, KFORGE_NARROW_2 b) {                                                         \
        return (__h##name##u(a.x, b.x) ? 0xffffu : 0u) | (__h##name##u(a.y, b.y) ? 0xffff0000u : 0u);                                  \
    }                                                                                                                                  \
    inline bool __hb##name##2(KFORGE_NARROW_2 a, KFORGE_NARROW_2 b) { return __h##name(a.x, b.x) && __h##name(a.y, b.y); }             \
    inline bool __hb##name##u2(KFORGE_NARROW_2 a, KFORGE_NARROW_2 b) { return __h##name##u(a.x, b.x) && __h##name##u(a.y, b.y); }
KFORGE_COMPARE_2(eq)
KFORGE_COMPARE_2(ne)
KFORGE_COMPARE_2(le)
KFORGE_COMPARE_2(ge)
KFORGE_COMPARE_2(lt)
KFORGE_COMPARE_2(gt)
#undef KFORGE_COMPARE_2

inline float __low2float(KFORGE_NARROW_2 a) { return a.x; }
inline float __high2float(KFORGE_NARROW_2 a) { return a.y; }
inline KFORGE_NARROW_2 __lowhigh2highlow(KFORGE_NARROW_2 a) { return KFORGE_NARROW_2(a.y, a.x); }

// ---- Operators ----

#define KFORGE_OPERATOR(symbol, name)                                                                                            \
    inline KFORGE_NARROW operator symbol(const KFORGE_NARROW& a, const KFORGE_NARROW& b) { return name(a, b); }                  \
    inline KFORGE_NARROW& operator symbol##=(KFORGE_NARROW& a, const KFORGE_NARROW& b) { return a = name(a, b); }
KFORGE_OPERATOR(+, __hadd)
KFORGE_OPERATOR(-, __hsub)
KFORGE_OPERATOR(*, __hmul)
KFORGE_OPERATOR(/, __hdiv)
#undef KFORGE_OPERATOR
#define KFORGE_OPERATOR(symbol, name)                                                                                            \
    inline KFORGE_NARROW_2 operator symbol(const KFORGE_NARROW_2& a, const KFORGE_NARROW_2& b) { return name(a, b); }            \
    inline KFORGE_NARROW_2& operator symbol##=(KFORGE_NARROW_2& a, const KFORGE_NARROW_2& b) { return a = name(a, b); }
KFORGE_OPERATOR(+, __hadd2)
KFORGE_OPERATOR(-, __hsub2)
KFORGE_OPERATOR(*, __hmul2)
KFORGE_OPERATOR(/, __h2div)
#undef KFORGE_OPERATOR
#define KFORGE_OPERATOR(symbol, name, pair_name)                                                                                 \
    inline bool operator symbol(const KFORGE_NARROW& a, const KFORGE_NARROW& b) { return name(a, b); }                           \
    inline bool operator symbol(const KFORGE_NARROW_2& a, const KFORGE_NARROW_2& b) { return pair_name(a, b); }
KFORGE_OPERATOR(==, __heq, __hbeq2)
KFORGE_OPERATOR(!=, __hneu, __hbneu2)
KFORGE_OPERATOR(<, __hlt, __hblt2)
KFORGE_OPERATOR(>, __hgt, __hbgt2)
KFORGE_OPERATOR(<=, __hle, __hble2)
KFORGE_OPERATOR(>=, __hge, __hbge2)
#undef KFORGE_OPERATOR
inline KFORGE_NARROW operator+(const KFORGE_NARROW& a) { return a; }
inline KFORGE_NARROW operator-(const KFORGE_NARROW& a) { return __hneg(a); }
inline KFORGE_NARROW_2 operator+(const KFORGE_NARROW_2& a) { return a; }
inline KFORGE_NARROW_2 operator-(const KFORGE_NARROW_2& a) { return __hneg2(a); }
inline KFORGE_NARROW& operator++(KFORGE_NARROW& a) { return a = __hadd(a, KFORGE_NARROW(1.0f)); }
inline KFORGE_NARROW& operator--(KFORGE_NARROW& a) { return a = __hsub(a, KFORGE_NARROW(1.0f)); }
inline KFORGE_NARROW operator++(KFORGE_NARROW& a, int) {
    const KFORGE_NARROW old = a;
    ++a;
    return old;
}
inline KFORGE_NARROW operator--(KFORGE_NARROW& a, int) {
    const KFORGE_NARROW old = a;
    --a;
    return old;
}
