//! How many runs a sample has, and on how many copies of the data.
//!
//! Pure: measures nothing. `timing_session` estimates times and takes samples.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::case::Case;
use super::context::JudgeContext;
use super::floor;
use super::kernel_set::CopyCounts;
use crate::device::Cache;

/// Maximum number of copies of one sample that are compared with the oracle, and roughly the maximum of their bytes.
const MAX_COMPARED_COPIES: usize = 16;
const MAX_COMPARED_BYTES: u64 = 32 << 20;

/// A sample has runs for a kernel that is this much faster than both, if the device's floor allows such a kernel. So no sample is more than
/// that many times as long as a sample should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FastestKernel {
    /// 16 times: for what is reported.
    Any,
    /// 4 times: for the candidates of a search against the baseline.
    OfSearch,
    /// Twice: for a duel.
    OfDuel,
    /// The opponent: for the candidates of a search against an anchor. Most are about as fast, and a sample of a faster one is only shorter.
    Anchor,
}

impl FastestKernel {
    /// Its time as a part of the candidate's and of the opponent's; the longer one counts.
    fn parts_of_times(self) -> [f64; 2] {
        match self {
            Self::Any => [1.0 / 16.0; 2],
            Self::OfSearch => [1.0 / 4.0; 2],
            Self::OfDuel => [1.0 / 2.0; 2],
            Self::Anchor => [1.0 / 2.0, 1.0],
        }
    }
}

/// What the first session of a measurement decides for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SamplePlan {
    /// Runs per sample, the same for both kernels.
    pub(super) runs: usize,
    /// Whether it is known how the runs of a sample must be spaced. A sample of one run needs no answer.
    pub(super) is_spacing_known: bool,
    /// Whether a kernel gains by what its earlier runs have left, so that each sample has one run.
    pub(super) runs_apart: bool,
    pub(super) copies: CopyCounts,
}

impl SamplePlan {
    /// Every sample is one run on the only copy of the data.
    pub(super) const SINGLE: Self = Self {
        runs: 1,
        is_spacing_known: true,
        runs_apart: false,
        copies: CopyCounts::SINGLE,
    };
}

/// Bytes of the buffers of one copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CopyBytes {
    /// Of all buffers of the opponent. The candidate's scratch does not change the plan.
    pub(super) opponent: u64,
    /// Of the inputs and outputs.
    pub(super) data: u64,
}

/// The plan for kernels with these times of a run: the candidate's, then the opponent's.
pub(super) fn sample_plan(
    context: &JudgeContext<'_>,
    case: &Case,
    bytes: CopyBytes,
    times: [Duration; 2],
    fastest: FastestKernel,
) -> SamplePlan {
    // All copies would hold the same inputs, and a launch could use the outputs of the one before.
    if case.repeats_inputs(context.task) {
        return SamplePlan::SINGLE;
    }
    let shortest = shortest_run(context, case, times, fastest);
    let most = context.device.timing_copies(bytes.opponent, shortest);
    // Each run has its own data. With hot caches the inputs of all runs fit into the cache.
    let copies = match context.options.cache {
        Cache::Cold => most,
        Cache::Hot => {
            let held = context.device.copies_in_cache(bytes.data);
            context.device.runs_per_sample(shortest).min(most).min(held)
        }
    };
    if copies == 1 {
        return SamplePlan::SINGLE;
    }
    let most_by_bytes = MAX_COMPARED_BYTES / bytes.data.max(1);
    let compared = most_by_bytes.clamp(1, MAX_COMPARED_COPIES as u64) as usize;
    SamplePlan {
        runs: copies,
        is_spacing_known: false,
        runs_apart: false,
        copies: CopyCounts {
            timed: copies,
            oracle: copies.min(compared),
        },
    }
}

/// The time of a run that decides how many runs a sample has: the device's floor for the case, but at least the part of the times of both
/// kernels that `fastest` says. So only a candidate that is much slower than the opponent changes the number, and makes it smaller.
fn shortest_run(
    context: &JudgeContext<'_>,
    case: &Case,
    [candidate, opponent]: [Duration; 2],
    fastest: FastestKernel,
) -> Duration {
    // All runs of a sample share the cache, and a faster kernel has no fewer runs than the opponent. The floor of a single run would be
    // tiny for data that is hardly larger than the cache.
    let runs = context.device.runs_per_sample(opponent);
    let floor = floor::cold_floor(context, case, runs).map(|floor| floor.measured_us);
    let floor = floor.filter(|floor| floor.is_finite() && *floor > 0.0);
    let floor = floor.map_or(opponent, |floor| Duration::from_secs_f64(floor / 1e6));
    let [of_candidate, of_opponent] = fastest.parts_of_times();
    let least = candidate
        .mul_f64(of_candidate)
        .max(opponent.mul_f64(of_opponent));
    floor.min(opponent).max(least)
}
