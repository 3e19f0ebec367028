// The loops of `numerics.h` over host memory. Called by `numerics.rs`, which checks every size. Compiled once for each kind of
// processor, each in its own namespace; all variants give the same bits.

#include "numerics.h"

#include <math.h>

namespace KFORGE_VARIANT {
namespace {

// Number of elements that are compared without a branch.
constexpr u64 STRIP = 64;

template <u32 dtype>
void fill(void* memory, u64 first, u64 elements, const Distribution& distribution, u64 seed) {
    typedef typename Element<dtype>::Stored Stored;
    Stored* stored = static_cast<Stored*>(memory);
    const Distribution local = distribution;
    if (local.normalize == 0) {
        if (is_plain(local) && local.shape == NORMAL) {
            for (u64 i = 0; i < elements; ++i) stored[i] = Element<dtype>::from(normal(seed, first + i) * local.first);
        } else {
            for (u64 i = 0; i < elements; ++i) stored[i] = Element<dtype>::make(local, seed, first + i);
        }
        return;
    }
    for (u64 start = 0; start < elements; start += local.row) {
        double sum = 0.0;
        for (u64 i = start; i < start + local.row; ++i) {
            const double value = shaped(local, seed, first + i);
            sum += value * value;
        }
        const double length = sum > 0.0 ? sqrt(sum) : 1.0;
        for (u64 i = start; i < start + local.row; ++i) stored[i] = Element<dtype>::from(shaped(local, seed, first + i) / length);
    }
}

// Stores doubles, rounded to the dtype.
template <u32 dtype>
void store(const double* values, void* memory, u64 elements) {
    typedef typename Element<dtype>::Stored Stored;
    Stored* stored = static_cast<Stored*>(memory);
    for (u64 i = 0; i < elements; ++i) stored[i] = Element<dtype>::from(values[i]);
}

template <u32 dtype, u32 kind>
void poison_as(void* memory, u64 elements, u64 seed) {
    typedef typename Element<dtype>::Stored Stored;
    Stored* stored = static_cast<Stored*>(memory);
    for (u64 i = 0; i < elements; ++i) stored[i] = poison_of<dtype>(kind, seed, i);
}

template <u32 dtype>
void poison(void* memory, u64 elements, u32 kind, u64 seed) {
    if (kind == POISON_ONES) return poison_as<dtype, POISON_ONES>(memory, elements, seed);
    if (kind == POISON_FINITE) return poison_as<dtype, POISON_FINITE>(memory, elements, seed);
    poison_as<dtype, POISON_NAN>(memory, elements, seed);
}

template <u32 dtype, u32 kind>
u64 count_poison(const typename Element<dtype>::Stored* stored, u64 elements, u64 seed) {
    u64 count = 0;
    for (u64 i = 0; i < elements; ++i) count += (u64)(stored[i] == poison_of<dtype>(kind, seed, i));
    return count;
}

template <u32 dtype>
u64 unwritten(const void* memory, u64 elements, u32 kind, u64 seed, u64* first) {
    typedef typename Element<dtype>::Stored Stored;
    const Stored* stored = static_cast<const Stored*>(memory);
    const u64 count = kind == POISON_ONES     ? count_poison<dtype, POISON_ONES>(stored, elements, seed)
                      : kind == POISON_FINITE ? count_poison<dtype, POISON_FINITE>(stored, elements, seed)
                                              : count_poison<dtype, POISON_NAN>(stored, elements, seed);
    if (count != 0) {
        for (*first = 0; stored[*first] != poison_of<dtype>(kind, seed, *first);) ++*first;
    }
    return count;
}

template <u32 dtype>
void values(const void* memory, u64 elements, double* into) {
    typedef typename Element<dtype>::Stored Stored;
    const Stored* stored = static_cast<const Stored*>(memory);
    for (u64 i = 0; i < elements; ++i) into[i] = Element<dtype>::value(stored[i]);
}

// Compares up to STRIP elements. Each loop does one thing, so that the compiler vectorizes it.
template <u32 dtype>
inline __attribute__((always_inline)) void compare_strip(const typename Element<dtype>::Stored* stored, const double* expected, u64 count, u64 index,
                                                         const Bounds& bounds, double* sums, double* largest, Result* result) {
    double found[STRIP], errors[STRIP];
    for (u64 i = 0; i < count; ++i) found[i] = Element<dtype>::value(stored[i]);
    // As `may_matter`, for all elements at once.
    const double worst = result->worst * ALMOST;
    const double share = result->max_rel_error * ALMOST;
    const double absolute = bounds.absolute, relative = bounds.relative, rms = bounds.rms;
    u64 any_matters = 0;
    for (u64 i = 0; i < count; ++i) {
        const double right = expected[i];
        const double error = __builtin_fabs(found[i] - right);
        const double size = __builtin_fabs(right);
        const double scale = size > rms ? size : rms;
        const double scaled = relative * size;
        const double bound = absolute + scaled;
        const double by_worst = bound * worst;
        const double by_share = scale * share;
        double limit = by_worst < bound ? by_worst : bound;
        limit = by_share < limit ? by_share : limit;
        errors[i] = error;
        any_matters |= (u64)!(error <= limit);
    }
    if (any_matters != 0) {
        for (u64 i = 0; i < count; ++i) errors[i] = record_error(found[i], expected[i], index + i, bounds, result);
    }
    for (u64 i = 0; i + LANES <= count; i += LANES) {
        for (u64 lane = 0; lane < LANES; ++lane) sums[lane] += errors[i + lane];
    }
    for (u64 i = 0; i + LANES <= count; i += LANES) {
        for (u64 lane = 0; lane < LANES; ++lane) largest[lane] = errors[i + lane] > largest[lane] ? errors[i + lane] : largest[lane];
    }
    for (u64 i = count / LANES * LANES; i < count; ++i) {
        sums[i % LANES] += errors[i];
        largest[i % LANES] = errors[i] > largest[i % LANES] ? errors[i] : largest[i % LANES];
    }
}

template <u32 dtype>
void compare(const void* memory, const double* expected, u64 elements, double rms, double atol_rms, double rtol, Result* result) {
    const typename Element<dtype>::Stored* stored = static_cast<const typename Element<dtype>::Stored*>(memory);
    const Bounds bounds = {atol_rms * rms, rtol, rms};
    double total = 0.0, group = 0.0;
    double largest[LANES] = {};
    for (u64 start = 0; start < elements; start += PIECE) {
        if (start % (GROUP * PIECE) == 0) {
            total += group;
            group = 0.0;
        }
        const u64 end = start + PIECE < elements ? start + PIECE : elements;
        double sums[LANES] = {};
        u64 i = start;
        for (; i + STRIP <= end; i += STRIP) compare_strip<dtype>(stored + i, expected + i, STRIP, i, bounds, sums, largest, result);
        compare_strip<dtype>(stored + i, expected + i, end - i, i, bounds, sums, largest, result);
        for (u64 lane = 0; lane < LANES; ++lane) group += sums[lane];
    }
    total += group;
    for (u64 lane = 0; lane < LANES; ++lane) result->max_abs_error = largest[lane] > result->max_abs_error ? largest[lane] : result->max_abs_error;
    result->mean_abs_error = elements == 0 ? 0.0 : total / (double)elements;
}

// Of the values that are neither 0 nor infinite nor a NaN; 0 if there is none.
double root_mean_square(const double* values, u64 elements) {
    u64 counted = 0;
    double total = 0.0, group = 0.0;
    for (u64 start = 0; start < elements; start += PIECE) {
        if (start % (GROUP * PIECE) == 0) {
            total += group;
            group = 0.0;
        }
        const u64 end = start + PIECE < elements ? start + PIECE : elements;
        double sums[LANES] = {};
        for (u64 i = start; i < end; ++i) {
            const bool counts = counts_for_rms(values[i]);
            const double value = counts ? values[i] : 0.0;
            sums[(i - start) % LANES] += value * value;
            counted += (u64)counts;
        }
        for (u64 lane = 0; lane < LANES; ++lane) group += sums[lane];
    }
    total += group;
    return counted == 0 ? 0.0 : sqrt(total / (double)counted);
}

#define KFORGE_EACH_DTYPE(function, ...)                                          \
    switch (dtype) {                                                              \
        case FLOAT64: return function<FLOAT64>(__VA_ARGS__);                      \
        case FLOAT32: return function<FLOAT32>(__VA_ARGS__);                      \
        case FLOAT16: return function<FLOAT16>(__VA_ARGS__);                      \
        case BFLOAT16: return function<BFLOAT16>(__VA_ARGS__);                    \
        case FLOAT8_E4M3: return function<FLOAT8_E4M3>(__VA_ARGS__);              \
        case FLOAT8_E5M2: return function<FLOAT8_E5M2>(__VA_ARGS__);              \
        case INT64: return function<INT64>(__VA_ARGS__);                          \
        case INT32: return function<INT32>(__VA_ARGS__);                          \
        case INT16: return function<INT16>(__VA_ARGS__);                          \
        case INT8: return function<INT8>(__VA_ARGS__);                            \
        default: return function<BOOL>(__VA_ARGS__);                              \
    }

void any_fill(u32 dtype, void* memory, u64 first, u64 elements, const Distribution* distribution, u64 seed) {
    KFORGE_EACH_DTYPE(fill, memory, first, elements, *distribution, seed)
}

void any_store(u32 dtype, const double* values, void* memory, u64 elements) { KFORGE_EACH_DTYPE(store, values, memory, elements) }

void any_poison(u32 dtype, void* memory, u64 elements, u32 kind, u64 seed) { KFORGE_EACH_DTYPE(poison, memory, elements, kind, seed) }

u64 any_unwritten(u32 dtype, const void* memory, u64 elements, u32 kind, u64 seed, u64* first) {
    KFORGE_EACH_DTYPE(unwritten, memory, elements, kind, seed, first)
}

void any_values(u32 dtype, const void* memory, u64 elements, double* into) { KFORGE_EACH_DTYPE(values, memory, elements, into) }

void any_compare(u32 dtype, const void* memory, const double* expected, u64 elements, double atol_rms, double rtol, Result* result) {
    const double rms = root_mean_square(expected, elements);
    KFORGE_EACH_DTYPE(compare, memory, expected, elements, rms, atol_rms, rtol, result)
}

double any_root_mean_square(const double* values, u64 elements) { return root_mean_square(values, elements); }

u64 any_hash(const void* memory, u64 bytes) {
    const u8* start = static_cast<const u8*>(memory);
    u64 hash = bytes;
    u64 index = 0;
    for (; index < bytes / 8; ++index) {
        u64 word;
        __builtin_memcpy(&word, start + 8 * index, 8);
        hash += hash_word(word, index);
    }
    u64 last = 0;
    __builtin_memcpy(&last, start + 8 * index, bytes % 8);
    return bytes % 8 == 0 ? hash : hash + hash_word(last, index);
}

u64 any_seed_of_copy(u64 seed, u64 copy) { return seed_of_copy(seed, copy); }

void any_fill_noise(void* memory, u64 first, u64 words, u64 key) {
    u64* stored = static_cast<u64*>(memory);
    for (u64 i = 0; i < words; ++i) stored[i] = mix(key, first + i);
}

u32 any_has_noise(const void* memory, u64 first, u64 words, u64 key) {
    const u64* stored = static_cast<const u64*>(memory);
    u64 differences = 0;
    for (u64 i = 0; i < words; ++i) differences |= stored[i] ^ mix(key, first + i);
    return differences == 0;
}

u64 any_first_not_finite(const double* values, u64 elements) {
    u64 i = 0;
    while (i < elements && __builtin_isfinite(values[i])) ++i;
    return i;
}

}  // namespace

// Same layout as `Functions` in numerics.rs.
struct Functions {
    decltype(&any_fill) fill;
    decltype(&any_store) store;
    decltype(&any_poison) poison;
    decltype(&any_unwritten) unwritten;
    decltype(&any_values) values;
    decltype(&any_compare) compare;
    decltype(&any_hash) hash;
    decltype(&any_seed_of_copy) seed_of_copy;
    decltype(&any_fill_noise) fill_noise;
    decltype(&any_has_noise) has_noise;
    decltype(&any_first_not_finite) first_not_finite;
    decltype(&any_root_mean_square) root_mean_square;
};

}  // namespace KFORGE_VARIANT

#define KFORGE_JOIN_(a, b) a##b
#define KFORGE_JOIN(a, b) KFORGE_JOIN_(a, b)
// Declared first: a const variable without a declaration would have internal linkage.
extern "C" const KFORGE_VARIANT::Functions KFORGE_JOIN(KFORGE_VARIANT, _functions);
extern "C" const KFORGE_VARIANT::Functions KFORGE_JOIN(KFORGE_VARIANT, _functions) = {
    KFORGE_VARIANT::any_fill,         KFORGE_VARIANT::any_store,      KFORGE_VARIANT::any_poison,    KFORGE_VARIANT::any_unwritten,
    KFORGE_VARIANT::any_values,       KFORGE_VARIANT::any_compare,    KFORGE_VARIANT::any_hash,
    KFORGE_VARIANT::any_seed_of_copy, KFORGE_VARIANT::any_fill_noise, KFORGE_VARIANT::any_has_noise, KFORGE_VARIANT::any_first_not_finite,
    KFORGE_VARIANT::any_root_mean_square,
};
