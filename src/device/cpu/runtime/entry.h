// The last part of every translation unit: one entry per launch of the kernel file's header. Checks at compile time that the
// header's arguments match the parameters of the kernel. Nothing here runs a launch; runtime.cpp does.

#pragma once

#include "bfloat16.h"
#include "half.h"
#include "runtime.h"

namespace kforge {

template <typename... T>
struct types {};

// The scalar type of a vector's elements; `void` if the vector may hold any bytes.
template <typename T>
struct Element {
    using type = T;
};
#define KFORGE_ELEMENT(vector, scalar)  \
    template <>                         \
    struct Element<vector> {            \
        using type = scalar;            \
    };
#define KFORGE_ELEMENTS(vector, scalar)  \
    KFORGE_ELEMENT(vector##2, scalar)    \
    KFORGE_ELEMENT(vector##3, scalar)    \
    KFORGE_ELEMENT(vector##4, scalar)
KFORGE_ELEMENTS(float, float)
KFORGE_ELEMENTS(double, double)
KFORGE_ELEMENTS(char, signed char)
KFORGE_ELEMENTS(uchar, unsigned char)
KFORGE_ELEMENTS(short, short)
KFORGE_ELEMENTS(ushort, unsigned short)
KFORGE_ELEMENTS(long, long)
KFORGE_ELEMENTS(longlong, long long)
KFORGE_ELEMENT(__half2, __half)
KFORGE_ELEMENT(__nv_bfloat162, __nv_bfloat16)
// Kernels use these to move 8 or 16 bytes of any type.
KFORGE_ELEMENTS(int, void)
KFORGE_ELEMENTS(uint, void)
#undef KFORGE_ELEMENTS
#undef KFORGE_ELEMENT

template <typename Passed, typename Taken>
constexpr bool same_value() {
    if constexpr (std::is_integral<Passed>::value && std::is_integral<Taken>::value) {
        return sizeof(Passed) == sizeof(Taken);
    } else {
        return std::is_same<Passed, Taken>::value;
    }
}

template <typename Passed, typename Taken>
constexpr bool same_pointee() {
    using Bare = typename Element<std::remove_cv_t<Taken>>::type;
    return std::is_void<Bare>::value || same_value<std::remove_cv_t<Passed>, Bare>();
}

enum class Mismatch { none, pointer_expected, value_expected, pointee, value, reference };

template <typename Passed, typename Taken>
constexpr Mismatch mismatch() {
    if constexpr (std::is_reference<Taken>::value) {
        return Mismatch::reference;
    } else if constexpr (std::is_pointer<Passed>::value && std::is_pointer<Taken>::value) {
        return same_pointee<std::remove_pointer_t<Passed>, std::remove_pointer_t<Taken>>() ? Mismatch::none : Mismatch::pointee;
    } else if constexpr (std::is_pointer<Passed>::value) {
        return Mismatch::value_expected;
    } else if constexpr (std::is_pointer<Taken>::value) {
        return Mismatch::pointer_expected;
    } else {
        return same_value<Passed, std::remove_cv_t<Taken>>() ? Mismatch::none : Mismatch::value;
    }
}

// The types appear in the compiler's note: "in instantiation of ... argument<3, float*, double*>".
template <int Position, typename HeaderPasses, typename KernelTakes>
struct argument {
    static constexpr Mismatch found = mismatch<HeaderPasses, KernelTakes>();
#define KFORGE_POSITION(position, name)                                                                                             \
    static_assert(Position != position || found != Mismatch::pointee, "argument " name ": the header passes a pointer to a different type than the kernel takes"); \
    static_assert(Position != position || found != Mismatch::value, "argument " name ": the header passes a value of a different type than the kernel takes"); \
    static_assert(Position != position || found != Mismatch::value_expected, "argument " name ": the header passes a pointer, the kernel takes a value"); \
    static_assert(Position != position || found != Mismatch::pointer_expected, "argument " name ": the header passes a value, the kernel takes a pointer");
#define KFORGE_TEN_POSITIONS(tens)                                                                                                  \
    KFORGE_POSITION(tens##0, #tens "0") KFORGE_POSITION(tens##1, #tens "1") KFORGE_POSITION(tens##2, #tens "2")                     \
    KFORGE_POSITION(tens##3, #tens "3") KFORGE_POSITION(tens##4, #tens "4") KFORGE_POSITION(tens##5, #tens "5")                     \
    KFORGE_POSITION(tens##6, #tens "6") KFORGE_POSITION(tens##7, #tens "7") KFORGE_POSITION(tens##8, #tens "8")                     \
    KFORGE_POSITION(tens##9, #tens "9")
    KFORGE_TEN_POSITIONS()
    KFORGE_TEN_POSITIONS(1)
    KFORGE_TEN_POSITIONS(2)
    KFORGE_TEN_POSITIONS(3)
#undef KFORGE_TEN_POSITIONS
#undef KFORGE_POSITION
    static_assert(found != Mismatch::reference, "a kernel takes its parameters by value or by pointer, not by reference");
    static_assert(Position < 40 || found == Mismatch::none, "the header passes a different type than the kernel takes");
    static constexpr bool checked = true;
};

template <int Position, typename Passed, typename Taken>
struct Check;
template <int Position>
struct Check<Position, types<>, types<>> {};
template <int Position, typename P, typename... Passed, typename T, typename... Taken>
struct Check<Position, types<P, Passed...>, types<T, Taken...>> : Check<Position + 1, types<Passed...>, types<Taken...>> {
    static_assert(argument<Position, P, T>::checked, "");
};

template <int Launch, typename... Passed, typename Result, typename... Taken>
constexpr uint32_t checked_count(types<Passed...>, Result (*)(Taken...)) {
    static_assert(std::is_void<Result>::value, "a kernel returns void");
    static_assert(sizeof...(Passed) >= sizeof...(Taken), "the header passes fewer arguments than the kernel takes");
    static_assert(sizeof...(Passed) <= sizeof...(Taken), "the header passes more arguments than the kernel takes");
    if constexpr (sizeof...(Passed) == sizeof...(Taken)) (void)Check<1, types<Passed...>, types<Taken...>>();
    return sizeof...(Taken);
}

template <typename T>
inline __attribute__((always_inline)) T argument_value(const void* bytes) {
    std::remove_cv_t<T> value;
    __builtin_memcpy(&value, bytes, sizeof(value));
    return value;
}

template <typename... P, size_t... Index>
inline __attribute__((always_inline)) void call(void (*kernel)(P...), const void* const* arguments, std::integer_sequence<size_t, Index...>) {
    kernel(argument_value<P>(arguments[Index])...);
}

template <typename... P>
inline __attribute__((always_inline)) void call(void (*kernel)(P...), const void* const* arguments) {
    call(kernel, arguments, std::make_integer_sequence<size_t, sizeof...(P)>());
}

}  // namespace kforge

#define KFORGE_ENTRIES_BEGIN extern "C" const ::kforge::Entry kforge_entries[] = {
#define KFORGE_ENTRY(index, expression, ...) \
    {[](const void* const* arguments) { ::kforge::call(expression, arguments); }, ::kforge::checked_count<index>(__VA_ARGS__{}, expression)},
#define KFORGE_ENTRIES_END \
    }                      \
    ;                      \
    extern "C" const uint32_t kforge_entry_count = sizeof(kforge_entries) / sizeof(kforge_entries[0]);
