//! Where and how the kernels of a task are judged. Plain data.

use super::profiling::Profiling;
use crate::eval;
use crate::task::TaskFiles;
use crate::verdict::DeviceIdentity;

/// Where and how the kernels of a task are judged.
#[derive(Clone, Debug)]
pub(crate) struct PoolOptions {
    pub files: TaskFiles,
    pub options: eval::JudgeOptions,
    /// Number of timed workloads.
    pub workloads: usize,
    /// The GPUs that judge; if empty, the CPU of this machine judges.
    pub gpus: Vec<DeviceIdentity>,
    /// Whether kernels run on the CPU before they run on a GPU.
    pub screen: bool,
    /// NVIDIA tools to run on kernels that have passed.
    pub profiling: Profiling,
}
