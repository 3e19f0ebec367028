// The latest accesses to every four bytes of memory that several threads can reach, and what makes two of them a race.
//
// Two accesses race if they overlap, one of them writes, not both are atomic, and neither happened before the other. Two
// writes of the same value do not: whichever comes last, the result is the same. Volatile accesses count as atomic
// between warps, as flags are written, but not within one.

#pragma once

#include <stdint.h>
#include <string.h>

#include "knowledge.h"
#include "regions.h"

namespace kforge {

// One access, remembered.
struct Seen {
    uint32_t block;  // counted over all launches, from 1; 0: none
    uint32_t clock;
    uint16_t thread;
    uint8_t bytes;  // a bit for each of the four
    uint8_t flags;
    uint32_t site;
};

struct Cell {
    Seen writes[2];
    Seen reads[2];  // one slot alone would forget the reader that races
};

constexpr uint32_t CELL_BYTES = 4;

class Shadow {
  public:
    void cover(uintptr_t start, uintptr_t end) {
        start_ = start & ~static_cast<uintptr_t>(CELL_BYTES - 1);
        cells_ = static_cast<Cell*>(lazy_memory(((end - start_) / CELL_BYTES + 1) * sizeof(Cell)));
    }
    bool covers() const { return cells_ != nullptr; }
    Cell& at(uintptr_t address) const { return cells_[(address - start_) / CELL_BYTES]; }

  private:
    uintptr_t start_ = 0;
    Cell* cells_ = nullptr;
};

// The thread whose access is looked at.
struct Observer {
    const Clocks* clocks;
    uint32_t first_block;  // of the launch, counted as in Seen
    uint32_t since;        // what earlier blocks did cannot matter: an earlier launch, or in shared memory another block
    uint32_t block;
    uint32_t thread;

    bool ordered(const Seen& earlier) const {
        return earlier.block < since || clocks->knows(thread, earlier.block - first_block, earlier.thread, earlier.clock);
    }
    bool both_atomic(const Seen& earlier, uint32_t flags) const {
        constexpr uint32_t EITHER = ACCESS_ATOMIC | ACCESS_VOLATILE;
        if ((earlier.flags & EITHER) == 0 || (flags & EITHER) == 0) return false;
        const bool same_warp = earlier.block == block && earlier.thread / LANES == thread / LANES;
        return !same_warp || ((earlier.flags | flags) & ACCESS_VOLATILE) == 0;
    }
};

// The earlier access that races with this one, if any.
inline const Seen* racing(const Cell& cell, const Observer& me, uint8_t bytes, uint32_t flags) {
    for (const Seen& write : cell.writes) {
        if ((write.bytes & bytes) != 0 && write.block != 0 && !me.both_atomic(write, flags) && !me.ordered(write)) return &write;
    }
    if ((flags & ACCESS_WRITE) == 0) return nullptr;
    for (const Seen& read : cell.reads) {
        if ((read.bytes & bytes) != 0 && read.block != 0 && !me.both_atomic(read, flags) && !me.ordered(read)) return &read;
    }
    return nullptr;
}

inline bool is_free(const Seen& slot, const Observer& me, uint8_t bytes) { return slot.block == 0 || ((slot.bytes & ~bytes) == 0 && me.ordered(slot)); }

inline void remember(Cell& cell, const Observer& me, const Seen& seen) {
    if ((seen.flags & ACCESS_WRITE) == 0) {
        for (Seen& read : cell.reads) {
            if (read.block == seen.block && read.thread == seen.thread) {
                const uint8_t bytes = read.clock == seen.clock ? read.bytes | seen.bytes : seen.bytes;
                // A plain read says more than an atomic one.
                const uint8_t flags = read.clock == seen.clock && (read.flags & (ACCESS_ATOMIC | ACCESS_VOLATILE)) == 0 ? read.flags : seen.flags;
                read = seen;
                read.bytes = bytes;
                read.flags = flags;
                return;
            }
        }
        for (Seen& read : cell.reads) {
            if (is_free(read, me, seen.bytes)) {
                read = seen;
                return;
            }
        }
        cell.reads[1] = seen;
        return;
    }
    // Atomic operations at one place have an order of their own: who races with an earlier one races with this one.
    if ((seen.flags & ACCESS_ATOMIC) != 0) {
        for (Seen* slot : {&cell.writes[0], &cell.writes[1], &cell.reads[0], &cell.reads[1]}) {
            if ((slot->flags & ACCESS_ATOMIC) != 0 && (slot->bytes & ~seen.bytes) == 0) slot->block = 0;
        }
    }
    // What was read before a write that came after it in order can race with nothing that does not race with the write.
    for (Seen& read : cell.reads) {
        if (is_free(read, me, seen.bytes)) read.block = 0;
    }
    for (Seen& write : cell.writes) {
        if (is_free(write, me, seen.bytes)) {
            write = seen;
            return;
        }
    }
    cell.writes[cell.writes[0].bytes == seen.bytes ? 0 : 1] = seen;
}

}  // namespace kforge
