//! Decides whether a kernel is timed many runs in a row or one run at a time, or gains so much from its own earlier runs that it is
//! refused.
//!
//! What a kernel leaves in shared memory, local memory or the driver's memory is overwritten or compared between samples, not between
//! the runs of a sample. A kernel that uses it is fast in a sample of many runs and slow in samples of one run. A separate run has a
//! cost of its own, so only a difference above this cost counts. Smaller gains show in a row of runs between which what a run has left is
//! overwritten. Pure: measures nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::device::ErasedMemory;

/// By how much the cost of a separate run may exceed the smaller cost of the two kernels.
struct SeparateRunMargin {
    /// For the first launch of a run.
    first_launch: Duration,
    /// For each further launch of a run.
    next_launch: Duration,
    /// In addition, as a share of the time of a run among many.
    part: f64,
}

/// A kernel that gains more than this is timed one run at a time. Not 0, because a separate run finds its code in no cache.
const EXPECTED_MARGIN: SeparateRunMargin = SeparateRunMargin {
    first_launch: Duration::from_micros(1),
    next_launch: Duration::from_micros(2),
    part: 0.25,
};
/// A kernel that gains more than this is refused: only what its earlier runs have left can explain the difference.
const POSSIBLE_MARGIN: SeparateRunMargin = SeparateRunMargin {
    first_launch: Duration::from_micros(4),
    next_launch: Duration::from_micros(4),
    part: 1.0,
};

/// A kernel whose runs take this much longer if nothing of earlier runs is left in its buffers is refused. Its code is in the caches in both
/// cases, and overwriting is not timed: on an H200 the two times of honest kernels differ by at most 0.06 us or 0.5 %.
const BUFFERS_MARGIN: SeparateRunMargin = SeparateRunMargin {
    first_launch: Duration::from_nanos(400),
    next_launch: Duration::from_nanos(200),
    part: 0.05,
};
/// The same for shared memory, local memory and registers. A kernel that shares a multiprocessor's memory differently from the kernel that overwrites it may
/// have to wait for the change.
const ON_CHIP_MARGIN: SeparateRunMargin = SeparateRunMargin {
    first_launch: Duration::from_nanos(1500),
    next_launch: Duration::from_nanos(1500),
    part: 0.1,
};
/// If a separate run costs the candidate no more than this beyond the opponent's cost, it has nothing to gain from earlier runs.
const NO_GAIN_MARGIN: SeparateRunMargin = SeparateRunMargin {
    first_launch: Duration::from_nanos(500),
    next_launch: Duration::from_nanos(500),
    part: 0.05,
};

/// What a separate run costs at least, on every device. The difference of two times of a long kernel may show less, because its time varies
/// by more than this. On an H200 it is 3.7 to 4.8 us for kernels of 2 to 6 us: nothing of their data is in the caches of addresses. A longer
/// kernel hides a part of it.
const MIN_START_COST: Duration = Duration::from_micros(2);
const MIN_START_COST_OF_SHORT_RUN: Duration = Duration::from_micros(4);
/// A run of at most this duration is short.
const SHORT_RUN: Duration = Duration::from_micros(8);

/// The times of a run of one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunTimes {
    /// In a sample of many runs.
    pub(super) together: Duration,
    /// As a sample of its own.
    pub(super) apart: Duration,
    /// Launches of a run.
    pub(super) launches: usize,
}

/// How the runs of a sample must be spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spacing {
    /// Many runs in a row.
    Together,
    /// One run in each sample.
    Apart,
    /// The candidate is much faster after its own runs, so it carries something over from one to the next.
    CarriesOver,
}

impl RunTimes {
    /// How much longer a run takes if it is a sample of its own.
    fn start_cost(&self) -> Duration {
        self.apart.saturating_sub(self.together)
    }

    /// Whether a separate run costs more than `least` and the allowance.
    fn exceeds(&self, least: Duration, allowance: &SeparateRunMargin) -> bool {
        self.start_cost() > least.saturating_add(self.margin(allowance))
    }

    fn margin(&self, allowance: &SeparateRunMargin) -> Duration {
        let more_launches = u32::try_from(self.launches.saturating_sub(1)).unwrap_or(u32::MAX);
        let for_launches = allowance.next_launch.saturating_mul(more_launches);
        let for_run = allowance.first_launch + self.together.mul_f64(allowance.part);
        for_run.saturating_add(for_launches)
    }

    /// Whether the kernel may gain by what its earlier runs have left.
    pub(super) fn may_carry_over(&self, opponent: &Self) -> bool {
        self.exceeds(opponent.start_cost(), &NO_GAIN_MARGIN)
    }

    /// Whether it does, if a run takes `erased` where nothing of earlier runs is left in this memory.
    pub(super) fn carries_over(&self, memory: ErasedMemory, erased: Duration) -> bool {
        let margin = match memory {
            ErasedMemory::Buffers => &BUFFERS_MARGIN,
            ErasedMemory::OnChip => &ON_CHIP_MARGIN,
        };
        erased.saturating_sub(self.together) > self.margin(margin)
    }
}

/// Decides from the times of the candidate and its opponent.
pub(super) fn required_spacing(candidate: RunTimes, opponent: RunTimes) -> Spacing {
    let least = candidate.start_cost().min(opponent.start_cost());
    let least = least.max(if candidate.together <= SHORT_RUN {
        MIN_START_COST_OF_SHORT_RUN
    } else {
        MIN_START_COST
    });
    if candidate.exceeds(least, &POSSIBLE_MARGIN) {
        Spacing::CarriesOver
    } else if candidate.exceeds(least, &EXPECTED_MARGIN)
        || opponent.exceeds(least, &EXPECTED_MARGIN)
    {
        Spacing::Apart
    } else {
        Spacing::Together
    }
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
    fn gains_below_the_cost_of_a_start_are_ignored() {
        let naive = times(3.0, 5.5, 1);
        for honest in [
            times(2.0, 4.6, 1),
            times(40.0, 48.0, 1),
            times(6.0, 12.0, 3),
        ] {
            assert_eq!(required_spacing(honest, naive), Spacing::Together);
        }
        // The opponent takes so long that its times do not show the cost of a start.
        for opponent in [times(67.3, 67.9, 1), times(68.2, 67.8, 1)] {
            for honest in [
                times(2.0, 6.3, 1),
                times(2.87, 7.65, 1),
                times(6.2, 10.2, 1),
            ] {
                assert_eq!(required_spacing(honest, opponent), Spacing::Together);
            }
            let rests = times(2.0, 17.0, 1);
            assert_eq!(required_spacing(rests, opponent), Spacing::CarriesOver);
        }
        // Much code, which a separate run has to load.
        assert_eq!(
            required_spacing(times(20.0, 32.0, 1), naive),
            Spacing::Apart
        );
        // Rests for 12 us unless it finds a mark.
        assert_eq!(
            required_spacing(times(2.0, 17.0, 1), naive),
            Spacing::CarriesOver
        );
        // The opponent is trusted, or has been judged.
        assert_eq!(required_spacing(naive, times(2.0, 17.0, 1)), Spacing::Apart);
    }

    #[test]
    fn a_gain_below_the_cost_of_a_start_shows_where_nothing_is_left() {
        let naive = times(3.0, 6.0, 1);
        // Rests for 4 us unless it finds a mark.
        let rests = times(2.0, 7.0, 1);
        assert_eq!(required_spacing(rests, naive), Spacing::Together);
        assert!(rests.may_carry_over(&naive));
        let carries_over =
            |memory, erased: f64| rests.carries_over(memory, Duration::from_secs_f64(erased / 1e6));
        for memory in [ErasedMemory::Buffers, ErasedMemory::OnChip] {
            assert!(carries_over(memory, 6.1));
            assert!(!carries_over(memory, 2.1));
        }
        assert!(carries_over(ErasedMemory::Buffers, 3.0));
        assert!(!times(2.0, 5.4, 1).may_carry_over(&naive));
    }
}
