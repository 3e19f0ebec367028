//! Standard headers that NVRTC lacks: kernels include them out of habit.
//!
//! Small headers are written out here. The others include libcu++, which is slow to parse, so it is parsed only if a kernel
//! includes one of them. Reads no files.

use crate::device::standard_headers::HOST_ONLY;

/// Name and contents of every provided header. A header that is not included costs nothing.
pub(super) fn provided_headers() -> Vec<(String, String)> {
    let spelled = WRITTEN_OUT
        .iter()
        .map(|(name, text)| (*name, (*text).to_owned()));
    let same = SHARED_TEXTS.iter().flat_map(|(names, text)| {
        let names = names.iter();
        names.map(move |name| (*name, format!("#pragma once\n{text}\n")))
    });
    // An older libcu++ lacks some headers; the compiler then reports what is missing where it is used. `<cuda/std/version>` may declare
    // no namespace.
    let standing = FROM_LIBCUDACXX.iter().map(|name| {
        let text = format!(
            "#pragma once\n#if __has_include(<cuda/std/{name}>)\n#include <cuda/std/{name}>\n#else\n\
             #include <cuda/std/version>\n#endif\nnamespace cuda {{ namespace std {{}} }}\n\
             namespace std {{ using namespace cuda::std; }}\n"
        );
        (*name, text)
    });
    let empty = HOST_ONLY
        .iter()
        .map(|name| (*name, "#pragma once\n".to_owned()));
    let all = spelled.chain(same).chain(standing).chain(empty);
    all.map(|(name, text)| (name.to_owned(), text)).collect()
}

/// Whether a header belongs to C or C++, whether or not it is provided here.
pub(super) fn is_standard_header(name: &str) -> bool {
    let known = WRITTEN_OUT.iter().map(|(name, _)| *name);
    let known = known.chain(
        SHARED_TEXTS
            .iter()
            .flat_map(|(names, _)| names.iter().copied()),
    );
    let mut known = known
        .chain(FROM_LIBCUDACXX.iter().copied())
        .chain(HOST_ONLY.iter().copied());
    known.any(|known| known == name)
}

const WRITTEN_OUT: &[(&str, &str)] = &[
    // The driver's API, of which device code needs only `CUtensorMap`.
    (
        "cuda.h",
        "#pragma once\n#define CUDA_VERSION (__CUDACC_VER_MAJOR__ * 1000 + __CUDACC_VER_MINOR__ * 10)\n\
         #ifndef KFORGE_TENSOR_MAP\n#define KFORGE_TENSOR_MAP\n\
         typedef struct alignas(64) CUtensorMap_st { unsigned long long opaque[16]; } CUtensorMap;\n#endif\n",
    ),
];

/// The text in front of every kernel: names that nvcc knows without a header, and those that the CPU knows in addition.
pub(super) fn preamble() -> String {
    [TYPES, MATHEMATICS, LIMIT_MACROS, FLOATS, ""].join("\n")
}

/// The types equal libcu++'s, so that a source may use both.
const TYPES: &str = "using int8_t = signed char; using int16_t = short; using int32_t = int; using int64_t = long long;
using uint8_t = unsigned char; using uint16_t = unsigned short; using uint32_t = unsigned; using uint64_t = unsigned long long;
using intptr_t = long long; using uintptr_t = unsigned long long; using intmax_t = long long; using uintmax_t = unsigned long long;
#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fffffff)
";
const INTEGERS: &str = "namespace std {
using ::int8_t; using ::int16_t; using ::int32_t; using ::int64_t; using ::uint8_t; using ::uint16_t; using ::uint32_t; using ::uint64_t;
using ::intptr_t; using ::uintptr_t; using ::intmax_t; using ::uintmax_t;
}
#ifndef INT32_MAX
#define INT8_MAX 127
#define INT8_MIN (-128)
#define UINT8_MAX 255
#define INT16_MAX 32767
#define INT16_MIN (-32768)
#define UINT16_MAX 65535
#define INT32_MAX 2147483647
#define INT32_MIN (-INT32_MAX - 1)
#define UINT32_MAX 4294967295u
#define INT64_MAX 9223372036854775807ll
#define INT64_MIN (-INT64_MAX - 1)
#define UINT64_MAX 18446744073709551615ull
#endif";
const MATHEMATICS: &str = "#ifndef HUGE_VALF
#define HUGE_VALF INFINITY
#define HUGE_VAL __longlong_as_double(0x7ff0000000000000ll)
#define MAXFLOAT 3.40282347e+38f
#endif
#ifndef M_PI
#define M_E 2.7182818284590452354
#define M_LOG2E 1.4426950408889634074
#define M_LOG10E 0.43429448190325182765
#define M_LN2 0.69314718055994530942
#define M_LN10 2.30258509299404568402
#define M_PI 3.14159265358979323846
#define M_PI_2 1.57079632679489661923
#define M_PI_4 0.78539816339744830962
#define M_1_PI 0.31830988618379067154
#define M_2_PI 0.63661977236758134308
#define M_2_SQRTPI 1.12837916709551257390
#define M_SQRT2 1.41421356237309504880
#define M_SQRT1_2 0.70710678118654752440
#endif";
const LIMIT_MACROS: &str = "#ifndef INT_MAX
#define CHAR_BIT 8
#define SCHAR_MAX 127
#define SCHAR_MIN (-128)
#define UCHAR_MAX 255
#define SHRT_MAX 32767
#define SHRT_MIN (-32768)
#define USHRT_MAX 65535
#define INT_MAX 2147483647
#define INT_MIN (-INT_MAX - 1)
#define UINT_MAX 4294967295u
#define LONG_MAX 9223372036854775807l
#define LONG_MIN (-LONG_MAX - 1)
#define ULONG_MAX 18446744073709551615ul
#define LLONG_MAX 9223372036854775807ll
#define LLONG_MIN (-LLONG_MAX - 1)
#define ULLONG_MAX 18446744073709551615ull
#endif";
const FLOATS: &str = "#ifndef FLT_MAX
#define FLT_RADIX 2
#define FLT_MANT_DIG 24
#define FLT_DIG 6
#define FLT_MIN 1.17549435e-38f
#define FLT_MAX 3.40282347e+38f
#define FLT_EPSILON 1.19209290e-07f
#define DBL_MANT_DIG 53
#define DBL_DIG 15
#define DBL_MIN 2.2250738585072014e-308
#define DBL_MAX 1.7976931348623157e+308
#define DBL_EPSILON 2.2204460492503131e-16
#endif";

/// Headers that share a text. NVRTC knows `assert`, `printf`, `memcpy` and `size_t` without a header, so theirs is empty.
const SHARED_TEXTS: &[(&[&str], &str)] = &[
    (
        &["stdint.h", "cstdint", "inttypes.h", "cinttypes"],
        INTEGERS,
    ),
    (&["math.h"], MATHEMATICS),
    (&["limits.h", "climits"], LIMIT_MACROS),
    (&["float.h", "cfloat"], FLOATS),
    (
        &[
            "assert.h",
            "cassert",
            "stdio.h",
            "cstdio",
            "stdlib.h",
            "cstdlib",
            "string.h",
            "cstring",
            "stddef.h",
            "cstddef",
            "stdbool.h",
            "stdarg.h",
            "cstdarg",
            "new",
        ],
        "",
    ),
];

/// C++ headers that libcu++ implements.
const FROM_LIBCUDACXX: &[&str] = &[
    "algorithm",
    "array",
    "atomic",
    "bit",
    "cmath",
    "complex",
    "functional",
    "initializer_list",
    "iterator",
    "limits",
    "numeric",
    "optional",
    "span",
    "tuple",
    "type_traits",
    "utility",
    "variant",
];
