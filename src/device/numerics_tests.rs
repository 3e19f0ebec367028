//! Tests of the numerics: known values, documented distributions, and equal bits from all CPU variants.

use super::*;

/// Fills aligned memory. Returns the memory and its elements.
pub(super) fn filled(
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
    // SAFETY: the words' memory as bytes; the callers allocate enough.
    unsafe {
        std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), elements * dtype.bytes() as usize)
    }
}

pub(super) fn normal(deviation: f64) -> Distribution {
    Distribution::new(DistributionKind::Normal(deviation))
}

const ALL_DTYPES: [DType; 11] = [
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
fn normal_values_have_the_requested_mean_and_variance() {
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
fn fill_is_deterministic_per_seed() {
    for dtype in ALL_DTYPES {
        let uniform = Distribution::new(DistributionKind::Uniform([0.0, 100.0]));
        let draw = |seed| filled(dtype, 1000, 1, &uniform, seed).0;
        assert_eq!(draw(1), draw(1), "{dtype}");
        assert_ne!(draw(1), draw(2), "{dtype}");
    }
}

#[test]
fn several_threads_fill_as_one_does() {
    // Not a multiple of what one thread fills.
    let (row, elements) = (5, 5 * 100_001);
    for normalize in [None, Some(Norm::L2)] {
        let distribution = Distribution {
            normalize,
            ..Distribution::new(DistributionKind::Normal(2.0))
        };
        let (_, found) = filled(DType::Float32, elements, row, &distribution, 7);
        assert!(elements * 4 > 2 * BYTES_PER_THREAD);
        let mut expected = vec![0f32; elements];
        let raw = raw_distribution(DType::Float32, row, &distribution);
        // SAFETY: the memory has room for the elements, and rows divide them.
        unsafe {
            let number = dtype_number(DType::Float32);
            let start = expected.as_mut_ptr().cast();
            let count = elements as u64;
            (fastest_functions().fill)(number, start, 0, count, &raw const raw, 7);
        }
        let is_equal = found
            .iter()
            .zip(&expected)
            .all(|(found, value)| *found == f64::from(*value));
        assert!(is_equal, "{normalize:?}");
    }
}

#[test]
fn stored_values_round_to_nearest_even() {
    let stored = |dtype, value| {
        filled(
            dtype,
            1,
            1,
            &Distribution::new(DistributionKind::Value(value)),
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

/// Distributions of every kind, without and with modifiers. Rows have 5 elements.
fn varied_distributions(dtype: DType) -> Vec<RawDistribution> {
    let uniform = Distribution::new(DistributionKind::Uniform([-1.0, 1.0]));
    let plain = raw_distribution(dtype, 5, &uniform);
    let kinds = [
        (0, 0, false),
        (0, 1, false),
        (1, 0, false),
        (2, 0, false),
        (0, 0, true),
        (1, 1, true),
        (3, 0, false),
        (3, 0, true),
    ];
    let with_kind = |(shape, normalize, is_modified)| RawDistribution {
        shape,
        normalize,
        levels: if is_modified { 7 } else { 0 },
        mean: if is_modified { 0.3 } else { 0.0 },
        zeros: if is_modified { 0.2 } else { 0.0 },
        large_rows: if is_modified { 3.0 } else { 1.0 },
        one_hot: u32::from(is_modified && normalize == 1),
        ..plain
    };
    kinds.map(with_kind).to_vec()
}

/// The results of all functions of a variant, as text.
fn results_of(functions: &Functions, dtype: DType, expected: &[f64]) -> Vec<String> {
    let number = dtype_number(dtype);
    let count = expected.len() as u64;
    let mut words = vec![0u64; expected.len()];
    let mut values = vec![0.0; expected.len()];
    let memory = words.as_mut_ptr().cast::<u8>();
    let mut results = Vec::new();
    // SAFETY: the memory has that many words.
    let has_noise = unsafe {
        (functions.fill_noise)(memory.cast(), 5, count, 7);
        (functions.has_noise)(memory.cast(), 5, count, 7)
    };
    results.push(format!("{has_noise} {words:?}"));
    for distribution in varied_distributions(dtype) {
        let mut compared = RawComparison::default();
        let mut first = 0;
        // SAFETY: the memory has room for that many elements of any dtype, and rows of 5 divide them.
        unsafe {
            (functions.fill)(number, memory, 0, count, &raw const distribution, 3);
            (functions.values)(number, memory, count, values.as_mut_ptr());
            (functions.store)(number, values.as_ptr(), memory, count);
            (functions.compare)(
                number,
                memory,
                expected.as_ptr(),
                count,
                1e-3,
                1e-2,
                &raw mut compared,
            );
            for kind in 0..3 {
                (functions.poison)(number, memory, count / 2, kind, 9);
                let unwritten =
                    (functions.unwritten)(number, memory, count, kind, 9, &raw mut first);
                let hash = (functions.hash)(memory, count * dtype.bytes());
                results.push(format!("{unwritten} {first} {hash}"));
            }
            let hash = (functions.hash)(memory, count * dtype.bytes() - 1);
            results.push(format!("{compared:?} {hash} {values:?}"));
        }
    }
    results
}

#[test]
fn all_cpu_variants_give_identical_bits() {
    let unit_rows = Distribution {
        normalize: Some(Norm::L2),
        ..Distribution::new(DistributionKind::Normal(0.8))
    };
    for dtype in ALL_DTYPES {
        let (_, values) = filled(dtype, 5 * 1031, 5, &unit_rows, 1);
        let expected: Vec<_> = values.iter().map(|value| value * 1.003).collect();
        let variants = supported_variants().into_iter();
        let results: Vec<_> = variants
            .map(|functions| results_of(functions, dtype, &expected))
            .collect();
        assert!(
            results.iter().all(|result| *result == results[0]),
            "{dtype}"
        );
    }
}

/// Compares with arithmetic in double precision, where division by powers of two is exact.
#[test]
fn narrow_formats_match_double_precision_rounding() {
    for (dtype, mantissa, least, largest) in [
        (DType::BFloat16, 7, -126, 3.389_531_389_251_535_5e38),
        (DType::Float16, 10, -14, 65_504.0),
        (DType::Float8E4M3, 3, -6, 448.0),
        (DType::Float8E5M2, 2, -14, 57_344.0),
    ] {
        for deviation in [1e-7, 1e-4, 1e-2, 1.0, 100.0] {
            // Both sides start from single precision, as `numerics.h` does.
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
fn all_bfloat16_and_float16_values_round_trip() {
    for (dtype, infinity) in [(DType::BFloat16, 0x7f80u16), (DType::Float16, 0x7c00)] {
        for bits in 0..=u16::MAX {
            let mut word = [u64::from(bits)];
            let value = values(dtype, bytes_of(&mut word, dtype, 1))[0];
            if bits & 0x7fff > infinity {
                assert!(value.is_nan());
            } else if value.is_finite() {
                let constant = Distribution::new(DistributionKind::Value(value));
                assert_eq!(
                    filled(dtype, 1, 1, &constant, 0).0[0] as u16,
                    if value == 0.0 { bits & 0x8000 } else { bits }
                );
            }
        }
    }
}

#[test]
fn normalized_rows_have_unit_length() {
    let unit = Distribution {
        normalize: Some(Norm::L2),
        ..Distribution::new(DistributionKind::Normal(1.0))
    };
    let (_, values) = filled(DType::Float32, 512, 128, &unit, 3);
    for row in values.chunks(128) {
        let length = row.iter().map(|value| value * value).sum::<f64>();
        assert!((length - 1.0).abs() < 1e-6);
    }
}

#[test]
fn distribution_modifiers_have_their_documented_effect() {
    let plain = Distribution::new(DistributionKind::Normal(1.0));
    let draw =
        |distribution: &Distribution| filled(DType::Float32, 64 * 100, 64, distribution, 3).1;
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let shifted = draw(&Distribution {
        mean: 5.0,
        ..plain.clone()
    });
    assert!((mean(&shifted) - 5.0).abs() < 0.1);
    let mut ties = draw(&Distribution {
        levels: 4,
        ..plain.clone()
    });
    ties.sort_by(f64::total_cmp);
    ties.dedup();
    assert_eq!(ties.len(), 4);
    let zeros = draw(&Distribution {
        zeros: 0.25,
        ..plain.clone()
    });
    let share = zeros.iter().filter(|value| **value == 0.0).count() as f64 / 6400.0;
    assert!((share - 0.25).abs() < 0.03, "{share}");
    let one_hot = draw(&Distribution {
        one_hot: true,
        ..plain.clone()
    });
    for row in one_hot.chunks(64) {
        assert_eq!(row.iter().filter(|value| **value != 0.0).count(), 1);
    }
    let large = draw(&Distribution {
        large_rows: 100.0,
        ..plain.clone()
    });
    let rows = large
        .chunks(64)
        .filter(|row| row[0].abs().max(row[1].abs()) > 4.0);
    assert!((10..40).contains(&rows.count()));
    let plain = draw(&plain);
    let untouched = large.iter().zip(&plain).filter(|(one, other)| one == other);
    assert!(untouched.count() > 60 * 64);
}

#[test]
fn cumulative_rows_split_the_total_into_random_parts() {
    let cut = |total, changed: fn(&mut Distribution), seed| {
        let mut distribution =
            Distribution::new(DistributionKind::Cumulative(CumulativeTotal::Size(total)));
        changed(&mut distribution);
        filled(DType::Int64, 3 * 41, 41, &distribution, seed).1
    };
    for total in [0, 1, 17, 1000, 1 << 40] {
        for changed in [
            |_: &mut Distribution| {},
            |distribution: &mut Distribution| distribution.zeros = 0.5,
            |distribution: &mut Distribution| distribution.levels = 1,
            |distribution: &mut Distribution| distribution.one_hot = true,
        ] {
            for row in cut(total, changed, 5).chunks(41) {
                assert_eq!((row[0], row[40]), (0.0, total as f64));
                assert!(row.is_sorted(), "{row:?}");
            }
        }
    }
    let parts = |values: &[f64]| -> Vec<f64> {
        let rows = values.chunks(41);
        rows.flat_map(|row| row.windows(2).map(|pair| pair[1] - pair[0]))
            .collect()
    };
    let usual = parts(&cut(4000, |_| {}, 5));
    assert!(usual.iter().any(|part| *part < 20.0) && usual.iter().any(|part| *part > 200.0));
    assert_ne!(usual[..40], usual[40..80]);
    assert_ne!(usual, parts(&cut(4000, |_| {}, 6)));
    let even = parts(&cut(4000, |distribution| distribution.levels = 1, 5));
    assert!(even.iter().all(|part| *part == 100.0), "{even:?}");
    let sparse = parts(&cut(4000, |distribution| distribution.zeros = 0.5, 5));
    let empty = sparse.iter().filter(|part| **part == 0.0).count();
    assert!((40..80).contains(&empty), "{empty}");
    let lone = filled(
        DType::Int32,
        4,
        1,
        &Distribution::new(DistributionKind::Cumulative(CumulativeTotal::Size(9))),
        1,
    );
    assert_eq!(lone.1, [0.0; 4]);
}

#[test]
fn store_then_values_returns_rounded_values() {
    let mut words = vec![0u64; 100];
    let values_in: Vec<_> = (0..100).map(|value| f64::from(value) / 64.0).collect();
    for dtype in [
        DType::Float64,
        DType::Float32,
        DType::BFloat16,
        DType::Float16,
    ] {
        let memory = bytes_of(&mut words, dtype, 100);
        store(dtype, &values_in, memory);
        assert_eq!(values(dtype, memory), values_in, "{dtype}");
    }
    let memory = bytes_of(&mut words, DType::BFloat16, 1);
    store(DType::BFloat16, &[1.0 + 3.0 / 256.0], memory);
    assert_eq!(values(DType::BFloat16, memory), [1.0 + 4.0 / 256.0]);
}

#[test]
fn comparison_accepts_small_errors_and_rejects_zeros_doubles_and_nan() {
    let tolerance = Tolerance {
        rtol: 1e-3,
        atol_rms: 1e-3,
    };
    let (mut words, expected) = filled(DType::Float32, 5000, 1, &normal(1e-4), 9);
    let memory = bytes_of(&mut words, DType::Float32, 5000);
    let exact = compare(DType::Float32, memory, &expected, tolerance);
    assert_eq!(
        (exact.failed, exact.worst_ratio, exact.first),
        (0, 0.0, None)
    );
    let near: Vec<_> = expected.iter().map(|value| value * 1.0005).collect();
    let close = compare(DType::Float32, memory, &near, tolerance);
    assert!(
        close.failed == 0 && close.worst_ratio > 0.2 && close.worst_ratio < 0.6,
        "{close:?}"
    );
    let double: Vec<_> = expected.iter().map(|value| value * 2.0).collect();
    assert!(compare(DType::Float32, memory, &double, tolerance).failed > 4900);
    memory[400..404].copy_from_slice(&f32::NAN.to_le_bytes());
    let comparison = compare(DType::Float32, memory, &expected, tolerance);
    assert_eq!(
        (
            comparison.failed,
            comparison.first.map(|first| first.index),
            comparison.worst_ratio
        ),
        (1, Some(100), f64::INFINITY)
    );
    memory.fill(0);
    assert!(compare(DType::Float32, memory, &expected, tolerance).failed > 4900);
}

#[test]
fn poison_is_counted_until_overwritten() {
    for dtype in ALL_DTYPES {
        for pattern in [
            Poison::Nan,
            Poison::SecretNan { seed: 4 },
            Poison::Finite { seed: 4 },
        ] {
            let mut words = vec![0u64; 1000];
            let memory = bytes_of(&mut words, dtype, 900);
            poison(dtype, memory, pattern);
            assert_eq!(
                count_unwritten(dtype, memory, pattern),
                PoisonCount {
                    count: 900,
                    first: Some(0)
                },
                "{dtype}"
            );
            let bytes = dtype.bytes() as usize;
            memory[..bytes].fill(0x55);
            assert_eq!(
                count_unwritten(dtype, memory, pattern),
                PoisonCount {
                    count: 899,
                    first: Some(1)
                },
                "{dtype}"
            );
        }
    }
}

#[test]
fn first_value_that_is_not_finite_is_found() {
    let mut values = vec![f64::MAX; 100];
    assert_eq!(first_not_finite(&values), None);
    assert_eq!(first_not_finite(&[]), None);
    for (index, value) in [
        (99, f64::NAN),
        (64, f64::NEG_INFINITY),
        (3, f64::INFINITY),
        (0, f64::NAN),
    ] {
        values[index] = value;
        assert_eq!(first_not_finite(&values), Some(index as u64));
    }
}

#[test]
fn hash_changes_with_any_bit() {
    let mut memory = vec![7u8; 1003];
    let before = hash(&memory);
    for index in [0, 8, 500, 1002] {
        memory[index] ^= 1;
        assert_ne!(hash(&memory), before);
        memory[index] ^= 1;
    }
    assert_eq!(hash(&memory), before);
}
