// The functions that gcc's -fsanitize=thread calls, and the atomic operations behind them. Each checks the access (race.h), then
// performs it.
//
// Included by process_state.h in the race build only.

#pragma once

#include "race.h"

namespace kforge {

// ---- Atomic operations and fences ----

constexpr bool releases(int order) { return order == __ATOMIC_RELEASE || order == __ATOMIC_ACQ_REL || order == __ATOMIC_SEQ_CST; }

static std::unordered_map<uintptr_t, ClockRef>& releases_of(uintptr_t address) {
    const bool is_shared = address - regions.shared_start < regions.shared_end - regions.shared_start;
    return is_shared ? race.shared_releases : race.releases;
}

// An atomic read acquires everything that was released at the address, whatever its memory order. Kernels often rely on a
// barrier after the read instead, and a report about a missing fence there would be wrong for correct kernels.
static void acquire_at(uintptr_t address) {
    if (race.worker == nullptr) return;
    const auto& releases = releases_of(address);
    const auto found = releases.find(address);
    if (found != releases.end()) race.clocks.acquire(race.worker->thread, found->second);
}

static void release_at(uintptr_t address, bool keeps_earlier) {
    if (race.worker == nullptr) return;
    const ClockRef published = race.clocks.release(race.worker->thread);
    ClockRef& there = releases_of(address)[address];
    there = keeps_earlier ? join(there, published, race.clocks.block, race.clocks.threads) : published;
}

static void fence(int order) {
    if (race.has_pending_write) check_pending_write();
    if (race.worker != nullptr && releases(order)) race.clocks.fence(race.worker->thread);
}

template <typename T>
static T checked_load(const volatile T* address, void* site) {
    check_access(address, sizeof(T), ACCESS_ATOMIC, site);
    acquire_at(reinterpret_cast<uintptr_t>(address));
    return *address;
}

template <typename T>
static void checked_store(volatile T* address, T value, int order, void* site) {
    fence(order);
    check_access(address, sizeof(T), ACCESS_ATOMIC | ACCESS_WRITE | ACCESS_STORE, site);
    release_at(reinterpret_cast<uintptr_t>(address), false);
    *address = value;
}

template <typename T, typename Change>
static T checked_change(volatile T* address, int order, void* site, uint32_t flags, Change change) {
    fence(order);
    check_access(address, sizeof(T), ACCESS_ATOMIC | ACCESS_WRITE | flags, site);
    acquire_at(reinterpret_cast<uintptr_t>(address));
    release_at(reinterpret_cast<uintptr_t>(address), true);
    const T old = *address;
    *address = change(old);
    return old;
}

// Clears the speculative read at the address of a compare-and-swap, which verifies the value that was read.
static void confirm_speculative_read(uintptr_t address, uint32_t bytes) {
    if (race.worker == nullptr) return;
    if (race.has_speculative_read && race.speculative_read.address == address) race.has_speculative_read = false;
    const Access access = {address, bytes, 0, 0};
    const Space space = checked_space(access);
    if (space == Space::none) return;
    if (space == Space::buffer) buffer_of(access);
    const Shadow& shadow = shadow_of(space);
    for (uint32_t offset = 0; offset < bytes; offset += CELL_BYTES) {
        for (PastAccess& read : shadow.at(address + offset).reads) {
            if (read.block == race.blocks_begun && read.thread == race.worker->thread) read.flags |= ACCESS_ATOMIC;
        }
    }
}

template <typename T>
static bool checked_exchange_if(volatile T* address, T* expected, T desired, int order, void* site) {
    confirm_speculative_read(reinterpret_cast<uintptr_t>(address), sizeof(T));
    if (*address == *expected) {
        checked_change(address, order, site, 0, [desired](T) { return desired; });
        return true;
    }
    *expected = checked_load(address, site);
    return false;
}

// Copies and fills of the C library, which the compiler does not instrument.
static void check_range(const volatile void* pointer, size_t bytes, uint32_t flags, void* site) {
    constexpr size_t CHUNK_BYTES = 16;
    const char* start = const_cast<const char*>(static_cast<const volatile char*>(pointer));
    for (size_t done = 0; done < bytes; done += CHUNK_BYTES) {
        const uint32_t chunk = static_cast<uint32_t>(bytes - done < CHUNK_BYTES ? bytes - done : CHUNK_BYTES);
        check_access(start + done, chunk, bytes > CHUNK_BYTES ? flags | ACCESS_PART : flags, site);
    }
}

}  // namespace kforge

#define KFORGE_SITE __builtin_return_address(0)
#define KFORGE_CHECK_PLAIN(bytes)                                                                             \
    void __tsan_read##bytes(void* p) { kforge::check_access(p, bytes, 0, KFORGE_SITE); }                      \
    void __tsan_write##bytes(void* p) { kforge::check_access(p, bytes, kforge::ACCESS_WRITE, KFORGE_SITE); }  \
    void __tsan_volatile_read##bytes(void* p) {                                                               \
        kforge::check_access(p, bytes, kforge::ACCESS_VOLATILE, KFORGE_SITE);                                 \
        kforge::acquire_at(reinterpret_cast<uintptr_t>(p));                                                   \
    }                                                                                                         \
    void __tsan_volatile_write##bytes(void* p) {                                                              \
        kforge::check_access(p, bytes, kforge::ACCESS_VOLATILE | kforge::ACCESS_WRITE, KFORGE_SITE);          \
        kforge::release_at(reinterpret_cast<uintptr_t>(p), false);                                            \
    }
#define KFORGE_CHECK_UNALIGNED(bytes)                                                                                   \
    void __tsan_unaligned_read##bytes(void* p) { kforge::check_access(p, bytes, 0, KFORGE_SITE); }                      \
    void __tsan_unaligned_write##bytes(void* p) { kforge::check_access(p, bytes, kforge::ACCESS_WRITE, KFORGE_SITE); }  \
    void __tsan_unaligned_volatile_read##bytes(void* p) { __tsan_volatile_read##bytes(p); }                             \
    void __tsan_unaligned_volatile_write##bytes(void* p) { __tsan_volatile_write##bytes(p); }
#define KFORGE_CHECK_CHANGE(bits, type, name, flags, expression)                                                                              \
    type __tsan_atomic##bits##_##name(volatile type* p, type value, int order) {                                                              \
        return kforge::checked_change(p, order, KFORGE_SITE, flags, [value](type old) { (void)old; return static_cast<type>(expression); });  \
    }
#define KFORGE_CHECK_ATOMIC(bits, type)                                                                                                 \
    type __tsan_atomic##bits##_load(const volatile type* p, int) { return kforge::checked_load(p, KFORGE_SITE); }                       \
    void __tsan_atomic##bits##_store(volatile type* p, type value, int order) { kforge::checked_store(p, value, order, KFORGE_SITE); }  \
    KFORGE_CHECK_CHANGE(bits, type, exchange, kforge::ACCESS_STORE, value)                                                              \
    KFORGE_CHECK_CHANGE(bits, type, fetch_add, 0, old + value)                                                                          \
    KFORGE_CHECK_CHANGE(bits, type, fetch_sub, 0, old - value)                                                                          \
    KFORGE_CHECK_CHANGE(bits, type, fetch_and, 0, old & value)                                                                          \
    KFORGE_CHECK_CHANGE(bits, type, fetch_or, 0, old | value)                                                                           \
    KFORGE_CHECK_CHANGE(bits, type, fetch_xor, 0, old ^ value)                                                                          \
    KFORGE_CHECK_CHANGE(bits, type, fetch_nand, 0, ~(old & value))                                                                      \
    int __tsan_atomic##bits##_compare_exchange_strong(volatile type* p, type* expected, type desired, int order, int) {                 \
        return kforge::checked_exchange_if(p, expected, desired, order, KFORGE_SITE);                                                   \
    }                                                                                                                                   \
    int __tsan_atomic##bits##_compare_exchange_weak(volatile type* p, type* expected, type desired, int order, int) {                   \
        return kforge::checked_exchange_if(p, expected, desired, order, KFORGE_SITE);                                                   \
    }                                                                                                                                   \
    type __tsan_atomic##bits##_compare_exchange_val(volatile type* p, type expected, type desired, int order, int) {                    \
        kforge::checked_exchange_if(p, &expected, desired, order, KFORGE_SITE);                                                         \
        return expected;                                                                                                                \
    }

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_read_range(void* p, unsigned long bytes) { kforge::check_range(p, bytes, 0, KFORGE_SITE); }
void __tsan_write_range(void* p, unsigned long bytes) { kforge::check_range(p, bytes, kforge::ACCESS_WRITE, KFORGE_SITE); }
KFORGE_CHECK_PLAIN(1)
KFORGE_CHECK_PLAIN(2)
KFORGE_CHECK_PLAIN(4)
KFORGE_CHECK_PLAIN(8)
KFORGE_CHECK_PLAIN(16)
KFORGE_CHECK_UNALIGNED(2)
KFORGE_CHECK_UNALIGNED(4)
KFORGE_CHECK_UNALIGNED(8)
KFORGE_CHECK_UNALIGNED(16)
KFORGE_CHECK_ATOMIC(8, unsigned char)
KFORGE_CHECK_ATOMIC(16, unsigned short)
KFORGE_CHECK_ATOMIC(32, unsigned int)
KFORGE_CHECK_ATOMIC(64, unsigned long)
KFORGE_CHECK_ATOMIC(128, unsigned __int128)
void* kforge_memmove(void* to, const void* from, size_t bytes) {
    kforge::check_range(from, bytes, 0, KFORGE_SITE);
    kforge::check_range(to, bytes, kforge::ACCESS_WRITE, KFORGE_SITE);
    return memmove(to, from, bytes);
}
void* kforge_memset(void* to, int value, size_t bytes) {
    kforge::check_range(to, bytes, kforge::ACCESS_WRITE, KFORGE_SITE);
    return memset(to, value, bytes);
}
void __tsan_atomic_thread_fence(int order) { kforge::fence(order); }
void __tsan_atomic_signal_fence(int order) { kforge::fence(order); }
}
