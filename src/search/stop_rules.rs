//! When a search ends by itself: a target is reached, nothing improves or is likely to, or nothing is left to try.
//!
//! Decided after every folded step, from the fold alone. Ends by time and money belong to the driver.

use super::Search;
use super::order::FoldOrder;
use super::settings::{SearchSettings, WorkloadTarget};
use crate::event::StopReason;
use crate::verdict::{Speedup, VerdictSummary, WorkloadSpeedup};

/// The target that a kernel with this verdict reaches, at the slow end of its intervals.
pub(super) fn reached_target(
    settings: &SearchSettings,
    speedup: &Speedup,
    verdict: &VerdictSummary,
) -> Option<StopReason> {
    let timed = &verdict.workloads;
    let has_speedup = |target: f64| speedup.ci95[0] >= target;
    let has_roofline =
        |target: f64| !timed.is_empty() && timed.iter().all(|one| roofline(one) >= Some(target));
    if settings.target_speedup.is_some_and(has_speedup) {
        Some(StopReason::Target)
    } else if reaches_targets(settings, timed) {
        Some(StopReason::WorkloadTargets)
    } else if settings.target_roofline.is_some_and(has_roofline) {
        Some(StopReason::Roofline)
    } else {
        None
    }
}

fn reaches_targets(settings: &SearchSettings, timed: &[WorkloadSpeedup]) -> bool {
    let targets = timed.iter().filter_map(|one| {
        let target = settings.targets.get(&one.id)?;
        Some(reaches(target, one))
    });
    let reached: Vec<bool> = targets.collect();
    !reached.is_empty() && reached.into_iter().all(|reached| reached)
}

fn reaches(target: &WorkloadTarget, timed: &WorkloadSpeedup) -> bool {
    let has_speedup = |least: f64| timed.speedup.ci95[0] >= least;
    // The interval of the speedup, as if all of it were noise of the candidate.
    let is_short = |longest: f64| {
        let slow = slow_end(timed);
        timed
            .median_us
            .is_some_and(|median| median * slow <= longest)
    };
    target.speedup.is_none_or(has_speedup) && target.microseconds.is_none_or(is_short)
}

fn roofline(timed: &WorkloadSpeedup) -> Option<f64> {
    timed.roofline.map(|share| share / slow_end(timed))
}

/// The slow end of a kernel's time over its median: at least 1.
fn slow_end(timed: &WorkloadSpeedup) -> f64 {
    (timed.speedup.geomean / timed.speedup.ci95[0]).max(1.0)
}

impl Search {
    /// Decides whether the search ends with the step that was folded last.
    pub(super) fn decide_stop(&mut self) {
        let settings = &self.settings;
        let has_lost_patience = |patience| self.steps_without_gain() >= patience;
        let is_gain_unlikely = |chance| self.front.is_gain_unlikely(chance);
        self.stopped = if let Some(reached) = self.reached {
            Some(reached)
        } else if settings.patience.is_some_and(has_lost_patience) {
            Some(StopReason::Patience)
        } else if self.are_starts_folded()
            && settings.stop_when_unlikely.is_some_and(is_gain_unlikely)
        {
            Some(StopReason::Unlikely)
        } else if self.is_exhausted() {
            Some(StopReason::Exhausted)
        } else {
            None
        };
        self.reached = None;
    }

    /// Whether nothing is left to try, and no step in flight can change that.
    fn is_exhausted(&self) -> bool {
        match self.order {
            FoldOrder::Step => self.exhausted_in_a_row >= self.window,
            FoldOrder::Journal => self.in_flight.is_empty(),
        }
    }

    /// Number of steps since the last proven improvement, and not before all starting kernels are folded. Patience limits it.
    pub(crate) fn steps_without_gain(&self) -> u64 {
        self.folded() - self.last_gain
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

    fn timed(id: &str, geomean: f64, median_us: f64, roofline: Option<f64>) -> WorkloadSpeedup {
        WorkloadSpeedup {
            id: id.to_owned(),
            speedup: speedup(geomean, 0.1),
            median_us: Some(median_us),
            roofline,
        }
    }

    #[test]
    fn every_target_must_be_reached_at_the_slow_end() {
        let settings = SearchSettings {
            targets: [
                (
                    "small".to_owned(),
                    WorkloadTarget {
                        microseconds: Some(11.0),
                        ..WorkloadTarget::default()
                    },
                ),
                (
                    "large".to_owned(),
                    WorkloadTarget {
                        speedup: Some(2.0),
                        ..WorkloadTarget::default()
                    },
                ),
                (
                    "of another task".to_owned(),
                    WorkloadTarget {
                        speedup: Some(99.0),
                        ..WorkloadTarget::default()
                    },
                ),
            ]
            .into(),
            ..SearchSettings::default()
        };
        let reaches = |small: f64, large: f64| {
            let timed = [
                timed("small", 1.0, small, None),
                timed("large", large, 5.0, None),
            ];
            reaches_targets(&settings, &timed)
        };
        assert!(reaches(9.9, 2.3));
        assert!(!reaches(10.5, 2.3), "10.5 us may be 11.5 us");
        assert!(!reaches(9.9, 2.1), "2.1x may be 1.9x");
        assert!(!reaches_targets(
            &settings,
            &[timed("third", 9.0, 1.0, None)]
        ));
    }

    #[test]
    fn the_roofline_is_reached_on_every_workload_or_not_at_all() {
        let share = |known| roofline(&timed("one", 3.0, 1.0, known));
        assert!(share(Some(0.9)) >= Some(0.8) && share(Some(0.85)) < Some(0.8));
        // A floor that is not known is not reached.
        assert!(share(None) < Some(0.8));
    }
}
