// The race build's watch over every access: what gcc's -fsanitize=thread calls, without its library.
//
// A call comes before its access, so a write is looked at again at the next call: one that changes nothing races with no
// other write. Everything runs on one operating system thread.

#pragma once

#include "figures.h"
#include "schedule.h"
#include "shadow.h"

extern "C" uint32_t gridDim[3];

namespace kforge {

// Beside the flags of control.h, and only here: an atomic operation that does not need what was there before.
constexpr uint32_t ACCESS_STORE = 1 << 8;
// A part of a copy: it is announced long before it happens, so there is no value to look at.
constexpr uint32_t ACCESS_PART = 1 << 9;

constexpr uint8_t POISON = 0xff;

struct Watched {
    Worker* worker;  // null while no kernel runs
    Clocks clocks;
    uint32_t blocks_begun;  // of all launches
    uint32_t first_block;   // of this one
    Shadow buffers[MAX_BUFFERS];
    Shadow shared;
    Shadow variables;
    // By the address of an atomic or volatile write. What is in shared memory ends with its block.
    std::unordered_map<uintptr_t, Told> releases;
    std::unordered_map<uintptr_t, Told> shared_releases;

    // A write over another thread's, whose value is not yet there to be looked at.
    bool pending;
    Access write;
    Seen earlier;
    uint64_t before;
    uint32_t block[3];
    uint32_t thread[3];

    // A plain read of what another thread writes atomically. It is no race if a compare-and-swap of the same thread follows
    // that takes nothing for granted: that is how CUDA programs build atomics of their own.
    bool guessed;
    uint32_t guesser;
    Access guess;
    Seen guessed_at;

    // The first read of what nothing has written. Another thread may write it yet: then the two race, which says more.
    bool unwritten;
    Access unwritten_read;
    uint32_t unwritten_block[3];
    uint32_t unwritten_thread[3];
};
static Unbuilt<Watched> watched_storage;
static Watched& watched = watched_storage.value;

static inline uint64_t value_at(uintptr_t address, uint32_t bytes) {
    uint64_t value = 0;
    memcpy(&value, reinterpret_cast<const void*>(address), bytes < 8 ? bytes : 8);
    return value;
}

static void place_of(const Seen& seen, uint32_t (&block)[3], uint32_t (&thread)[3]) {
    const uint64_t index = seen.block - watched.first_block;
    block[0] = static_cast<uint32_t>(index % gridDim[0]);
    block[1] = static_cast<uint32_t>(index / gridDim[0] % gridDim[1]);
    block[2] = static_cast<uint32_t>(index / gridDim[0] / gridDim[1]);
    memcpy(thread, &watched.worker->places[seen.thread], sizeof(thread));
}

[[noreturn]] static void report_race(const Access& access, const Seen& earlier, uint64_t before, uint64_t after) {
    Control::Fault& fault = control_page->fault;
    fault.other_site = earlier.site;
    fault.other_flags = earlier.flags;
    place_of(earlier, fault.other_block, fault.other_thread);
    fault.value = before;
    fault.other_value = after;
    fail_at(FAULT_RACE, access, "%s of %u bytes", verb(access.flags), access.bytes);
}

// The write that the last call announced has happened by now.
static void settle() {
    watched.pending = false;
    const uint64_t after = value_at(watched.write.address, watched.write.bytes);
    if (after == watched.before) return;
    fault_context.block = watched.block;
    fault_context.thread = watched.thread;
    report_race(watched.write, watched.earlier, watched.before, after);
}

[[noreturn]] static void report_guess() {
    if (fault_context.thread != nullptr) {
        memcpy(watched.thread, &watched.worker->places[watched.guesser], sizeof(watched.thread));
        fault_context.thread = watched.thread;
    }
    report_race(watched.guess, watched.guessed_at, value_at(watched.guess.address, watched.guess.bytes), 0);
}

// Before any other fault is told: what follows a read of nothing is its consequence.
static void report_unwritten(FaultKind kind) {
    if (!watched.unwritten || watched.worker == nullptr || kind == FAULT_RACE) return;
    watched.unwritten = false;
    fault_context.block = watched.unwritten_block;
    fault_context.thread = watched.unwritten_thread;
    const Access& access = watched.unwritten_read;
    fail_at(FAULT_UNINITIALIZED_READ, access, "%s of %u bytes that nothing has written", verb(access.flags), access.bytes);
}

// What waited for a look must have it before threads or memory change.
static void settle_all() {
    if (watched.pending) settle();
    if (watched.guessed) report_guess();
}

static void announce(const Access& access, const Seen& earlier) {
    watched.pending = true;
    watched.write = access;
    watched.earlier = earlier;
    watched.before = value_at(access.address, access.bytes);
    memcpy(watched.block, fault_context.block, sizeof(watched.block));
    memcpy(watched.thread, fault_context.thread, sizeof(watched.thread));
}

static Shadow& shadow_of(Space space) {
    if (space == Space::shared) return watched.shared;
    if (space == Space::variable) return watched.variables;
    Shadow& shadow = watched.buffers[regions.last_buffer];
    if (!shadow.covers()) shadow.cover(regions.buffers[regions.last_buffer].start, regions.buffers[regions.last_buffer].end);
    return shadow;
}

// Whether what nobody was seen to write still is what the judge and the runtime fill memory with. The compiler watches no
// write that stores what a call returns.
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
    if (reads && !watched.unwritten && has_byte(written, access.bytes, unwritten) && is_poison(written, access, unwritten)) {
        watched.unwritten = true;
        watched.unwritten_read = access;
        memcpy(watched.unwritten_block, fault_context.block, sizeof(watched.unwritten_block));
        memcpy(watched.unwritten_thread, fault_context.thread, sizeof(watched.unwritten_thread));
    }
    if ((access.flags & ACCESS_WRITE) != 0) memset(written, BYTE_WRITTEN, access.bytes);
}

static void check_order(Space space, const Access& access) {
    const Worker& w = *watched.worker;
    const uint32_t since = space == Space::shared ? watched.blocks_begun : watched.first_block;
    const Observer me = {&watched.clocks, watched.first_block, since, watched.blocks_begun, w.thread};
    const Shadow& shadow = shadow_of(space);
    const uintptr_t end = access.address + access.bytes;
    for (uintptr_t address = access.address; address < end;) {
        const uint32_t offset = address % CELL_BYTES;
        const uint32_t taken = CELL_BYTES - offset < end - address ? CELL_BYTES - offset : static_cast<uint32_t>(end - address);
        const uint8_t bytes = static_cast<uint8_t>(((1u << taken) - 1) << offset);
        Cell& cell = shadow.at(address);
        if (const Seen* earlier = racing(cell, me, bytes, access.flags)) {
            const bool guesses = (access.flags & ~ACCESS_SHARED) == 0 && (earlier->flags & ACCESS_ATOMIC) != 0;
            if (guesses) {
                watched.guessed = true;
                watched.guesser = w.thread;
                watched.guess = access;
                watched.guessed_at = *earlier;
                return;
            }
            const bool two_writes = (access.flags & earlier->flags & ACCESS_WRITE) != 0;
            if (!two_writes || (access.flags & (ACCESS_ATOMIC | ACCESS_PART)) != 0) report_race(access, *earlier, value_at(access.address, access.bytes), 0);
            if (!watched.pending) announce({address, taken, access.flags, access.site}, *earlier);
        }
        const Seen seen = {watched.blocks_begun, watched.clocks.clock[w.thread], static_cast<uint16_t>(w.thread), bytes, static_cast<uint8_t>(access.flags),
                           static_cast<uint32_t>(access.site)};
        remember(cell, me, seen);
        address += taken;
    }
}

// Every access of the kernel, before it happens.
static void watch(const volatile void* pointer, uint32_t bytes, uint32_t flags, void* site) {
    if (watched.pending) settle();
    if (watched.worker == nullptr) return;
    Access access = {reinterpret_cast<uintptr_t>(pointer), bytes, flags, reinterpret_cast<uintptr_t>(site)};
    const Space space = checked_space(access);
    if (space == Space::none) return;
    if (watched.guessed && ((flags & (ACCESS_WRITE | ACCESS_ATOMIC)) != 0 || watched.guesser != watched.worker->thread)) report_guess();
    if (space == Space::shared) access.flags |= ACCESS_SHARED;
    const BufferRegion* buffer = space == Space::buffer ? &buffer_of(access) : nullptr;
    if (figures.counting && space != Space::variable) count(access, watched.worker->thread);
    if (buffer != nullptr && (buffer->flags & BUFFER_READ_ONLY) != 0) {
        if ((access.flags & ACCESS_WRITE) != 0) fail_at(FAULT_INPUT_MUTATED, access, "%s of %u bytes", verb(access.flags), bytes);
        return;
    }
    check_written(space, access);
    check_order(space, access);
}

// ---- What the scheduler says ----

void observe_barrier(Worker&) {
    settle_all();
    watched.clocks.barrier();
}

void observe_sync(const Warp& warp, uint32_t lanes) {
    settle_all();
    watched.clocks.sync(static_cast<uint32_t>(warp.contexts - watched.worker->contexts), lanes);
}

static void watch_block(Worker& w, uint64_t block) {
    ++watched.blocks_begun;
    watched.clocks.begin(static_cast<uint32_t>(block), w.thread_count);
    watched.shared_releases.clear();
    renew_shared();
    begin_figures(block, w.warp_count);
}

static void watch_launch(Worker& w, uint64_t blocks) {
    watched.worker = &w;
    watched.first_block = watched.blocks_begun + 1;
    watched.releases.clear();
    forget_shared();
    choose_figures(blocks, w.thread_count);
}

// Before anything of the block is cleared.
static void end_watch_of_block() {
    settle_all();
    if ((watched.unwritten_read.flags & ACCESS_SHARED) != 0) report_unwritten(FAULT_UNINITIALIZED_READ);
}

static void end_watch() {
    report_unwritten(FAULT_UNINITIALIZED_READ);
    end_figures();
    watched.worker = nullptr;
}

// A unit begins with nothing written, and nothing of the last one remembered: its blocks have been counted on.
static void watch_unit(const Control& control) {
    begin_schedule(control.seed);
    for (uint32_t i = 0; i < regions.buffer_count; ++i) {
        const BufferRegion& buffer = regions.buffers[i];
        if (buffer.written != nullptr) memset(buffer.written, 0, buffer.end - buffer.start);
    }
}

static void watch_memory(const Control& control, uintptr_t buffers_start, uintptr_t buffers_end) {
    new (&watched) Watched();
    new (&figures) Figures();
    before_fault = report_unwritten;
    find_buffers(control, buffers_start, buffers_end, true);
    watched.variables.cover(reinterpret_cast<uintptr_t>(&__data_start), reinterpret_cast<uintptr_t>(&_end));
}

static void watch_shared(uintptr_t start, uintptr_t end) {
    find_shared(start, end);
    watched.shared.cover(start, end);
}

// ---- Atomic operations, and fences ----

constexpr bool releases(int order) { return order == __ATOMIC_RELEASE || order == __ATOMIC_ACQ_REL || order == __ATOMIC_SEQ_CST; }

static std::unordered_map<uintptr_t, Told>& releases_of(uintptr_t address) {
    const bool is_shared = address - regions.shared_start < regions.shared_end - regions.shared_start;
    return is_shared ? watched.shared_releases : watched.releases;
}

// A reading half acquires whatever was released at the address: kernels often rely on a barrier behind it for their own
// side, and reporting a missing fence there would accuse honest ones.
static void acquire_at(uintptr_t address) {
    if (watched.worker == nullptr) return;
    const auto& releases = releases_of(address);
    const auto found = releases.find(address);
    if (found != releases.end()) watched.clocks.acquire(watched.worker->thread, found->second);
}

static void release_at(uintptr_t address, bool keeps_earlier) {
    if (watched.worker == nullptr) return;
    const Told telling = watched.clocks.release(watched.worker->thread);
    Told& there = releases_of(address)[address];
    there = keeps_earlier ? both(there, telling, watched.clocks.block, watched.clocks.threads) : telling;
}

static void fence(int order) {
    if (watched.pending) settle();
    if (watched.worker != nullptr && releases(order)) watched.clocks.fence(watched.worker->thread);
}

template <typename T>
static T watched_load(const volatile T* address, void* site) {
    watch(address, sizeof(T), ACCESS_ATOMIC, site);
    acquire_at(reinterpret_cast<uintptr_t>(address));
    return *address;
}

template <typename T>
static void watched_store(volatile T* address, T value, int order, void* site) {
    fence(order);
    watch(address, sizeof(T), ACCESS_ATOMIC | ACCESS_WRITE | ACCESS_STORE, site);
    release_at(reinterpret_cast<uintptr_t>(address), false);
    *address = value;
}

template <typename T, typename Change>
static T watched_change(volatile T* address, int order, void* site, uint32_t flags, Change change) {
    fence(order);
    watch(address, sizeof(T), ACCESS_ATOMIC | ACCESS_WRITE | flags, site);
    acquire_at(reinterpret_cast<uintptr_t>(address));
    release_at(reinterpret_cast<uintptr_t>(address), true);
    const T old = *address;
    *address = change(old);
    return old;
}

// The value that this thread has read before is only a guess, which the swap at the same place verifies.
static void verify_guess(uintptr_t address, uint32_t bytes) {
    if (watched.worker == nullptr) return;
    if (watched.guessed && watched.guess.address == address) watched.guessed = false;
    const Access access = {address, bytes, 0, 0};
    const Space space = checked_space(access);
    if (space == Space::none) return;
    if (space == Space::buffer) buffer_of(access);
    const Shadow& shadow = shadow_of(space);
    for (uint32_t offset = 0; offset < bytes; offset += CELL_BYTES) {
        for (Seen& read : shadow.at(address + offset).reads) {
            if (read.block == watched.blocks_begun && read.thread == watched.worker->thread) read.flags |= ACCESS_ATOMIC;
        }
    }
}

template <typename T>
static bool watched_exchange_if(volatile T* address, T* expected, T desired, int order, void* site) {
    verify_guess(reinterpret_cast<uintptr_t>(address), sizeof(T));
    if (*address == *expected) {
        watched_change(address, order, site, 0, [desired](T) { return desired; });
        return true;
    }
    *expected = watched_load(address, site);
    return false;
}

// Copies and fills of the C library, which no compiler watches.
static void watch_range(const volatile void* pointer, size_t bytes, uint32_t flags, void* site) {
    constexpr size_t PIECE_BYTES = 16;
    const char* start = const_cast<const char*>(static_cast<const volatile char*>(pointer));
    for (size_t done = 0; done < bytes; done += PIECE_BYTES) {
        const uint32_t piece = static_cast<uint32_t>(bytes - done < PIECE_BYTES ? bytes - done : PIECE_BYTES);
        watch(start + done, piece, bytes > PIECE_BYTES ? flags | ACCESS_PART : flags, site);
    }
}

}  // namespace kforge

#define KFORGE_SITE __builtin_return_address(0)
#define KFORGE_WATCH_PLAIN(bytes)                                                                                                                        \
    void __tsan_read##bytes(void* p) { kforge::watch(p, bytes, 0, KFORGE_SITE); }                                                                        \
    void __tsan_write##bytes(void* p) { kforge::watch(p, bytes, kforge::ACCESS_WRITE, KFORGE_SITE); }                                                    \
    void __tsan_volatile_read##bytes(void* p) {                                                                                                          \
        kforge::watch(p, bytes, kforge::ACCESS_VOLATILE, KFORGE_SITE);                                                                                   \
        kforge::acquire_at(reinterpret_cast<uintptr_t>(p));                                                                                              \
    }                                                                                                                                                    \
    void __tsan_volatile_write##bytes(void* p) {                                                                                                         \
        kforge::watch(p, bytes, kforge::ACCESS_VOLATILE | kforge::ACCESS_WRITE, KFORGE_SITE);                                                            \
        kforge::release_at(reinterpret_cast<uintptr_t>(p), false);                                                                                       \
    }
#define KFORGE_WATCH_UNALIGNED(bytes)                                                                                                                    \
    void __tsan_unaligned_read##bytes(void* p) { kforge::watch(p, bytes, 0, KFORGE_SITE); }                                                              \
    void __tsan_unaligned_write##bytes(void* p) { kforge::watch(p, bytes, kforge::ACCESS_WRITE, KFORGE_SITE); }                                          \
    void __tsan_unaligned_volatile_read##bytes(void* p) { __tsan_volatile_read##bytes(p); }                                                              \
    void __tsan_unaligned_volatile_write##bytes(void* p) { __tsan_volatile_write##bytes(p); }
#define KFORGE_WATCH_CHANGE(bits, type, name, flags, expression)                                                                                                \
    type __tsan_atomic##bits##_##name(volatile type* p, type value, int order) {                                                                         \
        return kforge::watched_change(p, order, KFORGE_SITE, flags, [value](type old) { (void)old; return static_cast<type>(expression); });                    \
    }
#define KFORGE_WATCH_ATOMIC(bits, type)                                                                                                                  \
    type __tsan_atomic##bits##_load(const volatile type* p, int) { return kforge::watched_load(p, KFORGE_SITE); }                                        \
    void __tsan_atomic##bits##_store(volatile type* p, type value, int order) { kforge::watched_store(p, value, order, KFORGE_SITE); }                   \
    KFORGE_WATCH_CHANGE(bits, type, exchange, kforge::ACCESS_STORE, value)                                                                                                     \
    KFORGE_WATCH_CHANGE(bits, type, fetch_add, 0, old + value)                                                                                              \
    KFORGE_WATCH_CHANGE(bits, type, fetch_sub, 0, old - value)                                                                                              \
    KFORGE_WATCH_CHANGE(bits, type, fetch_and, 0, old & value)                                                                                              \
    KFORGE_WATCH_CHANGE(bits, type, fetch_or, 0, old | value)                                                                                               \
    KFORGE_WATCH_CHANGE(bits, type, fetch_xor, 0, old ^ value)                                                                                              \
    KFORGE_WATCH_CHANGE(bits, type, fetch_nand, 0, ~(old & value))                                                                                          \
    int __tsan_atomic##bits##_compare_exchange_strong(volatile type* p, type* expected, type desired, int order, int) {                                  \
        return kforge::watched_exchange_if(p, expected, desired, order, KFORGE_SITE);                                                                    \
    }                                                                                                                                                    \
    int __tsan_atomic##bits##_compare_exchange_weak(volatile type* p, type* expected, type desired, int order, int) {                                    \
        return kforge::watched_exchange_if(p, expected, desired, order, KFORGE_SITE);                                                                    \
    }                                                                                                                                                    \
    type __tsan_atomic##bits##_compare_exchange_val(volatile type* p, type expected, type desired, int order, int) {                                     \
        kforge::watched_exchange_if(p, &expected, desired, order, KFORGE_SITE);                                                                          \
        return expected;                                                                                                                                 \
    }

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_read_range(void* p, unsigned long bytes) { kforge::watch_range(p, bytes, 0, KFORGE_SITE); }
void __tsan_write_range(void* p, unsigned long bytes) { kforge::watch_range(p, bytes, kforge::ACCESS_WRITE, KFORGE_SITE); }
KFORGE_WATCH_PLAIN(1)
KFORGE_WATCH_PLAIN(2)
KFORGE_WATCH_PLAIN(4)
KFORGE_WATCH_PLAIN(8)
KFORGE_WATCH_PLAIN(16)
KFORGE_WATCH_UNALIGNED(2)
KFORGE_WATCH_UNALIGNED(4)
KFORGE_WATCH_UNALIGNED(8)
KFORGE_WATCH_UNALIGNED(16)
KFORGE_WATCH_ATOMIC(8, unsigned char)
KFORGE_WATCH_ATOMIC(16, unsigned short)
KFORGE_WATCH_ATOMIC(32, unsigned int)
KFORGE_WATCH_ATOMIC(64, unsigned long)
KFORGE_WATCH_ATOMIC(128, unsigned __int128)
void* kforge_memmove(void* to, const void* from, size_t bytes) {
    kforge::watch_range(from, bytes, 0, KFORGE_SITE);
    kforge::watch_range(to, bytes, kforge::ACCESS_WRITE, KFORGE_SITE);
    return memmove(to, from, bytes);
}
void* kforge_memset(void* to, int value, size_t bytes) {
    kforge::watch_range(to, bytes, kforge::ACCESS_WRITE, KFORGE_SITE);
    return memset(to, value, bytes);
}
void __tsan_atomic_thread_fence(int order) { kforge::fence(order); }
void __tsan_atomic_signal_fence(int order) { kforge::fence(order); }
}
