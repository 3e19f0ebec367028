// The harness kernels: fill, poison, compare, hash, guard zones, cache flush. Compiled without contraction: a function of
// `numerics.h` gives the same bits for an index here and on the CPU, and sums run in the same order.
//
// A buffer exists once in each copy of a kernel's data: `blockIdx.y` is the copy, and `buffers` has one address for each copy.
// These kernels never run while a candidate runs.

#include "numerics.h"

using namespace kforge_numerics;

// The numbers of the copies, at most MAX_NUMBERED_COPIES. If `count` is 0, copy i has number i.
constexpr u32 MAX_NUMBERED_COPIES = 16;
struct Copies {
    u32 count;
    u32 numbers[MAX_NUMBERED_COPIES];
};

// The addresses of a buffer's copies as an argument: filling a buffer then needs none of the judge's memory, which is hidden.
constexpr u32 MAX_ADDRESSES = 257;
struct Addresses {
    u64 of_copy[MAX_ADDRESSES];
};

__device__ inline u32 copy_number(const Copies& copies, u32 index) { return copies.count == 0 ? index : copies.numbers[index]; }

__device__ inline u64 thread_index() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ inline u64 thread_count() { return (u64)gridDim.x * blockDim.x; }

// Stores 16 bytes at a time: the address of every buffer is a multiple of 16.
template <u32 dtype, typename Make>
__device__ inline void store_all(u64 address, u64 elements, Make make) {
    typedef typename Element<dtype>::Stored Stored;
    constexpr u64 WIDTH = 16 / sizeof(Stored);
    Stored* stored = reinterpret_cast<Stored*>(address);
    for (u64 group = thread_index(); group < elements / WIDTH; group += thread_count()) {
        alignas(16) Stored values[WIDTH];
#pragma unroll
        for (u64 i = 0; i < WIDTH; ++i) values[i] = make(group * WIDTH + i);
        reinterpret_cast<uint4*>(stored)[group] = *reinterpret_cast<const uint4*>(values);
    }
    const u64 rest = elements / WIDTH * WIDTH + thread_index();
    if (rest < elements) stored[rest] = make(rest);
}

template <u32 dtype>
__global__ void fill(const __grid_constant__ Addresses buffers, u64 elements, const __grid_constant__ Distribution distribution, u64 seed,
                     const __grid_constant__ Copies copies) {
    const u64 own = seed_of_copy(seed, copy_number(copies, blockIdx.y));
    const Distribution local = distribution;
    if (is_plain(local) && local.shape == NORMAL) {
        store_all<dtype>(buffers.of_copy[blockIdx.y], elements, [&](u64 i) { return Element<dtype>::from(normal(own, i) * local.first); });
    } else {
        store_all<dtype>(buffers.of_copy[blockIdx.y], elements, [&](u64 i) { return Element<dtype>::make(local, own, i); });
    }
}

// One thread for each row, so that the sum has the same order as on the CPU.
template <u32 dtype>
__global__ void fill_rows(const __grid_constant__ Addresses buffers, u64 elements, const __grid_constant__ Distribution distribution, u64 seed,
                          const __grid_constant__ Copies copies) {
    typedef typename Element<dtype>::Stored Stored;
    const u64 own = seed_of_copy(seed, copy_number(copies, blockIdx.y));
    const Distribution local = distribution;
    Stored* stored = reinterpret_cast<Stored*>(buffers.of_copy[blockIdx.y]);
    for (u64 row = thread_index(); row < elements / local.row; row += thread_count()) {
        const u64 start = row * local.row;
        double sum = 0.0;
        for (u64 i = start; i < start + local.row; ++i) {
            const double value = shaped(local, own, i);
            sum += value * value;
        }
        const double length = sum > 0.0 ? sqrt(sum) : 1.0;
        for (u64 i = start; i < start + local.row; ++i) stored[i] = Element<dtype>::from(shaped(local, own, i) / length);
    }
}

template <u32 dtype>
__global__ void poison(const __grid_constant__ Addresses buffers, u64 elements, u32 kind, u64 seed,
                       const __grid_constant__ Copies copies) {
    const u64 own = seed_of_copy(seed, copy_number(copies, blockIdx.y));
    store_all<dtype>(buffers.of_copy[blockIdx.y], elements, [&](u64 i) { return poison_of<dtype>(kind, own, i); });
}

// Results start as zeros. The first index is stored as its complement, so that atomicMax finds the smallest.
struct Count {
    u64 count;
    u64 not_first;
};

__device__ inline void add_to(Count* total, u64 count, u64 first) {
    for (int offset = 16; offset > 0; offset /= 2) {
        count += __shfl_xor_sync(0xffffffffu, count, offset);
        const u64 other = __shfl_xor_sync(0xffffffffu, first, offset);
        first = other < first ? other : first;
    }
    if (threadIdx.x % 32 == 0 && count != 0) {
        atomicAdd(&total->count, count);
        atomicMax(&total->not_first, ~first);
    }
}

// Counts the elements that hold their poison (`want` 1) or another value (`want` 0). One result for each copy.
template <u32 dtype>
__global__ void count_poison(const u64* buffers, u64 elements, u32 kind, u64 seed, const __grid_constant__ Copies copies, u32 want,
                             Count* counts) {
    typedef typename Element<dtype>::Stored Stored;
    const u64 own = seed_of_copy(seed, copy_number(copies, blockIdx.y));
    const Stored* stored = reinterpret_cast<const Stored*>(buffers[blockIdx.y]);
    u64 count = 0, first = ~0ull;
    for (u64 i = thread_index(); i < elements; i += thread_count()) {
        if ((stored[i] == poison_of<dtype>(kind, own, i)) == (want != 0)) {
            ++count;
            first = i < first ? i : first;
        }
    }
    add_to(counts + blockIdx.y, count, first);
}

// ---- Comparison ----

// The number of pieces of a copy. Partial sums are stored by copy, then piece, then lane.
__device__ inline u64 pieces_of(u64 elements) { return (elements + PIECE - 1) / PIECE; }

// Calls `use` with the index of each element of a slot, in order, and what `load` has read there. Several elements are read before the
// first is used: a thread would otherwise wait for memory once for each of them.
template <typename Load, typename Use>
__device__ inline void for_each_in_slot(u64 slot, u64 elements, Load load, Use use) {
    constexpr int BATCH = 8;
    const u64 start = slot / LANES * PIECE;
    const u64 end = start + PIECE < elements ? start + PIECE : elements;
    u64 i = start + slot % LANES;
    for (; i + (BATCH - 1) * LANES < end; i += BATCH * LANES) {
        decltype(load(i)) loaded[BATCH];
#pragma unroll
        for (int j = 0; j < BATCH; ++j) loaded[j] = load(i + j * LANES);
#pragma unroll
        for (int j = 0; j < BATCH; ++j) use(i + j * LANES, loaded[j]);
    }
    for (; i < end; i += LANES) use(i, load(i));
}

// Same layout as in harness_kernels.rs (COMPARE_RESULT_WORDS).
struct CompareResult {
    u64 failed;
    u64 not_first;
    u64 max_abs_error;  // this and the next two: bits of non-negative doubles, which order like integers
    u64 max_rel_error;
    u64 worst;
    double rms;
    double mean_abs_error;
    u64 counted;  // the expected values that `rms` is the root mean square of
};

// Sums the squares of the expected values that count, for each lane of each piece, and counts them.
template <u32 dtype>
__global__ void square(const u64* buffers, u64 elements, double* partial, CompareResult* results) {
    typedef typename Element<dtype>::Stored Stored;
    const Stored* stored = reinterpret_cast<const Stored*>(buffers[blockIdx.y]);
    const u64 slots = pieces_of(elements) * LANES;
    u64 counted = 0;
    for (u64 slot = thread_index(); slot < slots; slot += thread_count()) {
        double sum = 0.0;
        for_each_in_slot(slot, elements, [&](u64 i) { return stored[i]; }, [&](u64, Stored read) {
            const double value = Element<dtype>::value(read);
            const bool counts = counts_for_rms(value);
            sum += counts ? value * value : 0.0;
            counted += counts;
        });
        partial[blockIdx.y * slots + slot] = sum;
    }
    for (int offset = 16; offset > 0; offset /= 2) counted += __shfl_xor_sync(0xffffffffu, counted, offset);
    if (threadIdx.x % 32 == 0 && counted != 0) atomicAdd(&results[blockIdx.y].counted, counted);
}

// Adds the partial sums of a copy in order, and stores the root of their mean (`root` 1; of the values that `square` has counted) or
// their mean. One block for each copy: one
// thread adds a group of pieces and overwrites its first partial sum; then one thread adds the groups.
__global__ void total(double* partial, u64 elements, u32 root, CompareResult* results) {
    const u64 slots = pieces_of(elements) * LANES;
    const u64 groups = (slots + GROUP * LANES - 1) / (GROUP * LANES);
    double* own = partial + blockIdx.y * slots;
    for (u64 group = threadIdx.x; group < groups; group += blockDim.x) {
        const u64 start = group * GROUP * LANES;
        const u64 end = start + GROUP * LANES < slots ? start + GROUP * LANES : slots;
        double sum = 0.0;
#pragma unroll 16
        for (u64 slot = start; slot < end; ++slot) sum += own[slot];
        own[start] = sum;
    }
    __syncthreads();
    if (threadIdx.x != 0) return;
    double sum = 0.0;
#pragma unroll 16
    for (u64 group = 0; group < groups; ++group) sum += own[group * GROUP * LANES];
    const u64 summed = root != 0 ? results[blockIdx.y].counted : elements;
    const double mean = summed == 0 ? 0.0 : sum / (double)summed;
    if (root != 0) {
        results[blockIdx.y].rms = sqrt(mean);
    } else {
        results[blockIdx.y].mean_abs_error = mean;
    }
}

template <u32 dtype, u32 expected_dtype>
__global__ void compare(const u64* buffers, const u64* expected_buffers, u64 elements, double atol_rms, double rtol, double* partial,
                        CompareResult* results) {
    typedef typename Element<dtype>::Stored Stored;
    typedef typename Element<expected_dtype>::Stored Expected;
    const Stored* stored = reinterpret_cast<const Stored*>(buffers[blockIdx.y]);
    const Expected* expected = reinterpret_cast<const Expected*>(expected_buffers[blockIdx.y]);
    CompareResult* total = results + blockIdx.y;
    const Bounds bounds = {atol_rms * total->rms, rtol, total->rms};
    const u64 slots = pieces_of(elements) * LANES;
    Result result = {};
    double largest = 0.0;
    for (u64 slot = thread_index(); slot < slots; slot += thread_count()) {
        double sum = 0.0;
        struct Pair {
            Stored found;
            Expected right;
        };
        for_each_in_slot(slot, elements, [&](u64 i) { return Pair{stored[i], expected[i]}; }, [&](u64 i, const Pair& pair) {
            const double found = Element<dtype>::value(pair.found);
            const double right = Element<expected_dtype>::value(pair.right);
            double error = found > right ? found - right : right - found;
            if (may_matter(error, right, bounds, result)) error = record_error(found, right, i, bounds, &result);
            sum += error;
            largest = error > largest ? error : largest;
        });
        partial[blockIdx.y * slots + slot] = sum;
    }
    if (result.failed != 0) {
        atomicAdd(&total->failed, result.failed);
        atomicMax(&total->not_first, ~result.first);
    }
    atomicMax(&total->max_abs_error, bits_of<u64>(largest));
    atomicMax(&total->max_rel_error, bits_of<u64>(result.max_rel_error));
    atomicMax(&total->worst, bits_of<u64>(result.worst));
}

__global__ void not_finite(const u64* buffers, u64 elements, Count* counts) {
    const u64* stored = reinterpret_cast<const u64*>(buffers[blockIdx.y]);
    u64 count = 0, first = ~0ull;
    for (u64 i = thread_index(); i < elements; i += thread_count()) {
        if (!is_finite(bits_of<double>(stored[i]))) {
            ++count;
            first = i < first ? i : first;
        }
    }
    add_to(counts + blockIdx.y, count, first);
}

// ---- Hash ----

__global__ void hash(const u64* buffers, u64 bytes, u64* hashes) {
    const u64* words = reinterpret_cast<const u64*>(buffers[blockIdx.y]);
    u64 share = 0;
    for (u64 i = thread_index(); i < bytes / 8; i += thread_count()) share += hash_word(words[i], i);
    if (thread_index() == 0) {
        share += bytes;
        u64 last = 0;
        const u8* rest = reinterpret_cast<const u8*>(words + bytes / 8);
        for (u64 i = 0; i < bytes % 8; ++i) last |= (u64)rest[i] << 8 * i;
        if (bytes % 8 != 0) share += hash_word(last, bytes / 8);
    }
    for (int offset = 16; offset > 0; offset /= 2) share += __shfl_xor_sync(0xffffffffu, share, offset);
    if (threadIdx.x % 32 == 0) atomicAdd(hashes + blockIdx.y, share);
}

// ---- Guard zones ----

// Bytes that belong to no buffer and that a kernel must not write. Same layout as `GuardZone` in layout.rs.
struct Zone {
    u64 start;
    u64 bytes;
    u64 distance;  // from the data to the nearest byte of the zone
    u32 buffer;
    u32 behind;  // 1: after the data; 0: before it
};

// The byte of a guard zone at an address. `key` is a secret of the host, so that no kernel can restore what it has overwritten.
__device__ inline u64 canary_word(u64 key, u64 address) { return mix(key, address / 8); }
__device__ inline u8 canary(u64 key, u64 address) { return (u8)(canary_word(key, address) >> address % 8 * 8); }

// Whole words of a zone; before and behind them are up to 7 bytes.
__device__ inline u64 first_word(const Zone& zone) { return (zone.start + 7) / 8 * 8; }
__device__ inline u64 words_end(const Zone& zone) {
    const u64 first = first_word(zone), end = (zone.start + zone.bytes) / 8 * 8;
    return end < first ? first : end;
}

__global__ void write_guard_zones(const Zone* zones, u64 key) {
    const Zone zone = zones[blockIdx.x];
    const u64 first = first_word(zone), words = words_end(zone), end = zone.start + zone.bytes;
    for (u64 at = first + threadIdx.x * 8; at < words; at += blockDim.x * 8) *reinterpret_cast<u64*>(at) = canary_word(key, at);
    for (u64 at = zone.start + threadIdx.x; at < first && at < end; at += blockDim.x) *reinterpret_cast<u8*>(at) = canary(key, at);
    for (u64 at = words + threadIdx.x; at < end; at += blockDim.x) *reinterpret_cast<u8*>(at) = canary(key, at);
}

// The damage at one byte, as the complement of twice its distance, plus 1 if it is before the data; smaller is nearer.
__device__ inline u64 damage_at(const Zone& zone, u64 at) {
    return zone.behind != 0 ? 2 * (zone.distance + (at - zone.start)) : 2 * (zone.distance + (zone.start + zone.bytes - at)) + 1;
}

// For each buffer, the damage nearest to its data.
__global__ void check_guard_zones(const Zone* zones, u64 key, u64* damages) {
    const Zone zone = zones[blockIdx.x];
    const u64 first = first_word(zone), words = words_end(zone), end = zone.start + zone.bytes;
    u64 nearest = ~0ull;
    const auto check = [&](u64 at) {
        if (*reinterpret_cast<const u8*>(at) == canary(key, at)) return;
        const u64 damage = damage_at(zone, at);
        nearest = damage < nearest ? damage : nearest;
    };
    for (u64 at = first + threadIdx.x * 8; at < words; at += blockDim.x * 8) {
        if (*reinterpret_cast<const u64*>(at) == canary_word(key, at)) continue;
        for (u64 i = 0; i < 8; ++i) check(at + i);
    }
    for (u64 at = zone.start + threadIdx.x; at < first && at < end; at += blockDim.x) check(at);
    for (u64 at = words + threadIdx.x; at < end; at += blockDim.x) check(at);
    if (nearest != ~0ull) atomicMax(damages + zone.buffer, ~nearest);
}

// ---- State that must not outlive a launch ----

// Keeps a block in its place for about 5 us, until all blocks of the launch have started. A block that ends at once leaves its place to a
// later one, and another place is not overwritten.
__device__ void hold_place() {
    const long long start = clock64();
    while (clock64() - start < 10000) {
    }
}

// Gives 54 registers of a thread other values, from the shared memory at this address: all loads come before the first store. The threads of
// the block have all registers of the multiprocessor, and the kernel itself uses the ten others.
#define EACH_OF_9(make, tens) make(tens##0) make(tens##1) make(tens##2) make(tens##3) make(tens##4) make(tens##5) make(tens##6) make(tens##7) make(tens##8)
#define EACH_OF_54(make) EACH_OF_9(make, 1) EACH_OF_9(make, 2) EACH_OF_9(make, 3) EACH_OF_9(make, 4) EACH_OF_9(make, 5) EACH_OF_9(make, 6)
#define LOAD_WORD(n) "ld.volatile.shared.u32 word" #n ", [%0+4*" #n "];\n"
#define STORE_WORD(n) "st.volatile.shared.u32 [%0+4*" #n "], word" #n ";\n"
__device__ void overwrite_registers(u32 address) {
    asm volatile("{\n.reg .u32 word<69>;\n" EACH_OF_54(LOAD_WORD) EACH_OF_54(STORE_WORD) "}" ::"r"(address) : "memory");
}

// Overwrites the shared memory and the registers of a multiprocessor. Launched with one block for each multiprocessor. Nothing reads what is
// stored here, so the stores are assembly: the compiler removes others.
__global__ void __launch_bounds__(1024, 1) scrub_shared(u32 words) {
    extern __shared__ u32 shared[];
    const u32 start = (u32)__cvta_generic_to_shared(shared);
    for (u32 i = threadIdx.x; i < words; i += blockDim.x) {
        asm volatile("st.shared.u32 [%0], %1;" ::"r"(start + 4 * i), "r"(0xffffffffu) : "memory");
    }
    // The first kibibyte of a block is the system's. A kernel can write to it too.
    if (start >= 1024) {
        for (u32 i = threadIdx.x * 4; i < 1024; i += blockDim.x * 4) asm volatile("st.shared.u32 [%0], %1;" ::"r"(i), "r"(0u) : "memory");
    }
    __syncthreads();
    overwrite_registers(start);
    hold_place();
}

// Overwrites `LOCAL_BYTES` bytes of the local memory of every thread that fits on the device. The host defines `LOCAL_BYTES`, and checks
// that the compiled kernel has as much local memory. The stores are assembly, as in `scrub_shared`.
#ifdef LOCAL_BYTES
__global__ void __launch_bounds__(1024, 2) scrub_local(u32 value) {
    alignas(16) u32 local[LOCAL_BYTES / 4];
    const u64 start = (u64)__cvta_generic_to_local(local);
#pragma unroll 1
    for (u32 i = 0; i < LOCAL_BYTES; i += 16) {
        asm volatile("st.local.v4.u32 [%0], {%1, %1, %1, %1};" ::"l"(start + i), "r"(value) : "memory");
    }
    hold_place();
}
#endif

// A hash of each range: memory around the variables of a module.
struct Range {
    u64 start;
    u64 bytes;
};

__global__ void hash_ranges(const Range* ranges, u64* hashes) {
    const Range range = ranges[blockIdx.y];
    const u64* words = reinterpret_cast<const u64*>(range.start);
    u64 share = 0;
    for (u64 i = thread_index(); i < range.bytes / 8; i += thread_count()) share += hash_word(words[i], i);
    for (int offset = 16; offset > 0; offset /= 2) share += __shfl_xor_sync(0xffffffffu, share, offset);
    if (threadIdx.x % 32 == 0) atomicAdd(hashes + blockIdx.y, share);
}

// Reads memory, so that the cache holds it as clean lines.
__global__ void read_through(const uint4* memory, u64 groups, u32* sink) {
    u32 sum = 0;
    for (u64 i = thread_index(); i < groups; i += thread_count()) {
        const uint4 group = memory[i];
        sum ^= group.x ^ group.y ^ group.z ^ group.w;
    }
    if (sum == 0x9e3779b9u) *sink = sum;
}

// One thread waits, so that the device is busy while the host queues more.
__global__ void wait(u64 nanoseconds) {
    if (thread_index() > 0) return;
    u64 start, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
    do {
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    } while (now - start < nanoseconds);
}

// Reads a word of each sector of 32 bytes, so that the cache holds all of them. Writes nothing.
__global__ void warm(const u32* memory, u64 sectors) {
    for (u64 i = thread_index(); i < sectors; i += thread_count()) {
        const u32 word = *static_cast<const volatile u32*>(memory + 8 * i);
        (void)word;
    }
}
