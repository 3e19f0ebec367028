// The bounds build: implements the functions that gcc's -fsanitize=address and -fsanitize=undefined call, without their
// libraries. Ends the process at the first fault.
//
// Buffers and shared memory are checked exactly (regions.h). For local arrays and the kernel's own variables the compiler
// writes AddressSanitizer's usual shadow memory, one byte for eight, which is mapped here. Races are left to race.h.

#pragma once

#include "regions.h"

namespace kforge {

#if defined(__x86_64__)
constexpr uintptr_t SHADOW_OFFSET = 0x7fff8000;
#else
constexpr uintptr_t SHADOW_OFFSET = uintptr_t(1) << 36;
#endif
constexpr size_t PAGE_BYTES = 4096;
constexpr uint8_t SHADOW_REDZONE = 0xf9;

// The address ranges that have shadow memory. Other addresses are not checked against it.
struct ShadowedRanges {
    uint32_t count;
    SharedRange ranges[64];
};
static ShadowedRanges shadowed;

static void map_shadow(uintptr_t start, uintptr_t end) {
    const uintptr_t from = ((start >> 3) + SHADOW_OFFSET) & ~(PAGE_BYTES - 1);
    const uintptr_t to = (((end >> 3) + SHADOW_OFFSET) | (PAGE_BYTES - 1)) + 1;
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
    if (mmap(reinterpret_cast<void*>(from), to - from, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED) {
        fail(FAULT_LIMIT_EXCEEDED, "failed to map shadow memory for %zu bytes", static_cast<size_t>(end - start));
    }
    if (shadowed.count < 64) shadowed.ranges[shadowed.count++] = {start, end};
}

static bool has_shadow(uintptr_t address) {
    for (uint32_t i = 0; i < shadowed.count; ++i) {
        if (address - shadowed.ranges[i].start < shadowed.ranges[i].end - shadowed.ranges[i].start) return true;
    }
    return false;
}

static bool is_poisoned(uintptr_t address, uint32_t bytes) {
    for (uintptr_t at = address; at < address + bytes; ++at) {
        const int8_t shadow = *reinterpret_cast<const int8_t*>((at >> 3) + SHADOW_OFFSET);
        if (shadow != 0 && static_cast<int8_t>(at & 7) >= shadow) return true;
    }
    return false;
}

static void check(uintptr_t address, size_t bytes, uint32_t flags, void* site) {
    const Access access = {address, static_cast<uint32_t>(bytes), flags, reinterpret_cast<uintptr_t>(site)};
    switch (checked_space(access)) {
        case Space::buffer: {
            const BufferRegion& buffer = buffer_of(access);
            if ((flags & ACCESS_WRITE) != 0 && (buffer.flags & BUFFER_READ_ONLY) != 0) fail_at(FAULT_INPUT_MUTATED, access, "%s of %u bytes", access_phrase(flags), access.bytes);
            return;
        }
        case Space::shared: return;
        default:
            if (has_shadow(address) && is_poisoned(address, access.bytes)) {
                fail_at(FAULT_OUT_OF_BOUNDS, access, "%s of %u bytes outside of a local or global variable", access_phrase(flags), access.bytes);
            }
    }
}

// The layout that gcc 8 and later use.
struct GlobalVariable {
    uintptr_t start;
    uintptr_t bytes;
    uintptr_t bytes_with_redzone;
    const char* name;
    const char* module;
    uintptr_t has_initializer;
    void* location;
    uintptr_t odr_indicator;
};

static void poison_behind(const GlobalVariable& variable) {
    const uintptr_t end = variable.start + variable.bytes;
    for (uintptr_t at = (end + 7) & ~uintptr_t(7); at < variable.start + variable.bytes_with_redzone; at += 8) {
        *reinterpret_cast<uint8_t*>((at >> 3) + SHADOW_OFFSET) = SHADOW_REDZONE;
    }
    if (end % 8 != 0) *reinterpret_cast<uint8_t*>((end >> 3) + SHADOW_OFFSET) = end % 8;
}

struct SourceLocation {
    const char* file;
    uint32_t line;
    uint32_t column;
};

static bool is_own(const SourceLocation& location) { return location.file != nullptr && strcmp(location.file, "kernel.cu") == 0; }

[[noreturn]] static void report_at(FaultKind kind, const SourceLocation& location, void* site, const char* what) {
    if (control_page != nullptr) control_page->fault.line = is_own(location) ? location.line : 0;
    fail_at(kind, {0, 0, 0, reinterpret_cast<uintptr_t>(site)}, "%s", what);
}

// Reports undefined behaviour in the kernel file only. CUDA's own functions define the result for unusual arguments, however
// the headers here compute it.
static void report_undefined(const SourceLocation& location, void* site, const char* what) {
    if (is_own(location)) report_at(FAULT_UNDEFINED_BEHAVIOR, location, site, what);
}

struct TypeMismatch {
    SourceLocation location;
    const void* type;
    unsigned char log_alignment;
    unsigned char kind;
};

static void report_misaligned(const TypeMismatch& data, uintptr_t pointer, void* site) {
    const uintptr_t alignment = uintptr_t(1) << data.log_alignment;
    if (pointer % alignment == 0) return;  // a null pointer: the access itself reports it
    char what[96];
    snprintf(what, sizeof(what), "an address that is not a multiple of %zu", static_cast<size_t>(alignment));
    report_at(FAULT_MISALIGNED, data.location, site, what);
}

}  // namespace kforge

#define KFORGE_SITE __builtin_return_address(0)
#define KFORGE_CHECK(bytes)                                                                                            \
    void __asan_load##bytes(uintptr_t address) { kforge::check(address, bytes, 0, KFORGE_SITE); }                      \
    void __asan_store##bytes(uintptr_t address) { kforge::check(address, bytes, kforge::ACCESS_WRITE, KFORGE_SITE); }  \
    void __asan_report_load##bytes(uintptr_t address) { kforge::check(address, bytes, 0, KFORGE_SITE); }               \
    void __asan_report_store##bytes(uintptr_t address) { kforge::check(address, bytes, kforge::ACCESS_WRITE, KFORGE_SITE); }
#define KFORGE_UNDEFINED(name, parameters, what)                                                         \
    void __ubsan_handle_##name parameters {                                                              \
        kforge::report_undefined(*static_cast<const kforge::SourceLocation*>(data), KFORGE_SITE, what);  \
    }
// Like KFORGE_UNDEFINED, but the process cannot continue afterwards.
#define KFORGE_NEVER(name, what)                                                                                                    \
    void __ubsan_handle_##name(void* data) {                                                                                        \
        kforge::report_at(kforge::FAULT_UNDEFINED_BEHAVIOR, *static_cast<const kforge::SourceLocation*>(data), KFORGE_SITE, what);  \
    }

extern "C" {
void __asan_init() {
    static bool done = false;
    if (done) return;
    done = true;
    // Constructors run on this stack before its shadow could be mapped elsewhere.
    const uintptr_t here = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
    kforge::map_shadow((here & ~uintptr_t(0xfffff)) - (8 << 20), (here | 0xfffff) + 1);
    kforge::map_shadow(reinterpret_cast<uintptr_t>(&__data_start) & ~uintptr_t(0xfff), (reinterpret_cast<uintptr_t>(&_end) | 0xfff) + 1);
}
void __asan_version_mismatch_check_v8() {}
void __asan_handle_no_return() {}
void __asan_before_dynamic_init(const char*) {}
void __asan_after_dynamic_init() {}
void __asan_register_globals(const kforge::GlobalVariable* variables, uintptr_t count) {
    for (uintptr_t i = 0; i < count; ++i) {
        // Constants are in memory that has no shadow.
        if (kforge::has_shadow(variables[i].start)) kforge::poison_behind(variables[i]);
    }
}
void __asan_unregister_globals(const void*, uintptr_t) {}
void __asan_poison_stack_memory(uintptr_t, uintptr_t) {}
void __asan_unpoison_stack_memory(uintptr_t, uintptr_t) {}
void __asan_alloca_poison(uintptr_t, uintptr_t) {}
void __asan_allocas_unpoison(uintptr_t, uintptr_t) {}
KFORGE_CHECK(1)
KFORGE_CHECK(2)
KFORGE_CHECK(4)
KFORGE_CHECK(8)
KFORGE_CHECK(16)
void* kforge_memmove(void* to, const void* from, size_t bytes) {
    if (bytes != 0) {
        kforge::check(reinterpret_cast<uintptr_t>(from), bytes, 0, KFORGE_SITE);
        kforge::check(reinterpret_cast<uintptr_t>(to), bytes, kforge::ACCESS_WRITE, KFORGE_SITE);
    }
    return memmove(to, from, bytes);
}
void* kforge_memset(void* to, int value, size_t bytes) {
    if (bytes != 0) kforge::check(reinterpret_cast<uintptr_t>(to), bytes, kforge::ACCESS_WRITE, KFORGE_SITE);
    return memset(to, value, bytes);
}
void __asan_loadN(uintptr_t address, size_t bytes) { kforge::check(address, bytes, 0, KFORGE_SITE); }
void __asan_storeN(uintptr_t address, size_t bytes) { kforge::check(address, bytes, kforge::ACCESS_WRITE, KFORGE_SITE); }
void __asan_report_load_n(uintptr_t address, size_t bytes) { kforge::check(address, bytes, 0, KFORGE_SITE); }
void __asan_report_store_n(uintptr_t address, size_t bytes) { kforge::check(address, bytes, kforge::ACCESS_WRITE, KFORGE_SITE); }

KFORGE_UNDEFINED(add_overflow, (void* data, uintptr_t, uintptr_t), "a signed addition overflows")
KFORGE_UNDEFINED(sub_overflow, (void* data, uintptr_t, uintptr_t), "a signed subtraction overflows")
KFORGE_UNDEFINED(mul_overflow, (void* data, uintptr_t, uintptr_t), "a signed multiplication overflows")
KFORGE_UNDEFINED(negate_overflow, (void* data, uintptr_t), "a signed negation overflows")
KFORGE_UNDEFINED(divrem_overflow, (void* data, uintptr_t, uintptr_t), "an integer is divided by zero, or the quotient does not fit")
KFORGE_UNDEFINED(shift_out_of_bounds, (void* data, uintptr_t, uintptr_t), "a shift by a negative number or by the type's width or more, or a left shift that overflows")
KFORGE_UNDEFINED(load_invalid_value, (void* data, uintptr_t), "a value that is invalid for its type")
KFORGE_UNDEFINED(vla_bound_not_positive, (void* data, uintptr_t), "an array with no elements")
KFORGE_NEVER(builtin_unreachable, "execution reached `__builtin_unreachable`")
KFORGE_NEVER(missing_return, "a function that must return a value ends without one")
void __ubsan_handle_type_mismatch_v1(void* data, uintptr_t pointer) {
    kforge::report_misaligned(*static_cast<const kforge::TypeMismatch*>(data), pointer, KFORGE_SITE);
}
}
