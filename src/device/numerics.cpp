// The loops over `numerics.h` for memory that the CPU reaches. Called from `numerics.rs`, which checks every size.

#include "numerics.h"

#include <math.h>

using namespace kforge_numerics;

namespace {

// Sums run over pieces of this many elements, in eight lanes each, and over the pieces in order.
constexpr u64 PIECE = 4096;
constexpr u64 LANES = 8;
constexpr double ALMOST = 1.0 - 1e-12;

template <u32 dtype>
void fill(void* memory, u64 elements, u64 row, const Distribution& distribution, bool normalize, u64 seed) {
    typedef typename Element<dtype>::Stored Stored;
    Stored* stored = static_cast<Stored*>(memory);
    if (!normalize) {
        const Distribution local = distribution;
        if (local.shape == NORMAL) {
            for (u64 i = 0; i < elements; ++i) stored[i] = Element<dtype>::from(normal(seed, i) * local.first);
        } else {
            for (u64 i = 0; i < elements; ++i) stored[i] = Element<dtype>::make(local, seed, i);
        }
        return;
    }
    for (u64 start = 0; start < elements; start += row) {
        double sum = 0.0;
        for (u64 i = start; i < start + row; ++i) {
            const double value = draw(distribution, seed, i);
            sum += value * value;
        }
        const double length = sum > 0.0 ? sqrt(sum) : 1.0;
        for (u64 i = start; i < start + row; ++i) stored[i] = Element<dtype>::from(draw(distribution, seed, i) / length);
    }
}

template <u32 dtype>
void poison(void* memory, u64 elements, u64 seed) {
    typedef typename Element<dtype>::Stored Stored;
    Stored* stored = static_cast<Stored*>(memory);
    for (u64 i = 0; i < elements; ++i) stored[i] = Element<dtype>::finite_poison(mix(seed, i));
}

template <u32 dtype>
u64 unwritten(const void* memory, u64 elements, bool finite, u64 seed, u64* first) {
    typedef typename Element<dtype>::Stored Stored;
    const Stored* stored = static_cast<const Stored*>(memory);
    u64 count = 0;
    for (u64 i = 0; i < elements; ++i) {
        const Stored pattern = finite ? Element<dtype>::finite_poison(mix(seed, i)) : (Stored)~0ull;
        if (stored[i] == pattern) {
            if (count == 0) *first = i;
            ++count;
        }
    }
    return count;
}

template <u32 dtype>
void values(const void* memory, u64 elements, double* into) {
    typedef typename Element<dtype>::Stored Stored;
    const Stored* stored = static_cast<const Stored*>(memory);
    for (u64 i = 0; i < elements; ++i) into[i] = Element<dtype>::value(stored[i]);
}

struct Result {
    u64 failed;
    u64 first;
    double first_found;
    double max_abs_error;
    double max_rel_error;
    double mean_abs_error;
    double worst;
};

template <u32 dtype>
void compare(const void* memory, const double* expected, u64 elements, double rms, double atol_rms, double rtol, Result* result) {
    typedef typename Element<dtype>::Stored Stored;
    const Stored* stored = static_cast<const Stored*>(memory);
    const double absolute = atol_rms * rms;
    const double infinity = bits_of<double>(0x7ff0000000000000ull);
    double total = 0.0;
    for (u64 start = 0; start < elements; start += PIECE) {
        const u64 end = start + PIECE < elements ? start + PIECE : elements;
        double sums[LANES] = {};
        for (u64 i = start; i < end; ++i) {
            const double found = Element<dtype>::value(stored[i]);
            const double right = expected[i];
            const double size = right < 0 ? -right : right;
            const double scale = size > rms ? size : rms;
            const double scaled = rtol * size;
            const double bound = absolute + scaled;
            double error = found > right ? found - right : right - found;
            if (!(error <= bound)) {
                const double over = excess(found, right, absolute, rtol);
                if (over == 0.0) error = 0.0;
                if (!(error <= infinity)) error = infinity;
                if (over > result->worst) result->worst = over;
                if (!(over <= 1.0)) {
                    if (result->failed == 0) {
                        result->first = i;
                        result->first_found = found;
                    }
                    ++result->failed;
                }
            }
            sums[(i - start) % LANES] += error;
            if (error > result->max_abs_error) result->max_abs_error = error;
            // Divisions are dear: only what may be a new largest is divided, with room for the products' rounding.
            if (error > result->worst * bound * ALMOST) {
                const double over = bound > 0.0 ? error / bound : infinity;
                if (over > result->worst) result->worst = over;
            }
            if (error > result->max_rel_error * scale * ALMOST) {
                const double relative = scale > 0.0 ? error / scale : infinity;
                if (relative > result->max_rel_error) result->max_rel_error = relative;
            }
        }
        for (u64 lane = 0; lane < LANES; ++lane) total += sums[lane];
    }
    result->mean_abs_error = elements == 0 ? 0.0 : total / (double)elements;
}

double root_mean_square(const double* values, u64 elements) {
    double total = 0.0;
    for (u64 start = 0; start < elements; start += PIECE) {
        const u64 end = start + PIECE < elements ? start + PIECE : elements;
        double sums[LANES] = {};
        for (u64 i = start; i < end; ++i) sums[(i - start) % LANES] += values[i] * values[i];
        for (u64 lane = 0; lane < LANES; ++lane) total += sums[lane];
    }
    return elements == 0 ? 0.0 : sqrt(total / (double)elements);
}

}  // namespace

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

extern "C" {

void kforge_fill(u32 dtype, void* memory, u64 elements, u64 row, u32 shape, double first, double second, bool normalize, u64 seed) {
    const Distribution distribution = {shape, first, second};
    KFORGE_EACH_DTYPE(fill, memory, elements, row, distribution, normalize, seed)
}

void kforge_poison(u32 dtype, void* memory, u64 elements, u64 seed) { KFORGE_EACH_DTYPE(poison, memory, elements, seed) }

u64 kforge_unwritten(u32 dtype, const void* memory, u64 elements, bool finite, u64 seed, u64* first) {
    KFORGE_EACH_DTYPE(unwritten, memory, elements, finite, seed, first)
}

void kforge_values(u32 dtype, const void* memory, u64 elements, double* into) { KFORGE_EACH_DTYPE(values, memory, elements, into) }

void kforge_compare(u32 dtype, const void* memory, const double* expected, u64 elements, double atol_rms, double rtol, Result* result) {
    const double rms = root_mean_square(expected, elements);
    KFORGE_EACH_DTYPE(compare, memory, expected, elements, rms, atol_rms, rtol, result)
}

u64 kforge_hash(const void* memory, u64 bytes) {
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
}
