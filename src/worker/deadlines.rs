//! How long a worker and an evaluation may take, derived from the settings of the judge.
//!
//! Kernels have deadlines of their own, which the judge enforces. A worker that exceeds a deadline of this file is broken, not
//! its candidate. Only computes; `child` and `dispatch` wait.

use std::time::Duration;

use super::JobKind;
use crate::eval::JudgeOptions;

/// A worker sends a sign of life this often while it works.
pub(super) const BEAT: Duration = Duration::from_secs(2);
/// A worker that is silent for this long is stopped, or its machine is: at least seven beats are missing.
pub(super) const MAX_SILENCE: Duration = Duration::from_secs(15);
/// Like `MAX_SILENCE`, until the first sign: the program may have to be loaded from a slow disk.
pub(super) const MAX_START_SILENCE: Duration = Duration::from_secs(120);
/// A worker that completes nothing for this long is stuck, for example in a call of a GPU's driver. Launches, compilers and
/// locks do not count: they have limits of their own.
pub(super) const MAX_STALL: Duration = Duration::from_secs(180);

/// Compiling, starting processes, and checking on every case.
const BASE_SECONDS: f64 = 120.0;
/// Number of launches of one judgement that may take as long as a launch may.
const SLOW_LAUNCHES: f64 = 10.0;
/// Measuring takes longer than its timing budget: inputs are drawn and outputs compared, and other processes hold the lock.
const TIMING_OVERHEAD: f64 = 20.0;
/// A worker builds the CPU's runtime when it starts, unless it is in the cache.
const START_SECONDS: f64 = 600.0;
/// Requests of one judgement: the first, another if its worker died, and a repetition after a fault of a GPU.
const REQUESTS: u32 = 3;

/// How long timing a kernel against other baselines may take: more than any library needs to be compiled for all workloads.
const MAX_STRONGEST: Duration = Duration::from_secs(2 * 3600);

/// What a person can do about an exceeded deadline. Ends the messages about it.
pub(super) const REMEDY: &str = "stop other programs that use the machine, judge fewer kernels at once (`eval.in_flight`), or raise `eval.launch_seconds`, from which the limit follows";

/// The deadlines of a pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines {
    /// How long a worker may take until it is ready.
    pub(super) start: Duration,
    /// How long one request may take.
    pub(super) request: Duration,
}

impl Deadlines {
    /// `workloads`: number of timed workloads.
    pub(super) fn new(options: &JudgeOptions, workloads: usize) -> Self {
        let launches = SLOW_LAUNCHES * options.launch_seconds;
        let timing = TIMING_OVERHEAD * options.profile.seconds * workloads as f64;
        Self {
            start: Duration::from_secs_f64(START_SECONDS + launches),
            request: Duration::from_secs_f64(BASE_SECONDS + launches + timing),
        }
    }

    /// The deadline of a whole evaluation, with its repetitions. `processes`: the most fresh processes of a confirmation.
    pub(super) fn evaluation(&self, kind: &JobKind, processes: u32) -> Duration {
        match kind {
            JobKind::Judge => self.start + REQUESTS * self.request,
            JobKind::Try { others } => {
                let points = u32::try_from(others.len() + 1).unwrap_or(1);
                self.start + points * self.request
            }
            JobKind::Duel { .. } => self.start + self.request,
            // Python has deadlines of its own, for each of them.
            JobKind::CompareStrongest(_) => MAX_STRONGEST,
            JobKind::Compare { .. } => processes * (self.start + self.request),
            JobKind::Confirm => (processes + REQUESTS) * (self.start + self.request),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Cache;
    use crate::task::TaskFiles;

    #[test]
    fn deadlines_follow_the_settings() {
        let task = TaskFiles::find("softmax").unwrap().load().unwrap();
        let options = |profile: &str| JudgeOptions {
            profile: task.settings.profiles[profile].clone(),
            launch_seconds: 10.0,
            thorough: false,
            cache: Cache::Cold,
        };
        let quick = Deadlines::new(&options("quick"), 2);
        assert_eq!(quick.request.as_secs(), 232);
        let full = Deadlines::new(&options("full"), 8);
        assert_eq!(full.request.as_secs(), 700);
        assert_eq!(
            full.evaluation(&JobKind::Judge, 10),
            full.start + 3 * full.request
        );
    }
}
