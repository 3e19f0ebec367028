//! The fastest kernels of a search, and how likely it is that a later one is measurably faster (`search.stop_when_unlikely`).
//!
//! Follows the fold. `stop_rules` asks it after every step.

use crate::verdict::Speedup;

/// How many of the fastest kernels say how far the best can still be beaten. Of fewer, noise would decide.
const FRONT: usize = 10;

/// The least number of kernels that must have passed before anything is called unlikely.
const MIN_PASSED: u64 = 50;

/// The fastest kernels that passed and were timed in full.
#[derive(Debug, Default)]
pub(super) struct Front {
    /// How many have passed.
    passed: u64,
    /// Fastest first; of equals the earlier one first. At most `FRONT`.
    fastest: Vec<(u64, Speedup)>,
}

impl Front {
    pub(super) fn add(&mut self, step: u64, speedup: Speedup) {
        self.passed += 1;
        self.insert(step, speedup);
    }

    /// Replaces the figure of a kernel that was judged again; `None`: it did not pass.
    pub(super) fn replace(&mut self, step: u64, speedup: Option<Speedup>) {
        self.fastest.retain(|(other, _)| *other != step);
        if let Some(speedup) = speedup {
            self.insert(step, speedup);
        }
    }

    /// Forgets everything: another device has made the figures.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn insert(&mut self, step: u64, speedup: Speedup) {
        let position =
            (self.fastest).partition_point(|(_, other)| other.geomean >= speedup.geomean);
        self.fastest.insert(position, (step, speedup));
        self.fastest.truncate(FRONT);
    }

    /// Whether the chance that a later kernel is measurably faster than the best is below `chance`.
    ///
    /// The log speedups have an upper end. If they are uniform just below it, the best of k kernels lies at the share s of the distance
    /// from the k-th to the end with P(1 - s > t) = (1 - t)^(k - 1). So with the probability 1 - `chance` the end is at most
    /// (`chance`^(-1 / (k - 1)) - 1) times the distance from the k-th to the best above the best; for k = 2 this is the limit of Robson and
    /// Whitlock (1964, "Estimation of a truncation point"). Kernels of a search are no independent draws: this is an estimate. A duel
    /// shows a difference if it is larger than the two half intervals together, as independent errors add up: √2 of one.
    pub(super) fn is_gain_unlikely(&self, chance: f64) -> bool {
        let (Some((_, best)), Some((_, last))) =
            (self.fastest.first(), self.fastest.get(FRONT - 1))
        else {
            return false;
        };
        let distance = (best.geomean / last.geomean).ln();
        let factor = chance.powf(-1.0 / (FRONT - 1) as f64) - 1.0;
        let measurable = (best.ci95[1] / best.ci95[0]).ln() / 2.0 * std::f64::consts::SQRT_2;
        self.passed >= MIN_PASSED && factor * distance < measurable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speedup(geomean: f64, half_width: f64) -> Speedup {
        Speedup {
            geomean,
            ci95: [geomean / (1.0 + half_width), geomean * (1.0 + half_width)],
        }
    }

    #[test]
    fn a_front_that_is_closer_than_the_noise_cannot_be_beaten_measurably() {
        let front = |spacing: f64| {
            let mut front = Front::default();
            for step in 0..60 {
                front.add(step, speedup(2.0 - spacing * step as f64, 0.01));
            }
            front
        };
        assert!(front(0.001).is_gain_unlikely(0.05));
        assert!(!front(0.01).is_gain_unlikely(0.05));
        // The smaller the chance must be, the later it stops.
        assert!(front(0.005).is_gain_unlikely(0.3) && !front(0.005).is_gain_unlikely(0.001));
    }

    #[test]
    fn few_kernels_prove_nothing_and_figures_of_another_device_neither() {
        let mut front = Front::default();
        for step in 1..MIN_PASSED {
            front.add(step, speedup(1.0, 0.01));
        }
        assert!(!front.is_gain_unlikely(0.05));
        front.add(MIN_PASSED, speedup(1.0, 0.01));
        assert!(front.is_gain_unlikely(0.05));
        front.replace(MIN_PASSED, Some(speedup(1.2, 0.01)));
        assert!(!front.is_gain_unlikely(0.05));
        front.clear();
        assert!(!front.is_gain_unlikely(0.05));
    }
}
