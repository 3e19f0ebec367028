//! Results of NVIDIA's tools for a kernel that has passed: `ncu` counters and `compute-sanitizer` checks.
//!
//! Plain data, shown to people and models as evidence. `worker::profiling` fills it in. Counters never change a verdict's status.

use serde::{Deserialize, Serialize};

/// The counters of a profiler, or the reason why there are none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// The tool and its version, such as `ncu 2025.3.0.0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// Why there are no counters, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// One entry per launch: workload by workload, in the order of the plan.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub launches: Vec<LaunchCounters>,
    /// Where the tool's own report is, or why it could not be kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
}

/// One launch, replayed many times with flushed caches under a profiler. `None`: the tool gave no such number.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LaunchCounters {
    pub workload: String,
    /// The name of the function, as the tool prints it.
    pub kernel: String,
    /// Microseconds under the profiler. Not comparable with a measured time.
    pub duration_us: Option<f64>,
    /// Throughput of the multiprocessors, % of the sustained peak.
    pub sm_percent: Option<f64>,
    /// Throughput of the busiest part of the memory system, % of its sustained peak.
    pub memory_percent: Option<f64>,
    /// Throughput of device memory, % of its sustained peak.
    pub dram_percent: Option<f64>,
    /// Bytes read from device memory.
    pub dram_read_bytes: Option<f64>,
    /// Bytes written to device memory.
    pub dram_written_bytes: Option<f64>,
    /// Hit rate of the L1 cache, % of requested sectors.
    pub l1_hit_percent: Option<f64>,
    /// Hit rate of the L2 cache, % of requested sectors.
    pub l2_hit_percent: Option<f64>,
    /// Achieved occupancy: resident warps, % of the maximum, over the cycles in which a multiprocessor was active.
    pub active_warps_percent: Option<f64>,
    /// Cycles in which the tensor cores were active, % of the multiprocessor's active cycles.
    pub tensor_percent: Option<f64>,
    /// Share of resident warps' time spent waiting for global or local memory, %.
    pub waits_for_memory_percent: Option<f64>,
    /// Share of resident warps' time spent waiting for shared memory or the special function unit, %.
    pub waits_for_shared_percent: Option<f64>,
    /// Share of resident warps' time spent waiting at a barrier, %.
    pub waits_at_barrier_percent: Option<f64>,
    /// Registers per thread.
    pub registers: Option<f64>,
}

/// The checks of `compute-sanitizer`, or the reasons why they did not run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceSanitizer {
    /// The tool, such as `compute-sanitizer 2025.3.0.0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// The checks that completed without a finding: `memcheck`, `racecheck`, `initcheck`, `synccheck`.
    pub clean: Vec<String>,
    /// The checks that did not complete, each with its reason, one per line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<String>,
    /// The tool's warnings, one per source location. They are not faults: for example, code that relies on the lanes of a warp
    /// running in lockstep.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The cases that were run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cases: Vec<String>,
}
