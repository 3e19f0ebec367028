//! Points of a recorded space: what is requested of a point, and what was found there.
//!
//! Plain data, and the checks of a header that need no compiler. `space_judge` measures.

use serde::{Deserialize, Serialize};

use super::case::Case;
use super::finding::Finding;
use crate::kernel::{BindError, DeviceLimits, Kernel, LaunchTarget};
use crate::task::{Profile, Task};
use crate::verdict::Status;

/// What was checked at every point, for the file that records them.
pub(crate) const POINT_CHECKS: &str = "each timed workload with one seed: outputs of the first launch over poison, of one run, and of all \
     runs of the last sample against the oracle; guard zones, inputs and variables; no hidden shapes, regimes or inspection";

/// How the points of a space are measured; the same for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SpaceSettings {
    /// The seed of the inputs.
    pub(crate) seed: u64,
    /// Timed samples of each workload.
    pub(crate) samples: usize,
    /// The workloads on which points are checked and timed.
    pub(crate) workloads: SpaceWorkloads,
}

/// The workloads on which the points of a space are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SpaceWorkloads {
    /// All timed ones.
    All,
    /// Of the timed ones at most eight, from the smallest to the largest: enough to tell a bad point from a good one.
    Spread,
}

/// A kernel with the values of one point.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PointRequest {
    pub(crate) source: String,
    /// Whether the baseline is timed again before.
    pub(crate) times_baseline: bool,
}

/// What all points of a space share on the device that measures them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SpaceFacts {
    pub(crate) limits: DeviceLimits,
    /// Ids of the timed workloads.
    pub(crate) workloads: Vec<String>,
}

/// Why a point has no time, with the names of T4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Invalidity {
    /// It violates a constraint or a limit that its header shows.
    Constraints,
    Compile,
    Runtime,
    Timeout,
    Correctness,
}

/// A point without a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PointFault {
    pub(crate) invalidity: Invalidity,
    pub(crate) status: Status,
    pub(crate) reason: String,
}

impl PointFault {
    /// A fault of the header, before compilation.
    pub(super) fn of_header(error: BindError) -> Self {
        Self::new(Invalidity::Constraints, Finding::from(error))
    }

    pub(super) fn of_compilation(finding: Finding) -> Self {
        Self::new(Invalidity::Compile, finding)
    }

    /// A fault of the compiled kernel.
    pub(super) fn of_launch(finding: Finding) -> Self {
        let invalidity = match finding.status {
            Status::TimedOut => Invalidity::Timeout,
            Status::InputMutated
            | Status::OutputUnwritten
            | Status::Nondeterministic
            | Status::WrongOutput
            | Status::Stateful => Invalidity::Correctness,
            _ => Invalidity::Runtime,
        };
        Self::new(invalidity, finding)
    }

    /// What the compiler says of a point that it refuses.
    pub(crate) fn of_refused(status: Status, reason: String) -> Self {
        Self {
            invalidity: Invalidity::Compile,
            status,
            reason,
        }
    }

    /// A point whose process ends again and again.
    pub(crate) fn of_crash(reason: String) -> Self {
        Self {
            invalidity: Invalidity::Runtime,
            status: Status::Crashed,
            reason,
        }
    }

    fn new(invalidity: Invalidity, finding: Finding) -> Self {
        Self {
            invalidity,
            status: finding.status,
            reason: finding.reason,
        }
    }

    /// Whether the process that ran the kernel may be damaged: a GPU's context is lost after a fault.
    pub(crate) fn may_damage_process(&self) -> bool {
        !matches!(
            self.status,
            Status::Rejected
                | Status::Unsupported
                | Status::CompileError
                | Status::CompileTimeout
                | Status::LaunchError
                | Status::LimitExceeded
                | Status::WrongOutput
        )
    }
}

/// What was found at a point.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PointResult {
    /// Microseconds of each sample, by workload.
    pub(crate) times: Result<Vec<Vec<f64>>, PointFault>,
    /// Median microseconds of the baseline, by workload: the last time that it was timed.
    pub(crate) baseline_us: Vec<f64>,
    /// The device was throttled in all attempts.
    pub(crate) is_disturbed: bool,
    pub(crate) seconds: PointSeconds,
    /// How long the device was held, as `seconds.device` of a verdict.
    pub(crate) device_seconds: f64,
}

/// Where the time of a point went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PointSeconds {
    /// 0 if the compiled code was in the cache.
    pub(crate) compile: f64,
    /// Loading, the first launch, and comparing.
    pub(crate) check: f64,
    pub(crate) timing: f64,
}

/// Binds a point to all workloads of a profile: what a header shows before a kernel is compiled.
///
/// # Errors
/// The first fault.
pub(crate) fn check_header(
    task: &Task,
    profile: &Profile,
    limits: &DeviceLimits,
    kernel: &Kernel,
) -> Result<(), PointFault> {
    for workload in task.selected_workloads(profile) {
        let case = Case::of_workload(workload);
        let target = LaunchTarget {
            task,
            binding: &case.binding,
            scalars: &case.scalars(task),
            limits,
            is_oracle: false,
        };
        let bound = kernel
            .variant_for(&case.binding, limits)
            .and_then(|variant| {
                let values = kernel.tunable_values(variant);
                kernel.check_constraints(&case.binding, &values, limits)?;
                kernel.launch_plan(&target, &values)
            });
        bound.map_err(PointFault::of_header)?;
    }
    Ok(())
}
