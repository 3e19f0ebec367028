//! What the judge does to memory that the CPU reaches: safe doors to `numerics.cpp`.
//!
//! The functions behind it are those that a GPU will run on its own memory: the same seed gives the same bits everywhere.

use std::sync::OnceLock;

use super::{Comparison, Poison};
use crate::task::{DType, Distribution, Norm, Shape, Tolerance};

#[repr(C)]
#[derive(Debug, Default)]
struct RawComparison {
    failed: u64,
    first: u64,
    first_found: f64,
    max_abs_error: f64,
    max_rel_error: f64,
    mean_abs_error: f64,
    worst: f64,
}

/// The functions of `numerics.cpp`, compiled for one kind of processor.
#[repr(C)]
struct Functions {
    fill: unsafe extern "C" fn(
        dtype: u32,
        memory: *mut u8,
        elements: u64,
        row: u64,
        shape: u32,
        first: f64,
        second: f64,
        normalize: bool,
        seed: u64,
    ),
    poison: unsafe extern "C" fn(dtype: u32, memory: *mut u8, elements: u64, seed: u64),
    unwritten: unsafe extern "C" fn(
        dtype: u32,
        memory: *const u8,
        elements: u64,
        finite: bool,
        seed: u64,
        first: *mut u64,
    ) -> u64,
    values: unsafe extern "C" fn(dtype: u32, memory: *const u8, elements: u64, into: *mut f64),
    compare: unsafe extern "C" fn(
        dtype: u32,
        memory: *const u8,
        expected: *const f64,
        elements: u64,
        atol_rms: f64,
        rtol: f64,
        result: *mut RawComparison,
    ),
    hash: unsafe extern "C" fn(memory: *const u8, bytes: u64) -> u64,
}

unsafe extern "C" {
    static kforge_numerics_functions: Functions;
    #[cfg(target_arch = "x86_64")]
    static kforge_numerics_avx2_functions: Functions;
    #[cfg(target_arch = "x86_64")]
    static kforge_numerics_avx512_functions: Functions;
}

/// Those that this processor can run, the fastest last. All give the same bits.
fn variants() -> Vec<&'static Functions> {
    // SAFETY: a constant of the other side, with the layout that both agree on.
    let mut variants = vec![unsafe { &kforge_numerics_functions }];
    #[cfg(target_arch = "x86_64")]
    {
        let has_avx2 = is_x86_feature_detected!("avx2");
        if has_avx2 {
            // SAFETY: as above.
            variants.push(unsafe { &kforge_numerics_avx2_functions });
        }
        if has_avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
        {
            // SAFETY: as above.
            variants.push(unsafe { &kforge_numerics_avx512_functions });
        }
    }
    variants
}

fn functions() -> &'static Functions {
    static FASTEST: OnceLock<&'static Functions> = OnceLock::new();
    FASTEST.get_or_init(|| {
        // SAFETY: a constant of the other side, with the layout that both agree on.
        let portable = unsafe { &kforge_numerics_functions };
        variants().pop().unwrap_or(portable)
    })
}

/// How many whole elements a memory holds. The memory must be aligned for them, as mapped pages and vectors' buffers are.
fn elements(dtype: DType, memory: &[u8]) -> u64 {
    assert_eq!(
        memory.as_ptr().align_offset(dtype.bytes() as usize),
        0,
        "memory for {dtype} is not aligned"
    );
    memory.len() as u64 / dtype.bytes()
}

/// Fills with random values. `row` is the length of the last axis, over which normalised distributions have length 1.
pub fn fill(dtype: DType, memory: &mut [u8], row: u64, distribution: &Distribution, seed: u64) {
    let elements = elements(dtype, memory);
    let row = row.clamp(1, elements.max(1));
    assert_eq!(
        elements % row,
        0,
        "rows of {row} do not divide {elements} elements"
    );
    let (shape, first, second) = match distribution.shape {
        Shape::Normal(deviation) => (0, deviation, 0.0),
        Shape::Uniform([low, high]) => (1, low, high),
        Shape::Value(value) => (2, value, 0.0),
    };
    let normalize = distribution.normalize == Some(Norm::L2) && dtype.is_float();
    // SAFETY: the memory holds `elements` aligned elements, and rows divide them.
    unsafe {
        (functions().fill)(
            number(dtype),
            memory.as_mut_ptr(),
            elements,
            row,
            shape,
            first,
            second,
            normalize,
            seed,
        )
    }
}

/// Fills with a pattern that an honest kernel does not leave behind.
pub fn poison(dtype: DType, memory: &mut [u8], pattern: Poison) {
    match pattern {
        Poison::NotANumber => memory.fill(0xff),
        // SAFETY: the memory holds as many aligned elements as are counted.
        Poison::Finite { seed } => unsafe {
            (functions().poison)(
                number(dtype),
                memory.as_mut_ptr(),
                elements(dtype, memory),
                seed,
            )
        },
    }
}

/// How many elements still hold their poison, and the index of the first.
pub fn unwritten(dtype: DType, memory: &[u8], pattern: Poison) -> (u64, Option<u64>) {
    let (finite, seed) = match pattern {
        Poison::NotANumber => (false, 0),
        Poison::Finite { seed } => (true, seed),
    };
    let mut first = 0;
    // SAFETY: the memory holds as many aligned elements as are counted; `first` is written at most once.
    let count = unsafe {
        (functions().unwritten)(
            number(dtype),
            memory.as_ptr(),
            elements(dtype, memory),
            finite,
            seed,
            &raw mut first,
        )
    };
    (count, (count > 0).then_some(first))
}

/// The elements in double precision.
pub fn values(dtype: DType, memory: &[u8]) -> Vec<f64> {
    let elements = elements(dtype, memory);
    let mut values = vec![0.0; elements as usize];
    // SAFETY: both sides hold `elements` aligned elements.
    unsafe {
        (functions().values)(
            number(dtype),
            memory.as_ptr(),
            elements,
            values.as_mut_ptr(),
        )
    }
    values
}

/// Every element against its expected value.
pub fn compare(dtype: DType, memory: &[u8], expected: &[f64], tolerance: Tolerance) -> Comparison {
    let elements = elements(dtype, memory);
    assert_eq!(
        elements,
        expected.len() as u64,
        "as many expected values as elements"
    );
    let mut raw = RawComparison::default();
    // SAFETY: both sides hold `elements` aligned elements; `raw` has the layout that the other side writes.
    unsafe {
        (functions().compare)(
            number(dtype),
            memory.as_ptr(),
            expected.as_ptr(),
            elements,
            tolerance.atol_rms,
            tolerance.rtol,
            &raw mut raw,
        );
    }
    let first = (raw.failed > 0).then(|| {
        (
            raw.first,
            expected
                .get(raw.first as usize)
                .copied()
                .unwrap_or(f64::NAN),
            raw.first_found,
        )
    });
    Comparison {
        elements,
        failed: raw.failed,
        first,
        max_abs_error: raw.max_abs_error,
        max_rel_error: raw.max_rel_error,
        mean_abs_error: raw.mean_abs_error,
        worst: raw.worst,
    }
}

pub fn hash(memory: &[u8]) -> u64 {
    // SAFETY: exactly the bytes of the slice are read.
    unsafe { (functions().hash)(memory.as_ptr(), memory.len() as u64) }
}

/// The numbers of `numerics.h`.
fn number(dtype: DType) -> u32 {
    match dtype {
        DType::Float64 => 0,
        DType::Float32 => 1,
        DType::Float16 => 2,
        DType::BFloat16 => 3,
        DType::Float8E4M3 => 4,
        DType::Float8E5M2 => 5,
        DType::Int64 => 6,
        DType::Int32 => 7,
        DType::Int16 => 8,
        DType::Int8 => 9,
        DType::Bool => 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Aligned memory for some elements.
    fn filled(
        dtype: DType,
        elements: usize,
        row: u64,
        distribution: &Distribution,
        seed: u64,
    ) -> (Vec<u64>, Vec<f64>) {
        let mut words = vec![0u64; (elements * dtype.bytes() as usize).div_ceil(8)];
        let memory = bytes_of(&mut words, dtype, elements);
        fill(dtype, memory, row, distribution, seed);
        let values = values(dtype, memory);
        (words, values)
    }

    fn bytes_of(words: &mut [u64], dtype: DType, elements: usize) -> &mut [u8] {
        // SAFETY: the words' own memory, seen as bytes.
        unsafe {
            std::slice::from_raw_parts_mut(
                words.as_mut_ptr().cast(),
                elements * dtype.bytes() as usize,
            )
        }
    }

    fn normal(deviation: f64) -> Distribution {
        Distribution {
            shape: Shape::Normal(deviation),
            normalize: None,
        }
    }

    const EVERY: [DType; 11] = [
        DType::Float64,
        DType::Float32,
        DType::Float16,
        DType::BFloat16,
        DType::Float8E4M3,
        DType::Float8E5M2,
        DType::Int64,
        DType::Int32,
        DType::Int16,
        DType::Int8,
        DType::Bool,
    ];

    #[test]
    fn normals_have_the_moments_that_they_should() {
        for dtype in [DType::Float64, DType::Float32, DType::BFloat16] {
            let (_, values) = filled(dtype, 200_000, 1, &normal(2.0), 5);
            let count = values.len() as f64;
            let mean = values.iter().sum::<f64>() / count;
            let variance = values
                .iter()
                .map(|value| (value - mean).powi(2))
                .sum::<f64>()
                / count;
            assert!(
                mean.abs() < 0.02 && (variance - 4.0).abs() < 0.05,
                "{dtype}: {mean}, {variance}"
            );
            assert!(values.iter().all(|value| value.abs() <= 2.0 * 3.48));
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_bits_and_another_does_not() {
        for dtype in EVERY {
            let uniform = Distribution {
                shape: Shape::Uniform([0.0, 100.0]),
                normalize: None,
            };
            let draw = |seed| filled(dtype, 1000, 1, &uniform, seed).0;
            assert_eq!(draw(1), draw(1), "{dtype}");
            assert_ne!(draw(1), draw(2), "{dtype}");
        }
    }

    #[test]
    fn rounding_is_to_nearest_even() {
        let stored = |dtype, value| {
            filled(
                dtype,
                1,
                1,
                &Distribution {
                    shape: Shape::Value(value),
                    normalize: None,
                },
                0,
            )
            .1[0]
        };
        for (dtype, value, expected) in [
            (DType::BFloat16, 1.0 + 1.0 / 256.0, 1.0),
            (DType::BFloat16, 1.0 + 3.0 / 256.0, 1.0 + 4.0 / 256.0),
            (DType::BFloat16, 3.4e38, f64::INFINITY),
            (DType::Float16, 65_504.0, 65_504.0),
            (DType::Float16, 65_520.0, f64::INFINITY),
            (DType::Float16, 2f64.powi(-24), 2f64.powi(-24)),
            (DType::Float16, 2f64.powi(-25), 0.0),
            (DType::Float16, 1.5 * 2f64.powi(-24), 2f64.powi(-23)),
            (DType::Float16, -0.1, -0.099_975_585_937_5),
            (DType::Float8E4M3, 448.0, 448.0),
            (DType::Float8E4M3, 17.0, 16.0),
            (DType::Float8E4M3, 2f64.powi(-9), 2f64.powi(-9)),
            (DType::Float8E5M2, 57_344.0, 57_344.0),
            (DType::Float8E5M2, 1.125, 1.0),
            (DType::Int8, -7.0, -7.0),
        ] {
            assert_eq!(stored(dtype, value), expected, "{dtype} {value}");
        }
        assert!(stored(DType::Float8E4M3, 500.0).is_nan());
    }

    #[test]
    fn every_kind_of_processor_gives_the_same_bits() {
        let unit = Distribution {
            shape: Shape::Normal(0.8),
            normalize: Some(Norm::L2),
        };
        let tolerance = Tolerance {
            rtol: 1e-2,
            atol_rms: 1e-3,
        };
        let elements = 5 * 1031;
        for dtype in EVERY {
            let number = number(dtype);
            let expected: Vec<_> = filled(dtype, elements, 5, &unit, 1)
                .1
                .iter()
                .map(|value| value * 1.003)
                .collect();
            let results = variants().into_iter().map(|functions| {
                let mut words = vec![0u64; elements];
                let mut values = vec![0.0; elements];
                let mut parts = Vec::new();
                let memory = words.as_mut_ptr().cast::<u8>();
                let count = elements as u64;
                for (shape, normalize) in [(0, false), (0, true), (1, false), (2, false)] {
                    // SAFETY: there is room for that many elements of any type, and rows of 5 divide them.
                    unsafe {
                        (functions.fill)(number, memory, count, 5, shape, -1.0, 1.0, normalize, 3);
                        (functions.values)(number, memory, count, values.as_mut_ptr());
                        let mut compared = RawComparison::default();
                        let expected = expected.as_ptr();
                        (functions.compare)(
                            number,
                            memory,
                            expected,
                            count,
                            tolerance.atol_rms,
                            tolerance.rtol,
                            &raw mut compared,
                        );
                        let mut first = 0;
                        (functions.poison)(number, memory, count / 2, 9);
                        let unwritten =
                            (functions.unwritten)(number, memory, count, true, 9, &raw mut first);
                        let hash = (functions.hash)(memory, count * dtype.bytes() - 1);
                        parts.push(format!(
                            "{compared:?} {unwritten} {first} {hash} {values:?}"
                        ));
                    }
                }
                parts
            });
            let results: Vec<_> = results.collect();
            assert!(
                results.iter().all(|result| *result == results[0]),
                "{dtype}"
            );
        }
    }

    /// Against arithmetic in double precision, where quotients by powers of two are exact.
    #[test]
    fn narrow_formats_round_as_arithmetic_says() {
        for (dtype, mantissa, least, largest) in [
            (DType::BFloat16, 7, -126, 3.389_531_389_251_535_5e38),
            (DType::Float16, 10, -14, 65_504.0),
            (DType::Float8E4M3, 3, -6, 448.0),
            (DType::Float8E5M2, 2, -14, 57_344.0),
        ] {
            for deviation in [1e-7, 1e-4, 1e-2, 1.0, 100.0] {
                // Through single precision on both sides: the formats are reached through it.
                let (_, exact) = filled(DType::Float32, 20_000, 1, &normal(deviation), 2);
                let (_, found) = filled(dtype, 20_000, 1, &normal(deviation), 2);
                for (exact, found) in exact.into_iter().zip(found) {
                    let exponent = exact.abs().log2().floor().max(f64::from(least));
                    let place = (exponent - f64::from(mantissa)).exp2();
                    let rounded = (exact / place).round_ties_even() * place;
                    assert_eq!(found, rounded.clamp(-largest, largest), "{dtype} {exact}");
                }
            }
        }
    }

    #[test]
    fn every_bfloat16_and_half_survives_a_round_trip() {
        for (dtype, infinity) in [(DType::BFloat16, 0x7f80u16), (DType::Float16, 0x7c00)] {
            for bits in 0..=u16::MAX {
                let mut word = [u64::from(bits)];
                let value = values(dtype, bytes_of(&mut word, dtype, 1))[0];
                if bits & 0x7fff > infinity {
                    assert!(value.is_nan());
                } else if value.is_finite() {
                    let constant = Distribution {
                        shape: Shape::Value(value),
                        normalize: None,
                    };
                    assert_eq!(
                        filled(dtype, 1, 1, &constant, 0).0[0] as u16,
                        if value == 0.0 { bits & 0x8000 } else { bits }
                    );
                }
            }
        }
    }

    #[test]
    fn rows_can_have_length_one() {
        let unit = Distribution {
            shape: Shape::Normal(1.0),
            normalize: Some(Norm::L2),
        };
        let (_, values) = filled(DType::Float32, 512, 128, &unit, 3);
        for row in values.chunks(128) {
            let length = row.iter().map(|value| value * value).sum::<f64>();
            assert!((length - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn zeros_halves_and_nan_fail_and_small_errors_pass() {
        let tolerance = Tolerance {
            rtol: 1e-3,
            atol_rms: 1e-3,
        };
        let (mut words, expected) = filled(DType::Float32, 5000, 1, &normal(1e-4), 9);
        let memory = bytes_of(&mut words, DType::Float32, 5000);
        let exact = compare(DType::Float32, memory, &expected, tolerance);
        assert_eq!((exact.failed, exact.worst, exact.first), (0, 0.0, None));
        let near: Vec<_> = expected.iter().map(|value| value * 1.0005).collect();
        let close = compare(DType::Float32, memory, &near, tolerance);
        assert!(
            close.failed == 0 && close.worst > 0.2 && close.worst < 0.6,
            "{close:?}"
        );
        let double: Vec<_> = expected.iter().map(|value| value * 2.0).collect();
        assert!(compare(DType::Float32, memory, &double, tolerance).failed > 4900);
        memory[400..404].copy_from_slice(&f32::NAN.to_le_bytes());
        let comparison = compare(DType::Float32, memory, &expected, tolerance);
        assert_eq!(
            (
                comparison.failed,
                comparison.first.map(|first| first.0),
                comparison.worst
            ),
            (1, Some(100), f64::INFINITY)
        );
        memory.fill(0);
        assert!(compare(DType::Float32, memory, &expected, tolerance).failed > 4900);
    }

    #[test]
    fn poison_is_recognised_until_it_is_written_over() {
        for dtype in EVERY {
            for pattern in [Poison::NotANumber, Poison::Finite { seed: 4 }] {
                let mut words = vec![0u64; 1000];
                let memory = bytes_of(&mut words, dtype, 900);
                poison(dtype, memory, pattern);
                assert_eq!(unwritten(dtype, memory, pattern), (900, Some(0)), "{dtype}");
                let bytes = dtype.bytes() as usize;
                memory[..bytes].fill(0x55);
                assert_eq!(unwritten(dtype, memory, pattern), (899, Some(1)), "{dtype}");
            }
        }
    }

    #[test]
    fn a_hash_sees_every_bit() {
        let mut memory = vec![7u8; 1003];
        let before = hash(&memory);
        for index in [0, 8, 500, 1002] {
            memory[index] ^= 1;
            assert_ne!(hash(&memory), before);
            memory[index] ^= 1;
        }
        assert_eq!(hash(&memory), before);
    }
}
