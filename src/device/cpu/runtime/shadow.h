// Shadow memory of the race build: the latest accesses to every four bytes that several threads can reach, and the test for
// a race between two of them.
//
// Two accesses race if they overlap, at least one writes, not both are atomic, and neither happened before the other. Two
// writes of the same value do not race: the result does not depend on their order. Volatile accesses count as atomic
// between warps (kernels use them for flags), but not within a warp. Reporting a race is left to race.h.

#pragma once

#include <stdint.h>
#include <string.h>

#include "happens_before.h"
#include "regions.h"

namespace kforge {

// One recorded access.
struct PastAccess {
    uint32_t block;  // number over all launches, from 1; 0: the slot is empty
    uint32_t clock;
    uint16_t thread;
    uint8_t bytes;  // one bit for each of the cell's four bytes
    uint8_t flags;
    uint32_t site;
};

struct ShadowCell {
    PastAccess writes[2];
    PastAccess reads[2];  // with a single slot the racing reader would be overwritten
};

constexpr uint32_t CELL_BYTES = 4;

class Shadow {
  public:
    void cover(uintptr_t start, uintptr_t end) {
        start_ = start & ~static_cast<uintptr_t>(CELL_BYTES - 1);
        cells_ = static_cast<ShadowCell*>(lazy_memory(((end - start_) / CELL_BYTES + 1) * sizeof(ShadowCell)));
    }
    bool covers() const { return cells_ != nullptr; }
    ShadowCell& at(uintptr_t address) const { return cells_[(address - start_) / CELL_BYTES]; }

  private:
    uintptr_t start_ = 0;
    ShadowCell* cells_ = nullptr;
};

// The thread whose access is being checked.
struct CurrentThread {
    const BlockClocks* clocks;
    uint32_t first_block;  // of the launch, numbered as in PastAccess
    uint32_t since;        // accesses by earlier blocks cannot race: other launches, or other blocks' shared memory
    uint32_t block;
    uint32_t thread;

    bool is_ordered(const PastAccess& earlier) const {
        return earlier.block < since || clocks->is_ordered(thread, earlier.block - first_block, earlier.thread, earlier.clock);
    }
    bool both_atomic(const PastAccess& earlier, uint32_t flags) const {
        constexpr uint32_t EITHER = ACCESS_ATOMIC | ACCESS_VOLATILE;
        if ((earlier.flags & EITHER) == 0 || (flags & EITHER) == 0) return false;
        const bool same_warp = earlier.block == block && earlier.thread / LANES == thread / LANES;
        return !same_warp || ((earlier.flags | flags) & ACCESS_VOLATILE) == 0;
    }
};

// The earlier access that races with this one; null if there is none.
inline const PastAccess* find_race(const ShadowCell& cell, const CurrentThread& me, uint8_t bytes, uint32_t flags) {
    for (const PastAccess& write : cell.writes) {
        if ((write.bytes & bytes) != 0 && write.block != 0 && !me.both_atomic(write, flags) && !me.is_ordered(write)) return &write;
    }
    if ((flags & ACCESS_WRITE) == 0) return nullptr;
    for (const PastAccess& read : cell.reads) {
        if ((read.bytes & bytes) != 0 && read.block != 0 && !me.both_atomic(read, flags) && !me.is_ordered(read)) return &read;
    }
    return nullptr;
}

inline bool is_replaceable(const PastAccess& slot, const CurrentThread& me, uint8_t bytes) { return slot.block == 0 || ((slot.bytes & ~bytes) == 0 && me.is_ordered(slot)); }

inline void remember(ShadowCell& cell, const CurrentThread& me, const PastAccess& seen) {
    if ((seen.flags & ACCESS_WRITE) == 0) {
        for (PastAccess& read : cell.reads) {
            if (read.block == seen.block && read.thread == seen.thread) {
                const uint8_t bytes = read.clock == seen.clock ? read.bytes | seen.bytes : seen.bytes;
                // Keep the plain read: it can race where an atomic one cannot.
                const uint8_t flags = read.clock == seen.clock && (read.flags & (ACCESS_ATOMIC | ACCESS_VOLATILE)) == 0 ? read.flags : seen.flags;
                read = seen;
                read.bytes = bytes;
                read.flags = flags;
                return;
            }
        }
        for (PastAccess& read : cell.reads) {
            if (is_replaceable(read, me, seen.bytes)) {
                read = seen;
                return;
            }
        }
        cell.reads[1] = seen;
        return;
    }
    // Atomic operations on one address are ordered: an access that races with an earlier one also races with this one.
    if ((seen.flags & ACCESS_ATOMIC) != 0) {
        for (PastAccess* slot : {&cell.writes[0], &cell.writes[1], &cell.reads[0], &cell.reads[1]}) {
            if ((slot->flags & ACCESS_ATOMIC) != 0 && (slot->bytes & ~seen.bytes) == 0) slot->block = 0;
        }
    }
    // A read that is ordered before this write races only with accesses that also race with this write, so drop it.
    for (PastAccess& read : cell.reads) {
        if (is_replaceable(read, me, seen.bytes)) read.block = 0;
    }
    for (PastAccess& write : cell.writes) {
        if (is_replaceable(write, me, seen.bytes)) {
            write = seen;
            return;
        }
    }
    cell.writes[cell.writes[0].bytes == seen.bytes ? 0 : 1] = seen;
}

}  // namespace kforge
