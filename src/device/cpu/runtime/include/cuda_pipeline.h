// Asynchronous copies from global to shared memory by single threads. A copy is complete when the call returns, so commit and
// wait do nothing. Sizes and alignments are restricted to those that the GPU accepts.

#pragma once

inline void __pipeline_memcpy_async(void* to, const void* from, size_t size, size_t zeros = 0, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    if (size != 4 && size != 8 && size != 16) ::kforge::assertion_failed("the size of an asynchronous copy is 4, 8 or 16", file, line);
    if ((((size_t)to | (size_t)from) & (size - 1)) != 0) ::kforge::assertion_failed("both addresses of an asynchronous copy are multiples of its size", file, line);
    if (zeros > size) ::kforge::assertion_failed("an asynchronous copy fills no more zeros than its size", file, line);
    if (zeros == 0) {
        switch (size) {
            case 4: memcpy(to, from, 4); break;
            case 8: memcpy(to, from, 8); break;
            default: memcpy(to, from, 16);
        }
    } else {
        memcpy(to, from, size - zeros);
        memset((char*)to + (size - zeros), 0, zeros);
    }
}
inline void __pipeline_commit() {}
inline void __pipeline_wait_prior(size_t) {}
