// The judge's work on memory: fill, poison, compare, hash. Each is a pure function of an index, so a loop on a CPU and a kernel
// on a GPU give the same bits: contraction is off, sums have a fixed order, rounding is integer code.
//
// Random values come from a counter: mix(seed, index). A normal value is the sum of four 16-bit uniforms, minus its mean,
// divided by its standard deviation (Irwin-Hall distribution: kurtosis 2.7, no value beyond 3.47 deviations). No logarithm or
// sine of a library is involved, because those differ between devices.

#pragma once

#if defined(__CUDACC__) && !defined(KFORGE_HOST_ONLY)
#define KFORGE_BOTH __host__ __device__ inline
#else
#define KFORGE_BOTH inline
#endif

// A file that is compiled for several processors uses one namespace for each: the linker must never mix their functions.
#ifndef KFORGE_VARIANT
#define KFORGE_VARIANT kforge_numerics
#endif

namespace KFORGE_VARIANT {

typedef unsigned long long u64;
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;

// Same order as `dtype_number` in numerics.rs.
enum DType : u32 { FLOAT64, FLOAT32, FLOAT16, BFLOAT16, FLOAT8_E4M3, FLOAT8_E5M2, INT64, INT32, INT16, INT8, BOOL };

// Steele, Lea and Flood's SplitMix64 finaliser over a Weyl sequence that starts at the seed.
KFORGE_BOTH u64 mix(u64 seed, u64 index) {
    u64 z = seed + (index + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

// The seed for one of several copies of the same data. Copy 0 uses the seed unchanged.
KFORGE_BOTH u64 seed_of_copy(u64 seed, u64 copy) { return copy == 0 ? seed : mix(seed ^ 0xc0b1e5c0b1e5c0b1ull, copy); }

template <typename To, typename From>
KFORGE_BOTH To bits_of(From from) {
    static_assert(sizeof(To) == sizeof(From), "the same size");
    To to;
#if defined(__CUDACC__)
    memcpy(&to, &from, sizeof(to));
#else
    __builtin_memcpy(&to, &from, sizeof(to));
#endif
    return to;
}

// ---- Distributions ----

enum Shape : u32 { NORMAL, UNIFORM, VALUE, CUMULATIVE };

// Same layout as `RawDistribution` in numerics.rs.
struct Distribution {
    u32 shape;
    u32 levels;         // number of different values; 0: unlimited
    double first;       // NORMAL: deviation; UNIFORM: low end; VALUE: the value; CUMULATIVE: the total
    double second;      // UNIFORM: high end
    double mean;        // added to every value
    double zeros;       // share of elements that are 0
    double large_rows;  // factor for about every fourth row
    u64 row;            // length of the last axis
    u32 one_hot;        // all elements of a row but one are 0
    u32 normalize;      // every row has length 1
};

// Seeds of the random streams that are independent of the values.
constexpr u64 ZEROS_STREAM = 0x5ca1ab1e0ddba11dull;
constexpr u64 ONE_HOT_STREAM = 0x0b5e55ed5ca1ab1eull;
constexpr u64 LARGE_ROWS_STREAM = 0x1ca7efab1e5eed5ull;
constexpr u64 LEVELS_STREAM = 0x7e57ab1e0fc0ffeeull;

KFORGE_BOTH double normal(u64 seed, u64 index) {
    const u64 h = mix(seed, index);
    const int sum = (int)(h & 0xffff) + (int)(h >> 16 & 0xffff) + (int)(h >> 32 & 0xffff) + (int)(h >> 48);
    // The sum's deviation is 65536 / sqrt(3), within 2^-33.
    return (double)(sum - 131070) * 2.6429114831146424e-05;
}

// A number in [0, 1) with 53 bits.
KFORGE_BOTH double unit(u64 h) { return (double)(h >> 11) * 1.1102230246251565e-16; }

KFORGE_BOTH double draw(const Distribution& distribution, u64 seed, u64 index) {
    if (distribution.shape == NORMAL) return normal(seed, index) * distribution.first;
    if (distribution.shape == VALUE) return distribution.first;
    const double span = (distribution.second - distribution.first) * unit(mix(seed, index));
    return distribution.first + span;
}

// A draw for integers. The range of UNIFORM includes both ends.
KFORGE_BOTH long long draw_integer(const Distribution& distribution, u64 seed, u64 index) {
    if (distribution.shape != UNIFORM) return (long long)draw(distribution, seed, index);
    const long long low = (long long)distribution.first;
    const u64 span = (u64)((long long)distribution.second - low) + 1;
    return low + (long long)(span == 0 ? mix(seed, index) : mix(seed, index) % span);
}

// The index of the draw for an element. With `levels`, many elements share a draw.
KFORGE_BOTH u64 level(const Distribution& distribution, u64 seed, u64 index) {
    return distribution.levels == 0 ? index : mix(seed ^ LEVELS_STREAM, index) % distribution.levels;
}

KFORGE_BOTH bool is_zero(const Distribution& distribution, u64 seed, u64 index) {
    if (distribution.zeros > 0.0 && unit(mix(seed ^ ZEROS_STREAM, index)) < distribution.zeros) return true;
    if (distribution.one_hot == 0) return false;
    return mix(seed ^ ONE_HOT_STREAM, index / distribution.row) % distribution.row != index % distribution.row;
}

// A value with all modifiers applied except `normalize`.
KFORGE_BOTH double shaped(const Distribution& distribution, u64 seed, u64 index) {
    if (is_zero(distribution, seed, index)) return 0.0;
    double value = draw(distribution, seed, level(distribution, seed, index));
    // Adding 0.0 would turn -0.0 into 0.0.
    if (distribution.mean != 0.0) value += distribution.mean;
    const bool large = distribution.large_rows != 1.0 && mix(seed ^ LARGE_ROWS_STREAM, index / distribution.row) % 4 == 0;
    return large ? value * distribution.large_rows : value;
}

// The relative size of a part: the product of two uniforms, so parts differ widely. At most 2^16.
KFORGE_BOTH u64 part(const Distribution& distribution, u64 seed, u64 index) {
    if (is_zero(distribution, seed, index)) return 0;
    const u64 h = mix(seed, level(distribution, seed, index));
    return ((h & 255) + 1) * ((h >> 8 & 255) + 1);
}

// The start of a row's part number `index % row`, scaled so that all parts add up to `first`: 0 at the start of the row, the total
// at its end. Every element sums all parts of its row, so rows must be short (`check.rs`: at most 4097).
KFORGE_BOTH long long cumulative(const Distribution& distribution, u64 seed, u64 index) {
    const u64 position = index % distribution.row;
    const u64 start = index - position;
    u64 before = 0, all = 0;
    for (u64 i = 0; i + 1 < distribution.row; ++i) {
        const u64 size = part(distribution, seed, start + i);
        before += i < position ? size : 0;
        all += size;
    }
    const u64 total = (u64)distribution.first;
    if (position + 1 == distribution.row) return position == 0 ? 0 : (long long)total;
    if (all == 0) return 0;
    // total * before / all without overflow: `before` and `all` are below 2^29.
    return (long long)(total / all * before + total % all * before / all);
}

KFORGE_BOTH long long shaped_integer(const Distribution& distribution, u64 seed, u64 index) {
    if (distribution.shape == CUMULATIVE) return cumulative(distribution, seed, index);
    return is_zero(distribution, seed, index) ? 0 : draw_integer(distribution, seed, level(distribution, seed, index));
}

// Whether no modifier changes the drawn values.
KFORGE_BOTH bool is_plain(const Distribution& distribution) {
    return distribution.levels == 0 && distribution.mean == 0.0 && distribution.zeros == 0.0 && distribution.large_rows == 1.0 &&
           distribution.one_hot == 0;
}

// ---- Conversions: round to nearest, ties to even ----

// Converts a float to a narrower IEEE-like format with the usual bias, infinity and NaN.
template <int exponent_bits, int mantissa_bits>
KFORGE_BOTH u32 narrow(float value) {
    constexpr int drop = 23 - mantissa_bits;
    constexpr u32 infinity = ((1u << exponent_bits) - 1) << mantissa_bits;
    // The difference of the two exponent biases, in the position of the exponent field.
    constexpr u32 rebias = (u32)(128 - (1 << (exponent_bits - 1))) << 23;
    const u32 bits = bits_of<u32>(value);
    const u32 sign = bits >> 31 << (exponent_bits + mantissa_bits);
    const u32 magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return sign | infinity | 1u << (mantissa_bits - 1);
    u32 shifted = magnitude - rebias;
    int lost = drop;
    if (exponent_bits < 8 && magnitude < rebias + 0x800000u) {
        // A subnormal result: the leading bit becomes explicit, and every step of the exponent loses one more bit.
        const int deeper = (int)((rebias >> 23) + 1) - (int)(magnitude >> 23);
        if (deeper > 30 - drop) return sign;
        lost = drop + deeper;
        shifted = (magnitude & 0x7fffff) | 0x800000u;
        if (magnitude < 0x800000u) return sign;
    }
    // Add half a unit in the last place minus one, plus one if the result would be odd: round half to even.
    const u32 result = (shifted + ((1u << (lost - 1)) - 1) + (shifted >> lost & 1)) >> lost;
    return sign | (result >= infinity ? infinity : result);
}

// e4m3fn has no infinity: everything beyond its largest value (448) becomes NaN.
KFORGE_BOTH u8 to_e4m3(float value) {
    const u8 sign = (u8)(bits_of<u32>(value) >> 24 & 0x80);
    const float magnitude = bits_of<float>(bits_of<u32>(value) & 0x7fffffffu);
    if (!(magnitude <= 464.0f)) return sign | 0x7f;
    // One more exponent bit makes room for the values that are infinite in an IEEE format.
    const u32 wide = narrow<5, 3>(magnitude * 0.00390625f);
    return sign | (u8)(wide > 0x7e ? 0x7e : wide);
}

// Computes both results and selects one: compilers vectorize a loop without branches.
KFORGE_BOTH float from_half(u16 half) {
    const u32 sign = (u32)(half & 0x8000) << 16;
    const u32 magnitude = half & 0x7fff;
    // Exact, also for subnormal numbers: multiplying by a power of two corrects the exponent bias.
    const u32 finite = bits_of<u32>(bits_of<float>(magnitude << 13) * 5.192296858534828e+33f);
    const u32 other = 0x7f800000u | (magnitude & 0x3ff) << 13;
    return bits_of<float>(sign | (magnitude >= 0x7c00 ? other : finite));
}

KFORGE_BOTH float from_e4m3(u8 bits) {
    const u32 sign = (u32)(bits & 0x80) << 24;
    const u32 magnitude = bits & 0x7f;
    const u32 finite = bits_of<u32>(bits_of<float>(magnitude << 20) * 1.329227995784916e+36f);
    return bits_of<float>(sign | (magnitude == 0x7f ? 0x7fc00000u : finite));
}

// ---- Elements: the stored type of each dtype, and its conversion from and to double ----

template <u32 dtype>
struct Element;

#define KFORGE_FLOAT_ELEMENT(dtype, type, from_double, into_double, poison_bits, nan_bits)      \
    template <>                                                                                  \
    struct Element<dtype> {                                                                      \
        typedef type Stored;                                                                     \
        static KFORGE_BOTH Stored make(const Distribution& distribution, u64 seed, u64 index) {  \
            return from(shaped(distribution, seed, index));                                       \
        }                                                                                        \
        static KFORGE_BOTH Stored from(double value) { return from_double; }                     \
        static KFORGE_BOTH double value(Stored stored) { return into_double; }                   \
        static KFORGE_BOTH Stored finite_poison(u64 h) { return poison_bits; }                   \
        static KFORGE_BOTH Stored nan_poison(u64 h) { return nan_bits; }                         \
    };
KFORGE_FLOAT_ELEMENT(FLOAT64, u64, bits_of<u64>(value), bits_of<double>(stored), 0x3ff0000000000000ull | (h >> 12) | h << 63, 0x7ff0000000000001ull | (h >> 12) | h << 63)
KFORGE_FLOAT_ELEMENT(FLOAT32, u32, bits_of<u32>((float)value), (double)bits_of<float>(stored), 0x3f800000u | (u32)(h & 0x7fffff) | (u32)(h >> 32 << 31), 0x7f800001u | (u32)(h & 0x7fffff) | (u32)(h >> 32 << 31))
KFORGE_FLOAT_ELEMENT(FLOAT16, u16, (u16)(narrow<5, 10>((float)value)), (double)from_half(stored), (u16)(0x3c00 | (h & 0x3ff) | h >> 32 << 15), (u16)(0x7c01 | (h & 0x3ff) | h >> 32 << 15))
KFORGE_FLOAT_ELEMENT(BFLOAT16, u16, (u16)(narrow<8, 7>((float)value)), (double)bits_of<float>((u32)stored << 16), (u16)(0x3f80 | (h & 0x7f) | h >> 32 << 15), (u16)(0x7f81 | (h & 0x7f) | h >> 32 << 15))
KFORGE_FLOAT_ELEMENT(FLOAT8_E4M3, u8, to_e4m3((float)value), (double)from_e4m3(stored), (u8)(0x38 | (h & 7) | h >> 32 << 7), (u8)(0x7f | h >> 32 << 7))
KFORGE_FLOAT_ELEMENT(FLOAT8_E5M2, u8, (u8)(narrow<5, 2>((float)value)), (double)from_half((u16)((u16)stored << 8)), (u8)(0x3c | (h & 3) | h >> 32 << 7), (u8)(0x7d | (h & 3) | h >> 32 << 7))
#undef KFORGE_FLOAT_ELEMENT

#define KFORGE_INTEGER_ELEMENT(dtype, type, from_integer)                                        \
    template <>                                                                                  \
    struct Element<dtype> {                                                                      \
        typedef type Stored;                                                                     \
        static KFORGE_BOTH Stored make(const Distribution& distribution, u64 seed, u64 index) {  \
            const long long value = shaped_integer(distribution, seed, index);                   \
            return from_integer;                                                                 \
        }                                                                                        \
        static KFORGE_BOTH Stored from(double value) { return (Stored)(long long)value; }        \
        static KFORGE_BOTH double value(Stored stored) { return (double)stored; }                \
        static KFORGE_BOTH Stored finite_poison(u64 h) { return (Stored)(h >> 1); }              \
        static KFORGE_BOTH Stored nan_poison(u64 h) { return (Stored)(h >> 3); }                 \
    };
KFORGE_INTEGER_ELEMENT(INT64, long long, value)
KFORGE_INTEGER_ELEMENT(INT32, int, (int)value)
KFORGE_INTEGER_ELEMENT(INT16, short, (short)value)
KFORGE_INTEGER_ELEMENT(INT8, signed char, (signed char)value)
KFORGE_INTEGER_ELEMENT(BOOL, u8, (u8)(value != 0))
#undef KFORGE_INTEGER_ELEMENT

// ---- Poison: what an element of a buffer holds before a launch ----

enum PoisonKind : u32 { POISON_ONES = 0, POISON_FINITE = 1, POISON_NAN = 2 };

template <u32 dtype>
KFORGE_BOTH typename Element<dtype>::Stored poison_of(u32 kind, u64 seed, u64 index) {
    typedef typename Element<dtype>::Stored Stored;
    if (kind == POISON_ONES) return (Stored)~0ull;
    return kind == POISON_FINITE ? Element<dtype>::finite_poison(mix(seed, index)) : Element<dtype>::nan_poison(mix(seed, index));
}

// ---- Comparison ----

KFORGE_BOTH bool is_finite(double value) { return (bits_of<u64>(value) & 0x7ff0000000000000ull) != 0x7ff0000000000000ull; }

// The error of an element divided by its bound. The element passes if this is at most 1.
KFORGE_BOTH double excess(double found, double expected, double absolute, double relative) {
    if (!is_finite(found) || !is_finite(expected)) {
        const bool same = found == expected || (found != found && expected != expected);
        return same ? 0.0 : bits_of<double>(0x7ff0000000000000ull);
    }
    const double error = found > expected ? found - expected : expected - found;
    const double size = expected < 0 ? -expected : expected;
    const double scaled = relative * size;
    const double bound = absolute + scaled;
    if (error == 0.0) return 0.0;
    return bound > 0.0 ? error / bound : bits_of<double>(0x7ff0000000000000ull);
}

// Whether an expected value counts for the root mean square that the absolute bound is a share of. Zeros do not: rows that a mask
// empties, or padding, would otherwise tighten the bound of all other elements.
KFORGE_BOTH bool counts_for_rms(double expected) { return expected != 0.0 && is_finite(expected); }

// The order of sums: pieces of PIECE elements, summed in LANES lanes each; GROUP pieces form a group; groups are added in order.
constexpr u64 PIECE = 4096;
constexpr u64 LANES = 8;
constexpr u64 GROUP = 32;
// Allows for the rounding of the products in `may_matter`.
constexpr double ALMOST = 1.0 - 1e-12;

// Same layout as `RawComparison` in numerics.rs.
struct Result {
    u64 failed;
    u64 first;
    double first_found;
    double max_abs_error;
    double max_rel_error;
    double mean_abs_error;
    double worst;
};

// The tolerance of a comparison: an element's bound is absolute + relative * |expected|.
struct Bounds {
    double absolute;
    double relative;
    double rms;
};

// Records an element that failed or may be a new maximum. Returns its error for the mean.
KFORGE_BOTH double record_error(double found, double right, u64 index, const Bounds& bounds, Result* result) {
    const double infinity = bits_of<double>(0x7ff0000000000000ull);
    const double size = right < 0 ? -right : right;
    const double scale = size > bounds.rms ? size : bounds.rms;
    const double over = excess(found, right, bounds.absolute, bounds.relative);
    double error = found > right ? found - right : right - found;
    if (over == 0.0) error = 0.0;
    if (!(error <= infinity)) error = infinity;
    if (over > result->worst) result->worst = over;
    if (!(over <= 1.0)) {
        if (result->failed == 0) {
            result->first = index;
            result->first_found = found;
        }
        ++result->failed;
    }
    const double share = scale > 0.0 ? error / scale : (error > 0.0 ? infinity : 0.0);
    if (share > result->max_rel_error) result->max_rel_error = share;
    return error;
}

// Whether an element may have failed or be a new maximum. Only those need the expensive divisions of `record_error`.
KFORGE_BOTH bool may_matter(double error, double right, const Bounds& bounds, const Result& result) {
    const double size = right < 0 ? -right : right;
    const double scale = size > bounds.rms ? size : bounds.rms;
    const double scaled = bounds.relative * size;
    const double bound = bounds.absolute + scaled;
    const double by_worst = bound * (result.worst * ALMOST);
    const double by_share = scale * (result.max_rel_error * ALMOST);
    double limit = by_worst < bound ? by_worst : bound;
    limit = by_share < limit ? by_share : limit;
    return !(error <= limit);
}

// ---- Hash ----

// The contribution of one word to a hash. Contributions are added in any order.
KFORGE_BOTH u64 hash_word(u64 word, u64 index) {
    const u64 z = (word ^ (index * 0x9e3779b97f4a7c15ull)) * 0xff51afd7ed558ccdull;
    return (z ^ (z >> 32)) * 0xc4ceb9fe1a85ec53ull;
}

}  // namespace KFORGE_VARIANT
