// Cooperative groups within a block: the block, tiles of a warp, and the lanes that happen to be together.
//
// Groups larger than a block need all blocks at once, which is not so here; they are not declared.

#pragma once

#include "warp.h"

namespace cooperative_groups {

class thread_block {
  public:
    static void sync() { __syncthreads(); }
    static unsigned int thread_rank() { return (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x; }
    static unsigned int num_threads() { return blockDim.x * blockDim.y * blockDim.z; }
    static unsigned int size() { return num_threads(); }
    static dim3 group_index() { return dim3(blockIdx.x, blockIdx.y, blockIdx.z); }
    static dim3 thread_index() { return dim3(threadIdx.x, threadIdx.y, threadIdx.z); }
    static dim3 group_dim() { return blockDim; }
    static dim3 dim_threads() { return blockDim; }
};

inline thread_block this_thread_block() { return thread_block(); }

// Lanes of one warp that work together; ranks follow the order of lanes.
class warp_group {
  public:
    void sync() const { __syncwarp(mask_); }
    unsigned int thread_rank() const { return (unsigned)__popc(mask_ & ((1u << ::kforge::current_lane) - 1)); }
    unsigned int num_threads() const { return (unsigned)__popc(mask_); }
    unsigned int size() const { return num_threads(); }

    template <typename T>
    T shfl(T value, int rank) const { return ::kforge::exchange<T>(mask_, value, lane_of((unsigned)rank)); }
    template <typename T>
    T shfl_down(T value, unsigned int delta) const {
        const unsigned rank = thread_rank();
        return ::kforge::exchange<T>(mask_, value, rank + delta < size() ? lane_of(rank + delta) : ::kforge::current_lane);
    }
    template <typename T>
    T shfl_up(T value, unsigned int delta) const {
        const unsigned rank = thread_rank();
        return ::kforge::exchange<T>(mask_, value, rank >= delta ? lane_of(rank - delta) : ::kforge::current_lane);
    }
    template <typename T>
    T shfl_xor(T value, unsigned int bits) const {
        const unsigned rank = thread_rank() ^ bits;
        return ::kforge::exchange<T>(mask_, value, rank < size() ? lane_of(rank) : ::kforge::current_lane);
    }
    int any(int predicate) const { return __any_sync(mask_, predicate); }
    int all(int predicate) const { return __all_sync(mask_, predicate); }
    unsigned int ballot(int predicate) const { return compact(__ballot_sync(mask_, predicate)); }
    template <typename T>
    unsigned int match_any(T value) const { return compact(__match_any_sync(mask_, value)); }
    template <typename T>
    unsigned int match_all(T value, int& same) const { return compact(__match_all_sync(mask_, value, &same)); }

  protected:
    explicit warp_group(unsigned int mask) : mask_(mask) {}
    unsigned int mask_;

    unsigned lane_of(unsigned rank) const {
        const unsigned lowest = (unsigned)__builtin_ctz(mask_);
        if (mask_ >> lowest == 0xffffffffu >> (32 - size())) return lowest + (rank & 31);
        return __fns(mask_, 0, (int)rank + 1) & 31;
    }
    // The bits of the group's lanes, by rank.
    unsigned compact(unsigned lanes) const {
        unsigned ranks = 0;
        for (unsigned rest = mask_, rank = 0; rest != 0; rest &= rest - 1, ++rank) ranks |= (lanes >> __builtin_ctz(rest) & 1) << rank;
        return ranks;
    }
};

template <unsigned int Size, typename Parent = void>
class thread_block_tile : public warp_group {
  public:
    static_assert(Size >= 1 && Size <= 32 && (Size & (Size - 1)) == 0, "a tile has 1, 2, 4, 8, 16 or 32 threads");
    thread_block_tile() : warp_group(lanes()) {}
    static constexpr unsigned int num_threads() { return Size; }
    static constexpr unsigned int size() { return Size; }
    static unsigned int thread_rank() { return ::kforge::current_lane & (Size - 1); }
    static unsigned int meta_group_rank() { return thread_block::thread_rank() / Size; }
    static unsigned int meta_group_size() { return (thread_block::num_threads() + Size - 1) / Size; }

    template <typename T>
    T shfl(T value, int rank) const { return __shfl_sync(mask_, value, rank, Size); }
    template <typename T>
    T shfl_down(T value, unsigned int delta) const { return __shfl_down_sync(mask_, value, delta, Size); }
    template <typename T>
    T shfl_up(T value, unsigned int delta) const { return __shfl_up_sync(mask_, value, delta, Size); }
    template <typename T>
    T shfl_xor(T value, unsigned int bits) const { return __shfl_xor_sync(mask_, value, (int)bits, Size); }

  private:
    static unsigned lanes() { return (0xffffffffu >> (32 - Size)) << (::kforge::current_lane & ~(Size - 1)); }
};

template <unsigned int Size, typename Parent>
inline thread_block_tile<Size, Parent> tiled_partition(const Parent&) {
    return thread_block_tile<Size, Parent>();
}

class coalesced_group : public warp_group {
  public:
    explicit coalesced_group(unsigned int mask) : warp_group(mask) {}
};

inline coalesced_group coalesced_threads_at(unsigned int place) { return coalesced_group(::kforge::active_lanes(place)); }
#define coalesced_threads() coalesced_threads_at(__COUNTER__)

template <typename Group>
inline void sync(const Group& group) {
    group.sync();
}

// ---- Reductions and scans ----

template <typename T = void>
struct plus {
    template <typename A, typename B>
    auto operator()(A a, B b) const { return a + b; }
};
template <typename T = void>
struct less {
    template <typename A>
    A operator()(A a, A b) const { return b < a ? b : a; }
};
template <typename T = void>
struct greater {
    template <typename A>
    A operator()(A a, A b) const { return a < b ? b : a; }
};
template <typename T = void>
struct bit_and {
    template <typename A>
    A operator()(A a, A b) const { return a & b; }
};
template <typename T = void>
struct bit_or {
    template <typename A>
    A operator()(A a, A b) const { return a | b; }
};
template <typename T = void>
struct bit_xor {
    template <typename A>
    A operator()(A a, A b) const { return a ^ b; }
};

template <typename Group, typename T, typename Operation>
inline T reduce(const Group& group, T value, Operation operation) {
    const unsigned size = group.size();
    if ((size & (size - 1)) == 0) {
        for (unsigned bits = size / 2; bits != 0; bits /= 2) value = operation(value, group.shfl_xor(value, bits));
        return value;
    }
    T total = group.shfl(value, 0);
    for (unsigned rank = 1; rank < size; ++rank) total = operation(total, group.shfl(value, (int)rank));
    return total;
}

template <typename Group, typename T, typename Operation = plus<T>>
inline T inclusive_scan(const Group& group, T value, Operation operation = Operation()) {
    for (unsigned delta = 1; delta < group.size(); delta *= 2) {
        const T before = group.shfl_up(value, delta);
        if (group.thread_rank() >= delta) value = operation(before, value);
    }
    return value;
}

template <typename Group, typename T, typename Operation = plus<T>>
inline T exclusive_scan(const Group& group, T value, Operation operation = Operation()) {
    const T before = group.shfl_up(inclusive_scan(group, value, operation), 1);
    return group.thread_rank() == 0 ? T() : before;
}

}  // namespace cooperative_groups
