//! The part of a verdict that a model may see and can use: at most about 2 KB per step.
//!
//! Never contains seeds, hidden shapes, hidden input distributions or kforge's own faults. `feedback_text` puts it into sentences.

use serde::{Deserialize, Serialize};

use super::quote::truncate_chars;
use crate::task::Task;
use crate::verdict::{
    AccessFigures, Evidence, LaunchCounters, Resources, SERIALIZED_WGMMA, Status, Verdict,
    WIDE_FENCES,
};

/// The most workloads that are listed one by one.
const MAX_WORKLOADS: usize = 16;
const MAX_QUOTED_ACCESSES: usize = 4;
const MAX_COUNTERS: usize = 2;
const MAX_NOTES: usize = 2;
/// The most characters of a reason, and of a log.
const MAX_REASON_CHARS: usize = 400;
const MAX_LOG_CHARS: usize = 900;
/// A memory access is reported if it takes more than this multiple of the sectors or bank passes that it needs.
const MIN_WASTE_RATIO: f64 = 1.25;

/// A verdict, reduced to what a model can act on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Feedback {
    pub status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether the finding is on a shape or on inputs that no prompt shows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hidden: bool,
    /// Whether it passed and was surely slower than an incumbent: the speedup is rough, and it is not shown to a model.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dismissed: bool,
    /// The speedup over all workloads: the estimate, and the ends of its 95 % interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speedup: Option<[f64; 3]>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workloads: Vec<WorkloadFeedback>,
    /// The number of timed workloads that are not listed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_workloads: usize,
    #[serde(default)]
    pub resources: Resources,
    /// Whether the assembler runs the `wgmma` products one after the other.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub serialized: bool,
    /// Instructions that make writes visible beyond the block.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub wide_fences: usize,
    /// The smallest 1 - |x - r| / bound over all workloads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<FaultLocation>,
    /// Empty on the CPU, which has neither memory transactions nor banks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accesses: Vec<AccessFeedback>,
    /// Oddities of the header that change nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The slowest launches under a profiler.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub counters: Vec<LaunchCounters>,
    /// The compiler's messages or the kernel's output. Untrusted text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
}

/// A timed workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkloadFeedback {
    pub id: String,
    /// The speedup from paired timings.
    pub speedup: f64,
    /// Half the width of the speedup's 95 % interval.
    pub half_width: f64,
    /// The candidate's and the baseline's median time in microseconds. Their ratio can differ from the paired speedup.
    pub us: f64,
    pub baseline_us: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor_us: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roofline: Option<f64>,
}

/// Where a finding is. Fields that would reveal a hidden shape are left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FaultLocation {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<[u32; 3]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread: Option<[u32; 3]>,
    /// For a race: a description of the other access, and its line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other: Option<(String, Option<u32>)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variable: Option<String>,
}

/// A load or store that moves more than it needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccessFeedback {
    pub line: u32,
    /// `load` or `store`.
    pub access: String,
    /// `global` or `shared`.
    pub space: String,
    /// Per thread.
    pub bytes: u32,
    /// Sectors of 32 bytes per warp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sectors: Option<f64>,
    /// Passes over the banks, as a multiple of those needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflicts: Option<f64>,
}

impl Feedback {
    /// `None` for a harness error: no kernel can fix it.
    pub(crate) fn from_verdict(verdict: &Verdict, task: &Task) -> Option<Self> {
        if verdict.status == Status::HarnessError {
            return None;
        }
        let empty = Evidence::default();
        let evidence = verdict.evidence.as_ref().unwrap_or(&empty);
        let hidden = is_hidden(verdict, evidence, task);
        let (workloads, more_workloads) = timed_workloads(verdict);
        let margins = (verdict.workloads.iter()).filter_map(|workload| workload.tolerance_margin);
        let reason = verdict.reason.as_deref().map(|reason| {
            if hidden {
                redact_hidden(reason, evidence, verdict)
            } else {
                reason.to_owned()
            }
        });
        let speedup = verdict.speedup.filter(|_| verdict.passed());
        Some(Self {
            reason: reason.map(|reason| truncate_chars(&reason, MAX_REASON_CHARS)),
            hidden,
            dismissed: verdict.passed() && verdict.is_dismissed(),
            speedup: speedup.map(|speedup| [speedup.geomean, speedup.ci95[0], speedup.ci95[1]]),
            workloads,
            more_workloads,
            resources: verdict.resources.clone(),
            serialized: (verdict.features.get(SERIALIZED_WGMMA)).is_some_and(|count| *count > 0.0),
            wide_fences: verdict
                .features
                .get(WIDE_FENCES)
                .map_or(0, |count| *count as usize),
            margin: margins.min_by(f64::total_cmp).filter(|_| verdict.passed()),
            location: fault_location(evidence, hidden),
            accesses: wasteful_accesses(verdict),
            notes: (verdict.notes.iter().take(MAX_NOTES))
                .map(|note| truncate_chars(note, MAX_REASON_CHARS))
                .collect(),
            counters: slowest_launches(evidence),
            log: (evidence.log.as_deref())
                .filter(|log| !log.trim().is_empty())
                .map(|log| truncate_chars(log, MAX_LOG_CHARS)),
            ..Self::of_status(verdict.status)
        })
    }

    /// Feedback with nothing but a status.
    pub(super) fn of_status(status: Status) -> Self {
        Self {
            status,
            reason: None,
            hidden: false,
            dismissed: false,
            speedup: None,
            workloads: Vec::new(),
            more_workloads: 0,
            resources: Resources::default(),
            serialized: false,
            wide_fences: 0,
            margin: None,
            location: None,
            accesses: Vec::new(),
            notes: Vec::new(),
            counters: Vec::new(),
            log: None,
        }
    }

    pub(crate) fn passed(&self) -> bool {
        self.status == Status::Passed
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Whether a finding is on a shape or on inputs that no prompt shows.
fn is_hidden(verdict: &Verdict, evidence: &Evidence, task: &Task) -> bool {
    let is_shown = |id: &String| task.workloads.iter().any(|workload| workload.id == *id);
    if evidence.regime.is_some() {
        return true;
    }
    match &evidence.workload {
        Some(id) => !is_shown(id),
        // The screen's tiny shapes are hidden too. Its findings name no workload.
        None => verdict.screen.as_deref() == Some("found"),
    }
}

/// The timed workloads and the number of those left out. If there are too many, the slowest against the baseline come first.
fn timed_workloads(verdict: &Verdict) -> (Vec<WorkloadFeedback>, usize) {
    let mut workloads: Vec<_> = (verdict.workloads.iter())
        .filter(|workload| !workload.hidden && workload.regime.is_none())
        .filter_map(|workload| {
            let [low, high] = workload.ci95.unwrap_or_default();
            Some(WorkloadFeedback {
                id: workload.id.clone(),
                speedup: workload.speedup?,
                half_width: (high - low) / 2.0,
                us: workload.candidate_us?.median,
                baseline_us: workload.baseline_us?.median,
                floor_us: workload.floor_us,
                roofline: workload.roofline,
            })
        })
        .collect();
    let more = workloads.len().saturating_sub(MAX_WORKLOADS);
    if more > 0 {
        workloads.sort_by(|a, b| a.speedup.total_cmp(&b.speedup));
        // Three quarters are the worst, which need work; the rest are the best, which must stay good.
        workloads.drain(MAX_WORKLOADS * 3 / 4..MAX_WORKLOADS * 3 / 4 + more);
    }
    (workloads, more)
}

fn slowest_launches(evidence: &Evidence) -> Vec<LaunchCounters> {
    let mut launches: Vec<_> = (evidence.counters.iter())
        .flat_map(|counters| counters.launches.iter().cloned())
        .collect();
    let duration = |launch: &LaunchCounters| launch.duration_us.unwrap_or_default();
    launches.sort_by(|a, b| duration(b).total_cmp(&duration(a)));
    launches.truncate(MAX_COUNTERS);
    launches
}

fn fault_location(evidence: &Evidence, hidden: bool) -> Option<FaultLocation> {
    let other = evidence.other.as_ref().map(|other| {
        let [block, thread] =
            [other.block, other.thread].map(|[x, y, z]| format!("({x}, {y}, {z})"));
        let access = format!("{} by block {block}, thread {thread}", other.access);
        (access, other.line)
    });
    let location = FaultLocation {
        line: evidence.line,
        workload: evidence.workload.clone().filter(|_| !hidden),
        tensor: evidence.tensor.clone(),
        index: evidence.index.filter(|_| !hidden),
        expected: evidence.expected,
        found: (evidence.found.as_deref()).map(|found| truncate_chars(found, 32)),
        block: evidence.block,
        thread: evidence.thread,
        other,
        variable: (evidence.variable.as_deref()).map(|name| truncate_chars(name, 80)),
    };
    (location != FaultLocation::default()).then_some(location)
}

/// The accesses that waste memory traffic or bank passes, those with the most bytes first, as the verdict lists them.
///
/// The CPU has no memory transactions and no banks: the counts would mislead there.
fn wasteful_accesses(verdict: &Verdict) -> Vec<AccessFeedback> {
    if verdict.backend == "cpu" {
        return Vec::new();
    }
    let is_wasteful = |figures: &&AccessFigures| {
        let conflicts = figures
            .bank_conflicts
            .is_some_and(|ratio| ratio > MIN_WASTE_RATIO);
        let needed = f64::from(figures.bytes.max(1));
        let sectors =
            (figures.sectors_per_request).is_some_and(|sectors| sectors > needed * MIN_WASTE_RATIO);
        conflicts || (sectors && figures.pattern.as_deref() != Some("coalesced"))
    };
    let wasteful = (verdict.accesses.iter())
        .filter(is_wasteful)
        .take(MAX_QUOTED_ACCESSES);
    wasteful
        .map(|figures| AccessFeedback {
            line: figures.line,
            access: figures.access.clone(),
            space: figures.space.clone(),
            bytes: figures.bytes,
            sectors: figures.sectors_per_request,
            conflicts: figures.bank_conflicts,
        })
        .collect()
}

/// A reason without the names of the inputs and of the workload, and without numbers that reveal a shape.
fn redact_hidden(reason: &str, evidence: &Evidence, verdict: &Verdict) -> String {
    let mut reason = reason.to_owned();
    if let Some(regime) = &evidence.regime {
        reason = reason.replace(&format!("inputs `{regime}`: "), "");
    }
    let hidden = (verdict.workloads.iter()).filter(|workload| workload.hidden);
    let names = hidden
        .map(|workload| &workload.id)
        .chain(&evidence.workload);
    for name in names.filter(|name| !name.is_empty()) {
        reason = reason.replace(&format!("workload `{name}`: "), "");
        reason = reason.replace(&format!("`{name}`"), "a shape that is not shown");
    }
    // "3 of 4096 elements" and "element 17" reveal the shape, and so do the values of the header's expressions.
    let has_sizes = matches!(verdict.status, Status::LaunchError | Status::Rejected);
    let is_number = |word: &str| {
        let digits = word.trim_matches([':', ';', ',', '`']);
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    let words: Vec<&str> = reason.split(' ').collect();
    let mut redacted = Vec::with_capacity(words.len());
    for (index, word) in words.iter().enumerate() {
        let before = index.checked_sub(1).map_or("", |before| words[before]);
        let next = words.get(index + 1).copied().unwrap_or_default();
        redacted.push(if !is_number(word) {
            word
        } else if next == "of" {
            "some"
        } else if next.starts_with("elements") {
            "the"
        } else if before.ends_with("element") {
            "(of an index that is not shown),"
        } else if has_sizes && matches!(before, "found" | "is" | "of") {
            "a size that is not shown"
        } else {
            word
        });
    }
    redacted.join(" ")
}
