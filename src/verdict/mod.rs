//! What became of a candidate (DESIGN section 8). Being wrong is data: nothing here is an error.
//!
//! Plain data; `verdict.json`, the journal and `kforge eval` print the same structure.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

mod compiled;
mod status;
mod tools;

pub(crate) use compiled::{CompiledOnly, CompiledVariant};
pub use status::Status;
pub(crate) use tools::{Counters, DeviceSanitizer, LaunchCounters};

/// The version of the verdict's JSON.
pub const SCHEMA: u32 = 1;

/// The whole judgement of one kernel on one task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub schema: u32,
    pub task: String,
    /// The path or the step that was judged.
    pub kernel: String,
    pub backend: String,
    pub status: Status,
    /// One sentence for a person; `None` for `passed`.
    pub reason: Option<String>,
    /// Whether this was measured again with new seeds in fresh processes.
    pub confirmed: bool,
    pub device: DeviceIdentity,
    /// What held the candidate and its compiler, for example `landlock+seccomp`.
    pub sandbox: String,
    #[serde(default)]
    pub tunables: IndexMap<String, i64>,
    /// `cold`, `hot`, or `warm` where the host is the device.
    pub cache: String,
    /// `unchecked` where the task cannot tell a lower precision from its own; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<String>,
    /// `unchecked` where this system does not let the judge see what a kernel remembers between launches; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// What became of it on the CPU, before it cost time on a GPU: `passed`, `found`, `unsupported`; absent where it was not tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub screen: Option<String>,
    /// The share of the timed outputs that was compared with the oracle, 0 to 1; `None` where nothing was timed.
    pub checked_share: Option<f64>,
    #[serde(default)]
    pub voided_blocks: u64,
    #[serde(default)]
    pub seeds: Vec<u64>,
    pub baseline: Option<BaselineIdentity>,
    /// Over all workloads; only where `status` is `passed`.
    pub speedup: Option<Speedup>,
    pub workloads: Vec<WorkloadVerdict>,
    pub resources: Resources,
    /// What the archive's axes are made from, by name.
    #[serde(default)]
    pub features: IndexMap<String, f64>,
    /// How each load and store used memory, those with the most bytes first; empty where the race build did not run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accesses: Vec<AccessFigures>,
    #[serde(default)]
    pub evidence: Option<Evidence>,
    /// The builds that ran to their end and found nothing: `fast`, `bounds`, `race`.
    #[serde(default)]
    pub builds: Vec<String>,
    pub seconds: Seconds,
}

impl Verdict {
    /// That kforge itself failed to judge a kernel.
    pub(crate) fn harness_error(task: &str, kernel: &str, backend: &str, reason: String) -> Self {
        Self {
            schema: SCHEMA,
            task: task.to_owned(),
            kernel: kernel.to_owned(),
            backend: backend.to_owned(),
            status: Status::HarnessError,
            reason: Some(reason),
            confirmed: false,
            device: DeviceIdentity::default(),
            sandbox: "unknown".to_owned(),
            tunables: IndexMap::new(),
            cache: "unknown".to_owned(),
            precision: None,
            state: None,
            screen: None,
            checked_share: None,
            voided_blocks: 0,
            seeds: Vec::new(),
            baseline: None,
            speedup: None,
            workloads: Vec::new(),
            resources: Resources::default(),
            features: IndexMap::new(),
            accesses: Vec::new(),
            evidence: None,
            builds: Vec::new(),
            seconds: Seconds::default(),
        }
    }

    /// Whether the candidate is correct, measured, and above the floor.
    pub fn passed(&self) -> bool {
        self.status == Status::Passed
    }
}

/// Which device judged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceIdentity {
    pub name: String,
    pub arch: String,
    pub uuid: Option<String>,
    pub driver: Option<String>,
    /// Cores that a CPU backend spreads blocks over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cores: Option<u32>,
}

/// What speed was measured against.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BaselineIdentity {
    pub name: String,
    /// `kernel` or `python`.
    pub kind: String,
    #[serde(default)]
    pub versions: IndexMap<String, String>,
}

/// A speedup over all workloads: baseline time / candidate time, geometric mean.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Speedup {
    pub geomean: f64,
    pub ci95: [f64; 2],
}

/// What became of a candidate on one workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkloadVerdict {
    pub id: String,
    pub axes: IndexMap<String, i64>,
    /// Whether no prompt names this shape; hidden shapes are checked, never timed.
    #[serde(default)]
    pub hidden: bool,
    /// The input regime in force; absent where the inputs were those that are timed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regime: Option<String>,
    /// Index of the variant in force, counted from 0; `None` where the file has none or none holds.
    pub variant: Option<usize>,
    pub status: Status,
    pub speedup: Option<f64>,
    pub ci95: Option<[f64; 2]>,
    pub candidate_us: Option<TimeSummary>,
    pub baseline_us: Option<TimeSummary>,
    pub floor_us: Option<f64>,
    pub roofline: Option<f64>,
    pub max_abs_error: Option<f64>,
    pub max_rel_error: Option<f64>,
    pub mean_abs_error: Option<f64>,
    /// 1 - the largest |x - r| / bound; negative where an element failed.
    pub tolerance_margin: Option<f64>,
}

/// A sample of times in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimeSummary {
    pub median: f64,
    pub mean: f64,
    pub std: f64,
    pub min: f64,
    pub max: f64,
    pub n: u64,
}

/// What the compiler and the driver say; `None` where the backend cannot know.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    pub registers: Option<u32>,
    pub spill_bytes: Option<u64>,
    pub shared_bytes: Option<u64>,
    pub occupancy: Option<f64>,
}

/// What a person needs to reproduce a fault.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Evidence {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensor: Option<String>,
    /// Flat index of the element.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<f64>,
    /// Text, because it may be `NaN` or `inf`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    /// Line in the kernel file, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Where in the grid, and in the block, it happened: x, y, z.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<[u32; 3]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread: Option<[u32; 3]>,
    /// Of a race: the earlier access.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other: Option<OtherAccess>,
    /// The build that showed it: `bounds` or `race`; absent for the fast one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,
    /// Of the race build: the seed of the schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<u64>,
    /// The input regime in force; absent where the inputs were those that are timed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regime: Option<String>,
    /// A variable of the kernel that a launch left changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variable: Option<String>,
    /// Untrusted: the compiler's words, or the candidate's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// What a profiler counted; absent where nobody asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counters: Option<Counters>,
    /// What the device's sanitizer looked at; absent where nobody asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_sanitizer: Option<DeviceSanitizer>,
}

/// The other side of a race.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OtherAccess {
    /// In the kernel file, counted from 1.
    pub line: Option<u32>,
    pub block: [u32; 3],
    pub thread: [u32; 3],
    /// `read`, `write` or `atomic`; `wait` where threads of one warp wait for each other at two places.
    pub access: String,
}

/// Wall time that judging took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    pub compile: f64,
    pub check: f64,
    pub measure: f64,
    /// The inspected builds, compiling them included.
    #[serde(default)]
    pub inspect: f64,
    /// Running on the CPU before it costs time on a GPU, compiling included.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub screen: f64,
}

/// Whether nothing was spent: of what is rare, no zeros are written.
fn is_zero(seconds: &f64) -> bool {
    *seconds == 0.0
}

/// How one load or store of the kernel file used memory, counted where the CPU ran it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccessFigures {
    /// In the kernel file, counted from 1.
    pub line: u32,
    /// `load`, `store` or `atomic`.
    pub access: String,
    /// `global` or `shared`.
    pub space: String,
    /// Bytes that one thread accesses at once.
    pub bytes: u32,
    /// Sectors of 32 bytes for each request of a warp; of shared memory `null`.
    pub sectors_per_request: Option<f64>,
    /// Passes over the banks against as few as there can be; of global memory `null`.
    pub bank_conflicts: Option<f64>,
    /// `coalesced`, `strided` or `random`; of shared memory `null`.
    pub pattern: Option<String>,
    /// All that it moves in one launch of the unit, in bytes.
    pub total_bytes: f64,
}

/// A kernel timed against itself on one workload: what the device's clock can tell apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SelfTest {
    /// The workload's id.
    pub id: String,
    /// The one's time / the other's; an interval that is worth something holds 1.
    pub ratio: f64,
    pub ci95: [f64; 2],
    /// The least relative difference that as many blocks would show four times out of five.
    pub detectable: f64,
}

impl SelfTest {
    pub(crate) fn contains_one(&self) -> bool {
        self.ci95[0] <= 1.0 && 1.0 <= self.ci95[1]
    }
}

/// A paired comparison of two candidates on the same data: incumbent time / challenger time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Duel {
    pub ratio: f64,
    pub ci95: [f64; 2],
}
