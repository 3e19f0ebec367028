//! The table of a task's baselines on one device: how fast each is, measured against one kernel.
//!
//! Plain data, and what follows from it by arithmetic. `kforge baselines` measures it; `task::baselines` finds its file.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::speedup::Speedup;
use super::strongest::{Deviation, FasterOutside, SpeedupOrigin, StrongestBaseline, label};
use super::{BaselineIdentity, DeviceIdentity, Verdict, WorkloadVerdict};
use crate::base::Digest;
use crate::base::statistics::{self, Estimate};

/// The version of the table's JSON.
pub(crate) const TABLE_SCHEMA: u32 = 1;

/// The baselines of a task on a device. All were timed in pairs with the same kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct BaselineTable {
    pub schema: u32,
    pub kforge: String,
    /// When it was measured: RFC 3339.
    pub time: String,
    pub task: String,
    pub backend: String,
    pub device: DeviceIdentity,
    /// State of the caches, as in a verdict.
    pub cache: String,
    pub profile: String,
    /// The task's baseline, over which verdicts give speedups.
    pub baseline: BaselineIdentity,
    /// The kernel that was timed against each baseline.
    pub kernel: TimedKernel,
    /// The task's baseline first.
    pub entries: Vec<BaselineEntry>,
}

/// What the figures of a table depend on, besides the versions of the libraries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JudgeFacts<'a> {
    pub task: &'a str,
    pub backend: &'a str,
    /// The name of the device.
    pub device: &'a str,
    /// State of the caches, as in a verdict.
    pub cache: &'a str,
    /// Hash of the source of the task's baseline. No table fits if it is unknown.
    pub baseline: Option<&'a str>,
}

/// The kernel of a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TimedKernel {
    /// Its file, for people.
    pub name: String,
    pub source: Digest,
}

/// One baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BaselineEntry {
    pub name: String,
    /// `kernel` or `python`.
    pub kind: String,
    /// By package; the hash of the source of a kernel as `source`.
    #[serde(default)]
    pub versions: IndexMap<String, String>,
    /// How Python launches it: `graph`, `launches` or `call`; `None` for a kernel.
    pub launch: Option<String>,
    /// Why it was not measured; `None` if it was.
    pub reason: Option<String>,
    /// The kernel's speedup over it, over all workloads.
    pub kernel_speedup: Option<Speedup>,
    /// Its own speedup over the task's baseline.
    pub speedup: Option<Speedup>,
    /// How far its outputs are outside the task's tolerance; absent if they are within it on all workloads. Only for Python.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deviation: Option<Deviation>,
    pub workloads: Vec<BaselineWorkload>,
}

/// The kernel against a baseline on one workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BaselineWorkload {
    pub id: String,
    pub axes: IndexMap<String, i64>,
    /// Median times.
    pub baseline_us: f64,
    pub kernel_us: f64,
    /// Baseline time / kernel time, in pairs.
    pub kernel_speedup: f64,
    pub ci95: [f64; 2],
    /// As for the baseline, on this workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deviation: Option<Deviation>,
}

impl BaselineWorkload {
    /// `None` if the entry was not timed.
    pub(crate) fn of(entry: &WorkloadVerdict) -> Option<Self> {
        Some(Self {
            id: entry.id.clone(),
            axes: entry.axes.clone(),
            baseline_us: entry.baseline_us?.median,
            kernel_us: entry.candidate_us?.median,
            kernel_speedup: entry.speedup?,
            ci95: entry.ci95?,
            deviation: None,
        })
    }

    /// The logarithm of the kernel's speedup.
    pub(crate) fn log(&self) -> Estimate {
        log_of(&Speedup {
            geomean: self.kernel_speedup,
            ci95: self.ci95,
        })
    }
}

impl BaselineEntry {
    /// `torch 2.11.0` for a baseline in Python whose package is named like it or before it; `naive.cu` for a kernel.
    pub(crate) fn label(&self) -> String {
        label(&self.name, &self.versions)
    }

    /// The times on a workload.
    pub(crate) fn on(&self, workload: &str) -> Option<&BaselineWorkload> {
        self.workloads.iter().find(|one| one.id == workload)
    }

    /// The entry beside a kernel that has this speedup over it.
    pub(super) fn beside(
        &self,
        origin: SpeedupOrigin,
        measured: &str,
        speedup: Speedup,
    ) -> StrongestBaseline {
        StrongestBaseline {
            name: self.name.clone(),
            kind: self.kind.clone(),
            versions: self.versions.clone(),
            launch: self.launch.clone(),
            measured: measured.to_owned(),
            origin,
            speedup,
            outside: None,
        }
    }

    /// Whether it was measured and its outputs are within the task's tolerance.
    pub(crate) fn counts(&self) -> bool {
        self.kernel_speedup.is_some() && self.deviation.is_none()
    }

    /// The entry beside the kernel that was timed against it in pairs. `None` if it was not measured.
    pub(crate) fn in_pairs(&self, measured: &str) -> Option<StrongestBaseline> {
        let speedup = self.kernel_speedup?;
        Some(self.beside(SpeedupOrigin::Pairs, measured, speedup))
    }

    /// The same for a baseline whose outputs are outside the tolerance. `None` if it is not faster than the kernel anywhere.
    pub(crate) fn outside_in_pairs(&self, measured: &str) -> Option<StrongestBaseline> {
        let logs: Vec<Estimate> = self.workloads.iter().map(BaselineWorkload::log).collect();
        let outside = self.faster_outside(self.kernel_speedup?, &logs)?;
        Some(StrongestBaseline {
            outside: Some(outside),
            ..self.in_pairs(measured)?
        })
    }

    /// How it is faster than a kernel that has this speedup over it, with these logarithms on each workload. `None` if it is not, or if its
    /// outputs are within the tolerance.
    fn faster_outside(&self, speedup: Speedup, logs: &[Estimate]) -> Option<FasterOutside> {
        let deviation = self.deviation?;
        let faster_on = logs.iter().filter(|log| log.high < 0.0).count() as u64;
        let workloads = logs.len() as u64;
        (speedup.is_slower() || faster_on > 0).then_some(FasterOutside {
            deviation,
            faster_on,
            workloads,
        })
    }

    /// Sets both speedups and the deviation from the workloads. `over`: the entry of the task's baseline.
    pub(crate) fn summarize(&mut self, over: Option<&Self>) {
        let deviations = self.workloads.iter().filter_map(|one| one.deviation);
        self.deviation = deviations.reduce(Deviation::merge);
        let logs: Vec<Estimate> = self.workloads.iter().map(BaselineWorkload::log).collect();
        self.kernel_speedup = statistics::geometric_mean(&logs).map(speedup_of);
        self.speedup = over.and_then(|over| {
            let logs: Option<Vec<Estimate>> = (self.workloads.iter())
                .map(|workload| self.log_over(over, &workload.id))
                .collect();
            statistics::geometric_mean(&logs?).map(speedup_of)
        });
    }

    /// The logarithm of its speedup over another baseline on a workload: the quotient of the kernel's speedups over both.
    pub(super) fn log_over(&self, other: &Self, workload: &str) -> Option<Estimate> {
        let find = |entry: &Self| entry.on(workload).map(BaselineWorkload::log);
        Some(difference(find(other)?, find(self)?))
    }
}

impl BaselineTable {
    /// The fastest baseline that was measured and whose outputs are within the task's tolerance.
    pub(crate) fn strongest(&self) -> Option<&BaselineEntry> {
        let entries = self.entries.iter();
        let measured = entries.filter(|entry| entry.speedup.is_some() && entry.counts());
        let speed = |entry: &&BaselineEntry| entry.speedup.map_or(0.0, |speedup| speedup.geomean);
        measured.max_by(|one, other| speed(one).total_cmp(&speed(other)))
    }

    /// The fastest baseline that is faster than the table's kernel, if only on some workloads, but whose outputs are outside the tolerance.
    pub(crate) fn faster_outside(&self) -> Option<StrongestBaseline> {
        let entries = self.entries.iter();
        fastest(entries.filter_map(|entry| entry.outside_in_pairs(&self.time)))
    }

    /// Whether a baseline besides the task's own was measured on all of these workloads (ids).
    pub(crate) fn covers(&self, workloads: &[String]) -> bool {
        let mut others = self.entries.iter().skip(1);
        others.any(|entry| {
            workloads
                .iter()
                .all(|workload| entry.on(workload).is_some())
        })
    }

    /// The tables among these texts. One of another version says nothing.
    pub(crate) fn read_all(texts: &[String]) -> Vec<Self> {
        let tables = texts.iter();
        tables
            .filter_map(|text| serde_json::from_str(text).ok())
            .collect()
    }

    /// Whether its figures are of this judge.
    pub(crate) fn is_of(&self, judge: &JudgeFacts<'_>) -> bool {
        self.task == judge.task
            && self.backend == judge.backend
            && self.device.name == judge.device
            && self.cache == judge.cache
            && judge.baseline.is_some()
            && self.baseline.versions.get("source").map(String::as_str) == judge.baseline
    }

    /// The other baselines with their speedups over the task's on these workloads (ids), the fastest first. Those that were not measured on
    /// all of them are left out, and those whose outputs are outside the task's tolerance.
    pub(crate) fn fastest_on(&self, workloads: &[String]) -> Vec<(&BaselineEntry, Speedup)> {
        let Some(base) = self.entries.first() else {
            return Vec::new();
        };
        let speedup = |entry: &BaselineEntry| {
            let logs: Option<Vec<Estimate>> = (workloads.iter())
                .map(|workload| entry.log_over(base, workload))
                .collect();
            statistics::geometric_mean(&logs?).map(speedup_of)
        };
        let others = self.entries.iter().skip(1);
        let others = others.filter(|entry| entry.deviation.is_none());
        let mut others: Vec<_> = others
            .filter_map(|entry| Some((entry, speedup(entry)?)))
            .collect();
        // The sort is stable.
        others.sort_by(|one, other| other.1.geomean.total_cmp(&one.1.geomean));
        others
    }

    /// The strongest baseline beside the kernel of a verdict. `None` if the table is not of its device, baseline and workloads, or if the
    /// strongest is the task's baseline itself.
    pub(crate) fn compare(&self, verdict: &Verdict) -> Option<StrongestBaseline> {
        let within = self.beside_others(verdict);
        let within = within.filter(|(entry, _)| entry.deviation.is_none());
        let strongest = fastest(within.filter_map(|(entry, logs)| self.derived(entry, &logs)))?;
        let over_base = (verdict.speedup).map_or(f64::INFINITY, |speedup| speedup.geomean);
        (strongest.speedup.geomean < over_base).then_some(strongest)
    }

    /// The fastest baseline that is faster than the kernel of a verdict, if only on some workloads, but whose outputs are outside the task's
    /// tolerance. `None` also if the table is not of its device, baseline and workloads.
    pub(crate) fn compare_outside(&self, verdict: &Verdict) -> Option<StrongestBaseline> {
        fastest(self.beside_others(verdict).filter_map(|(entry, logs)| {
            let derived = self.derived(entry, &logs)?;
            let outside = entry.faster_outside(derived.speedup, &logs)?;
            Some(StrongestBaseline {
                outside: Some(outside),
                ..derived
            })
        }))
    }

    /// The entry beside a kernel with these logarithms of the speedup over it.
    fn derived(&self, entry: &BaselineEntry, logs: &[Estimate]) -> Option<StrongestBaseline> {
        let speedup = speedup_of(statistics::geometric_mean(logs)?);
        Some(entry.beside(SpeedupOrigin::Derived, &self.time, speedup))
    }

    /// The other baselines that were measured on all workloads of a verdict that passed, with the logarithms of the kernel's speedup over
    /// each. None if the table is not of the verdict's judge.
    fn beside_others<'t>(
        &'t self,
        verdict: &'t Verdict,
    ) -> impl Iterator<Item = (&'t BaselineEntry, Vec<Estimate>)> {
        let baseline = verdict.baseline.as_ref();
        let is_of = self.is_of(&JudgeFacts {
            task: &verdict.task,
            backend: &verdict.backend,
            device: &verdict.device.name,
            cache: &verdict.cache,
            baseline: baseline.and_then(|one| one.versions.get("source").map(String::as_str)),
        });
        let is_comparable = is_of && verdict.passed() && verdict.speedup.is_some();
        let base = self.entries.first().filter(|_| is_comparable);
        base.into_iter().flat_map(move |base| {
            let others = self.entries.iter().skip(1);
            others.filter_map(move |entry| {
                let timed = verdict.workloads.iter();
                let timed = timed.filter(|workload| workload.speedup.is_some());
                let logs: Option<Vec<Estimate>> = timed
                    .map(|workload| {
                        let over_base = log_of(&Speedup {
                            geomean: workload.speedup?,
                            ci95: workload.ci95?,
                        });
                        let mut known = entry.workloads.iter();
                        known.find(|one| one.id == workload.id && one.axes == workload.axes)?;
                        Some(difference(over_base, entry.log_over(base, &workload.id)?))
                    })
                    .collect();
                Some((entry, logs?))
            })
        })
    }
}

/// The one over which the kernel's speedup is the smallest.
pub(crate) fn fastest(
    baselines: impl Iterator<Item = StrongestBaseline>,
) -> Option<StrongestBaseline> {
    baselines.min_by(|one, other| {
        let [one, other] = [one, other].map(|found| found.speedup.geomean);
        one.total_cmp(&other)
    })
}

pub(super) fn log_of(speedup: &Speedup) -> Estimate {
    Estimate {
        estimate: speedup.geomean.ln(),
        low: speedup.ci95[0].ln(),
        high: speedup.ci95[1].ln(),
    }
}

pub(super) fn speedup_of(log: Estimate) -> Speedup {
    Speedup {
        geomean: log.estimate.exp(),
        ci95: [log.low.exp(), log.high.exp()],
    }
}

/// The difference of two independent estimates. On each side, the half widths are combined in quadrature.
pub(super) fn difference(one: Estimate, other: Estimate) -> Estimate {
    let estimate = one.estimate - other.estimate;
    let below = (one.estimate - one.low).hypot(other.high - other.estimate);
    let above = (one.high - one.estimate).hypot(other.estimate - other.low);
    Estimate {
        estimate,
        low: estimate - below,
        high: estimate + above,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, versions: &[(&str, &str)], ratios: [f64; 2], width: f64) -> BaselineEntry {
        let workload = |(id, ratio): (&str, f64)| BaselineWorkload {
            id: id.to_owned(),
            axes: IndexMap::new(),
            baseline_us: 10.0 * ratio,
            kernel_us: 10.0,
            kernel_speedup: ratio,
            ci95: [ratio / width, ratio * width],
            deviation: None,
        };
        BaselineEntry {
            name: name.to_owned(),
            kind: "python".to_owned(),
            versions: (versions.iter())
                .map(|(name, version)| ((*name).to_owned(), (*version).to_owned()))
                .collect(),
            launch: None,
            reason: None,
            kernel_speedup: None,
            speedup: None,
            deviation: None,
            workloads: ["a", "b"].into_iter().zip(ratios).map(workload).collect(),
        }
    }

    #[test]
    fn speedups_over_the_baseline_are_quotients_with_both_uncertainties() {
        let mut naive = entry("naive", &[], [20.0, 5.0], 1.03);
        let mut library = entry("torch", &[("torch", "2.11.0")], [2.0, 1.25], 1.04);
        let copy = naive.clone();
        naive.summarize(Some(&copy));
        library.summarize(Some(&copy));
        assert!((naive.kernel_speedup.unwrap().geomean - 10.0).abs() < 1e-9);
        let found = library.speedup.unwrap();
        assert!((found.geomean - 40.0_f64.sqrt()).abs() < 1e-9);
        let half_width = 1.03_f64.ln().hypot(1.04_f64.ln()) / 2.0_f64.sqrt();
        assert!(((found.ci95[1] / found.geomean).ln() - half_width).abs() < 1e-9);
        assert!(((found.geomean / found.ci95[0]).ln() - half_width).abs() < 1e-9);
    }

    #[test]
    fn a_workload_that_is_missing_leaves_the_speedup_out() {
        let mut naive = entry("naive", &[], [20.0, 5.0], 1.03);
        naive.workloads.pop();
        let mut library = entry("torch", &[], [2.0, 1.25], 1.04);
        library.summarize(Some(&naive));
        assert_eq!(library.speedup, None);
        assert!(library.kernel_speedup.is_some());
    }

    #[test]
    fn a_verdict_is_compared_with_the_strongest_baseline_of_its_workloads() {
        let naive = entry("naive.cu", &[], [20.0, 5.0], 1.03);
        let slow = entry("torch", &[("torch", "2.11.0")], [10.0, 4.0], 1.01);
        let fast = entry("library", &[], [2.0, 1.25], 1.04);
        let identity = BaselineIdentity {
            name: "naive.cu".to_owned(),
            kind: "kernel".to_owned(),
            versions: IndexMap::from([("source".to_owned(), "abc".to_owned())]),
        };
        let table = BaselineTable {
            schema: TABLE_SCHEMA,
            kforge: "1".to_owned(),
            time: "2026".to_owned(),
            task: "t".to_owned(),
            backend: "cpu".to_owned(),
            device: DeviceIdentity::default(),
            cache: "warm".to_owned(),
            profile: "quick".to_owned(),
            baseline: identity.clone(),
            kernel: TimedKernel {
                name: "k.cu".to_owned(),
                source: Digest::of("k"),
            },
            entries: vec![naive, slow, fast],
        };
        let mut verdict = Verdict::harness_error("t", "step 1", "cpu", String::new());
        verdict.status = super::super::Status::Passed;
        verdict.cache = "warm".to_owned();
        verdict.baseline = Some(identity);
        let timed = |id: &str, speedup: f64| WorkloadVerdict {
            speedup: Some(speedup),
            ci95: Some([speedup / 1.02, speedup * 1.02]),
            ..WorkloadVerdict::blank(id, super::super::Status::Passed)
        };
        verdict.workloads = vec![timed("a", 30.0), timed("b", 6.0)];
        verdict.speedup = Some(Speedup {
            geomean: 180.0_f64.sqrt(),
            ci95: [13.0, 14.0],
        });
        let strongest = table.compare(&verdict).unwrap();
        assert_eq!(strongest.name, "library");
        // 30 / (20 / 2) = 3 on a; 6 / (5 / 1.25) = 1.5 on b.
        assert!((strongest.speedup.geomean - 4.5_f64.sqrt()).abs() < 1e-9);
        let half_width = 1.02_f64.ln().hypot(1.03_f64.ln().hypot(1.04_f64.ln()));
        let found = (strongest.speedup.ci95[1] / strongest.speedup.geomean).ln();
        assert!((found - half_width / 2.0_f64.sqrt()).abs() < 1e-9);

        // A faster one outside the tolerance is listed on its own.
        let mut other = table.clone();
        let deviation = Deviation {
            share: 0.013,
            worst: 2.1,
        };
        other.entries[2].deviation = Some(deviation);
        assert_eq!(other.compare(&verdict).unwrap().name, "torch");
        assert_eq!(other.compare_outside(&verdict), None, "it is slower");
        verdict.workloads[1].speedup = Some(3.0);
        verdict.workloads[1].ci95 = Some([2.9, 3.1]);
        let outside = other.compare_outside(&verdict).unwrap();
        assert_eq!(outside.name, "library");
        let faster = outside.outside.unwrap();
        assert_eq!((faster.faster_on, faster.workloads), (1, 2));
        assert_eq!(table.compare_outside(&verdict), None);
        let ids = ["a", "b"].map(str::to_owned);
        let names = |table: &BaselineTable| {
            let fastest = table.fastest_on(&ids).into_iter();
            fastest
                .map(|(entry, _)| entry.name.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&table), ["library", "torch"]);
        assert_eq!(names(&other), ["torch"]);
        assert!(other.covers(&ids));

        let refused = |change: fn(&mut Verdict)| {
            let mut other = verdict.clone();
            change(&mut other);
            table.compare(&other)
        };
        assert_eq!(refused(|verdict| verdict.backend = "cuda".to_owned()), None);
        assert_eq!(refused(|verdict| verdict.cache = "hot".to_owned()), None);
        assert_eq!(refused(|verdict| verdict.baseline = None), None);
        assert_eq!(refused(|verdict| verdict.speedup = None), None);
        assert_eq!(
            refused(|verdict| verdict.workloads[1].id = "c".to_owned()),
            None
        );
        let larger = |verdict: &mut Verdict| {
            verdict.workloads[0].axes = IndexMap::from([("n".to_owned(), 7)]);
        };
        assert_eq!(refused(larger), None);
    }

    #[test]
    fn labels_have_the_version_of_their_package() {
        let label =
            |name: &str, versions: &[(&str, &str)]| entry(name, versions, [1.0, 1.0], 1.0).label();
        let torch = [("python", "3.12.1"), ("torch", "2.11.0"), ("cuda", "13.0")];
        assert_eq!(label("torch", &torch), "torch 2.11.0");
        assert_eq!(label("torch-cudnn", &torch), "torch-cudnn 2.11.0");
        let library = [("torch", "2.11.0"), ("flash-linear-attention", "0.6.0")];
        assert_eq!(
            label("flash-linear-attention", &library),
            "flash-linear-attention 0.6.0"
        );
        assert_eq!(label("naive.cu", &[("source", "abc")]), "naive.cu");
    }
}
