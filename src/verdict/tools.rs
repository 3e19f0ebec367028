//! What a device's own tools say of a kernel that has passed: a profiler's counters, a sanitizer's findings.
//!
//! Evidence for people and for the next question. Counters never decide about anything.

use serde::{Deserialize, Serialize};

/// What a profiler counted, or why it did not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Which tool gave the numbers, such as `ncu 2025.3.0.0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// Why there are none, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// Workload by workload, each launch of the unit in its order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub launches: Vec<LaunchCounters>,
    /// What became of the tool's own report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
}

/// One launch, run many times from flushed caches under a profiler. A number that the tool did not give is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LaunchCounters {
    pub workload: String,
    /// The function, as the tool names it.
    pub kernel: String,
    /// Microseconds under the profiler. No benchmark time.
    pub duration_us: Option<f64>,
    /// Throughput of the multiprocessors, % of what they can sustain.
    pub sm_percent: Option<f64>,
    /// Throughput of the busiest part of the memory system, % of what it can sustain.
    pub memory_percent: Option<f64>,
    /// Throughput of the device's memory, % of what it can sustain.
    pub dram_percent: Option<f64>,
    /// Bytes read from the device's memory.
    pub dram_read_bytes: Option<f64>,
    /// Bytes written to the device's memory.
    pub dram_written_bytes: Option<f64>,
    /// Sectors that the first-level cache had, % of those asked for.
    pub l1_hit_percent: Option<f64>,
    /// Sectors that the second-level cache had, % of those asked for.
    pub l2_hit_percent: Option<f64>,
    /// Warps that a multiprocessor held, % of what it can hold, while it held any.
    pub active_warps_percent: Option<f64>,
    /// Cycles in which the tensor cores worked, % of those in which the multiprocessor did.
    pub tensor_percent: Option<f64>,
    /// Of the time that warps were there, % waiting for global or local memory.
    pub waits_for_memory_percent: Option<f64>,
    /// … for shared memory or a special function.
    pub waits_for_shared_percent: Option<f64>,
    /// … at a barrier.
    pub waits_at_barrier_percent: Option<f64>,
    /// Registers of a thread.
    pub registers: Option<f64>,
}

/// What a device sanitizer looked at, or why it did not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceSanitizer {
    /// The tool, such as `compute-sanitizer 2025.3.0.0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// The checks that ran to their end and found nothing: `memcheck`, `racecheck`, `initcheck`, `synccheck`.
    pub clean: Vec<String>,
    /// The checks that did not, each with its reason, in one line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<String>,
    /// What the tool holds for a doubtful habit, not for a fault, such as lanes of a warp that trust each other to keep step: a
    /// line a place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The shapes that were run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cases: Vec<String>,
}
