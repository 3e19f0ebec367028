//! The result of the admission test, which asks whether a task rejects wrong kernels. Plain data; `admission` fills it.

use serde::Serialize;

use super::admission_cases::ReducedWorkload;
use super::admission_coverage::CaseCoverage;
use super::corruption::MissedCorruption;
use crate::task::PrecisionCheck;

/// The result of the admission test of one task.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Admission {
    pub task: String,
    pub admitted: bool,
    /// Whether outputs of lower precision must fail the comparison.
    pub precision: PrecisionCheck,
    /// Number of workloads tested.
    pub workloads: usize,
    pub regimes: Vec<String>,
    /// Workloads that are too large for a CPU, and are tested at a smaller size.
    pub reduced: Vec<ReducedWorkload>,
    /// Number of corrupted outputs that were compared.
    pub comparisons: usize,
    /// How well the cases of a judgement cover what is timed.
    pub coverage: CaseCoverage,
    /// Corrupted outputs that passed the comparison.
    pub passed: Vec<MissedCorruption>,
    /// Other faults of the task.
    pub faults: Vec<TaskFault>,
    #[serde(serialize_with = "crate::base::exact::seed::serialize")]
    pub seed: u64,
    pub seconds: f64,
}

/// Something that is wrong with a task.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct TaskFault {
    /// The workload and the regime that show it; `None` if it concerns the whole task.
    pub workload: Option<String>,
    pub regime: Option<String>,
    pub reason: String,
}

impl Admission {
    pub(super) fn add_fault(&mut self, reason: impl Into<String>) {
        self.faults.push(TaskFault {
            workload: None,
            regime: None,
            reason: reason.into(),
        });
    }
}
