// SIMD intrinsics on the two halfwords or four bytes of a word, and the three-operand minima and maxima.

#pragma once

#include "intrinsics.h"

namespace kforge {

// The templates here and in other parts of the precompiled header return `auto`: the compiler then instantiates them once, when it
// precompiles the header, and not again for every kernel.

// Part `at` of a word as a number; a part has Bits bits, and a sign if Signed.
template <int Bits, bool Signed>
inline __attribute__((always_inline)) auto part(unsigned word, int at) {
    const unsigned shifted = word >> (Bits * at);
    if constexpr (Bits == 16) return Signed ? (int)(short)shifted : (int)(unsigned short)shifted;
    return Signed ? (int)(signed char)shifted : (int)(unsigned char)shifted;
}

template <int Bits, bool Signed, typename Change>
inline __attribute__((always_inline)) auto each_part(unsigned a, unsigned b, Change change) {
    constexpr unsigned mask = (1u << Bits) - 1;
    unsigned result = 0;
    for (int at = 0; at < 32 / Bits; ++at) {
        result |= ((unsigned)change(part<Bits, Signed>(a, at), part<Bits, Signed>(b, at)) & mask) << (Bits * at);
    }
    return result;
}

template <int Bits, bool Signed>
inline auto saturated(int value) {
    constexpr int least = Signed ? -(1 << (Bits - 1)) : 0;
    constexpr int most = Signed ? (1 << (Bits - 1)) - 1 : (1 << Bits) - 1;
    return value < least ? least : value > most ? most : value;
}

}  // namespace kforge

// In `expression`, `x` and `y` are the parts of the operands. `Bits` and `Signed` may be used too.
#define KFORGE_PARTS(name, bits, is_signed, expression)                                                  \
    inline unsigned name(unsigned a, unsigned b) {                                                       \
        constexpr int Bits = bits;                                                                       \
        constexpr bool Signed = is_signed;                                                               \
        return ::kforge::each_part<Bits, Signed>(a, b, [](int x, int y) -> int { return expression; });  \
    }
#define KFORGE_BOTH(name, is_signed, expression) \
    KFORGE_PARTS(name##2, 16, is_signed, expression) KFORGE_PARTS(name##4, 8, is_signed, expression)
KFORGE_BOTH(__vadd, false, x + y)
KFORGE_BOTH(__vsub, false, x - y)
KFORGE_BOTH(__vaddss, true, (::kforge::saturated<Bits, Signed>(x + y)))
KFORGE_BOTH(__vaddus, false, (::kforge::saturated<Bits, Signed>(x + y)))
KFORGE_BOTH(__vsubss, true, (::kforge::saturated<Bits, Signed>(x - y)))
KFORGE_BOTH(__vsubus, false, (::kforge::saturated<Bits, Signed>(x - y)))
KFORGE_BOTH(__vavgu, false, (x + y + 1) >> 1)
KFORGE_BOTH(__vavgs, true, x + y >= 0 ? (x + y + 1) >> 1 : (x + y) >> 1)
KFORGE_BOTH(__vhaddu, false, (x + y) >> 1)
KFORGE_BOTH(__vmaxs, true, x > y ? x : y)
KFORGE_BOTH(__vmaxu, false, x > y ? x : y)
KFORGE_BOTH(__vmins, true, x < y ? x : y)
KFORGE_BOTH(__vminu, false, x < y ? x : y)
KFORGE_BOTH(__vabsdiffs, true, x > y ? x - y : y - x)
KFORGE_BOTH(__vabsdiffu, false, x > y ? x - y : y - x)
// The result of a comparison: all bits of a part, or only its lowest bit.
#define KFORGE_COMPARE_PARTS(name, is_signed, operation)          \
    KFORGE_BOTH(__vcmp##name, is_signed, x operation y ? -1 : 0)  \
    KFORGE_BOTH(__vset##name, is_signed, x operation y ? 1 : 0)
KFORGE_COMPARE_PARTS(eq, false, ==)
KFORGE_COMPARE_PARTS(ne, false, !=)
KFORGE_COMPARE_PARTS(ges, true, >=)
KFORGE_COMPARE_PARTS(geu, false, >=)
KFORGE_COMPARE_PARTS(gts, true, >)
KFORGE_COMPARE_PARTS(gtu, false, >)
KFORGE_COMPARE_PARTS(les, true, <=)
KFORGE_COMPARE_PARTS(leu, false, <=)
KFORGE_COMPARE_PARTS(lts, true, <)
KFORGE_COMPARE_PARTS(ltu, false, <)
#undef KFORGE_COMPARE_PARTS
#undef KFORGE_BOTH
#undef KFORGE_PARTS

#define KFORGE_UNARY_PARTS(name, bits, expression)                                                  \
    inline unsigned name(unsigned a) {                                                              \
        constexpr int Bits = bits;                                                                  \
        return ::kforge::each_part<Bits, true>(a, 0, [](int x, int) -> int { return expression; }); \
    }
#define KFORGE_BOTH(name, expression) KFORGE_UNARY_PARTS(name##2, 16, expression) KFORGE_UNARY_PARTS(name##4, 8, expression)
KFORGE_BOTH(__vabs, x < 0 ? -x : x)
KFORGE_BOTH(__vabsss, (::kforge::saturated<Bits, true>(x < 0 ? -x : x)))
KFORGE_BOTH(__vneg, -x)
KFORGE_BOTH(__vnegss, (::kforge::saturated<Bits, true>(-x)))
#undef KFORGE_BOTH
#undef KFORGE_UNARY_PARTS

// Sums of absolute differences.
#define KFORGE_SUM(name, bits, is_signed)                                                                  \
    inline unsigned name(unsigned a, unsigned b) {                                                         \
        int sum = 0;                                                                                       \
        for (int at = 0; at < 32 / bits; ++at) {                                                           \
            const int x = ::kforge::part<bits, is_signed>(a, at), y = ::kforge::part<bits, is_signed>(b, at); \
            sum += x > y ? x - y : y - x;                                                                  \
        }                                                                                                  \
        return (unsigned)sum;                                                                              \
    }
KFORGE_SUM(__vsads2, 16, true)
KFORGE_SUM(__vsads4, 8, true)
KFORGE_SUM(__vsadu2, 16, false)
KFORGE_SUM(__vsadu4, 8, false)
#undef KFORGE_SUM

// ---- Minima and maxima of three operands, of a sum, and with zero ----

namespace kforge {
template <typename T>
inline T greater_of(T a, T b) { return a > b ? a : b; }
template <typename T>
inline T lesser_of(T a, T b) { return a < b ? a : b; }
// Computed in the width of the operands; wraps on overflow.
inline int wrapped_sum(int a, int b) { return (int)((unsigned)a + (unsigned)b); }
inline unsigned wrapped_sum(unsigned a, unsigned b) { return a + b; }
}  // namespace kforge

#define KFORGE_WORDS(suffix, type)                                                                                          \
    inline type __vimax3_##suffix(type a, type b, type c) { return ::kforge::greater_of(::kforge::greater_of(a, b), c); }   \
    inline type __vimin3_##suffix(type a, type b, type c) { return ::kforge::lesser_of(::kforge::lesser_of(a, b), c); }     \
    inline type __viaddmax_##suffix(type a, type b, type c) { return ::kforge::greater_of(::kforge::wrapped_sum(a, b), c); } \
    inline type __viaddmin_##suffix(type a, type b, type c) { return ::kforge::lesser_of(::kforge::wrapped_sum(a, b), c); }  \
    inline type __vibmax_##suffix(type a, type b, bool* first) {                                                            \
        *first = a >= b;                                                                                                    \
        return *first ? a : b;                                                                                              \
    }                                                                                                                       \
    inline type __vibmin_##suffix(type a, type b, bool* first) {                                                            \
        *first = a <= b;                                                                                                    \
        return *first ? a : b;                                                                                              \
    }
KFORGE_WORDS(s32, int)
KFORGE_WORDS(u32, unsigned)
#undef KFORGE_WORDS
inline int __vimax_s32_relu(int a, int b) { return __vimax3_s32(a, b, 0); }
inline int __vimin_s32_relu(int a, int b) { return ::kforge::greater_of(::kforge::lesser_of(a, b), 0); }
inline int __vimax3_s32_relu(int a, int b, int c) { return ::kforge::greater_of(__vimax3_s32(a, b, c), 0); }
inline int __vimin3_s32_relu(int a, int b, int c) { return ::kforge::greater_of(__vimin3_s32(a, b, c), 0); }
inline int __viaddmax_s32_relu(int a, int b, int c) { return ::kforge::greater_of(__viaddmax_s32(a, b, c), 0); }
inline int __viaddmin_s32_relu(int a, int b, int c) { return ::kforge::greater_of(__viaddmin_s32(a, b, c), 0); }

#define KFORGE_HALVES(suffix, letter)                                                                                   \
    inline unsigned __vimax3_##suffix(unsigned a, unsigned b, unsigned c) { return __vmax##letter##2(__vmax##letter##2(a, b), c); } \
    inline unsigned __vimin3_##suffix(unsigned a, unsigned b, unsigned c) { return __vmin##letter##2(__vmin##letter##2(a, b), c); } \
    inline unsigned __viaddmax_##suffix(unsigned a, unsigned b, unsigned c) { return __vmax##letter##2(__vadd2(a, b), c); }         \
    inline unsigned __viaddmin_##suffix(unsigned a, unsigned b, unsigned c) { return __vmin##letter##2(__vadd2(a, b), c); }         \
    inline unsigned __vibmax_##suffix(unsigned a, unsigned b, bool* high, bool* low) {                                  \
        const unsigned first = __vcmpge##letter##2(a, b);                                                               \
        *high = first >> 31 != 0;                                                                                       \
        *low = (first & 1) != 0;                                                                                        \
        return (a & first) | (b & ~first);                                                                              \
    }                                                                                                                   \
    inline unsigned __vibmin_##suffix(unsigned a, unsigned b, bool* high, bool* low) {                                  \
        const unsigned first = __vcmple##letter##2(a, b);                                                               \
        *high = first >> 31 != 0;                                                                                       \
        *low = (first & 1) != 0;                                                                                        \
        return (a & first) | (b & ~first);                                                                              \
    }
KFORGE_HALVES(s16x2, s)
KFORGE_HALVES(u16x2, u)
#undef KFORGE_HALVES
inline unsigned __vimax_s16x2_relu(unsigned a, unsigned b) { return __vmaxs2(__vmaxs2(a, b), 0); }
inline unsigned __vimin_s16x2_relu(unsigned a, unsigned b) { return __vmaxs2(__vmins2(a, b), 0); }
inline unsigned __vimax3_s16x2_relu(unsigned a, unsigned b, unsigned c) { return __vmaxs2(__vimax3_s16x2(a, b, c), 0); }
inline unsigned __vimin3_s16x2_relu(unsigned a, unsigned b, unsigned c) { return __vmaxs2(__vimin3_s16x2(a, b, c), 0); }
inline unsigned __viaddmax_s16x2_relu(unsigned a, unsigned b, unsigned c) { return __vmaxs2(__viaddmax_s16x2(a, b, c), 0); }
inline unsigned __viaddmin_s16x2_relu(unsigned a, unsigned b, unsigned c) { return __vmaxs2(__viaddmin_s16x2(a, b, c), 0); }
