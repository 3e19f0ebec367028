//! Tests of the root mean square that the absolute bound is a share of.

use super::tests::{filled, normal};
use super::*;

/// Causal attention of one head, with the queries aligned at the end of the keys: the first queries see no key, and their output is 0.
/// Returns the exact output and that of a usual float16 kernel: weights rounded to float16 before they are summed, float32 sums.
fn attention(queries: usize, keys: usize, seed: u64) -> (Vec<f64>, Vec<f64>) {
    const SIZE: usize = 64;
    let sparse = Distribution {
        zeros: 0.5,
        ..normal(1.0)
    };
    let tensor = |rows, seed| filled(DType::Float16, rows * SIZE, SIZE as u64, &sparse, seed).1;
    let (q, k, v) = (
        tensor(queries, seed),
        tensor(keys, seed + 1),
        tensor(keys, seed + 2),
    );
    let (mut exact, mut usual) = (vec![0.0; q.len()], vec![0.0; q.len()]);
    for query in 0..queries {
        let seen = (query + keys + 1).saturating_sub(queries);
        let q = &q[query * SIZE..][..SIZE];
        let scores = k.chunks(SIZE).take(seen);
        let scores = scores.map(|k| q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() / 8.0);
        let scores: Vec<_> = scores.collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<_> = (scores.iter().map(|score| (score - largest).exp())).collect();
        let total: f64 = weights.iter().sum();
        let rounded = round_to_dtype(DType::Float16, &weights);
        for column in 0..SIZE * usize::from(seen > 0) {
            let values = || v.iter().skip(column).step_by(SIZE);
            let sum: f64 = weights.iter().zip(values()).map(|(w, v)| w * v).sum();
            let pairs = rounded.iter().zip(values());
            let usual_sum = pairs.fold(0.0f32, |sum, (w, v)| sum + (w * v) as f32);
            exact[query * SIZE + column] = sum / total;
            usual[query * SIZE + column] = f64::from(usual_sum / total as f32);
        }
    }
    (exact, usual)
}

#[test]
fn rows_of_zeros_do_not_change_the_bound_of_the_other_rows() {
    const QUERIES: usize = 20_011;
    const KEYS: usize = 12;
    // The tolerance of the task attention_fp16.
    let tolerance = Tolerance {
        rtol: 2e-3,
        atol_rms: 5e-3,
    };
    let check = |found: &[f64], expected: &[f64]| {
        compare_values(DType::Float16, found, expected, tolerance)
    };
    let mut failed_over_all = 0;
    for seed in [3, 30, 300] {
        let (expected, found) = attention(QUERIES, KEYS, seed);
        let filled: Vec<_> = expected.iter().map(|value| *value != 0.0).collect();
        let zeros = filled.iter().filter(|is_filled| !**is_filled).count();
        assert!(zeros > expected.len() * 99 / 100, "{zeros}");
        let honest = check(&found, &expected);
        assert_eq!(honest.failed, 0, "{honest:?}");

        // The same as for the other rows alone.
        let start = (QUERIES - KEYS) * 64;
        let alone = check(&found[start..], &expected[start..]);
        assert_eq!(honest.worst_ratio.to_bits(), alone.worst_ratio.to_bits());
        assert!(honest.worst_ratio > 0.05, "{honest:?}");

        // With the root mean square over all elements the honest kernel failed.
        let scale = root_mean_square(&expected);
        let squares: f64 = expected.iter().map(|value| value * value).sum();
        let over_all = (squares / expected.len() as f64).sqrt();
        assert!(over_all < scale / 10.0, "{over_all} and {scale}");
        let tight = Tolerance {
            atol_rms: tolerance.atol_rms * over_all / scale,
            ..tolerance
        };
        failed_over_all += compare_values(DType::Float16, &found, &expected, tight).failed;

        // A query that leaves out its last key, one element off by a fiftieth of the scale, and a zero that is not written as 0.
        let (longer, _) = attention(QUERIES + 1, KEYS, seed);
        let mut last_key = found.clone();
        last_key[start + 5 * 64..start + 6 * 64]
            .copy_from_slice(&longer[start + 5 * 64..start + 6 * 64]);
        assert!(check(&last_key, &expected).failed > 8);
        for index in [0, 7, start + 70, found.len() - 1] {
            let mut wrong = found.clone();
            wrong[index] += 0.02 * scale + 0.01 * expected[index].abs();
            let wrong = check(&wrong, &expected);
            assert_eq!(wrong.failed, 1, "{index}: {wrong:?}");
            assert_eq!(wrong.first.map(|first| first.index), Some(index as u64));
        }
    }
    assert!(failed_over_all > 0);
}

#[test]
fn the_root_mean_square_leaves_out_zeros_and_values_that_are_not_finite() {
    assert_eq!(root_mean_square(&[]), 0.0);
    assert_eq!(root_mean_square(&[0.0, -0.0, f64::INFINITY]), 0.0);
    assert_eq!(
        root_mean_square(&[0.0, 3.0, f64::NAN, -3.0, 0.0, f64::NEG_INFINITY]),
        3.0
    );
    // A value that is tiny but not 0 counts.
    assert_eq!(
        root_mean_square(&[2.0, 1e-30, 1e-30, -1e-30, 0.0]).to_bits(),
        1f64.to_bits()
    );
    // The zeros of an output must be exact if it is 0 throughout.
    let exact = Tolerance {
        rtol: 0.4,
        atol_rms: 0.4,
    };
    assert_eq!(
        compare_values(DType::Float32, &[0.0, 1e-30], &[0.0, 0.0], exact).failed,
        1
    );
    for functions in supported_variants() {
        for zeros in 0..3 {
            let (_, mut values) = filled(DType::Float64, 100_001, 1, &normal(1.0), 9);
            let each = values.iter_mut().step_by(1 + zeros);
            each.for_each(|value| *value = 0.0);
            // SAFETY: exactly the values of the slice are read.
            let found =
                unsafe { (functions.root_mean_square)(values.as_ptr(), values.len() as u64) };
            assert_eq!(found.to_bits(), root_mean_square(&values).to_bits());
        }
    }
}
