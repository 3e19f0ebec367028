// CUDA's vector types: plain aggregates with the sizes and alignments that they have on a GPU.
//
// They have no operators, as in CUDA: kernels define their own.

#pragma once

#define KFORGE_VECTOR_1(name, type)        \
    struct name##1 {                       \
        type x;                            \
    };                                     \
    inline constexpr name##1 make_##name##1(type x) { return name##1{x}; }
#define KFORGE_VECTOR_2(name, type, bytes)         \
    struct __attribute__((aligned(bytes))) name##2 { \
        type x, y;                                 \
    };                                             \
    inline constexpr name##2 make_##name##2(type x, type y) { return name##2{x, y}; }
#define KFORGE_VECTOR_3(name, type) \
    struct name##3 {                \
        type x, y, z;               \
    };                              \
    inline constexpr name##3 make_##name##3(type x, type y, type z) { return name##3{x, y, z}; }
#define KFORGE_VECTOR_4(name, type, bytes)         \
    struct __attribute__((aligned(bytes))) name##4 { \
        type x, y, z, w;                           \
    };                                             \
    inline constexpr name##4 make_##name##4(type x, type y, type z, type w) { return name##4{x, y, z, w}; }
#define KFORGE_VECTORS(name, type, bytes_2, bytes_4) \
    KFORGE_VECTOR_1(name, type)                      \
    KFORGE_VECTOR_2(name, type, bytes_2)             \
    KFORGE_VECTOR_3(name, type)                      \
    KFORGE_VECTOR_4(name, type, bytes_4)

KFORGE_VECTORS(char, signed char, 2, 4)
KFORGE_VECTORS(uchar, unsigned char, 2, 4)
KFORGE_VECTORS(short, short, 4, 8)
KFORGE_VECTORS(ushort, unsigned short, 4, 8)
KFORGE_VECTORS(int, int, 8, 16)
KFORGE_VECTORS(uint, unsigned int, 8, 16)
KFORGE_VECTORS(long, long, 16, 16)
KFORGE_VECTORS(ulong, unsigned long, 16, 16)
KFORGE_VECTORS(longlong, long long, 16, 16)
KFORGE_VECTORS(ulonglong, unsigned long long, 16, 16)
KFORGE_VECTORS(float, float, 8, 16)
KFORGE_VECTORS(double, double, 16, 16)

#undef KFORGE_VECTORS
#undef KFORGE_VECTOR_1
#undef KFORGE_VECTOR_2
#undef KFORGE_VECTOR_3
#undef KFORGE_VECTOR_4

struct dim3 {
    unsigned int x, y, z;
    constexpr dim3(unsigned int x = 1, unsigned int y = 1, unsigned int z = 1) : x(x), y(y), z(z) {}
    constexpr dim3(uint3 from) : x(from.x), y(from.y), z(from.z) {}
    constexpr operator uint3() const { return uint3{x, y, z}; }
};
