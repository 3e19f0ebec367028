//! Integer intrinsics and SIMD intrinsics on parts of words.

use crate::language::run::{assert_columns, device, evaluate_columns, random_word};

const ROWS: usize = 2000;

/// Computes the result of an intrinsic from three words.
type ReferenceFunction = fn(u32, u32, u32) -> i64;

/// Evaluates intrinsics of three words `a`, `b` and `c`, and compares them with reference functions.
fn check(cases: &[(&str, ReferenceFunction)]) {
    let device = device();
    // Includes words with few bits set; shifts and selectors of all sizes.
    let setup = "const unsigned few = i % 3 == 0 ? 31u : i % 3 == 1 ? 4u : 0u; const unsigned a = bits(0) >> (bits(3) & few), b = bits(1), c = bits(2);";
    let expressions: Vec<_> = cases.iter().map(|(expression, _)| *expression).collect();
    let found = evaluate_columns(&device, "", setup, &expressions, ROWS);
    assert_columns(&expressions, &found, |column, i| {
        let few = [31, 4, 0][i % 3];
        let (_, reference) = cases[column];
        reference(
            random_word(i, 0) >> (random_word(i, 3) & few),
            random_word(i, 1),
            random_word(i, 2),
        )
    });
}

#[test]
fn bit_intrinsics_match_the_reference() {
    check(&[
        ("__popc(a)", |a, _, _| i64::from(a.count_ones())),
        ("__popcll((unsigned long long)a << 32 | b)", |a, b, _| {
            i64::from(a.count_ones() + b.count_ones())
        }),
        ("__clz(a)", |a, _, _| i64::from(a.leading_zeros())),
        ("__clzll((unsigned long long)a)", |a, _, _| {
            i64::from(u64::from(a).leading_zeros())
        }),
        ("__ffs(a)", |a, _, _| {
            if a == 0 {
                0
            } else {
                i64::from(a.trailing_zeros()) + 1
            }
        }),
        ("__brev(a)", |a, _, _| i64::from(a.reverse_bits())),
        ("__brevll((unsigned long long)a << 32 | b)", |a, b, _| {
            (u64::from(a) << 32 | u64::from(b)).reverse_bits() as i64
        }),
        ("__byte_perm(a, b, c)", |a, b, c| {
            let bytes = [a.to_le_bytes(), b.to_le_bytes()].concat();
            let chosen = |at: u32| {
                let choice = c >> (4 * at) & 15;
                let byte = bytes[(choice & 7) as usize];
                if choice & 8 == 0 {
                    byte
                } else if byte & 128 == 0 {
                    0
                } else {
                    255
                }
            };
            i64::from(u32::from_le_bytes([
                chosen(0),
                chosen(1),
                chosen(2),
                chosen(3),
            ]))
        }),
        ("__funnelshift_l(a, b, c)", |a, b, c| {
            i64::from(((u64::from(b) << 32 | u64::from(a)) << (c & 31) >> 32) as u32)
        }),
        ("__funnelshift_r(a, b, c)", |a, b, c| {
            i64::from(((u64::from(b) << 32 | u64::from(a)) >> (c & 31)) as u32)
        }),
        ("__funnelshift_lc(a, b, c & 63)", |a, b, c| {
            i64::from(
                ((u128::from(u64::from(b) << 32 | u64::from(a)) << (c & 63).min(32)) >> 32) as u32,
            )
        }),
        ("__funnelshift_rc(a, b, c & 63)", |a, b, c| {
            i64::from(((u64::from(b) << 32 | u64::from(a)) >> (c & 63).min(32)) as u32)
        }),
        ("__fns(a, b & 31, 1)", |a, b, _| {
            let from = i64::from(b & 31);
            (from..32)
                .find(|at| a >> at & 1 == 1)
                .unwrap_or(0xffff_ffff)
        }),
    ]);
}

#[test]
fn integer_arithmetic_matches_the_reference() {
    check(&[
        ("__mulhi((int)a, (int)b)", |a, b, _| {
            (i64::from(a as i32) * i64::from(b as i32)) >> 32
        }),
        ("__umulhi(a, b)", |a, b, _| {
            ((u64::from(a) * u64::from(b)) >> 32) as i64
        }),
        (
            "__umul64hi((unsigned long long)a << 32 | b, (unsigned long long)b << 32 | c)",
            |a, b, c| {
                ((u128::from(u64::from(a) << 32 | u64::from(b))
                    * u128::from(u64::from(b) << 32 | u64::from(c)))
                    >> 64) as i64
            },
        ),
        (
            "__mul64hi((long long)((unsigned long long)a << 32 | b), (long long)((unsigned long long)b << 32 | c))",
            |a, b, c| {
                ((i128::from((u64::from(a) << 32 | u64::from(b)) as i64)
                    * i128::from((u64::from(b) << 32 | u64::from(c)) as i64))
                    >> 64) as i64
            },
        ),
        ("__mul24((int)a, (int)b)", |a, b, _| {
            let low = |word: u32| (word << 8) as i32 >> 8;
            i64::from(low(a).wrapping_mul(low(b)))
        }),
        ("__umul24(a, b)", |a, b, _| {
            i64::from((a & 0xff_ffff).wrapping_mul(b & 0xff_ffff))
        }),
        ("__sad((int)a, (int)b, c)", |a, b, c| {
            i64::from((a as i32).abs_diff(b as i32).wrapping_add(c))
        }),
        ("__usad(a, b, c)", |a, b, c| {
            i64::from(a.abs_diff(b).wrapping_add(c))
        }),
        ("__hadd((int)a, (int)b)", |a, b, _| {
            (i64::from(a as i32) + i64::from(b as i32)) >> 1
        }),
        ("__rhadd((int)a, (int)b)", |a, b, _| {
            (i64::from(a as i32) + i64::from(b as i32) + 1) >> 1
        }),
        ("__uhadd(a, b)", |a, b, _| {
            (i64::from(a) + i64::from(b)) >> 1
        }),
        ("__urhadd(a, b)", |a, b, _| {
            (i64::from(a) + i64::from(b) + 1) >> 1
        }),
    ]);
}

#[test]
fn dot_products_match_the_reference() {
    check(&[
        ("__dp4a((int)a, (int)b, (int)c)", |a, b, c| {
            let sum = a
                .to_le_bytes()
                .iter()
                .zip(b.to_le_bytes())
                .map(|(x, y)| i32::from(*x as i8) * i32::from(y as i8))
                .sum::<i32>();
            i64::from((c as i32).wrapping_add(sum))
        }),
        ("__dp4a(a, b, c)", |a, b, c| {
            let sum = a
                .to_le_bytes()
                .iter()
                .zip(b.to_le_bytes())
                .map(|(x, y)| u32::from(*x) * u32::from(y))
                .sum::<u32>();
            i64::from(c.wrapping_add(sum))
        }),
        ("__dp2a_lo((int)a, (int)b, (int)c)", |a, b, c| {
            let bytes = b.to_le_bytes();
            let sum = i64::from(a as i16) * i64::from(bytes[0] as i8)
                + i64::from((a >> 16) as i16) * i64::from(bytes[1] as i8);
            i64::from((c as i32).wrapping_add(sum as i32))
        }),
        ("__dp2a_hi(a, b, c)", |a, b, c| {
            let bytes = b.to_le_bytes();
            let sum = (a & 0xffff) * u32::from(bytes[2]) + (a >> 16) * u32::from(bytes[3]);
            i64::from(c.wrapping_add(sum))
        }),
    ]);
}

#[test]
fn minima_and_maxima_match_the_reference() {
    check(&[
        ("max((int)a, (int)b)", |a, b, _| {
            i64::from((a as i32).max(b as i32))
        }),
        ("min(a, (int)b)", |a, b, _| i64::from(a.min(b))),
        ("umax(a, b)", |a, b, _| i64::from(a.max(b))),
        ("__viaddmax_s32((int)a, (int)b, (int)c)", |a, b, c| {
            i64::from((a as i32).wrapping_add(b as i32).max(c as i32))
        }),
        ("__vimin3_u32(a, b, c)", |a, b, c| {
            i64::from(a.min(b).min(c))
        }),
        ("__vimax3_s32_relu((int)a, (int)b, (int)c)", |a, b, c| {
            i64::from((a as i32).max(b as i32).max(c as i32).max(0))
        }),
    ]);
}

/// Random operands of a SIMD intrinsic. Some rows have equal parts, some the smallest number. `SIMD_OPERANDS` is the same in CUDA.
fn simd_operands(i: usize) -> (u32, u32) {
    let (mut a, mut b) = (random_word(i, 0), random_word(i, 1));
    if i % 4 == 1 {
        b = (b & 0xff00_ff00) | (a & 0x00ff_00ff);
    }
    if i % 8 == 2 {
        a = 0x8000_8080;
    }
    (a, b)
}

const SIMD_OPERANDS: &str = "unsigned a = bits(0), b = bits(1); if (i % 4 == 1) b = (b & 0xff00ff00u) | (a & 0x00ff00ffu); if (i % 8 == 2) a = 0x80008080u;";

/// An operation on halfwords or bytes, computed with wide integers.
struct LaneOperation {
    is_signed: bool,
    saturates: bool,
    apply: fn(i64, i64) -> i64,
}

impl LaneOperation {
    /// The results for all parts of two words, as one word. `width` is the number of bits of a part.
    fn apply_to_words(&self, width: u32, a: u32, b: u32) -> i64 {
        let (min, max) = if self.is_signed {
            (-(1i64 << (width - 1)), (1i64 << (width - 1)) - 1)
        } else {
            (0, (1i64 << width) - 1)
        };
        (0..32 / width).fold(0i64, |word, at| {
            let parts = [a, b].map(|word| part(word, width, at, self.is_signed));
            let mut value = (self.apply)(parts[0], parts[1]);
            if self.saturates {
                value = value.clamp(min, max);
            }
            word | (value & ((1 << width) - 1)) << (width * at)
        })
    }
}

/// Part `at` of a word as a number.
fn part(word: u32, width: u32, at: u32, is_signed: bool) -> i64 {
    let value = i64::from(word >> (width * at)) & ((1 << width) - 1);
    if is_signed && value >> (width - 1) == 1 {
        value - (1 << width)
    } else {
        value
    }
}

fn unsigned(apply: fn(i64, i64) -> i64) -> LaneOperation {
    LaneOperation {
        is_signed: false,
        saturates: false,
        apply,
    }
}

fn signed(apply: fn(i64, i64) -> i64) -> LaneOperation {
    LaneOperation {
        is_signed: true,
        ..unsigned(apply)
    }
}

fn saturating(operation: LaneOperation) -> LaneOperation {
    LaneOperation {
        saturates: true,
        ..operation
    }
}

#[test]
fn two_operand_simd_intrinsics_match_the_reference() {
    let device = device();
    // The name without the number of parts, and the operation.
    let cases: &[(&str, LaneOperation)] = &[
        ("__vadd", unsigned(|x, y| x + y)),
        ("__vsub", unsigned(|x, y| x - y)),
        ("__vaddss", saturating(signed(|x, y| x + y))),
        ("__vaddus", saturating(unsigned(|x, y| x + y))),
        ("__vsubss", saturating(signed(|x, y| x - y))),
        ("__vsubus", saturating(unsigned(|x, y| x - y))),
        ("__vavgu", unsigned(|x, y| (x + y + 1) / 2)),
        // Rounds halves away from zero.
        (
            "__vavgs",
            signed(|x, y| {
                let sum = x + y;
                if sum >= 0 {
                    (sum + 1) / 2
                } else {
                    sum.div_euclid(2)
                }
            }),
        ),
        ("__vhaddu", unsigned(|x, y| (x + y) / 2)),
        ("__vmaxs", signed(|x, y| x.max(y))),
        ("__vmaxu", unsigned(|x, y| x.max(y))),
        ("__vmins", signed(|x, y| x.min(y))),
        ("__vminu", unsigned(|x, y| x.min(y))),
        ("__vabsdiffs", signed(|x, y| (x - y).abs())),
        ("__vabsdiffu", unsigned(|x, y| (x - y).abs())),
        ("__vcmpeq", unsigned(|x, y| -i64::from(x == y))),
        ("__vcmpgts", signed(|x, y| -i64::from(x > y))),
        ("__vcmpleu", unsigned(|x, y| -i64::from(x <= y))),
        ("__vsetne", unsigned(|x, y| i64::from(x != y))),
        ("__vsetlts", signed(|x, y| i64::from(x < y))),
        ("__vsetgeu", unsigned(|x, y| i64::from(x >= y))),
    ];
    let names: Vec<String> = cases
        .iter()
        .flat_map(|(name, _)| [format!("{name}2(a, b)"), format!("{name}4(a, b)")])
        .collect();
    let expressions: Vec<_> = names.iter().map(String::as_str).collect();
    let found = evaluate_columns(&device, "", SIMD_OPERANDS, &expressions, ROWS);
    assert_columns(&expressions, &found, |column, i| {
        let (a, b) = simd_operands(i);
        let (_, operation) = &cases[column / 2];
        operation.apply_to_words([16, 8][column % 2], a, b)
    });
}

#[test]
fn one_operand_simd_intrinsics_match_the_reference() {
    let device = device();
    let cases: &[(&str, u32, LaneOperation)] = &[
        ("__vabs2(a)", 16, signed(|x, _| x.abs())),
        ("__vabsss4(a)", 8, saturating(signed(|x, _| x.abs()))),
        ("__vneg4(a)", 8, signed(|x, _| -x)),
        ("__vnegss2(a)", 16, saturating(signed(|x, _| -x))),
    ];
    let expressions: Vec<_> = cases.iter().map(|(expression, ..)| *expression).collect();
    let found = evaluate_columns(&device, "", SIMD_OPERANDS, &expressions, ROWS);
    assert_columns(&expressions, &found, |column, i| {
        let (a, b) = simd_operands(i);
        let (_, width, operation) = &cases[column];
        operation.apply_to_words(*width, a, b)
    });
}

#[test]
fn sums_of_absolute_differences_match_the_reference() {
    let device = device();
    let expressions = ["__vsadu4(a, b)", "__vsads2(a, b)"];
    let found = evaluate_columns(&device, "", SIMD_OPERANDS, &expressions, ROWS);
    assert_columns(&expressions, &found, |column, i| {
        let (a, b) = simd_operands(i);
        let (width, is_signed) = [(8, false), (16, true)][column];
        let differences =
            (0..32 / width).map(|at| part(a, width, at, is_signed) - part(b, width, at, is_signed));
        differences.map(i64::abs).sum()
    });
}
