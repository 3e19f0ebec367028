//! Instructions on integers and on parts of words.

use crate::run::{assert_columns, device, evaluate_columns, random_word};

const ROWS: usize = 2000;

type ReferenceFunction = fn(u32, u32, u32) -> i64;

#[test]
fn integer_intrinsics_match_the_reference() {
    let Some(device) = device() else { return };
    // Words with few bits as well, shifts and selectors of all sizes.
    let setup = "const unsigned few = i % 3 == 0 ? 31u : i % 3 == 1 ? 4u : 0u; const unsigned a = bits(0) >> (bits(3) & few), b = bits(1), c = bits(2);";
    let cases: &[(&str, ReferenceFunction)] = &[
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
        ("__fns(a, b & 31, 1)", |a, b, _| {
            let from = i64::from(b & 31);
            (from..32)
                .find(|at| a >> at & 1 == 1)
                .unwrap_or(0xffff_ffff)
        }),
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
    ];
    let expressions: Vec<_> = cases.iter().map(|(expression, _)| *expression).collect();
    let found = evaluate_columns(&device, "", setup, &expressions, ROWS);
    assert_columns(&expressions, &found, |column, i| {
        let few = [31, 4, 0][i % 3];
        (cases[column].1)(
            random_word(i, 0) >> (random_word(i, 3) & few),
            random_word(i, 1),
            random_word(i, 2),
        )
    });
}

/// An operation on signed and unsigned halfwords and bytes, as one on wide integers and how the result comes back.
type LaneOperation = fn(i64, i64) -> i64;

#[test]
fn simd_intrinsics_match_the_reference() {
    let Some(device) = device() else { return };
    // Name before the number of parts, signed or not, saturating or not, and the operation.
    let cases: &[(&str, bool, bool, LaneOperation)] = &[
        ("__vadd", false, false, |x, y| x + y),
        ("__vsub", false, false, |x, y| x - y),
        ("__vaddss", true, true, |x, y| x + y),
        ("__vaddus", false, true, |x, y| x + y),
        ("__vsubss", true, true, |x, y| x - y),
        ("__vsubus", false, true, |x, y| x - y),
        ("__vavgu", false, false, |x, y| (x + y + 1) / 2),
        // Halves away from zero.
        ("__vavgs", true, false, |x, y| {
            let sum = x + y;
            if sum >= 0 {
                (sum + 1) / 2
            } else {
                sum.div_euclid(2)
            }
        }),
        ("__vhaddu", false, false, |x, y| (x + y) / 2),
        ("__vmaxs", true, false, |x, y| x.max(y)),
        ("__vmaxu", false, false, |x, y| x.max(y)),
        ("__vmins", true, false, |x, y| x.min(y)),
        ("__vminu", false, false, |x, y| x.min(y)),
        ("__vabsdiffs", true, false, |x, y| (x - y).abs()),
        ("__vabsdiffu", false, false, |x, y| (x - y).abs()),
        ("__vcmpeq", false, false, |x, y| -i64::from(x == y)),
        ("__vcmpgts", true, false, |x, y| -i64::from(x > y)),
        ("__vcmpleu", false, false, |x, y| -i64::from(x <= y)),
        ("__vsetne", false, false, |x, y| i64::from(x != y)),
        ("__vsetlts", true, false, |x, y| i64::from(x < y)),
        ("__vsetgeu", false, false, |x, y| i64::from(x >= y)),
    ];
    let names: Vec<String> = cases
        .iter()
        .flat_map(|(name, ..)| [format!("{name}2(a, b)"), format!("{name}4(a, b)")])
        .chain(
            [
                "__vabs2(a)",
                "__vabsss4(a)",
                "__vneg4(a)",
                "__vnegss2(a)",
                "__vsadu4(a, b)",
                "__vsads2(a, b)",
            ]
            .map(str::to_owned),
        )
        .collect();
    let expressions: Vec<_> = names.iter().map(String::as_str).collect();
    // Equal parts and the least number now and then.
    let setup = "unsigned a = bits(0), b = bits(1); if (i % 4 == 1) b = (b & 0xff00ff00u) | (a & 0x00ff00ffu); if (i % 8 == 2) a = 0x80008080u;";
    let found = evaluate_columns(&device, "", setup, &expressions, ROWS);
    let part = |word: u32, width: u32, at: u32, signed: bool| {
        let value = i64::from(word >> (width * at)) & ((1 << width) - 1);
        if signed && value >> (width - 1) == 1 {
            value - (1 << width)
        } else {
            value
        }
    };
    assert_columns(&expressions, &found, |column, i| {
        let mut a = random_word(i, 0);
        let mut b = random_word(i, 1);
        if i % 4 == 1 {
            b = (b & 0xff00_ff00) | (a & 0x00ff_00ff);
        }
        if i % 8 == 2 {
            a = 0x8000_8080;
        }
        let each =
            |width: u32, signed: bool, saturates: bool, operation: &dyn Fn(i64, i64) -> i64| {
                let (least, most) = if signed {
                    (-(1i64 << (width - 1)), (1i64 << (width - 1)) - 1)
                } else {
                    (0, (1i64 << width) - 1)
                };
                (0..32 / width).fold(0i64, |word, at| {
                    let value = operation(part(a, width, at, signed), part(b, width, at, signed));
                    let value = if saturates {
                        value.clamp(least, most)
                    } else {
                        value
                    };
                    word | (value & ((1 << width) - 1)) << (width * at)
                })
            };
        let sum = |width: u32, signed: bool| {
            (0..32 / width)
                .map(|at| (part(a, width, at, signed) - part(b, width, at, signed)).abs())
                .sum::<i64>()
        };
        if let Some((_, signed, saturates, operation)) = cases.get(column / 2) {
            return each([16, 8][column % 2], *signed, *saturates, operation);
        }
        match expressions[column] {
            "__vabs2(a)" => each(16, true, false, &|x, _| x.abs()),
            "__vabsss4(a)" => each(8, true, true, &|x, _| x.abs()),
            "__vneg4(a)" => each(8, true, false, &|x, _| -x),
            "__vnegss2(a)" => each(16, true, true, &|x, _| -x),
            "__vsadu4(a, b)" => sum(8, false),
            _ => sum(16, true),
        }
    });
}
