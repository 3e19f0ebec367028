//! Verdicts: the results of judging a kernel (`docs/run-directory.md`).
//!
//! Plain data. `verdict.json`, the journal and `kforge eval --format json` contain the same structure. A wrong kernel is a
//! `Status`, never an error. `eval` makes verdicts; this module decides nothing.

use indexmap::IndexMap;
use serde::{Deserialize, Deserializer, Serialize};

use crate::base::{Digest, exact};

mod baselines;
mod compiled;
mod speedup;
mod status;
mod strongest;
mod tools;
mod yardstick;

pub use baselines::{BaselineEntry, BaselineWorkload};
pub(crate) use baselines::{BaselineTable, JudgeFacts, TABLE_SCHEMA, TimedKernel, fastest};
pub(crate) use compiled::{CompiledOnly, CompiledVariant, SERIALIZED_WGMMA, WIDE_FENCES};
pub use speedup::Speedup;
pub use status::Status;
pub(crate) use strongest::within_tolerance;
pub use strongest::{Deviation, FasterOutside, SpeedupOrigin, StrongestBaseline};
pub(crate) use tools::{Counters, DeviceSanitizer, LaunchCounters};
pub use yardstick::Yardstick;

/// The version of the verdict's JSON.
pub const SCHEMA: u32 = 1;

/// The complete result of judging one kernel on one task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub schema: u32,
    pub task: String,
    /// The path of the kernel file, or its step.
    pub kernel: String,
    pub backend: String,
    pub status: Status,
    /// One sentence for people; `None` if the status is `passed`.
    pub reason: Option<String>,
    /// Whether the kernel was checked and measured again with new seeds in fresh processes.
    pub confirmed: bool,
    pub device: DeviceIdentity,
    /// What confined the candidate and its compiler, for example `landlock+seccomp`.
    pub sandbox: String,
    #[serde(default, with = "exact::integers")]
    pub tunables: IndexMap<String, i64>,
    /// State of the device's caches before a timed launch: `cold`, `hot`, or `warm` (always `warm` on a CPU).
    pub cache: String,
    /// `unchecked` if the task's tolerance cannot detect a lower precision; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<String>,
    /// `unchecked` in verdicts of earlier versions, where the judge could not read what a kernel keeps between launches; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Result of the CPU screen before the kernel ran on a GPU: `passed`, `found`, `unsupported`, or `differs: …` for a source that gives
    /// another program on the CPU; absent if there was no screen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub screen: Option<String>,
    /// The share of timed runs whose outputs were compared with the oracle, 0 to 1; `None` if nothing was timed.
    pub checked_share: Option<f64>,
    #[serde(default)]
    pub voided_blocks: u64,
    /// Strings in JSON: a seed may be any 64-bit number.
    #[serde(default, with = "exact::seeds")]
    pub seeds: Vec<u64>,
    pub baseline: Option<BaselineIdentity>,
    /// Hash of the compiled code and of the launches: equal for kernels that do the same on this device. Absent if the kernel was not
    /// compiled, if the hash cannot be made, and in verdicts of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Digest>,
    /// How far the kernel was timed; absent if it was not timed, and in verdicts of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timing: Option<Timing>,
    /// Why and when timing ended early; absent unless `timing` is `dismissed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dismissal: Option<Dismissal>,
    /// The kernel that this one was timed against instead of the baseline; absent if the baseline was timed too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timed_against: Option<TimedAgainst>,
    /// The strongest baseline that `kforge baselines` has measured on this kind of device, or that the kernel was timed against in pairs at
    /// the end of a run; absent if there is neither for these workloads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strongest: Option<StrongestBaseline>,
    /// The fastest baseline of that table that is faster than the kernel, but whose outputs are outside the task's tolerance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub faster_outside: Option<StrongestBaseline>,
    /// What a complete judgement does and this judgement did not, such as `bounds and race builds`. The verdict claims nothing about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_done: Vec<String>,
    /// The speedup over all timed workloads; only if `status` is `passed`.
    pub speedup: Option<Speedup>,
    pub workloads: Vec<WorkloadVerdict>,
    pub resources: Resources,
    /// Numbers that describe the kernel, by name. The archive's axes are chosen among them.
    #[serde(default)]
    pub features: IndexMap<String, f64>,
    /// How each load and store used memory, most bytes first; empty if the race build did not run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accesses: Vec<AccessFigures>,
    #[serde(default)]
    pub evidence: Option<Evidence>,
    /// Oddities of the header that change nothing, such as a value that a tunable lists twice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The builds that completed without a finding: `fast`, `bounds`, `race`.
    #[serde(default)]
    pub builds: Vec<String>,
    pub seconds: Seconds,
}

impl Verdict {
    /// Sets the strongest baseline, and the one that is faster outside the tolerance, from those that are known.
    pub(crate) fn set_strongest(&mut self, known: &[StrongestBaseline]) {
        let mut outside = known.iter().filter(|one| one.outside.is_some());
        self.faster_outside = outside.next().cloned();
        self.strongest = within_tolerance(known).cloned();
    }

    /// A verdict that says that kforge itself failed to judge a kernel.
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
            code: None,
            timing: None,
            dismissal: None,
            timed_against: None,
            strongest: None,
            faster_outside: None,
            not_done: Vec::new(),
            speedup: None,
            workloads: Vec::new(),
            resources: Resources::default(),
            features: IndexMap::new(),
            accesses: Vec::new(),
            evidence: None,
            notes: Vec::new(),
            builds: Vec::new(),
            seconds: Seconds::default(),
        }
    }

    /// Whether the kernel is correct, was measured, and is not faster than the floor.
    pub fn passed(&self) -> bool {
        self.status == Status::Passed
    }

    /// Whether the judgement ended early because the kernel was surely slower than an incumbent, or left checks out.
    pub fn is_dismissed(&self) -> bool {
        VerdictSummary::from(self).is_dismissed()
    }
}

/// How far a kernel was timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Timing {
    /// The kernel was timed until the interval was narrow enough or the timing budget was spent.
    Full,
    /// The kernel was timed until it was surely slower than an incumbent. The interval is right, but wide.
    Dismissed,
}

/// Why timing ended early.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dismissal {
    /// The look at the timings that dismissed the kernel, from 1.
    pub look: u32,
    /// The number of planned looks.
    pub looks: u32,
    /// The speedup of the incumbent that the kernel cannot reach.
    pub bar: f64,
}

/// The anchor of a search, which a candidate was timed against. Its speedup is the product of two ratios: candidate over anchor, and
/// anchor over baseline. The interval has the uncertainty of both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimedAgainst {
    /// The anchor's step.
    pub step: u64,
    /// Name of the anchor's kernel file.
    pub kernel: String,
    /// The anchor's speedup over the baseline.
    pub speedup: f64,
}

/// The part of a verdict that a search needs.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct VerdictSummary {
    pub status: Status,
    #[serde(default)]
    pub confirmed: bool,
    pub speedup: Option<Speedup>,
    #[serde(default)]
    pub features: IndexMap<String, f64>,
    /// What judging it took.
    #[serde(default)]
    pub seconds: Seconds,
    #[serde(default)]
    pub code: Option<Digest>,
    #[serde(default)]
    pub timing: Option<Timing>,
    #[serde(default)]
    pub not_done: Vec<String>,
    /// The timed workloads.
    #[serde(default, deserialize_with = "timed_workloads")]
    pub workloads: Vec<WorkloadSpeedup>,
}

/// The speedup on one workload.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkloadSpeedup {
    pub id: String,
    pub speedup: Speedup,
    /// The candidate's median time, in microseconds.
    pub median_us: Option<f64>,
    /// Floor / median time of the candidate. `None` where no floor is known.
    pub roofline: Option<f64>,
}

/// Reads the list of all workloads, and keeps those that were timed.
fn timed_workloads<'d, D: Deserializer<'d>>(
    deserializer: D,
) -> Result<Vec<WorkloadSpeedup>, D::Error> {
    #[derive(Deserialize)]
    struct Workload {
        id: String,
        speedup: Option<f64>,
        ci95: Option<[f64; 2]>,
        candidate_us: Option<Median>,
        roofline: Option<f64>,
    }
    #[derive(Deserialize)]
    struct Median {
        median: f64,
    }
    let workloads = Vec::<Workload>::deserialize(deserializer)?;
    let timed = workloads.into_iter().filter_map(|workload| {
        Some(WorkloadSpeedup {
            id: workload.id,
            speedup: Speedup {
                geomean: workload.speedup?,
                ci95: workload.ci95?,
            },
            median_us: workload.candidate_us.map(|times| times.median),
            roofline: workload.roofline,
        })
    });
    Ok(timed.collect())
}

impl VerdictSummary {
    /// Whether the judgement ended early because the kernel was surely slower than an incumbent. What it found is true, but the kernel
    /// may neither be reported as the best nor be built on: its figure is rough, and some checks may not have run.
    pub(crate) fn is_dismissed(&self) -> bool {
        // A confirmation does all checks. It may have fewer processes than usual.
        let lacks_checks = !self.confirmed && !self.not_done.is_empty();
        self.timing == Some(Timing::Dismissed) || lacks_checks
    }

    /// The speedup of a verdict that passed.
    pub(crate) fn passed_speedup(&self) -> Option<Speedup> {
        self.speedup.filter(|_| self.status == Status::Passed)
    }
}

impl From<&Verdict> for VerdictSummary {
    fn from(verdict: &Verdict) -> Self {
        Self {
            status: verdict.status,
            confirmed: verdict.confirmed,
            speedup: verdict.speedup,
            features: verdict.features.clone(),
            seconds: verdict.seconds.without_parts(),
            code: verdict.code,
            timing: verdict.timing,
            not_done: verdict.not_done.clone(),
            workloads: (verdict.workloads.iter())
                .filter_map(|workload| {
                    Some(WorkloadSpeedup {
                        id: workload.id.clone(),
                        speedup: Speedup {
                            geomean: workload.speedup?,
                            ci95: workload.ci95?,
                        },
                        median_us: workload.candidate_us.map(|times| times.median),
                        roofline: workload.roofline,
                    })
                })
                .collect(),
        }
    }
}

/// The device on which a kernel was judged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceIdentity {
    pub name: String,
    pub arch: String,
    pub uuid: Option<String>,
    pub driver: Option<String>,
    /// Number of cores that the CPU backend uses; `None` for a GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cores: Option<u32>,
}

/// The baseline of a measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BaselineIdentity {
    pub name: String,
    /// `kernel` or `python`.
    pub kind: String,
    #[serde(default)]
    pub versions: IndexMap<String, String>,
}

/// The result on one case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkloadVerdict {
    pub id: String,
    #[serde(with = "exact::integers")]
    pub axes: IndexMap<String, i64>,
    /// Whether this is a hidden case: not in any prompt, checked but never timed.
    #[serde(default)]
    pub hidden: bool,
    /// The input regime; absent for the distributions that are timed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regime: Option<String>,
    /// 0-based index of the variant that was used; `None` if no variant applies.
    pub variant: Option<usize>,
    pub status: Status,
    pub speedup: Option<f64>,
    pub ci95: Option<[f64; 2]>,
    pub candidate_us: Option<TimeSummary>,
    pub baseline_us: Option<TimeSummary>,
    /// Whether each sample was one launch; absent if not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub runs_apart: bool,
    pub floor_us: Option<f64>,
    pub roofline: Option<f64>,
    pub max_abs_error: Option<f64>,
    pub max_rel_error: Option<f64>,
    pub mean_abs_error: Option<f64>,
    /// 1 - the largest |x - r| / bound; negative if an element failed.
    pub tolerance_margin: Option<f64>,
}

impl WorkloadVerdict {
    /// An entry in which nothing is measured.
    pub(crate) fn blank(id: &str, status: Status) -> Self {
        Self {
            id: id.to_owned(),
            axes: IndexMap::new(),
            hidden: false,
            regime: None,
            variant: None,
            status,
            speedup: None,
            ci95: None,
            candidate_us: None,
            baseline_us: None,
            runs_apart: false,
            floor_us: None,
            roofline: None,
            max_abs_error: None,
            max_rel_error: None,
            mean_abs_error: None,
            tolerance_margin: None,
        }
    }
}

/// Summary of the measured times, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimeSummary {
    pub median: f64,
    pub mean: f64,
    pub std: f64,
    pub min: f64,
    pub max: f64,
    pub n: u64,
}

/// Resource use as reported by the compiler and the driver; `None` where the backend has no such number.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    pub registers: Option<u32>,
    pub spill_bytes: Option<u64>,
    pub shared_bytes: Option<u64>,
    pub occupancy: Option<f64>,
}

/// What is needed to reproduce and understand a finding.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Evidence {
    #[serde(skip_serializing_if = "Option::is_none", with = "exact::optional_seed")]
    pub seed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensor: Option<String>,
    /// Flat index of the first wrong element.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<f64>,
    /// The value found, as text because it may be `NaN` or `inf`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    /// 1-based line in the kernel file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Index of the thread block in the grid: x, y, z.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<[u32; 3]>,
    /// Index of the thread in its block: x, y, z.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread: Option<[u32; 3]>,
    /// For a race: the earlier access.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other: Option<OtherAccess>,
    /// The build that found it: `bounds` or `race`; absent for the fast build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,
    /// For the race build: the seed of the thread schedule.
    #[serde(skip_serializing_if = "Option::is_none", with = "exact::optional_seed")]
    pub schedule: Option<u64>,
    /// The input regime; absent for the distributions that are timed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regime: Option<String>,
    /// A `__device__` or static variable that a launch left changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variable: Option<String>,
    /// Output of the compiler or of the candidate: untrusted text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// Counters of the profiler; absent if profiling was not requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counters: Option<Counters>,
    /// Checks of `compute-sanitizer`; absent if they were not requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_sanitizer: Option<DeviceSanitizer>,
}

/// The other access of a race.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OtherAccess {
    /// 1-based line in the kernel file.
    pub line: Option<u32>,
    pub block: [u32; 3],
    pub thread: [u32; 3],
    /// `read`, `write` or `atomic`; `wait` if threads of one warp wait for each other at two different locations.
    pub access: String,
}

/// Wall time of the stages of judging, in seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    pub compile: f64,
    pub check: f64,
    pub measure: f64,
    /// Inspection (bounds and race builds), including their compilation.
    #[serde(default)]
    pub inspect: f64,
    /// The CPU screen before the kernel ran on a GPU, including compilation.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub screen: f64,
    /// The same time by what was done, such as `timing launch`, the largest first. Waiting for locks of other kforge processes is a
    /// part, but belongs to none of the stages above.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub parts: IndexMap<String, f64>,
    /// Device time: how long the worker held the device's timing lock, shared for checks or alone for timing. On a CPU, which is the
    /// device, compiling holds it too. Waiting for it does not count. Absent in verdicts of earlier versions.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub device: f64,
}

impl Seconds {
    /// All stages together. Device time is a part of them.
    pub(crate) fn total(&self) -> f64 {
        self.compile + self.check + self.measure + self.inspect + self.screen
    }

    /// The stages only.
    fn without_parts(&self) -> Self {
        self.plus(&Self::default())
    }

    /// The sums of both, of stages only.
    #[must_use]
    pub(crate) fn plus(&self, other: &Self) -> Self {
        Self {
            compile: self.compile + other.compile,
            check: self.check + other.check,
            measure: self.measure + other.measure,
            inspect: self.inspect + other.inspect,
            screen: self.screen + other.screen,
            device: self.device + other.device,
            parts: IndexMap::new(),
        }
    }
}

/// Omits the time of a stage that did not run.
fn is_zero(seconds: &f64) -> bool {
    *seconds == 0.0
}

/// How one load or store of the kernel file used memory, counted by the race build on the CPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccessFigures {
    /// 1-based line in the kernel file.
    pub line: u32,
    /// `load`, `store` or `atomic`.
    pub access: String,
    /// `global` or `shared`.
    pub space: String,
    /// Bytes per access of one thread.
    pub bytes: u32,
    /// Sectors of 32 bytes per request of a warp; `null` for shared memory.
    pub sectors_per_request: Option<f64>,
    /// Passes over the banks / the minimum number of passes; `null` for global memory.
    pub bank_conflicts: Option<f64>,
    /// `coalesced`, `strided` or `random`; `null` for shared memory.
    pub pattern: Option<String>,
    /// Bytes that all its accesses move in one run of the plan.
    pub total_bytes: f64,
}

/// The baseline timed against itself on one workload: shows the smallest difference that a measurement can detect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SelfTest {
    /// The workload's id.
    pub id: String,
    /// Ratio of the two times. A sound interval contains 1.
    pub ratio: f64,
    pub ci95: [f64; 2],
    /// The smallest relative difference that as many timing blocks detect with a power of 80 %.
    pub detectable: f64,
}

impl SelfTest {
    /// Whether the interval contains 1, as it should.
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

impl Duel {
    /// What the whole interval says.
    pub(crate) fn outcome(&self) -> DuelOutcome {
        let [low, high] = self.ci95;
        if low > 1.0 {
            DuelOutcome::Faster
        } else if high < 1.0 {
            DuelOutcome::Slower
        } else {
            DuelOutcome::Unclear
        }
    }
}

/// What the interval of a duel says about the challenger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DuelOutcome {
    Faster,
    Slower,
    /// The interval contains 1.
    Unclear,
}
