// The race build's checks of every access: races, reads of memory that nothing has written, and writes to inputs.
//
// An access is checked before it happens (race_hooks.h). So a write that races with another write is checked again at the next
// call: if it did not change the value, there is no race. Everything runs on one operating system thread. Which accesses are
// ordered is decided in happens_before.h; bounds are checked in regions.h.

#pragma once

#include "access_counts.h"
#include "schedule.h"
#include "shadow.h"

extern "C" uint32_t gridDim[3];

namespace kforge {

// In addition to the ACCESS_* flags of control.h, used here only. An atomic operation that does not read the old value.
constexpr uint32_t ACCESS_STORE = 1 << 8;
// A part of a copy. It is checked long before it happens, so there is no new value to compare.
constexpr uint32_t ACCESS_PART = 1 << 9;

constexpr uint8_t POISON = 0xff;

struct RaceState {
    Worker* worker;  // null while no kernel runs
    BlockClocks clocks;
    uint32_t blocks_begun;  // number of the running block, counted over all launches
    uint32_t first_block;   // number of the first block of this launch
    Shadow buffers[MAX_BUFFERS];
    Shadow shared;
    Shadow variables;
    // What atomic and volatile writes released, by address. Releases in shared memory end with the block.
    std::unordered_map<uintptr_t, ClockRef> releases;
    std::unordered_map<uintptr_t, ClockRef> shared_releases;

    // A write that may race with a write of another thread. Its value can only be compared once it has happened.
    bool has_pending_write;
    Access pending_write;
    PastAccess pending_earlier;
    uint64_t pending_before;
    uint32_t pending_block[3];
    uint32_t pending_thread[3];

    // A plain read of a location that another thread writes atomically. It is not a race if the same thread follows it with a
    // compare-and-swap at that address: CUDA programs build their own atomic operations this way.
    bool has_speculative_read;
    uint32_t speculative_thread;
    Access speculative_read;
    PastAccess speculative_earlier;

    // The first read of memory that nothing has written. Reported late: if another thread writes there, the race says more.
    bool has_unwritten_read;
    Access unwritten_read;
    uint32_t unwritten_block[3];
    uint32_t unwritten_thread[3];
};
static ManualLifetime<RaceState> race_storage;
static RaceState& race = race_storage.value;

static inline uint64_t value_at(uintptr_t address, uint32_t bytes) {
    uint64_t value = 0;
    memcpy(&value, reinterpret_cast<const void*>(address), bytes < 8 ? bytes : 8);
    return value;
}

static void position_of(const PastAccess& seen, uint32_t (&block)[3], uint32_t (&thread)[3]) {
    const uint64_t index = seen.block - race.first_block;
    block[0] = static_cast<uint32_t>(index % gridDim[0]);
    block[1] = static_cast<uint32_t>(index / gridDim[0] % gridDim[1]);
    block[2] = static_cast<uint32_t>(index / gridDim[0] / gridDim[1]);
    memcpy(thread, &race.worker->positions[seen.thread], sizeof(thread));
}

[[noreturn]] static void report_race(const Access& access, const PastAccess& earlier, uint64_t before, uint64_t after) {
    ControlPage::Fault& fault = control_page->fault;
    fault.other_site = earlier.site;
    fault.other_flags = earlier.flags;
    position_of(earlier, fault.other_block, fault.other_thread);
    fault.value = before;
    fault.other_value = after;
    fail_at(FAULT_RACE, access, "%s of %u bytes", access_phrase(access.flags), access.bytes);
}

// Checks the value of the pending write, which has happened by now.
static void check_pending_write() {
    race.has_pending_write = false;
    const uint64_t after = value_at(race.pending_write.address, race.pending_write.bytes);
    if (after == race.pending_before) return;
    fault_context.block = race.pending_block;
    fault_context.thread = race.pending_thread;
    report_race(race.pending_write, race.pending_earlier, race.pending_before, after);
}

[[noreturn]] static void report_speculative_read() {
    if (fault_context.thread != nullptr) {
        memcpy(race.pending_thread, &race.worker->positions[race.speculative_thread], sizeof(race.pending_thread));
        fault_context.thread = race.pending_thread;
    }
    report_race(race.speculative_read, race.speculative_earlier, value_at(race.speculative_read.address, race.speculative_read.bytes), 0);
}

// Called before any other fault is reported: that fault is probably a consequence of the read of unwritten memory.
static void report_unwritten_read(FaultKind kind) {
    if (!race.has_unwritten_read || race.worker == nullptr || kind == FAULT_RACE) return;
    race.has_unwritten_read = false;
    fault_context.block = race.unwritten_block;
    fault_context.thread = race.unwritten_thread;
    const Access& access = race.unwritten_read;
    fail_at(FAULT_UNINITIALIZED_READ, access, "%s of %u bytes that nothing has written", access_phrase(access.flags), access.bytes);
}

// Reports or clears everything pending before another thread runs or memory is reused.
static void check_pending() {
    if (race.has_pending_write) check_pending_write();
    if (race.has_speculative_read) report_speculative_read();
}

static void defer_write_check(const Access& access, const PastAccess& earlier) {
    race.has_pending_write = true;
    race.pending_write = access;
    race.pending_earlier = earlier;
    race.pending_before = value_at(access.address, access.bytes);
    memcpy(race.pending_block, fault_context.block, sizeof(race.pending_block));
    memcpy(race.pending_thread, fault_context.thread, sizeof(race.pending_thread));
}

static Shadow& shadow_of(Space space) {
    if (space == Space::shared) return race.shared;
    if (space == Space::variable) return race.variables;
    Shadow& shadow = race.buffers[regions.last_buffer];
    if (!shadow.covers()) shadow.cover(regions.buffers[regions.last_buffer].start, regions.buffers[regions.last_buffer].end);
    return shadow;
}

// Whether the bytes that count as unwritten still hold the pattern that the judge and the runtime fill memory with. Needed
// because the compiler does not instrument a store of a call's return value.
static bool is_poison(const uint8_t* written, const Access& access, uint8_t unwritten) {
    const uint8_t* memory = reinterpret_cast<const uint8_t*>(access.address);
    for (uint32_t i = 0; i < access.bytes; ++i) {
        if (written[i] == unwritten && memory[i] != POISON) return false;
    }
    return true;
}

static void check_written(Space space, const Access& access) {
    uint8_t* written;
    uint8_t unwritten = 0;
    if (space == Space::shared) {
        written = regions.shared_state + (access.address - regions.shared_start);
        unwritten = BYTE_UNWRITTEN;
    } else {
        const BufferRegion& buffer = regions.buffers[regions.last_buffer];
        if (space != Space::buffer || buffer.written == nullptr) return;
        written = buffer.written + (access.address - buffer.start);
    }
    const bool reads = (access.flags & ACCESS_WRITE) == 0 || (access.flags & (ACCESS_ATOMIC | ACCESS_STORE)) == ACCESS_ATOMIC;
    if (reads && !race.has_unwritten_read && has_byte(written, access.bytes, unwritten) && is_poison(written, access, unwritten)) {
        race.has_unwritten_read = true;
        race.unwritten_read = access;
        memcpy(race.unwritten_block, fault_context.block, sizeof(race.unwritten_block));
        memcpy(race.unwritten_thread, fault_context.thread, sizeof(race.unwritten_thread));
    }
    if ((access.flags & ACCESS_WRITE) != 0) memset(written, BYTE_WRITTEN, access.bytes);
}

static void check_order(Space space, const Access& access) {
    const Worker& w = *race.worker;
    const uint32_t since = space == Space::shared ? race.blocks_begun : race.first_block;
    const CurrentThread me = {&race.clocks, race.first_block, since, race.blocks_begun, w.thread};
    const Shadow& shadow = shadow_of(space);
    const uintptr_t end = access.address + access.bytes;
    for (uintptr_t address = access.address; address < end;) {
        const uint32_t offset = address % CELL_BYTES;
        const uint32_t taken = CELL_BYTES - offset < end - address ? CELL_BYTES - offset : static_cast<uint32_t>(end - address);
        const uint8_t bytes = static_cast<uint8_t>(((1u << taken) - 1) << offset);
        ShadowCell& cell = shadow.at(address);
        if (const PastAccess* earlier = find_race(cell, me, bytes, access.flags)) {
            const bool is_speculative = (access.flags & ~ACCESS_SHARED) == 0 && (earlier->flags & ACCESS_ATOMIC) != 0;
            if (is_speculative) {
                race.has_speculative_read = true;
                race.speculative_thread = w.thread;
                race.speculative_read = access;
                race.speculative_earlier = *earlier;
                return;
            }
            const bool two_writes = (access.flags & earlier->flags & ACCESS_WRITE) != 0;
            if (!two_writes || (access.flags & (ACCESS_ATOMIC | ACCESS_PART)) != 0) report_race(access, *earlier, value_at(access.address, access.bytes), 0);
            if (!race.has_pending_write) defer_write_check({address, taken, access.flags, access.site}, *earlier);
        }
        const PastAccess seen = {race.blocks_begun, race.clocks.clock[w.thread], static_cast<uint16_t>(w.thread), bytes, static_cast<uint8_t>(access.flags),
                           static_cast<uint32_t>(access.site)};
        remember(cell, me, seen);
        address += taken;
    }
}

// Checks one access of the kernel, before it happens.
static void check_access(const volatile void* pointer, uint32_t bytes, uint32_t flags, void* site) {
    if (race.has_pending_write) check_pending_write();
    if (race.worker == nullptr) return;
    Access access = {reinterpret_cast<uintptr_t>(pointer), bytes, flags, reinterpret_cast<uintptr_t>(site)};
    const Space space = checked_space(access);
    if (space == Space::none) return;
    if (race.has_speculative_read && ((flags & (ACCESS_WRITE | ACCESS_ATOMIC)) != 0 || race.speculative_thread != race.worker->thread)) report_speculative_read();
    if (space == Space::shared) access.flags |= ACCESS_SHARED;
    const BufferRegion* buffer = space == Space::buffer ? &buffer_of(access) : nullptr;
    if (access_counts.counting && space != Space::variable) count_access(access, race.worker->thread);
    if (buffer != nullptr && (buffer->flags & BUFFER_READ_ONLY) != 0) {
        if ((access.flags & ACCESS_WRITE) != 0) fail_at(FAULT_INPUT_MUTATED, access, "%s of %u bytes", access_phrase(access.flags), bytes);
        return;
    }
    check_written(space, access);
    check_order(space, access);
}

// ---- Called by the scheduler ----

void observe_barrier(Worker&) {
    check_pending();
    race.clocks.barrier();
}

void observe_sync(const Warp& warp, uint32_t lanes) {
    check_pending();
    race.clocks.sync(static_cast<uint32_t>(warp.contexts - race.worker->contexts), lanes);
}

static void race_begin_block(Worker& w, uint64_t block) {
    ++race.blocks_begun;
    race.clocks.begin(static_cast<uint32_t>(block), w.thread_count);
    race.shared_releases.clear();
    renew_shared();
    begin_counting(block, w.warp_count);
}

static void race_begin_launch(Worker& w, uint64_t blocks) {
    race.worker = &w;
    race.first_block = race.blocks_begun + 1;
    race.releases.clear();
    forget_shared();
    choose_sampled_blocks(blocks, w.thread_count);
}

// Reports what is pending before the memory of the block is cleared.
static void race_end_block() {
    check_pending();
    if ((race.unwritten_read.flags & ACCESS_SHARED) != 0) report_unwritten_read(FAULT_UNINITIALIZED_READ);
}

static void race_end_launch() {
    report_unwritten_read(FAULT_UNINITIALIZED_READ);
    end_counting();
    race.worker = nullptr;
}

// At the start of a run of the plan nothing counts as written. Earlier runs need no reset: block numbers keep increasing.
static void race_begin_run(const ControlPage& control) {
    begin_schedule(control.seed & ~SEED_ABSENT_BIT);
    for (uint32_t i = 0; i < regions.buffer_count; ++i) {
        const BufferRegion& buffer = regions.buffers[i];
        if (buffer.written != nullptr) memset(buffer.written, 0, buffer.end - buffer.start);
    }
}

static void race_set_up(const ControlPage& control, uintptr_t buffers_start, uintptr_t buffers_end) {
    new (&race) RaceState();
    new (&access_counts) AccessCounts();
    before_fault = report_unwritten_read;
    find_buffers(control, buffers_start, buffers_end, true);
    race.variables.cover(reinterpret_cast<uintptr_t>(&__data_start), reinterpret_cast<uintptr_t>(&_end));
}

static void race_set_up_shared(uintptr_t start, uintptr_t end) {
    find_shared(start, end);
    race.shared.cover(start, end);
}

}  // namespace kforge
