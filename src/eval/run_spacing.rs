//! Whether runs that follow one another closely are faster than separate ones, by more than the cost of starting them explains.
//!
//! What a kernel leaves in shared memory, local memory or the driver's memory is overwritten or compared between samples, not between
//! the runs of a sample. A kernel that uses it is fast in a sample of many runs and slow in samples of one run. Such a kernel is timed
//! one run at a time. Pure: takes no times itself.

use std::time::Duration;

/// Difference that an honest kernel may have from the cost of starting a run of the other kernel. A separate run finds its code in no cache.
const ALLOWED: Duration = Duration::from_micros(1);
/// As `ALLOWED`, for each launch of a run after the first.
const ALLOWED_FOR_LAUNCH: Duration = Duration::from_micros(2);
/// As `ALLOWED`, as a part of the time of a run.
const ALLOWED_PART: f64 = 0.25;

/// The times of a run of one kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunTimes {
    /// In a sample of many runs.
    pub(super) together: Duration,
    /// As a sample of its own.
    pub(super) apart: Duration,
    /// Launches of a run.
    pub(super) launches: usize,
}

impl RunTimes {
    fn start_cost(&self) -> Duration {
        self.apart.saturating_sub(self.together)
    }

    fn allowed(&self) -> Duration {
        let more_launches = u32::try_from(self.launches.saturating_sub(1)).unwrap_or(u32::MAX);
        let for_launches = ALLOWED_FOR_LAUNCH.saturating_mul(more_launches);
        (ALLOWED + self.together.mul_f64(ALLOWED_PART)).saturating_add(for_launches)
    }
}

/// Whether one of two kernels gains by following its own earlier runs.
pub(super) fn gains_by_earlier_runs(times: [RunTimes; 2]) -> bool {
    let least = times[0].start_cost().min(times[1].start_cost());
    let mut times = times.iter();
    times.any(|kernel| kernel.start_cost() > least.saturating_add(kernel.allowed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(together: f64, apart: f64, launches: usize) -> RunTimes {
        RunTimes {
            together: Duration::from_secs_f64(together / 1e6),
            apart: Duration::from_secs_f64(apart / 1e6),
            launches,
        }
    }

    #[test]
    fn only_more_than_the_cost_of_a_start_counts() {
        let naive = times(3.0, 5.5, 1);
        assert!(!gains_by_earlier_runs([times(2.0, 4.6, 1), naive]));
        assert!(!gains_by_earlier_runs([times(40.0, 48.0, 1), naive]));
        assert!(!gains_by_earlier_runs([times(6.0, 12.0, 3), naive]));
        // Rests 10 us unless it finds a mark.
        assert!(gains_by_earlier_runs([times(2.0, 14.0, 1), naive]));
        assert!(gains_by_earlier_runs([naive, times(2.0, 14.0, 1)]));
    }
}
