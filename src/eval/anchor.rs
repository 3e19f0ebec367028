//! The anchor of a search on the cases of a judgement: its compiled kernel, how fast it is there, and the uncertainty that this adds.
//!
//! Compiles the anchor once for all judgements of a process. Times nothing. If the anchor does not work here, the candidate is timed
//! against the baseline; that is not a finding about the candidate.

use super::case::Case;
use super::compiled_kernel::{CompiledAnchor, CompiledKernel};
use super::context::JudgeContext;
use super::finding::{JudgeError, JudgeResult};
use crate::base::Digest;
use crate::base::statistics::{self, Estimate};
use crate::kernel::Kernel;
use crate::search::{Anchor, AnchorWorkload};
use crate::verdict::TimeSummary;

/// The opponent cannot be timed, or its outputs are wrong. No fault of the candidate.
#[derive(Debug, thiserror::Error)]
#[error("the kernel that the candidate is timed against failed: {0}")]
pub(super) struct OpponentFailed(pub(super) String);

impl From<OpponentFailed> for JudgeError {
    fn from(failed: OpponentFailed) -> Self {
        Self::Broken(failed.into())
    }
}

/// How fast an anchor is on a case.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnchorRatio {
    /// ln(baseline / anchor).
    log: Estimate,
    baseline_us: TimeSummary,
}

impl AnchorRatio {
    /// `None` if the numbers are no speedup and its interval.
    pub(super) fn of(workload: &AnchorWorkload) -> Option<Self> {
        let [low, high] = workload.ci95;
        let log = Estimate {
            estimate: workload.speedup.ln(),
            low: low.ln(),
            high: high.ln(),
        };
        // False for a number that is not one.
        let is_sound = log.low.is_finite()
            && log.high.is_finite()
            && log.low <= log.estimate
            && log.estimate <= log.high;
        is_sound.then_some(Self {
            log,
            baseline_us: workload.baseline_us,
        })
    }

    /// What is added to a log ratio over the anchor, so that it becomes a log ratio over the baseline.
    pub(super) fn shift(&self) -> f64 {
        self.log.estimate
    }

    /// The standard error that it adds.
    pub(super) fn error(&self) -> f64 {
        let below = self.log.estimate - self.log.low;
        let above = self.log.high - self.log.estimate;
        below.max(above) / statistics::Z95
    }

    /// Adds its uncertainty to an interval. On each side, the half widths are combined in quadrature.
    pub(super) fn widen(&self, estimate: Estimate) -> Estimate {
        let (own, other) = (&self.log, estimate);
        let below = (own.estimate - own.low).hypot(other.estimate - other.low);
        let above = (own.high - own.estimate).hypot(other.high - other.estimate);
        Estimate {
            low: other.estimate - below,
            high: other.estimate + above,
            ..other
        }
    }

    /// The baseline's times, as they were measured with the anchor's.
    pub(super) fn baseline_us(&self) -> TimeSummary {
        self.baseline_us
    }
}

/// The ratios of an anchor on these cases, one for each. `None` if it lacks one of them.
pub(super) fn anchor_ratios(anchor: &Anchor, cases: &[&Case]) -> Option<Vec<AnchorRatio>> {
    let ratio = |case: &&Case| {
        let mut workloads = anchor.workloads.iter();
        AnchorRatio::of(workloads.find(|workload| workload.id == case.id)?)
    };
    cases.iter().map(ratio).collect()
}

impl JudgeContext<'_> {
    /// Compiles an anchor for the profile's workloads, unless it is compiled.
    ///
    /// # Errors
    /// If the machinery is broken. An anchor that does not compile is logged.
    pub(super) fn prepare_anchor(&mut self, anchor: &Anchor) -> anyhow::Result<()> {
        let source = Digest::of(&anchor.source);
        let is_prepared = |compiled: &CompiledAnchor| compiled.source == source;
        if self.anchor.as_ref().is_some_and(is_prepared) {
            return Ok(());
        }
        let kernel = match self.compile_anchor(&anchor.source) {
            Ok(kernel) => Some(kernel),
            Err(error) => {
                let reason = error.into_finding()?.reason;
                let step = anchor.step;
                tracing::warn!(
                    "the kernel of step {step} does not compile here ({reason}): candidates are timed against the baseline"
                );
                None
            }
        };
        self.known_opponents.set_anchor(source);
        self.anchor = Some(CompiledAnchor { source, kernel });
        Ok(())
    }

    fn compile_anchor(&self, source: &str) -> JudgeResult<CompiledKernel> {
        let kernel = Kernel::parse(source, &self.task.definition)?;
        self.compile(kernel, &self.workload_cases())
    }

    /// The anchor that was prepared last. `None` if it does not compile here.
    pub(super) fn compiled_anchor(&self) -> Option<&CompiledKernel> {
        self.anchor.as_ref()?.kernel.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(median: f64) -> TimeSummary {
        TimeSummary {
            median,
            mean: median,
            std: 0.1,
            min: median,
            max: median,
            n: 16,
        }
    }

    fn ratio(speedup: f64, ci95: [f64; 2]) -> Option<AnchorRatio> {
        AnchorRatio::of(&AnchorWorkload {
            id: "w".to_owned(),
            speedup,
            ci95,
            baseline_us: times(90.0),
        })
    }

    #[test]
    fn speedups_are_multiplied_and_their_uncertainties_added_in_quadrature() {
        let anchor = ratio(9.0, [9.0 / 1.03, 9.0 * 1.03]).unwrap();
        let over_anchor = Estimate {
            estimate: 1.2_f64.ln(),
            low: 1.2_f64.ln() - 1.04_f64.ln(),
            high: 1.2_f64.ln() + 1.04_f64.ln(),
        };
        let shifted = Estimate {
            estimate: over_anchor.estimate + anchor.shift(),
            low: over_anchor.low + anchor.shift(),
            high: over_anchor.high + anchor.shift(),
        };
        let found = anchor.widen(shifted);
        let half_width = 1.03_f64.ln().hypot(1.04_f64.ln());
        assert!((found.estimate.exp() - 1.2 * 9.0).abs() < 1e-9);
        assert!((found.high - found.estimate - half_width).abs() < 1e-12);
        assert!((found.estimate - found.low - half_width).abs() < 1e-12);
        assert!((anchor.error() - 1.03_f64.ln() / statistics::Z95).abs() < 1e-12);
        assert_eq!(anchor.baseline_us(), times(90.0));
    }

    #[test]
    fn each_side_is_widened_by_its_own_half_width() {
        let anchor = ratio(4.0, [3.9, 4.4]).unwrap();
        let exact = Estimate {
            estimate: 0.0,
            low: 0.0,
            high: 0.0,
        };
        let found = anchor.widen(exact);
        assert!((found.low - (3.9_f64 / 4.0).ln()).abs() < 1e-12);
        assert!((found.high - (4.4_f64 / 4.0).ln()).abs() < 1e-12);
        // The larger side counts for a race.
        assert!((anchor.error() - 1.1_f64.ln() / statistics::Z95).abs() < 1e-12);
    }

    #[test]
    fn numbers_that_are_no_interval_are_refused() {
        for (speedup, ci95) in [
            (4.0, [4.1, 4.2]),
            (4.0, [0.0, 4.2]),
            (f64::NAN, [3.9, 4.2]),
            (4.0, [3.9, f64::INFINITY]),
        ] {
            assert!(ratio(speedup, ci95).is_none(), "{speedup} {ci95:?}");
        }
    }
}
