//! What a verdict says to a model, kept small: a few hundred bytes for each step, and never what a prompt must not tell.
//!
//! Invariant: no seed, no hidden shape, no regime, and nothing of kforge's own faults is in it.

use serde::{Deserialize, Serialize};

use super::quote::truncate_chars;
use crate::task::Task;
use crate::verdict::{AccessFigures, Evidence, LaunchCounters, Resources, Status, Verdict};

/// The most workloads that are told one by one.
const MAX_WORKLOADS: usize = 16;
const MAX_ACCESSES: usize = 4;
const MAX_COUNTERS: usize = 2;
/// The most letters of a reason, and of a log.
const MAX_REASON_CHARS: usize = 400;
const MAX_LOG_CHARS: usize = 900;
/// Of an access to global memory, sectors against as few as there could be from which on it is told.
const MIN_WASTE_RATIO: f64 = 1.25;

/// A verdict in what a model can act on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Feedback {
    pub status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether it was found on a shape or on inputs that no prompt names.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hidden: bool,
    /// Over all workloads: the estimate, and its interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speedup: Option<[f64; 3]>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workloads: Vec<WorkloadFeedback>,
    /// Workloads that are not among them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_workloads: usize,
    #[serde(default)]
    pub resources: Resources,
    /// The least of 1 - |x - r| / bound over all workloads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<FaultLocation>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accesses: Vec<AccessFeedback>,
    /// The slowest launches under a profiler.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub counters: Vec<LaunchCounters>,
    /// Untrusted: the compiler's words, or what the kernel printed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
}

/// One workload that is timed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkloadFeedback {
    pub id: String,
    pub speedup: f64,
    /// Half of its interval.
    pub half: f64,
    /// Medians, in microseconds.
    pub us: f64,
    pub baseline_us: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor_us: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roofline: Option<f64>,
}

/// Where something was found. Fields that tell of a hidden shape are left out.
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
    /// Of a race: the other access in words, and its line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other: Option<(String, Option<u32>)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variable: Option<String>,
}

/// A load or store that moves more than it needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccessFeedback {
    pub line: u32,
    pub access: String,
    pub space: String,
    pub bytes: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sectors: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflicts: Option<f64>,
}

impl Feedback {
    /// `None` for kforge's own fault, which is nobody's to mend.
    pub(crate) fn from_verdict(verdict: &Verdict, task: &Task) -> Option<Self> {
        if verdict.status == Status::HarnessError {
            return None;
        }
        let empty = Evidence::default();
        let evidence = verdict.evidence.as_ref().unwrap_or(&empty);
        let hidden = is_hidden(verdict, evidence, task);
        let (workloads, more_workloads) = timed_workloads(verdict);
        let margins = (verdict.workloads.iter()).filter_map(|workload| workload.tolerance_margin);
        let reason = verdict.reason.as_deref().map(|reason| match hidden {
            true => redact_hidden(reason, evidence, verdict),
            false => reason.to_owned(),
        });
        let mut counters: Vec<_> = (evidence.counters.iter())
            .flat_map(|counters| counters.launches.iter().cloned())
            .collect();
        let slowest = |launch: &LaunchCounters| launch.duration_us.unwrap_or_default();
        counters.sort_by(|a, b| slowest(b).total_cmp(&slowest(a)));
        counters.truncate(MAX_COUNTERS);
        Some(Self {
            status: verdict.status,
            reason: reason.map(|reason| truncate_chars(&reason, MAX_REASON_CHARS)),
            hidden,
            speedup: (verdict.speedup.filter(|_| verdict.passed()))
                .map(|speedup| [speedup.geomean, speedup.ci95[0], speedup.ci95[1]]),
            workloads,
            more_workloads,
            resources: verdict.resources.clone(),
            margin: margins.min_by(f64::total_cmp).filter(|_| verdict.passed()),
            place: fault_location(evidence, hidden),
            accesses: wasteful_accesses(&verdict.accesses),
            counters,
            log: (evidence.log.as_deref())
                .filter(|log| !log.trim().is_empty())
                .map(|log| truncate_chars(log, MAX_LOG_CHARS)),
        })
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

/// Whether a finding belongs to a shape or to inputs that no prompt names.
fn is_hidden(verdict: &Verdict, evidence: &Evidence, task: &Task) -> bool {
    let is_named = |id: &String| task.workloads.iter().any(|workload| workload.id == *id);
    if evidence.regime.is_some() {
        return true;
    }
    match &evidence.workload {
        Some(id) => !is_named(id),
        // The screen's tiny shapes are not named either; what was found there has no workload.
        None => verdict.screen.as_deref() == Some("found"),
    }
}

/// Those that are timed, slowest against the baseline first where there are too many; and how many are left.
fn timed_workloads(verdict: &Verdict) -> (Vec<WorkloadFeedback>, usize) {
    let mut told: Vec<_> = (verdict.workloads.iter())
        .filter(|workload| !workload.hidden && workload.regime.is_none())
        .filter_map(|workload| {
            let [low, high] = workload.ci95.unwrap_or_default();
            Some(WorkloadFeedback {
                id: workload.id.clone(),
                speedup: workload.speedup?,
                half: (high - low) / 2.0,
                us: workload.candidate_us?.median,
                baseline_us: workload.baseline_us?.median,
                floor_us: workload.floor_us,
                roofline: workload.roofline,
            })
        })
        .collect();
    let more = told.len().saturating_sub(MAX_WORKLOADS);
    if more > 0 {
        told.sort_by(|a, b| a.speedup.total_cmp(&b.speedup));
        // Mostly the worst, which are to be mended, and some of the best, which are to be kept.
        told.drain(MAX_WORKLOADS * 3 / 4..MAX_WORKLOADS * 3 / 4 + more);
    }
    (told, more)
}

fn fault_location(evidence: &Evidence, hidden: bool) -> Option<FaultLocation> {
    let other = evidence.other.as_ref().map(|other| {
        let [block, thread] =
            [other.block, other.thread].map(|[x, y, z]| format!("({x}, {y}, {z})"));
        (
            format!("{} by block {block}, thread {thread}", other.access),
            other.line,
        )
    });
    let place = FaultLocation {
        line: evidence.line,
        workload: evidence.workload.clone().filter(|_| !hidden),
        tensor: evidence.tensor.clone(),
        index: evidence.index.filter(|_| !hidden),
        expected: evidence.expected,
        found: evidence
            .found
            .as_deref()
            .map(|found| truncate_chars(found, 32)),
        block: evidence.block,
        thread: evidence.thread,
        other,
        variable: evidence
            .variable
            .as_deref()
            .map(|name| truncate_chars(name, 80)),
    };
    (place != FaultLocation::default()).then_some(place)
}

/// Those that waste the most, by bytes.
fn wasteful_accesses(figures: &[AccessFigures]) -> Vec<AccessFeedback> {
    let wasteful = |figures: &&AccessFigures| {
        let conflicts = figures
            .bank_conflicts
            .is_some_and(|ratio| ratio > MIN_WASTE_RATIO);
        let least = f64::from(figures.bytes.max(1));
        let sectors =
            (figures.sectors_per_request).is_some_and(|sectors| sectors > least * MIN_WASTE_RATIO);
        conflicts || (sectors && figures.pattern.as_deref() != Some("coalesced"))
    };
    let told = figures.iter().filter(wasteful).take(MAX_ACCESSES);
    told.map(|figures| AccessFeedback {
        line: figures.line,
        access: figures.access.clone(),
        space: figures.space.clone(),
        bytes: figures.bytes,
        sectors: figures.sectors_per_request,
        conflicts: figures.bank_conflicts,
    })
    .collect()
}

/// A reason without the name of the inputs, of the workload, and without numbers that tell of a shape.
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
        reason = reason.replace(&format!("`{name}`"), "a shape that is not told");
    }
    // "3 of 4096 elements", "element 17": how many there are is the shape's. So are the sizes that a header's expression comes to.
    let sizes = matches!(verdict.status, Status::LaunchError | Status::Rejected);
    let is_number = |word: &str| {
        let digits = word.trim_matches([':', ';', ',', '`']);
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    let words: Vec<&str> = reason.split(' ').collect();
    let mut told = Vec::with_capacity(words.len());
    for (index, word) in words.iter().enumerate() {
        let before = index.checked_sub(1).map_or("", |before| words[before]);
        let next = words.get(index + 1).copied().unwrap_or_default();
        told.push(match is_number(word) {
            true if next == "of" => "some",
            true if next.starts_with("elements") => "the",
            true if before.ends_with("element") => "(of an index that is not told),",
            true if sizes && matches!(before, "found" | "is" | "of") => "a size that is not told",
            _ => word,
        });
    }
    told.join(" ")
}
