//! What decides which points of a candidate are worth trying: the timed workloads of its task, and the limits of the run's device.
//!
//! Reads the record of the run. Opens no device.

use crate::device::DeviceFacts;
use crate::kernel::{Kernel, KnownLimits};
use crate::run::RunRecord;
use crate::task::{Binding, Task};
use crate::verdict::DeviceIdentity;
use crate::worker::cpu_limits;

/// What the rules for points are made with, the same for all candidates of a task.
pub(super) struct PointLimits {
    workloads: Vec<Binding>,
    limits: KnownLimits,
}

impl PointLimits {
    pub(super) fn new(record: &RunRecord, task: &Task) -> Self {
        let profile = record.config["profile"].as_str();
        let profile = profile.and_then(|name| task.settings.profiles.get(name));
        let workloads = match profile {
            Some(profile) => task.selected_workloads(profile),
            None => task.workloads.iter().collect(),
        };
        Self {
            workloads: (workloads.into_iter())
                .map(|workload| workload.binding.clone())
                .collect(),
            limits: known_limits(&record.device),
        }
    }

    /// The rules for the points of a kernel file, for its `proposed` event. None if its header is wrong.
    pub(super) fn rules(&self, source: &str, task: &Task) -> Vec<String> {
        let Ok(kernel) = Kernel::parse(source, &task.definition) else {
            return Vec::new();
        };
        if kernel.header.tunables.is_empty() {
            return Vec::new();
        }
        let workloads: Vec<&Binding> = self.workloads.iter().collect();
        kernel.point_rules(&workloads, self.limits).texts()
    }
}

/// The limits that are known without opening the device. The number of multiprocessors is, once the GPU was measured.
fn known_limits(device: &DeviceIdentity) -> KnownLimits {
    if device.cores.is_some() {
        return cpu_limits(device).into();
    }
    let facts = DeviceFacts::for_device(device);
    KnownLimits {
        sm_count: facts.multiprocessors.map(i64::from),
        max_shared_bytes: facts.shared_bytes_a_block.map(i64::from),
    }
}
