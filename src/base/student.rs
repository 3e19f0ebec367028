//! Quantiles of Student's t distribution at any level, for means of few values.
//!
//! `statistics` has the intervals that a verdict reports of a complete measurement.

use std::f64::consts::{FRAC_2_PI, FRAC_PI_2};

/// Halvings of the angle's interval. More do not change a `f64`.
const HALVINGS: usize = 60;

/// The value that a t variable with this many degrees of freedom exceeds with probability `tail`. For a tail of 0 or less, or without
/// degrees of freedom, infinity: nothing is known.
pub(crate) fn quantile(tail: f64, degrees: usize) -> f64 {
    if tail <= 0.0 || degrees == 0 {
        return f64::INFINITY;
    }
    let (mut low, mut high) = (0.0, FRAC_PI_2);
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        if tail_beyond(middle, degrees) > tail {
            low = middle;
        } else {
            high = middle;
        }
    }
    high.tan() * (degrees as f64).sqrt()
}

/// The probability that a t variable with this many degrees of freedom exceeds a value of 0 or more.
pub(crate) fn tail(value: f64, degrees: usize) -> f64 {
    tail_beyond((value / (degrees as f64).sqrt()).atan(), degrees)
}

/// The probability beyond `sqrt(degrees) * tan(angle)`. The finite series of Abramowitz & Stegun, 26.7.3 and 26.7.4.
fn tail_beyond(angle: f64, degrees: usize) -> f64 {
    let (sine, cosine) = angle.sin_cos();
    let is_odd = degrees % 2 == 1;
    let first = if is_odd { cosine } else { 1.0 };
    let (mut term, mut sum) = (first, if degrees == 1 { 0.0 } else { first });
    let start = if is_odd { 3 } else { 2 };
    for divisor in (start..degrees.saturating_sub(1)).step_by(2) {
        term *= cosine * cosine * (divisor - 1) as f64 / divisor as f64;
        sum += term;
    }
    let within = if is_odd {
        FRAC_2_PI * (angle + sine * sum)
    } else {
        sine * sum
    };
    (1.0 - within) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values: the tables of Abramowitz & Stegun (26.10) and scipy.stats.t.
    #[test]
    fn quantiles_agree_with_tables() {
        for (tail, degrees, expected) in [
            (0.025, 1, 12.706),
            (0.025, 2, 4.303),
            (0.025, 3, 3.182),
            (0.025, 4, 2.776),
            (0.025, 9, 2.262),
            (0.005, 5, 4.032),
            (0.005, 120, 2.617),
            (0.001, 3, 10.215),
            (0.0005, 10, 4.587),
            (0.5, 7, 0.0),
        ] {
            let found = quantile(tail, degrees);
            assert!(
                (found - expected).abs() < 6e-4,
                "{tail}, {degrees}: found {found}, expected {expected}"
            );
            let beyond = super::tail(found, degrees);
            assert!(
                (beyond - tail).abs() < 1e-9,
                "{tail}, {degrees}: found {beyond}"
            );
        }
    }

    #[test]
    fn nothing_is_known_without_a_level_or_values() {
        assert_eq!(quantile(0.01, 0), f64::INFINITY);
        assert_eq!(quantile(0.0, 5), f64::INFINITY);
    }
}
