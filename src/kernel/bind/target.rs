//! What a kernel is bound to, and why that can fail.

use std::fmt;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::kernel::plan::Buffer;
use crate::task::{Binding, Task};

/// The device limits that expressions may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceLimits {
    /// The number of streaming multiprocessors.
    pub sm_count: i64,
    /// The most shared memory of a block, in bytes.
    pub max_shared_bytes: i64,
}

/// The values of scalar inputs, by name.
pub type Scalars = IndexMap<String, f64>;

/// A workload on a device: everything that a launch plan depends on besides the kernel and its tunable values.
#[derive(Clone, Copy, Debug)]
pub struct LaunchTarget<'a> {
    pub task: &'a Task,
    /// The sizes of the axes.
    pub binding: &'a Binding,
    /// A scalar that is missing is 0.
    pub scalars: &'a Scalars,
    pub limits: &'a DeviceLimits,
    /// Whether the kernel is the oracle: its outputs are `double` and never overwrite an input.
    pub is_oracle: bool,
}

impl LaunchTarget<'_> {
    /// The index of the buffer for a tensor of the header: an output that overwrites an input has the input's buffer.
    pub(super) fn buffer_index(&self, buffers: &[Buffer], tensor: &str) -> Option<usize> {
        let in_place = self.task.settings.in_place.get(tensor);
        let name = in_place
            .filter(|_| !self.is_oracle)
            .map_or(tensor, String::as_str);
        buffers.iter().position(|buffer| buffer.name == name)
    }
}

/// Why a kernel cannot be launched on a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindError {
    pub fault: BindFault,
    /// The line in the kernel file, counted from 1.
    pub line: u32,
    pub message: String,
}

/// The kind of a [`BindError`]. The statuses of verdicts have the same names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindFault {
    /// The header is wrong for this shape.
    Rejected,
    /// No device can run the launch.
    LaunchError,
    /// The buffers take too much memory.
    LimitExceeded,
}

impl fmt::Display for BindError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "line {}: {}", self.line, self.message)
    }
}
