//! Medians, means and shares of many searches, with 95 % intervals.
//!
//! Bootstrap intervals draw from a fixed stream, so a table repeats to the byte.

use crate::simulation::dice::Dice;

/// Resamples of a bootstrap interval.
const RESAMPLES: usize = 1000;

/// The 97.5 % quantile of the standard normal distribution.
const Z95: f64 = 1.96;

/// A figure with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Interval {
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// The median; infinite values count as large ones.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        even if even % 2 == 0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    }
}

pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// A statistic with its bootstrap interval (percentiles).
pub(crate) fn bootstrap(values: &[f64], statistic: fn(&[f64]) -> f64) -> Interval {
    let mut dice = Dice::new(&[61, values.len() as u64]);
    let mut resampled: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let drawn = (0..values.len()).map(|_| values[dice.below(values.len())]);
            statistic(&drawn.collect::<Vec<_>>())
        })
        .collect();
    resampled.sort_unstable_by(f64::total_cmp);
    Interval {
        value: statistic(values),
        low: resampled[RESAMPLES / 40],
        high: resampled[RESAMPLES - 1 - RESAMPLES / 40],
    }
}

/// A share with its Wilson interval; `None` of nothing.
pub(crate) fn share(count: u64, of: u64) -> Option<Interval> {
    if of == 0 {
        return None;
    }
    let (total, value) = (of as f64, count as f64 / of as f64);
    let centre = value + Z95 * Z95 / (2.0 * total);
    let spread = Z95 * (value * (1.0 - value) / total + (Z95 / (2.0 * total)).powi(2)).sqrt();
    let scale = 1.0 + Z95 * Z95 / total;
    Some(Interval {
        value,
        low: ((centre - spread) / scale).max(0.0),
        high: ((centre + spread) / scale).min(1.0),
    })
}
