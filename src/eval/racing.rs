//! Decides at planned looks whether a candidate can still reach its incumbents, and what its speedup is if it cannot.
//!
//! Pure: takes samples, never times. A look compares an upper limit of the speedup with the bar. All looks together dismiss a candidate
//! that reaches the bar with a probability below [`MISS_PROBABILITY`]; each look may spend a part of it, by the rule of Lan & DeMets
//! ("Discrete sequential boundaries for clinical trials", Biometrika 70, 1983) in the form that resembles Pocock's boundaries. The parts
//! are added (Bonferroni), so the looks may depend on each other in any way. Never decides that a candidate is good: that takes a full
//! timing.

use super::sampling::Samples;
use crate::base::statistics::Estimate;
use crate::base::student;
use crate::verdict::Dismissal;

/// Timing blocks of each workload at the first look.
pub(super) const FIRST_LOOK_BLOCKS: usize = 4;
/// Timing blocks at the first look on a device that keeps its processes, and for a candidate that has taken `SLOW_LOOK_SECONDS` by then.
/// Three blocks have an interval that is narrow enough to show that a kernel is many times slower.
pub(super) const SHORT_LOOK_BLOCKS: usize = 3;
pub(super) const SLOW_LOOK_SECONDS: f64 = 1.0;
/// The same on such a device for many workloads: their errors average out, and their degrees of freedom add up.
const MANY_WORKLOADS: usize = 4;
const LOOK_BLOCKS_OF_MANY: usize = 2;
/// Timing blocks of each workload at the second look, on a device that keeps its processes. Few blocks have many degrees of freedom only
/// if all workloads vary alike.
pub(super) const SECOND_LOOK_BLOCKS: usize = 4;
/// Timing blocks of a workload at the looks during its full timing.
const LATER_LOOKS: [usize; 2] = [8, 16];

/// The probability that all looks together dismiss a candidate that reaches the bar, by the distributions assumed below. Half of the 1 %
/// that is allowed, because real noise is not normal; the tests simulate it.
const MISS_PROBABILITY: f64 = 0.005;
/// The probability on each side that the reported interval of a dismissed candidate misses, over all looks.
const INTERVAL_TAIL: f64 = 0.025;
/// The standard error of a workload's log speedup that the blocks of a look may not show, at least: they follow one another closely.
const HIDDEN_ERROR: f64 = 0.005;

/// What the samples of one workload say about the log speedup, at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reading {
    /// The mean over the blocks, each by the mean of its pairs, as in the full timing.
    mean: f64,
    /// The mean over the blocks, each by its shortest times. Interrupted launches hardly change it.
    shortest: f64,
    /// Standard error of `shortest`; infinite for fewer than two values.
    error: f64,
    degrees: usize,
}

impl Reading {
    /// `noise`: the standard deviation of the log ratio's error that all samples of one process share.
    pub(super) fn of(samples: &Samples, noise: f64) -> Self {
        let values = samples.independent_ratios();
        let count = values.len() as f64;
        let mean = |of: fn(&[f64; 2]) -> f64| values.iter().map(of).sum::<f64>() / count;
        let (mean, shortest) = (mean(|value| value[0]), mean(|value| value[1]));
        let squares = values.iter().map(|value| (value[1] - shortest).powi(2));
        let variance = squares.sum::<f64>() / (count - 1.0);
        let error = (variance / count + noise.powi(2) + HIDDEN_ERROR.powi(2)).sqrt();
        if values.len() < 2 || !(mean + shortest + error).is_finite() {
            return Self {
                error: f64::INFINITY,
                ..Self::default()
            };
        }
        Self {
            mean,
            shortest,
            error,
            degrees: values.len() - 1,
        }
    }

    /// The reading of the mean over workloads. Degrees of freedom: Welch & Satterthwaite, rounded down.
    fn combined(readings: &[Self]) -> Self {
        let count = readings.len() as f64;
        let sum = |of: &dyn Fn(&Self) -> f64| readings.iter().map(of).sum::<f64>();
        let variance = sum(&|one| (one.error / count).powi(2));
        let spread = sum(&|one| (one.error / count).powi(4) / one.degrees.max(1) as f64);
        let degrees = variance.powi(2) / spread;
        Self {
            mean: sum(&|one| one.mean) / count,
            shortest: sum(&|one| one.shortest) / count,
            error: variance.sqrt(),
            // Not a number if an error is infinite, or if there is no workload.
            degrees: if degrees.is_finite() {
                degrees as usize
            } else {
                0
            },
        }
    }

    /// The larger centre, so that the limit holds for both. They differ if one kernel is interrupted more often than the other.
    fn upper_limit(&self, tail: f64) -> f64 {
        self.mean.max(self.shortest) + student::quantile(tail, self.degrees) * self.error
    }

    fn lower_limit(&self, tail: f64) -> f64 {
        self.mean.min(self.shortest) - student::quantile(tail, self.degrees) * self.error
    }
}

/// What a look says about a candidate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum LookResult {
    /// The candidate surely does not reach the bar.
    Dismissed(Dismissal),
    /// It may reach the bar.
    Open,
}

/// A candidate against the bar that its incumbents set.
#[derive(Clone, Debug)]
pub(super) struct Race {
    bar: f64,
    looks: u32,
    /// Looks so far.
    look: u32,
}

impl Race {
    /// `bar`: a speedup above 0. `early_looks`: at most this many before the full timing.
    pub(super) fn new(bar: f64, workloads: usize, early_looks: u32) -> Self {
        let later = u32::try_from(LATER_LOOKS.len() * workloads).unwrap_or(u32::MAX);
        Self {
            bar,
            looks: later.saturating_add(early_looks),
            look: 0,
        }
    }

    pub(super) fn bar(&self) -> f64 {
        self.bar
    }

    /// Looks at the samples of all workloads.
    pub(super) fn look(&mut self, readings: &[Reading]) -> LookResult {
        self.look += 1;
        let limit = Reading::combined(readings).upper_limit(MISS_PROBABILITY * self.share());
        if limit < self.bar.ln() {
            return LookResult::Dismissed(Dismissal {
                look: self.look,
                looks: self.looks,
                bar: self.bar,
            });
        }
        LookResult::Open
    }

    /// The part of a probability that this look may spend: the increase of ln(1 + (e - 1) t), where t is the share of the looks.
    fn share(&self) -> f64 {
        let spent = |look: u32| {
            let share = f64::from(look) / f64::from(self.looks);
            ((std::f64::consts::E - 1.0) * share).ln_1p()
        };
        spent(self.look) - spent(self.look.saturating_sub(1))
    }

    /// The log speedup over these workloads. The intervals of all looks together contain it with 95 %, so the interval of the look that
    /// ended the race does too (repeated confidence intervals: Jennison & Turnbull, "Interim analyses", JRSS B 51, 1989). `None` if too
    /// little is known.
    pub(super) fn interval(&self, readings: &[Reading]) -> Option<Estimate> {
        let reading = Reading::combined(readings);
        let tail = INTERVAL_TAIL * self.share();
        let (low, high) = (reading.lower_limit(tail), reading.upper_limit(tail));
        (low.is_finite() && high.is_finite()).then_some(Estimate {
            estimate: reading.shortest,
            low,
            high,
        })
    }
}

/// Timing blocks of each workload at the first look, on a device that keeps its processes.
pub(super) fn steady_look_blocks(workloads: usize) -> usize {
    if workloads >= MANY_WORKLOADS {
        LOOK_BLOCKS_OF_MANY
    } else {
        SHORT_LOOK_BLOCKS
    }
}

/// The looks during the full timing of one workload.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LookPlan {
    taken: usize,
}

impl LookPlan {
    /// Whether a look is due. A look is due once, even if later blocks are voided.
    pub(super) fn is_due(&mut self, blocks: usize) -> bool {
        let is_due = LATER_LOOKS
            .get(self.taken)
            .is_some_and(|planned| blocks >= *planned);
        self.taken += usize::from(is_due);
        is_due
    }
}

/// Whether a candidate seems to reach the bar: whether its inspection is worth more than its full timing.
pub(super) fn seems_to_reach(readings: &[Reading], bar: f64) -> bool {
    let reading = Reading::combined(readings);
    reading.mean.max(reading.shortest) >= bar.ln()
}

#[cfg(test)]
#[path = "racing_tests.rs"]
mod tests;
