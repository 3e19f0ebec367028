// Calls a kernel with the arguments of a launch. The last part of every translation unit has one entry per launch of the kernel file's
// header (`own_names.rs`). `launch_checks.h` checks at compile time that the header's arguments match the parameters of the kernel.
// Nothing here runs a launch; runtime.cpp does.

#pragma once

#include "bfloat16.h"
#include "half.h"
#include "launch_checks.h"
#include "runtime.h"

namespace kforge_launch {

// The value of an argument, converted to the type of the parameter. The runtime has 8 bytes for each argument.
template <typename Passed, typename T>
struct ArgumentValue {
    static inline __attribute__((always_inline)) T read(const void* bytes) {
        std::remove_cv_t<T> value;
        // A source could declare another type to fit.
        static_assert(sizeof(value) <= 8, "an argument has 8 bytes");
        __builtin_memcpy(&value, bytes, sizeof(value));
        return value;
    }
};
template <typename Stored, typename T>
inline __attribute__((always_inline)) T converted(const void* bytes) {
    // Where the types do not fit, `kforge_check` reports it.
    if constexpr (std::is_arithmetic<T>::value) {
        Stored value;
        __builtin_memcpy(&value, bytes, sizeof(value));
        return static_cast<T>(value);
    } else {
        __builtin_unreachable();
    }
}
template <typename T>
struct ArgumentValue<kforge_check::IntegerValue, T> {
    static inline __attribute__((always_inline)) T read(const void* bytes) { return converted<long long, std::remove_cv_t<T>>(bytes); }
};
template <long long Value, typename T>
struct ArgumentValue<kforge_check::IntegerConstant<Value>, T> : ArgumentValue<kforge_check::IntegerValue, T> {};
template <typename T>
struct ArgumentValue<kforge_check::BoolConstant, T> : ArgumentValue<kforge_check::IntegerValue, T> {};
template <typename T>
struct ArgumentValue<kforge_check::FloatConstant, T> {
    static inline __attribute__((always_inline)) T read(const void* bytes) { return converted<double, std::remove_cv_t<T>>(bytes); }
};

// Calls a kernel with the arguments of a launch.
template <typename Passed>
struct Caller;
template <typename... Passed>
struct Caller<kforge_check::types<Passed...>> {
    template <typename... P, size_t... Index>
    static inline __attribute__((always_inline)) void call(void (*kernel)(P...), const void* const* arguments, std::integer_sequence<size_t, Index...>) {
        kernel(ArgumentValue<Passed, P>::read(arguments[Index])...);
    }
    template <typename... P>
    static inline __attribute__((always_inline)) void call(void (*kernel)(P...), const void* const* arguments) {
        if constexpr (sizeof...(P) == sizeof...(Passed)) call(kernel, arguments, std::make_integer_sequence<size_t, sizeof...(P)>());
    }
};

}  // namespace kforge_launch
