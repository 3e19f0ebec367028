//! A speedup with its interval. Plain data.

use serde::{Deserialize, Serialize};

/// Baseline time / candidate time: the geometric mean over all timed workloads, and its 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Speedup {
    pub geomean: f64,
    pub ci95: [f64; 2],
}

impl Speedup {
    /// Whether the whole interval says that the candidate is faster than the baseline.
    pub fn is_faster(&self) -> bool {
        self.ci95[0] > 1.0
    }

    /// Whether the whole interval says that the candidate is slower than the baseline.
    pub fn is_slower(&self) -> bool {
        self.ci95[1] < 1.0
    }
}
