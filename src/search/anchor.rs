//! The fast kernel that a search times its candidates against, instead of the baseline.
//!
//! A slow baseline takes most of the device's time, and says the same each time. So the fastest starting kernel, once it was timed
//! against the baseline, takes its place: a candidate's speedup is the product of both ratios. Plain data and the rule that chooses;
//! `eval` times. Never used for a result that is reported: that is timed against the baseline.

use serde::{Deserialize, Serialize};

use super::Search;
use crate::verdict::{TimeSummary, Timing, Verdict, VerdictSummary, WorkloadVerdict};

/// The least speedup of an anchor, by the low end of its interval. A slower one saves little.
const MIN_ANCHOR_SPEEDUP: f64 = 3.0;
/// Maximum half width of the interval of an anchor's speedup, of its logarithm. All candidates share this error.
const MAX_ANCHOR_HALF_WIDTH: f64 = 0.02;

/// A starting kernel that candidates are timed against.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Anchor {
    pub step: u64,
    /// Name of its kernel file.
    pub kernel: String,
    /// Text of its kernel file.
    pub source: String,
    /// Its speedup over the baseline.
    pub speedup: f64,
    /// One for each timed workload.
    pub workloads: Vec<AnchorWorkload>,
}

/// The times and the ratio of an anchor and the baseline on one workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnchorWorkload {
    pub id: String,
    /// The baseline's time / the anchor's.
    pub speedup: f64,
    pub ci95: [f64; 2],
    pub baseline_us: TimeSummary,
}

impl Anchor {
    /// A starting kernel with this verdict as an anchor, with an empty source. `None` if it is not fast enough, or was not timed precisely
    /// enough.
    pub fn from_verdict(step: u64, kernel: &str, verdict: &Verdict) -> Option<Self> {
        let speedup = verdict.speedup.filter(|_| is_timed_in_full(verdict))?;
        let [low, high] = speedup.ci95;
        let half_width = (high / low).ln() / 2.0;
        // False for a number that is not one.
        let is_known = low >= MIN_ANCHOR_SPEEDUP && half_width <= MAX_ANCHOR_HALF_WIDTH;
        if !is_known || verdict.timed_against.is_some() {
            return None;
        }
        let timed = verdict.workloads.iter().filter(|entry| !entry.hidden);
        let timed = timed.filter(|entry| entry.regime.is_none());
        let workloads: Vec<_> = timed.map(AnchorWorkload::of).collect::<Option<_>>()?;
        (!workloads.is_empty()).then(|| Self {
            step,
            kernel: kernel.to_owned(),
            source: String::new(),
            speedup: speedup.geomean,
            workloads,
        })
    }
}

impl AnchorWorkload {
    /// `None` if it was not timed, or one launch at a time: such times contain the cost of a start, which others lack.
    fn of(entry: &WorkloadVerdict) -> Option<Self> {
        if entry.runs_apart {
            return None;
        }
        Some(Self {
            id: entry.id.clone(),
            speedup: entry.speedup?,
            ci95: entry.ci95?,
            baseline_us: entry.baseline_us?,
        })
    }
}

fn is_timed_in_full(verdict: &Verdict) -> bool {
    verdict.passed() && verdict.timing == Some(Timing::Full) && !verdict.is_dismissed()
}

impl Search {
    /// The starting kernels that have passed and were timed in full, the fastest first. `None` until all starting kernels are folded, so
    /// that it does not depend on the order in which they arrive.
    pub(crate) fn timed_starts(&self) -> Option<Vec<u64>> {
        if !self.are_starts_folded() {
            return None;
        }
        let mut starts: Vec<_> = self.start_speedups.iter().collect();
        // The sort is stable.
        starts.sort_by(|one, other| other.1.total_cmp(one.1));
        Some(starts.into_iter().map(|(step, _)| *step).collect())
    }

    /// The fastest starting kernel, if it may be an anchor where its speedup differs: on another device, or with another baseline. `None` until
    /// all starting kernels are folded.
    pub(crate) fn likely_anchor(&self) -> Option<u64> {
        let fastest = *self.timed_starts()?.first()?;
        let speedup = self.start_speedups.get(&fastest).copied()?;
        (speedup >= MIN_ANCHOR_SPEEDUP / 2.0).then_some(fastest)
    }

    /// Keeps only the timings of starting kernels for which this holds. Another device may have made the others.
    pub(crate) fn keep_timed_starts(&mut self, is_current: impl Fn(u64) -> bool) {
        self.start_speedups.retain(|step, _| is_current(*step));
    }

    /// Notes the last verdict of a starting kernel.
    pub(super) fn note_start_verdict(&mut self, step: u64, verdict: &VerdictSummary) {
        if self.starting_kernel(step).is_none() {
            return;
        }
        let is_full = verdict.timing == Some(Timing::Full) && !verdict.is_dismissed();
        match verdict.passed_speedup().filter(|_| is_full) {
            Some(speedup) => {
                self.start_speedups.insert(step, speedup.geomean);
            }
            None => {
                self.start_speedups.remove(&step);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::{Speedup, Status, TimedAgainst};

    fn verdict() -> Verdict {
        let times = TimeSummary {
            median: 90.0,
            mean: 90.0,
            std: 1.0,
            min: 89.0,
            max: 93.0,
            n: 16,
        };
        let workload = |id: &str| WorkloadVerdict {
            id: id.to_owned(),
            speedup: Some(9.0),
            ci95: Some([8.8, 9.2]),
            baseline_us: Some(times),
            ..WorkloadVerdict::blank(id, Status::Passed)
        };
        let hidden = WorkloadVerdict {
            hidden: true,
            ..WorkloadVerdict::blank("hidden", Status::Passed)
        };
        Verdict {
            status: Status::Passed,
            reason: None,
            timing: Some(Timing::Full),
            speedup: Some(Speedup {
                geomean: 9.0,
                ci95: [8.9, 9.1],
            }),
            workloads: vec![workload("small"), workload("large"), hidden],
            ..Verdict::harness_error("softmax", "step 2", "cpu", String::new())
        }
    }

    #[test]
    fn only_a_fast_kernel_that_is_known_well_is_an_anchor() {
        let anchor = |change: &dyn Fn(&mut Verdict)| {
            let mut verdict = verdict();
            change(&mut verdict);
            Anchor::from_verdict(2, "rows.cu", &verdict)
        };
        let found = anchor(&|_| {}).unwrap();
        let ids: Vec<_> = found.workloads.iter().map(|one| one.id.as_str()).collect();
        assert_eq!((found.speedup, ids), (9.0, vec!["small", "large"]));
        let speedup = |verdict: &mut Verdict, geomean, ci95| {
            verdict.speedup = Some(Speedup { geomean, ci95 });
        };
        assert!(anchor(&|verdict| speedup(verdict, 3.05, [3.0, 3.1])).is_some());
        assert!(anchor(&|verdict| speedup(verdict, 3.04, [2.99, 3.09])).is_none());
        assert!(anchor(&|verdict| speedup(verdict, 9.0, [8.8, 9.2])).is_none());
        assert!(anchor(&|verdict| speedup(verdict, f64::NAN, [f64::NAN; 2])).is_none());
        let others: [&dyn Fn(&mut Verdict); 7] = [
            &|verdict| verdict.status = Status::WrongOutput,
            &|verdict| verdict.timing = Some(Timing::Dismissed),
            &|verdict| verdict.timing = None,
            &|verdict| verdict.not_done.push("race build".to_owned()),
            &|verdict| verdict.workloads[0].runs_apart = true,
            &|verdict| verdict.workloads[1].ci95 = None,
            &|verdict| {
                verdict.timed_against = Some(TimedAgainst {
                    step: 1,
                    kernel: "other.cu".to_owned(),
                    speedup: 5.0,
                });
            },
        ];
        for change in others {
            assert_eq!(anchor(change), None);
        }
    }
}
