// memcpy, memmove and memset in the bounds and race builds: their accesses are checked like the kernel's own.
//
// Short copies of a constant size stay plain accesses, which the compiler instruments itself.

#pragma once

#include <string.h>

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)

extern "C" void* kforge_memmove(void* to, const void* from, size_t bytes);
extern "C" void* kforge_memset(void* to, int value, size_t bytes);

#define KFORGE_IN_PLACE extern "C" inline __attribute__((always_inline, gnu_inline))
KFORGE_IN_PLACE void* memcpy(void* to, const void* from, size_t bytes) noexcept {
    if (__builtin_constant_p(bytes) && bytes <= 16) return __builtin_memcpy(to, from, bytes);
    return kforge_memmove(to, from, bytes);
}
KFORGE_IN_PLACE void* memmove(void* to, const void* from, size_t bytes) noexcept { return kforge_memmove(to, from, bytes); }
KFORGE_IN_PLACE void* memset(void* to, int value, size_t bytes) noexcept { return kforge_memset(to, value, bytes); }
#undef KFORGE_IN_PLACE

#endif
