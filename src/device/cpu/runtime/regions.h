// Classifies an address for the bounds and race builds: a buffer of the judge, shared memory, a variable of the kernel,
// or memory that only one thread can reach.
//
// An access that starts in a region must lie completely within one object of it; otherwise the process ends with a fault.
// Nothing here looks at the order of accesses.

#pragma once

#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include "control.h"
#include "fault.h"

extern "C" {
extern char __data_start;  // start of the executable's own variables
extern char _end;
}

namespace kforge {

struct Access {
    uintptr_t address;
    uint32_t bytes;
    uint32_t flags;
    uintptr_t site;
};

[[noreturn]] inline __attribute__((format(printf, 3, 4))) void fail_at(FaultKind kind, const Access& access, const char* format, ...) {
    if (before_fault != nullptr) before_fault(kind);
    if (claim_fault()) {
        ControlPage::Fault& fault = control_page->fault;
        record_position(fault);
        fault.address = access.address;
        fault.site = access.site;
        fault.bytes = access.bytes;
        fault.flags = access.flags;
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(fault.message, sizeof(fault.message), format, arguments);
        va_end(arguments);
        fflush(stdout);
        __atomic_store_n(&fault.kind, kind, __ATOMIC_RELEASE);
    }
    _exit(FAULT_EXIT_CODE);
}

// Zeroed memory that is allocated page by page when it is touched.
inline void* lazy_memory(size_t bytes) {
    void* start = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) fail(FAULT_LIMIT_EXCEEDED, "failed to reserve %zu bytes to inspect the kernel", bytes);
    return start;
}

enum class Space : uint8_t { none, buffer, shared, variable };

struct BufferRegion {
    uintptr_t start;
    uintptr_t end;
    uint32_t flags;
    uint8_t* written;  // one byte per byte of the buffer; null unless the buffer tracks writes
};

constexpr uint8_t BYTE_OUTSIDE = 0;  // belongs to no variable in shared memory
constexpr uint8_t BYTE_UNWRITTEN = 1;
constexpr uint8_t BYTE_WRITTEN = 2;
// Gap between two variables in shared memory.
constexpr size_t SHARED_GAP_BYTES = 64;

struct SharedRange {
    uintptr_t start;
    uintptr_t end;
};

struct Regions {
    uintptr_t buffers_start;
    uintptr_t buffers_end;
    uint32_t buffer_count;
    uint32_t last_buffer;
    BufferRegion buffers[MAX_BUFFERS];
    uintptr_t shared_start;
    uintptr_t shared_end;
    uint8_t* shared_state;  // one BYTE_* value per byte
    uint32_t shared_range_count;
    SharedRange shared_ranges[256];
};

inline Regions regions;

inline void mark_shared(uintptr_t start, size_t bytes) {
    memset(regions.shared_state + (start - regions.shared_start), BYTE_UNWRITTEN, bytes);
    if (regions.shared_range_count < 256) regions.shared_ranges[regions.shared_range_count++] = {start, start + bytes};
}

// Each launch has its own variables in shared memory.
inline void forget_shared() {
    for (uint32_t i = 0; i < regions.shared_range_count; ++i) {
        const SharedRange& range = regions.shared_ranges[i];
        memset(regions.shared_state + (range.start - regions.shared_start), BYTE_OUTSIDE, range.end - range.start);
    }
    regions.shared_range_count = 0;
}

// Marks all shared memory as unwritten at the start of a block.
inline void renew_shared() {
    for (uint32_t i = 0; i < regions.shared_range_count; ++i) {
        const SharedRange& range = regions.shared_ranges[i];
        memset(regions.shared_state + (range.start - regions.shared_start), BYTE_UNWRITTEN, range.end - range.start);
    }
}

inline const char* access_phrase(uint32_t flags) { return (flags & ACCESS_ATOMIC) != 0 ? "an atomic operation" : (flags & ACCESS_WRITE) != 0 ? "a write" : "a read"; }

// The buffer that contains the whole access. Otherwise a fault; the judge adds the name of the nearest buffer.
inline BufferRegion& buffer_of(const Access& access) {
    const BufferRegion* last = &regions.buffers[regions.last_buffer];
    if (access.address >= last->start && access.address + access.bytes <= last->end) return regions.buffers[regions.last_buffer];
    for (uint32_t i = 0; i < regions.buffer_count; ++i) {
        BufferRegion& buffer = regions.buffers[i];
        if (access.address >= buffer.start && access.address + access.bytes <= buffer.end) {
            regions.last_buffer = i;
            return buffer;
        }
    }
    fail_at(FAULT_OUT_OF_BOUNDS, access, "%s of %u bytes outside of every buffer", access_phrase(access.flags), access.bytes);
}

inline bool has_byte(const uint8_t* state, uint32_t bytes, uint8_t value) {
    for (uint32_t i = 0; i < bytes; ++i) {
        if (state[i] == value) return true;
    }
    return false;
}

// The space of an access. Ends the process if the access leaves the object in which it starts.
inline Space checked_space(const Access& access) {
    if (access.address - regions.buffers_start < regions.buffers_end - regions.buffers_start) return Space::buffer;
    if (access.address - regions.shared_start < regions.shared_end - regions.shared_start) {
        const uint8_t* state = regions.shared_state + (access.address - regions.shared_start);
        if (has_byte(state, access.bytes, BYTE_OUTSIDE)) {
            Access outside = access;
            outside.flags |= ACCESS_SHARED;
            fail_at(FAULT_OUT_OF_BOUNDS, outside, "%s of %u bytes of shared memory outside of every variable", access_phrase(access.flags), access.bytes);
        }
        return Space::shared;
    }
    const uintptr_t data_start = reinterpret_cast<uintptr_t>(&__data_start);
    if (access.address - data_start < reinterpret_cast<uintptr_t>(&_end) - data_start) return Space::variable;
    return Space::none;
}

inline void find_buffers(const ControlPage& control, uintptr_t start, uintptr_t end, bool count_writes) {
    regions.buffers_start = start;
    regions.buffers_end = end;
    regions.buffer_count = control.buffer_count;
    for (uint32_t i = 0; i < control.buffer_count; ++i) {
        const ControlPage::Buffer& from = control.buffers[i];
        BufferRegion& buffer = regions.buffers[i];
        buffer.start = from.address;
        buffer.end = from.address + from.data_bytes;
        buffer.flags = from.flags;
        buffer.written = count_writes && (from.flags & BUFFER_UNWRITTEN) != 0 ? static_cast<uint8_t*>(lazy_memory(from.data_bytes + 16)) : nullptr;
    }
}

inline void find_shared(uintptr_t start, uintptr_t end) {
    regions.shared_start = start;
    regions.shared_end = end;
    regions.shared_state = static_cast<uint8_t*>(lazy_memory(end - start + 64));
}

}  // namespace kforge
