//! Names of CUDA and C functions that only compute a value from their arguments.
//!
//! A function that is not listed counts as one with unknown effects.

/// Pure functions that return `float`.
const FLOAT_FUNCTIONS: [&str; 52] = [
    "expf",
    "exp2f",
    "exp10f",
    "expm1f",
    "logf",
    "log2f",
    "log10f",
    "log1pf",
    "sqrtf",
    "rsqrtf",
    "cbrtf",
    "powf",
    "sinf",
    "cosf",
    "tanf",
    "asinf",
    "acosf",
    "atanf",
    "atan2f",
    "sinhf",
    "coshf",
    "tanhf",
    "erff",
    "erfcf",
    "fabsf",
    "fmaxf",
    "fminf",
    "fmaf",
    "fmodf",
    "floorf",
    "ceilf",
    "roundf",
    "truncf",
    "rintf",
    "copysignf",
    "fdividef",
    "__fdividef",
    "__expf",
    "__exp10f",
    "__logf",
    "__log2f",
    "__log10f",
    "__powf",
    "__sinf",
    "__cosf",
    "__tanf",
    "__frcp_rn",
    "__fsqrt_rn",
    "__fmaf_rn",
    "__saturatef",
    "__int_as_float",
    "hypotf",
];

/// Pure functions of other types. Some read the memory that an argument points to.
const OTHER_PURE_FUNCTIONS: [&str; 32] = [
    "max",
    "min",
    "abs",
    "sqrt",
    "exp",
    "log",
    "__ldg",
    "__ldcs",
    "__bfloat162float",
    "__half2float",
    "__float2bfloat16",
    "__float2bfloat16_rn",
    "__float2half",
    "__float2half_rn",
    "__bfloat1622float2",
    "__half22float2",
    "__floats2bfloat162_rn",
    "__float22bfloat162_rn",
    "__floats2half2_rn",
    "__low2float",
    "__high2float",
    "make_float2",
    "make_float3",
    "make_float4",
    "make_int2",
    "make_int4",
    "make_uint2",
    "make_uint4",
    "__float_as_int",
    "__popc",
    "__clz",
    "__mul24",
];

/// Whether a library function only computes a `float` from its arguments.
pub(super) fn is_float_function(name: &str) -> bool {
    FLOAT_FUNCTIONS.contains(&name)
}

/// Whether a library function has no effect besides its value.
pub(super) fn is_pure_library_function(name: &str) -> bool {
    is_float_function(name) || OTHER_PURE_FUNCTIONS.contains(&name)
}
