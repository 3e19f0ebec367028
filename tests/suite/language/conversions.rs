//! Rounding: conversions to and from narrow types, between integers and floats, and arithmetic whose name specifies the rounding.

use crate::language::run::{assert_columns, device, evaluate_columns, random_word, run_kernel};

/// A binary floating-point format.
#[derive(Clone, Copy)]
struct FloatFormat {
    /// Explicit mantissa bits of a normal number.
    mantissa_bits: i32,
    min_exponent: i32,
    largest: f64,
    /// E4M3 has no infinity.
    has_infinity: bool,
}

const HALF: FloatFormat = FloatFormat {
    mantissa_bits: 10,
    min_exponent: -14,
    largest: 65504.0,
    has_infinity: true,
};
const BFLOAT16: FloatFormat = FloatFormat {
    mantissa_bits: 7,
    min_exponent: -126,
    largest: 3.3895313892515355e38,
    has_infinity: true,
};
const E4M3: FloatFormat = FloatFormat {
    mantissa_bits: 3,
    min_exponent: -6,
    largest: 448.0,
    has_infinity: false,
};
const E5M2: FloatFormat = FloatFormat {
    mantissa_bits: 2,
    min_exponent: -14,
    largest: 57344.0,
    has_infinity: true,
};
const FLOAT: FloatFormat = FloatFormat {
    mantissa_bits: 23,
    min_exponent: -126,
    largest: f32::MAX as f64,
    has_infinity: true,
};

#[derive(Clone, Copy, PartialEq)]
enum RoundingMode {
    Nearest,
    Zero,
    Down,
    Up,
}
const ROUNDING_MODES: [(&str, RoundingMode); 4] = [
    ("rn", RoundingMode::Nearest),
    ("rz", RoundingMode::Zero),
    ("rd", RoundingMode::Down),
    ("ru", RoundingMode::Up),
];

/// The number of a format that an exact value rounds to. A value that a double cannot hold may be replaced by another one between
/// the same two neighbours, on the same side of their midpoint.
fn round_to_format(value: f64, format: FloatFormat, round: RoundingMode) -> f64 {
    if value.is_nan() || value == 0.0 || value.is_infinite() {
        return value;
    }
    let mut exponent = (value.abs().to_bits() >> 52) as i32 - 1023;
    exponent = exponent.max(format.min_exponent);
    let unit = 2f64.powi(exponent - format.mantissa_bits);
    let steps = value / unit;
    let whole = match round {
        RoundingMode::Nearest => steps.round_ties_even(),
        RoundingMode::Zero => steps.trunc(),
        RoundingMode::Down => steps.floor(),
        RoundingMode::Up => steps.ceil(),
    };
    let result = whole * unit;
    if result.abs() <= format.largest {
        return if result == 0.0 {
            0f64.copysign(value)
        } else {
            result
        };
    }
    let stays_finite = match round {
        RoundingMode::Nearest => false,
        RoundingMode::Zero => true,
        RoundingMode::Down => value > 0.0,
        RoundingMode::Up => value < 0.0,
    };
    if stays_finite {
        format.largest.copysign(value)
    } else if format.has_infinity {
        f64::INFINITY.copysign(value)
    } else {
        f64::NAN
    }
}

/// The value of a code.
fn decode(code: u32, width: u32, format: FloatFormat) -> f64 {
    let magnitude = code & ((1 << (width - 1)) - 1);
    let exponent_field = (magnitude >> format.mantissa_bits) as i32;
    let mantissa = f64::from(magnitude & ((1 << format.mantissa_bits) - 1));
    let top = (1 << (width - 1 - format.mantissa_bits as u32)) - 1;
    let value = if exponent_field == top && format.has_infinity {
        if mantissa == 0.0 {
            f64::INFINITY
        } else {
            f64::NAN
        }
    } else if !format.has_infinity && magnitude == (1 << (width - 1)) - 1 {
        f64::NAN
    } else {
        let unit =
            2f64.powi(exponent_field.max(1) + format.min_exponent - 1 - format.mantissa_bits);
        (mantissa
            + if exponent_field > 0 {
                f64::from(1 << format.mantissa_bits)
            } else {
                0.0
            })
            * unit
    };
    if code >> (width - 1) == 1 {
        -value
    } else {
        value
    }
}

/// Whether two numbers are equal. Zeros are compared by sign; all NaNs are equal.
fn same_number(a: f64, b: f64) -> bool {
    a.is_nan() && b.is_nan() || a.to_bits() == b.to_bits()
}

/// Floats of several kinds: arbitrary bits, values near numbers and midpoints of the narrow types, and values in their range.
fn test_float(i: usize) -> f32 {
    let word = random_word(i, 0);
    f32::from_bits(match i % 4 {
        0 => word,
        1 => (word & 0xffff_0000)
            .wrapping_add(random_word(i, 1) % 3)
            .wrapping_sub(1),
        2 => (word & 0x803f_ffff) | (118 + random_word(i, 2) % 20) << 23,
        _ => ((word & 0x8070_0000) | (100 + random_word(i, 2) % 50) << 23)
            .wrapping_add(random_word(i, 1) % 3)
            .wrapping_sub(1),
    })
}
const DEVICE_TEST_FLOAT: &str = "__device__ float number(unsigned i) { unsigned w = word(i, 0); switch (i % 4) { case 0: break; case 1: w = (w & 0xffff0000u) + word(i, 1) % 3 - 1; break; case 2: w = (w & 0x803fffffu) | (118 + word(i, 2) % 20) << 23; break; default: w = ((w & 0x80700000u) | (100 + word(i, 2) % 50) << 23) + word(i, 1) % 3 - 1; } return __uint_as_float(w); }";

#[test]
fn every_fp8_code_decodes_correctly() {
    let device = device();
    let source = "#include <cuda_fp8.h>\n__global__ void f(long long* y, int n) { int i = blockIdx.x * blockDim.x + threadIdx.x; if (i >= n) return; __nv_fp8_e4m3 a; __nv_fp8_e5m2 b; a.__x = b.__x = (unsigned char)i; float x = i < 256 ? float(a) : i < 512 ? float(b) : i < 768 ? (float)__half(__nv_cvt_fp8_to_halfraw((unsigned char)i, __NV_E4M3)) : (float)__half(__nv_cvt_fp8_to_halfraw((unsigned char)i, __NV_E5M2)); y[i] = __float_as_uint(x); }";
    for (i, word) in run_kernel(&device, source, 1024).into_iter().enumerate() {
        let format = if i / 256 % 2 == 0 { E4M3 } else { E5M2 };
        let wanted = decode((i % 256) as u32, 8, format);
        let found = f64::from(f32::from_bits(word as u32));
        assert!(
            same_number(found, wanted),
            "code {:#x}: {found}, not {wanted}",
            i % 256
        );
    }
}

#[test]
fn fp8_rounds_and_saturates() {
    let device = device();
    let expressions = [
        "__nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3)",
        "__nv_cvt_float_to_fp8(x, __NV_NOSAT, __NV_E4M3)",
        "__nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E5M2)",
        "__nv_cvt_float_to_fp8(x, __NV_NOSAT, __NV_E5M2)",
        "__nv_fp8_e4m3(x).__x",
        "__nv_fp8x4_e5m2(make_float4(0.0f, x, 1.0f, 2.0f)).__x >> 8 & 0xff",
        "__nv_cvt_double_to_fp8((double)x * (1 + 0x1p-40), __NV_NOSAT, __NV_E5M2)",
    ];
    let found = evaluate_columns(
        &device,
        &format!(
            "#include <cuda_fp8.h>\n__device__ unsigned word(unsigned i, unsigned k);\n{DEVICE_TEST_FLOAT}"
        ),
        "const float x = number((unsigned)i);",
        &expressions,
        40_000,
    );
    for (column, codes) in found.iter().enumerate() {
        for (i, code) in codes.iter().enumerate() {
            let x = test_float(i);
            let format = if [0, 1, 4].contains(&column) {
                E4M3
            } else {
                E5M2
            };
            let saturates = [0, 2, 4, 5].contains(&column);
            let exact = f64::from(x)
                * if column == 6 {
                    1.0 + 2f64.powi(-40)
                } else {
                    1.0
                };
            let mut wanted = round_to_format(exact, format, RoundingMode::Nearest);
            if exact.is_infinite() && !format.has_infinity {
                wanted = f64::NAN;
            }
            let fits = wanted.abs() <= format.largest;
            if saturates && !exact.is_nan() && !fits {
                wanted = format.largest.copysign(exact);
            }
            let value = decode(*code as u32, 8, format);
            assert!(
                same_number(value, wanted),
                "`{}` of {x:e} ({:#x}): {value}, not {wanted}",
                expressions[column],
                x.to_bits()
            );
        }
    }
}

#[test]
fn narrow_types_round_in_every_mode() {
    let device = device();
    let mut expressions = Vec::new();
    for (name, _) in ROUNDING_MODES {
        expressions.push(format!("__half_as_ushort(__float2half_{name}(x))"));
        expressions.push(format!("__bfloat16_as_ushort(__float2bfloat16_{name}(x))"));
        expressions.push(format!("__half_as_ushort(__int2half_{name}(whole))"));
        expressions.push(format!("__bfloat16_as_ushort(__ll2bfloat16_{name}(wide))"));
    }
    let expressions: Vec<_> = expressions.iter().map(String::as_str).collect();
    let setup = "const float x = number((unsigned)i); const int whole = (int)bits(5) >> (bits(6) & 31); const long long wide = (long long)((unsigned long long)bits(7) << 32 | bits(8)) >> (bits(9) & 63);";
    let found = evaluate_columns(
        &device,
        &format!(
            "#include <cuda_fp16.h>\n#include <cuda_bf16.h>\n__device__ unsigned word(unsigned i, unsigned k);\n{DEVICE_TEST_FLOAT}"
        ),
        setup,
        &expressions,
        20_000,
    );
    for (column, codes) in found.iter().enumerate() {
        let round = ROUNDING_MODES[column / 4].1;
        for (i, code) in codes.iter().enumerate() {
            let format = if column % 2 == 0 { HALF } else { BFLOAT16 };
            let wide = ((u64::from(random_word(i, 7)) << 32 | u64::from(random_word(i, 8))) as i64)
                >> (random_word(i, 9) & 63);
            let exact = match column % 4 {
                0 | 1 => f64::from(test_float(i)),
                2 => f64::from(random_word(i, 5) as i32 >> (random_word(i, 6) & 31)),
                // Rounded to odd: a double cannot hold it exactly.
                _ if wide.unsigned_abs() >> 53 != 0 => {
                    (wide >> 11 << 11 | i64::from(wide & 0x7ff != 0) << 11) as f64
                }
                _ => wide as f64,
            };
            let wanted = round_to_format(exact, format, round);
            let value = decode(*code as u32, 16, format);
            assert!(
                same_number(value, wanted),
                "`{}` for element {i}, {exact:e}: {value:e}, not {wanted:e}",
                expressions[column]
            );
        }
    }
}

/// A half (or a bfloat16 near one) times 2^24, exactly.
fn to_fixed_point(value: f64) -> i128 {
    (value * 2f64.powi(24)) as i128
}

/// An exact sum of products in units of 2^-48, as a double rounded to odd.
fn round_to_odd(units: i128) -> f64 {
    let magnitude = units.unsigned_abs();
    let shift = (128 - magnitude.leading_zeros()).saturating_sub(52);
    let kept = (magnitude >> shift) as u64 | u64::from(magnitude & ((1 << shift) - 1) != 0);
    let value = kept as f64 * 2f64.powi(shift as i32 - 48);
    if units < 0 { -value } else { value }
}

/// Operations on pairs of halves, for `half2_operation`.
const HALF2_OPERATIONS: [&str; 10] = [
    "__hadd2(a, b)",
    "__hsub2(a, b)",
    "__hmul2(a, b)",
    "__hfma2(a, b, c)",
    "__hmax2(a, b)",
    "__hmin2(a, b)",
    "__hfma2_relu(a, b, c)",
    "a * b + c",
    "__h2div(a, b)",
    "__hadd2_sat(a, b)",
];

/// The result of one of `HALF2_OPERATIONS` on single halves. `found` selects among several valid results.
fn half2_operation(operation: usize, [a, b, c]: [f64; 3], found: f64) -> f64 {
    let nearest = |value: f64| round_to_format(value, HALF, RoundingMode::Nearest);
    let fused = || {
        let exact = to_fixed_point(a) * to_fixed_point(b) + (to_fixed_point(c) << 24);
        nearest(if exact == 0 {
            a * b + c
        } else {
            round_to_odd(exact)
        })
    };
    // The maximum of two zeros is positive unless both are negative.
    let are_zeros = a == b && a == 0.0;
    match operation {
        0 => nearest(a + b),
        1 => nearest(a - b),
        2 => nearest(a * b),
        3 => fused(),
        4 if are_zeros => {
            if a.is_sign_negative() {
                b
            } else {
                a
            }
        }
        4 => a.max(b),
        5 if are_zeros => {
            if a.is_sign_negative() {
                a
            } else {
                b
            }
        }
        5 => a.min(b),
        6 => {
            let value = fused();
            if value < 0.0 { 0.0 } else { value }
        }
        // Either rounded twice or contracted into a fused operation; both are valid.
        7 => {
            let twice = nearest(nearest(a * b) + c);
            if same_number(twice, found) {
                twice
            } else {
                fused()
            }
        }
        8 => nearest(f64::from((a / b) as f32)),
        _ => nearest(a + b).clamp(0.0, 1.0),
    }
}

#[test]
fn half2_operations_round_once() {
    let device = device();
    let low: Vec<_> = HALF2_OPERATIONS
        .iter()
        .map(|operation| format!("__half_as_ushort(__low2half({operation}))"))
        .collect();
    let high: Vec<_> = HALF2_OPERATIONS
        .iter()
        .map(|operation| format!("__half_as_ushort(__high2half({operation}))"))
        .collect();
    let expressions: Vec<_> = low.iter().chain(&high).map(String::as_str).collect();
    let setup = "auto half = [&](int k) { return __ushort_as_half((unsigned short)(bits(k) % 0x7800u | (bits(k) >> 16 & 0x8000u))); }; const __half2 a = __halves2half2(half(0), half(1)), b = __halves2half2(half(2), half(3)), c = __halves2half2(half(4), half(5));";
    let found = evaluate_columns(
        &device,
        "#include <cuda_fp16.h>",
        setup,
        &expressions,
        20_000,
    );
    let half = |i: usize, k: u32| {
        let word = random_word(i, k);
        decode((word % 0x7800) | (word >> 16 & 0x8000), 16, HALF)
    };
    for (column, codes) in found.iter().enumerate() {
        for (i, code) in codes.iter().enumerate() {
            let second = (column / HALF2_OPERATIONS.len()) as u32;
            let [a, b, c] = [0, 2, 4].map(|k| half(i, k + second));
            let value = decode(*code as u32, 16, HALF);
            let wanted = half2_operation(column % HALF2_OPERATIONS.len(), [a, b, c], value);
            assert!(
                same_number(value, wanted) || value == 0.0 && wanted == 0.0,
                "`{}` of {a:e}, {b:e}, {c:e}: {value:e}, not {wanted:e}",
                expressions[column]
            );
        }
    }
}

#[test]
fn floats_round_in_every_mode() {
    let device = device();
    let mut expressions = Vec::new();
    for (name, _) in ROUNDING_MODES {
        expressions.extend(
            [
                "__fadd_R(a, b)",
                "__fsub_R(a, b)",
                "__fmul_R(a, b)",
                "__fmaf_R(a, b, c)",
                "__fdiv_R(a, b)",
                "__fsqrt_R(fabsf(a))",
                "__frcp_R(a)",
                "__ll2float_R(wide)",
                "__uint2float_R(bits(5))",
                "__double2float_R(exact)",
            ]
            .map(|call| format!("__float_as_uint({})", call.replace('R', name))),
        );
    }
    let operations = expressions.len() / 4;
    let expressions: Vec<_> = expressions.iter().map(String::as_str).collect();
    // Similar exponents, so that an exact sum of products fits a double or is rounded to odd here.
    let setup = "auto near = [&](int k) { return __uint_as_float((bits(k) & 0x807fffffu) | (122 + bits(k + 10) % 12) << 23); }; const float a = near(0), b = near(1), c = near(2); const long long wide = (long long)((unsigned long long)bits(7) << 32 | bits(8)) >> (bits(9) & 63); const double exact = __hiloint2double((int)((bits(3) & 0x800fffffu) | (890 + bits(5) % 250) << 20), (int)bits(4));";
    let found = evaluate_columns(&device, "", setup, &expressions, 10_000);
    assert_columns(&expressions, &found, |column, i| {
        let near = |k: u32| {
            f64::from(f32::from_bits(
                (random_word(i, k) & 0x807f_ffff) | (122 + random_word(i, k + 10) % 12) << 23,
            ))
        };
        let (a, b, c) = (near(0), near(1), near(2));
        let wide = ((u64::from(random_word(i, 7)) << 32 | u64::from(random_word(i, 8))) as i64)
            >> (random_word(i, 9) & 63);
        let double = f64::from_bits(
            u64::from((random_word(i, 3) & 0x800f_ffff) | (890 + random_word(i, 5) % 250) << 20)
                << 32
                | u64::from(random_word(i, 4)),
        );
        let scaled = |value: f64, places: i32| (value * 2f64.powi(places)) as i128;
        let exact = match column % operations {
            0 => a + b,
            1 => a - b,
            2 => a * b,
            // Each factor is a multiple of 2^-28.
            3 => round_to_odd(scaled(a, 28) * scaled(b, 28) + scaled(c, 56)) * 2f64.powi(48 - 56),
            4 => a / b,
            5 => a.abs().sqrt(),
            6 => 1.0 / a,
            7 if wide.unsigned_abs() >> 53 != 0 => {
                ((wide >> 11) | i64::from(wide & 0x7ff != 0)) as f64 * 2048.0
            }
            7 => wide as f64,
            8 => f64::from(random_word(i, 5)),
            _ => double,
        };
        let round = ROUNDING_MODES[column / operations].1;
        let zero_up = exact == 0.0 && round == RoundingMode::Down;
        let wanted = round_to_format(exact, FLOAT, round) as f32;
        if wanted == 0.0 && zero_up {
            return i64::from(found[column][i] as u32 & 0x8000_0000);
        }
        i64::from(wanted.to_bits())
    });
}

#[test]
fn doubles_round_in_every_mode() {
    let device = device();
    // The operands are integers, so that 128-bit integers give the exact results.
    let mut expressions = Vec::new();
    for (name, _) in ROUNDING_MODES {
        expressions.extend(
            [
                "__dadd_R(a, b)",
                "__dmul_R(a, b)",
                "__fma_R(a, b, c)",
                "__ll2double_R(wide)",
            ]
            .map(|call| format!("__double_as_longlong({})", call.replace('R', name))),
        );
    }
    let expressions: Vec<_> = expressions.iter().map(String::as_str).collect();
    let setup = "auto whole = [&](int k) { return (double)((long long)((unsigned long long)bits(k) << 32 | bits(k + 1)) >> 12); }; const double a = whole(0), b = whole(2), c = whole(4); const long long wide = (long long)((unsigned long long)bits(7) << 32 | bits(8));";
    let found = evaluate_columns(&device, "", setup, &expressions, 5_000);
    assert_columns(&expressions, &found, |column, i| {
        let whole = |k: u32| {
            i128::from(
                (u64::from(random_word(i, k)) << 32 | u64::from(random_word(i, k + 1))) as i64
                    >> 12,
            )
        };
        let wide =
            i128::from((u64::from(random_word(i, 7)) << 32 | u64::from(random_word(i, 8))) as i64);
        let exact = match column % 4 {
            0 => whole(0) + whole(2),
            1 => whole(0) * whole(2),
            2 => whole(0) * whole(2) + whole(4),
            _ => wide,
        };
        let shift = (128 - exact.unsigned_abs().leading_zeros()).saturating_sub(53);
        let (down, rest) = (exact >> shift, exact & ((1 << shift) - 1));
        let half = if shift == 0 { 1 } else { 1i128 << (shift - 1) };
        let up = match ROUNDING_MODES[column / 4].1 {
            RoundingMode::Nearest => rest > half || rest == half && down & 1 == 1,
            RoundingMode::Zero => exact < 0 && rest != 0,
            RoundingMode::Down => false,
            RoundingMode::Up => rest != 0,
        };
        let value = (down + i128::from(up)) as f64 * 2f64.powi(shift as i32);
        value.to_bits() as i64
    });
}

#[test]
fn float_to_integer_conversions_match_the_gpu() {
    let device = device();
    let mut expressions = Vec::new();
    for (name, _) in ROUNDING_MODES {
        expressions.extend(
            [
                "__float2int_R(x)",
                "__float2uint_R(x)",
                "__float2ll_R(x)",
                "__half2int_R(h)",
                "__double2int_R(d)",
                "__half2ushort_R(h)",
            ]
            .map(|call| call.replace('R', name)),
        );
    }
    let expressions: Vec<_> = expressions.iter().map(String::as_str).collect();
    let setup = "const float x = i == 0 ? __int_as_float(0x7fc00000) : i == 1 ? __int_as_float(0x7f800000) : __uint_as_float((bits(0) & 0x807fffffu) | (115 + bits(1) % 90) << 23); const __half h = __ushort_as_half((unsigned short)(bits(2) % 0x7c00u | (bits(2) >> 16 & 0x8000u))); const double d = (double)x * 1.0000001;";
    let found = evaluate_columns(
        &device,
        "#include <cuda_fp16.h>",
        setup,
        &expressions,
        10_000,
    );
    assert_columns(&expressions, &found, |column, i| {
        let x = match i {
            0 => f64::NAN,
            1 => f64::INFINITY,
            _ => f64::from(f32::from_bits(
                (random_word(i, 0) & 0x807f_ffff) | (115 + random_word(i, 1) % 90) << 23,
            )),
        };
        let word = random_word(i, 2);
        let h = decode((word % 0x7c00) | (word >> 16 & 0x8000), 16, HALF);
        let value = match column % 6 {
            3 | 5 => h,
            4 => x * 1.0000001,
            _ => x,
        };
        let whole = match ROUNDING_MODES[column / 6].1 {
            RoundingMode::Nearest => value.round_ties_even(),
            RoundingMode::Zero => value.trunc(),
            RoundingMode::Down => value.floor(),
            RoundingMode::Up => value.ceil(),
        };
        // Rust's casts saturate as the GPU's do, except for NaNs if either type has 64 bits.
        match column % 6 {
            0 | 3 => i64::from(whole as i32),
            1 => i64::from(whole as u32),
            2 if whole.is_nan() => i64::MIN,
            2 => whole as i64,
            4 if whole.is_nan() => i64::from(i32::MIN),
            4 => i64::from(whole as i32),
            _ => i64::from(whole as u16),
        }
    });
}
