// Cooperative groups within a block: the block, tiles of a warp, coalesced threads, and partitions by label.
//
// Groups larger than a block are not declared: they need all blocks to run at once.

#pragma once

#include "warp.h"

namespace kforge {

// Shuffles a trivially copyable value of any size, eight bytes at a time.
template <typename T>
inline __attribute__((always_inline)) T exchange_any(unsigned mask, const T& value, unsigned source) {
    static_assert(std::is_trivially_copyable<T>::value, "a shuffle moves bytes: the type must be trivially copyable");
    if constexpr (sizeof(T) <= 8) {
        return from_bits<T>(collective(mask, Collective::shuffle, to_bits(value), source));
    } else {
        uint64_t words[(sizeof(T) + 7) / 8] = {};
        memcpy(words, &value, sizeof(T));
        for (uint64_t& word : words) word = collective(mask, Collective::shuffle, word, source);
        T result;
        memcpy(&result, words, sizeof(T));
        return result;
    }
}

}  // namespace kforge

namespace cooperative_groups {

class thread_block {
  public:
    class arrival_token {};
    static void sync() { __syncthreads(); }
    // Splitting arrive and wait only lets hardware overlap work. Here `barrier_wait` is the whole barrier.
    static arrival_token barrier_arrive() { return arrival_token(); }
    static void barrier_wait(arrival_token&&) { __syncthreads(); }
    static unsigned int thread_rank() { return (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x; }
    static unsigned int num_threads() { return blockDim.x * blockDim.y * blockDim.z; }
    static unsigned int size() { return num_threads(); }
    static dim3 group_index() { return dim3(blockIdx.x, blockIdx.y, blockIdx.z); }
    static dim3 thread_index() { return dim3(threadIdx.x, threadIdx.y, threadIdx.z); }
    static dim3 group_dim() { return blockDim; }
    static dim3 dim_threads() { return blockDim; }
    static bool is_valid() { return true; }
};

inline thread_block this_thread_block() { return thread_block(); }

// Some lanes of one warp. Ranks follow the order of the lanes.
class warp_group {
  public:
    void sync() const { __syncwarp(mask_); }
    unsigned int thread_rank() const { return (unsigned)__popc(mask_ & ((1u << ::kforge::current_lane) - 1)); }
    unsigned int num_threads() const { return (unsigned)__popc(mask_); }
    unsigned int size() const { return num_threads(); }
    bool is_valid() const { return true; }

    template <typename T>
    T shfl(T value, int rank) const { return ::kforge::exchange_any<T>(mask_, value, lane_of((unsigned)rank)); }
    template <typename T>
    T shfl_down(T value, unsigned int delta) const {
        const unsigned rank = thread_rank();
        return ::kforge::exchange_any<T>(mask_, value, rank + delta < num_threads() ? lane_of(rank + delta) : ::kforge::current_lane);
    }
    template <typename T>
    T shfl_up(T value, unsigned int delta) const {
        const unsigned rank = thread_rank();
        return ::kforge::exchange_any<T>(mask_, value, rank >= delta ? lane_of(rank - delta) : ::kforge::current_lane);
    }
    template <typename T>
    T shfl_xor(T value, unsigned int bits) const {
        const unsigned rank = thread_rank() ^ bits;
        return ::kforge::exchange_any<T>(mask_, value, rank < num_threads() ? lane_of(rank) : ::kforge::current_lane);
    }
    int any(int predicate) const { return __any_sync(mask_, predicate); }
    int all(int predicate) const { return __all_sync(mask_, predicate); }
    unsigned int ballot(int predicate) const { return compact(__ballot_sync(mask_, predicate)); }
    template <typename T>
    unsigned int match_any(T value) const { return compact(__match_any_sync(mask_, value)); }
    template <typename T>
    unsigned int match_all(T value, int& same) const { return compact(__match_all_sync(mask_, value, &same)); }

    // The mask of the group's lanes.
    unsigned int kforge_mask() const { return mask_; }

  protected:
    explicit warp_group(unsigned int mask) : mask_(mask) {}
    unsigned int mask_;

    unsigned lane_of(unsigned rank) const {
        const unsigned lowest = (unsigned)__builtin_ctz(mask_);
        if (mask_ >> lowest == 0xffffffffu >> (32 - num_threads())) return lowest + (rank & 31);
        return __fns(mask_, 0, (int)rank + 1) & 31;
    }
    // Maps a mask of lanes to a mask of ranks.
    unsigned compact(unsigned lanes) const {
        unsigned ranks = 0;
        for (unsigned rest = mask_, rank = 0; rest != 0; rest &= rest - 1, ++rank) ranks |= (lanes >> __builtin_ctz(rest) & 1) << rank;
        return ranks;
    }
};

// Any group within a block; its kind is known at run time only.
class thread_group {
  public:
    thread_group(const thread_block&) : mask_(0) {}
    thread_group(const warp_group& group) : mask_(group.kforge_mask()) {}
    void sync() const {
        if (mask_ == 0) {
            __syncthreads();
        } else {
            __syncwarp(mask_);
        }
    }
    unsigned int thread_rank() const {
        return mask_ == 0 ? thread_block::thread_rank() : (unsigned)__popc(mask_ & ((1u << ::kforge::current_lane) - 1));
    }
    unsigned int num_threads() const { return mask_ == 0 ? thread_block::num_threads() : (unsigned)__popc(mask_); }
    unsigned int size() const { return num_threads(); }
    bool is_valid() const { return true; }
    unsigned int kforge_mask() const { return mask_; }

  private:
    unsigned int mask_;  // 0: the whole block
};

template <unsigned int Size, typename Parent = void>
class thread_block_tile;

template <unsigned int Size>
class thread_block_tile<Size, void> : public warp_group {
  public:
    static_assert(Size >= 1 && Size <= 32 && (Size & (Size - 1)) == 0, "a tile has 1, 2, 4, 8, 16 or 32 threads");
    static constexpr unsigned int num_threads() { return Size; }
    static constexpr unsigned int size() { return Size; }
    static unsigned int thread_rank() { return ::kforge::current_lane & (Size - 1); }
    // Rank among the tiles of the parent.
    unsigned int meta_group_rank() const { return parent_size_ == 0 ? thread_block::thread_rank() / Size : (::kforge::current_lane & (parent_size_ - 1)) / Size; }
    unsigned int meta_group_size() const { return ((parent_size_ == 0 ? thread_block::num_threads() : parent_size_) + Size - 1) / Size; }

    // Faster versions: the size is a constant and the lanes are contiguous.
    template <typename T>
    T shfl(T value, int rank) const { return ::kforge::exchange_any<T>(mask_, value, first() + ((unsigned)rank & (Size - 1))); }
    template <typename T>
    T shfl_down(T value, unsigned int delta) const {
        return ::kforge::exchange_any<T>(mask_, value, ::kforge::current_lane + (thread_rank() + delta < Size ? delta : 0));
    }
    template <typename T>
    T shfl_up(T value, unsigned int delta) const {
        return ::kforge::exchange_any<T>(mask_, value, ::kforge::current_lane - (thread_rank() >= delta ? delta : 0));
    }
    template <typename T>
    T shfl_xor(T value, unsigned int bits) const {
        return ::kforge::exchange_any<T>(mask_, value, first() + ((thread_rank() ^ bits) < Size ? thread_rank() ^ bits : thread_rank()));
    }

  protected:
    explicit thread_block_tile(unsigned parent_size) : warp_group((0xffffffffu >> (32 - Size)) << first()), parent_size_(parent_size) {}
    static unsigned first() { return ::kforge::current_lane & ~(Size - 1); }
    unsigned parent_size_;  // 0: the parent is a block
};

template <unsigned int Size, typename Parent>
class thread_block_tile : public thread_block_tile<Size, void> {
    template <typename T>
    struct SizeOf {
        static constexpr unsigned value = 0;
    };
    template <unsigned int ParentSize, typename Grandparent>
    struct SizeOf<thread_block_tile<ParentSize, Grandparent>> {
        static constexpr unsigned value = ParentSize;
        static_assert(Size <= ParentSize, "a tile must not be larger than its parent");
    };

  public:
    thread_block_tile() : thread_block_tile<Size, void>(SizeOf<Parent>::value) {}
};

class coalesced_group : public warp_group {
  public:
    explicit coalesced_group(unsigned int mask, unsigned int meta_rank = 0, unsigned int meta_size = 1)
        : warp_group(mask), meta_rank_(meta_rank), meta_size_(meta_size) {}
    unsigned int meta_group_rank() const { return meta_rank_; }
    unsigned int meta_group_size() const { return meta_size_; }

  private:
    unsigned int meta_rank_, meta_size_;
};

inline coalesced_group coalesced_threads_at(unsigned int source_id) { return coalesced_group(::kforge::active_lanes(source_id)); }
#define coalesced_threads() coalesced_threads_at(__COUNTER__)

// ---- Partitions ----

template <unsigned int Size, typename Parent>
inline std::enable_if_t<!std::is_same<Parent, coalesced_group>::value, thread_block_tile<Size, Parent>> tiled_partition(const Parent&) {
    return thread_block_tile<Size, Parent>();
}

namespace kforge_details {
// The part of `size` consecutive ranks to which this lane belongs.
inline coalesced_group part_of(unsigned mask, unsigned size) {
    const unsigned rank = (unsigned)__popc(mask & ((1u << ::kforge::current_lane) - 1));
    unsigned part = 0, at = 0;
    for (unsigned rest = mask; rest != 0; rest &= rest - 1, ++at) {
        if (at / size == rank / size) part |= rest & (0u - rest);
    }
    return coalesced_group(part, rank / size, ((unsigned)__popc(mask) + size - 1) / size);
}
}  // namespace kforge_details

template <unsigned int Size>
inline coalesced_group tiled_partition(const coalesced_group& parent) { return kforge_details::part_of(parent.kforge_mask(), Size); }
inline coalesced_group tiled_partition(const coalesced_group& parent, unsigned int size) { return kforge_details::part_of(parent.kforge_mask(), size); }
// For a block: the lanes of this warp that are in the same tile. The last warp of a block may be partial.
inline thread_group tiled_partition(const thread_group& parent, unsigned int size) {
    if (parent.kforge_mask() != 0) return kforge_details::part_of(parent.kforge_mask(), size);
    const unsigned first_of_warp = thread_block::thread_rank() & ~31u;
    const unsigned lanes = thread_block::num_threads() - first_of_warp;
    return kforge_details::part_of(lanes >= 32 ? 0xffffffffu : (1u << lanes) - 1, size);
}
inline thread_group tiled_partition(const thread_block& parent, unsigned int size) { return tiled_partition(thread_group(parent), size); }

// The lanes of the group with the same label. Parts are ranked by the first lane of each label.
template <typename Group, typename Label>
inline coalesced_group labeled_partition(const Group& group, Label label) {
    static_assert(std::is_integral<Label>::value, "a label is an integer");
    using Word = std::conditional_t<(sizeof(Label) > 4), unsigned long long, unsigned>;
    const unsigned together = __match_any_sync(group.kforge_mask(), (Word)label);
    const bool is_first = (together & ((1u << ::kforge::current_lane) - 1)) == 0;
    const unsigned firsts = __ballot_sync(group.kforge_mask(), is_first);
    const unsigned own_first = together & (0u - together);
    return coalesced_group(together, (unsigned)__popc(firsts & (own_first - 1)), (unsigned)__popc(firsts));
}
template <typename Group>
inline coalesced_group binary_partition(const Group& group, bool predicate) {
    const unsigned yes = __ballot_sync(group.kforge_mask(), predicate);
    return coalesced_group(predicate ? yes : group.kforge_mask() & ~yes, predicate ? 1 : 0, 2);
}

template <typename Group>
inline void sync(const Group& group) { group.sync(); }
template <typename Group>
inline void wait(const Group& group) { group.sync(); }
template <unsigned int Stages, typename Group>
inline void wait_prior(const Group& group) { group.sync(); }
template <typename Group>
inline unsigned int thread_rank(const Group& group) { return group.thread_rank(); }
template <typename Group>
inline unsigned int group_size(const Group& group) { return group.num_threads(); }

// One thread of the group runs `work`; the `_broadcast` version returns its result to all threads.
template <typename Group, typename Work, typename... Arguments>
inline void invoke_one(const Group& group, Work&& work, Arguments&&... arguments) {
    if (group.thread_rank() == 0) work(static_cast<Arguments&&>(arguments)...);
}
template <typename Group, typename Work, typename... Arguments>
inline auto invoke_one_broadcast(const Group& group, Work&& work, Arguments&&... arguments) {
    std::decay_t<decltype(work(static_cast<Arguments&&>(arguments)...))> result{};
    if (group.thread_rank() == 0) result = work(static_cast<Arguments&&>(arguments)...);
    return group.shfl(result, 0);
}

// ---- Reductions and scans ----

#define KFORGE_OPERATION(name, expression)                     \
    template <typename T = void>                               \
    struct name {                                              \
        T operator()(T a, T b) const { return expression; }    \
    };                                                         \
    template <>                                                \
    struct name<void> {                                        \
        template <typename T>                                  \
        T operator()(T a, T b) const { return expression; }    \
    };
KFORGE_OPERATION(plus, a + b)
KFORGE_OPERATION(less, b < a ? b : a)
KFORGE_OPERATION(greater, a < b ? b : a)
KFORGE_OPERATION(bit_and, a & b)
KFORGE_OPERATION(bit_or, a | b)
KFORGE_OPERATION(bit_xor, a ^ b)
#undef KFORGE_OPERATION

template <typename Group, typename T, typename Operation>
inline T reduce(const Group& group, T value, Operation&& operation) {
    const unsigned size = group.num_threads();
    if ((size & (size - 1)) == 0) {
        for (unsigned bits = size / 2; bits != 0; bits /= 2) value = operation(value, group.shfl_xor(value, bits));
        return value;
    }
    T total = group.shfl(value, 0);
    for (unsigned rank = 1; rank < size; ++rank) total = operation(total, group.shfl(value, (int)rank));
    return total;
}

template <typename Group, typename T, typename Operation = plus<T>>
inline T inclusive_scan(const Group& group, T value, Operation&& operation = Operation()) {
    for (unsigned delta = 1; delta < group.num_threads(); delta *= 2) {
        const T before = group.shfl_up(value, delta);
        if (group.thread_rank() >= delta) value = operation(before, value);
    }
    return value;
}

template <typename Group, typename T, typename Operation = plus<T>>
inline T exclusive_scan(const Group& group, T value, Operation&& operation = Operation()) {
    const T before = group.shfl_up(inclusive_scan(group, value, operation), 1);
    return group.thread_rank() == 0 ? T() : before;
}

// One thread stores the group's total, or combines it with the value in memory.
template <typename Group, typename Atomic, typename T, typename Operation>
inline void reduce_update_async(const Group& group, Atomic& target, T value, Operation&& operation) {
    const T total = reduce(group, value, operation);
    if (group.thread_rank() == 0) {
        T old = target.load(), next;
        do next = operation(old, total);
        while (!target.compare_exchange_weak(old, next));
    }
}
template <typename Group, typename Atomic, typename T, typename Operation>
inline void reduce_store_async(const Group& group, Atomic& target, T value, Operation&& operation) {
    const T total = reduce(group, value, operation);
    if (group.thread_rank() == 0) target.store(total);
}

}  // namespace cooperative_groups
