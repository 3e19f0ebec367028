//! Headers and constants of C and C++ that both devices treat alike. Sources include headers for host code out of habit, or for a
//! part that is not for the device.
//!
//! Both devices give such a header no content. What a kernel uses of it is then undeclared, and the compiler reports the line.

use super::macro_collisions::declared;

/// Whether a header serves only host code.
pub(super) fn is_host_only(name: &str) -> bool {
    HOST_ONLY.contains(&name)
}

/// Constants of C that are macros in every kernel. A source may declare them itself instead.
pub(super) const CONSTANTS: &[&str] = &[
    "M_E",
    "M_LOG2E",
    "M_LOG10E",
    "M_LN2",
    "M_LN10",
    "M_PI",
    "M_PI_2",
    "M_PI_4",
    "M_1_PI",
    "M_2_PI",
    "M_2_SQRTPI",
    "M_SQRT2",
    "M_SQRT1_2",
    "MAXFLOAT",
    "HUGE_VAL",
    "HUGE_VALF",
    "INFINITY",
    "NAN",
    "CHAR_BIT",
    "INT_MAX",
    "INT_MIN",
    "UINT_MAX",
    "LONG_MAX",
    "LONG_MIN",
    "LLONG_MAX",
    "ULLONG_MAX",
    "FLT_MAX",
    "FLT_MIN",
    "FLT_EPSILON",
    "DBL_MAX",
    "DBL_MIN",
    "DBL_EPSILON",
];

/// Directives that free the constants that a source declares itself.
pub(super) fn freed_constants(source: &str) -> String {
    let names = declared(source, CONSTANTS).into_iter();
    names.map(|name| format!("#undef {name}\n")).collect()
}

pub(super) const HOST_ONLY: &[&str] = &[
    "any",
    "bitset",
    "cctype",
    "cerrno",
    "chrono",
    "condition_variable",
    "csignal",
    "ctime",
    "ctype.h",
    "cuda_profiler_api.h",
    "cwchar",
    "deque",
    "errno.h",
    "exception",
    "filesystem",
    "forward_list",
    "fstream",
    "future",
    "iomanip",
    "ios",
    "iosfwd",
    "iostream",
    "istream",
    "list",
    "locale",
    "map",
    "memory",
    "mutex",
    "nvToolsExt.h",
    "nvtx3/nvToolsExt.h",
    "ostream",
    "queue",
    "random",
    "ratio",
    "regex",
    "set",
    "shared_mutex",
    "signal.h",
    "sstream",
    "stack",
    "stdexcept",
    "streambuf",
    "string",
    "string_view",
    "strings.h",
    "sys/time.h",
    "sys/types.h",
    "system_error",
    "thread",
    "time.h",
    "typeindex",
    "typeinfo",
    "unistd.h",
    "unordered_map",
    "unordered_set",
    "valarray",
    "vector",
];
