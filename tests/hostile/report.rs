//! Compares hostile kernels with their twins: faults of the judge, accused twins, and a table by part.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::{Duration, Instant};

use crate::kernels::{HostileKernel, WRONG_SOMEWHERE};
use crate::runner::{Comparison, Job, Judged, Runner};
use crate::sketch::with_long_rest;

/// A hostile kernel that passes may be at most this much faster than its twin, by the lower bound of the interval.
const MAX_GAIN: f64 = 1.05;
/// How often a kernel and its twin are judged again if the first verdicts show a gain.
const FIRST_GAIN_REPEATS: usize = 3;
/// How many judgements a kernel that is wrong for some inputs must pass to count as a fault. One judgement draws a part of the hidden cases;
/// no kernel is reported as faster without a confirmation, which runs all.
const JUDGEMENTS_OF_WRONG_KERNELS: usize = 8;
/// Statuses that refuse a kernel before it runs.
const REFUSED: [&str; 5] = [
    "rejected",
    "unsupported",
    "compile_error",
    "compile_timeout",
    "launch_error",
];

/// What was judged.
pub(crate) struct Report {
    kernels: Vec<HostileKernel>,
    hostile: BTreeMap<String, Judged>,
    twins: BTreeMap<String, Judged>,
    /// Of hostile kernels that passed: with the twin as the baseline.
    compared: BTreeMap<String, Judged>,
    /// Of hostile kernels whose first verdict is faster than the twin's: both, judged again one after the other.
    repeated: BTreeMap<String, Vec<[Judged; 2]>>,
    /// Kernels that are wrong for some inputs, passed, and were caught when they were judged again.
    caught_later: BTreeSet<String>,
    /// The name of each kernel's twin.
    twin_names: Vec<String>,
    /// Kernels that were not judged for lack of time.
    left_out: usize,
    took: Duration,
}

/// Whether the judge let a kernel gain something, or failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Caught,
    /// It did not run.
    Refused,
    /// It passed and is no faster than its twin.
    NoGain,
    /// It passed, and was caught when it was judged again.
    CaughtLater,
    /// It passed and is faster than its twin.
    Gain,
    /// As `Gain`, by something that `docs/trust.md` lists as possible.
    KnownGap,
    /// The judge itself failed.
    Broken,
    /// The machine was too busy to compare it.
    Untimed,
}

/// The columns of the table, with the outcomes that each counts.
const COLUMNS: [(&str, &[Outcome]); 7] = [
    ("caught", &[Outcome::Caught]),
    ("refused", &[Outcome::Refused]),
    ("no gain", &[Outcome::NoGain]),
    ("unclear", &[Outcome::CaughtLater, Outcome::Untimed]),
    ("known", &[Outcome::KnownGap]),
    ("GAIN", &[Outcome::Gain]),
    ("BROKEN", &[Outcome::Broken]),
];

/// Judges kernels and their twins. Hostile kernels that pass are compared with their twins as soon as they have passed. After `limit` no
/// further batch of kernels begins, and the report is about the others.
pub(crate) fn judge(
    runner: &Runner,
    mut kernels: Vec<HostileKernel>,
    limit: Option<Duration>,
    progress: impl Fn(usize, usize, usize) + Sync,
) -> Report {
    let started = Instant::now();
    let mut jobs = Vec::new();
    let mut known = BTreeMap::new();
    let mut twin_names = Vec::new();
    let mut by_name = BTreeMap::new();
    for kernel in &kernels {
        let number = known.len();
        let name = known.entry(kernel.twin.clone()).or_insert_with(|| {
            let name = format!("twin{number}");
            jobs.push(job(&name, kernel, &kernel.twin));
            name
        });
        twin_names.push(name.clone());
        let name = hostile_name(kernel);
        jobs.push(job(&name, kernel, &kernel.source));
        by_name.insert(name, kernel);
    }
    let count = jobs.len();
    let to_compare = |judged: &BTreeMap<String, Judged>| {
        let passed = judged.iter().filter(|(_, judged)| may_gain(judged));
        let hostile = passed.filter_map(|(name, _)| by_name.get(name));
        hostile.map(|kernel| comparison(kernel)).collect()
    };
    let results = runner.judge(&jobs, limit, to_compare, |judged, compared| {
        progress(judged, count, compared);
    });
    let (twins, hostile): (BTreeMap<_, _>, BTreeMap<_, _>) =
        (results.judged.into_iter()).partition(|(name, _)| name.starts_with("twin"));
    let asked = kernels.len();
    let is_judged: Vec<bool> = (kernels.iter().zip(&twin_names))
        .map(|(kernel, twin)| {
            hostile.contains_key(&hostile_name(kernel)) && twins.contains_key(twin)
        })
        .collect();
    let mut judged = is_judged.iter();
    kernels.retain(|_| judged.next() == Some(&true));
    let mut judged = is_judged.iter();
    twin_names.retain(|_| judged.next() == Some(&true));
    let mut compared = results.compared;
    confirm_gains(runner, &kernels, &mut compared);
    let mut report = Report {
        left_out: asked - kernels.len(),
        kernels,
        hostile,
        twins,
        compared,
        repeated: BTreeMap::new(),
        caught_later: BTreeSet::new(),
        twin_names,
        took: started.elapsed(),
    };
    report.judge_wrong_kernels_again(runner);
    report.repeat_first_gains(runner);
    report.took = started.elapsed();
    report
}

fn job(name: &str, kernel: &HostileKernel, source: &str) -> Job {
    Job {
        name: name.to_owned(),
        computation: kernel.computation,
        source: source.to_owned(),
    }
}

fn comparison(kernel: &HostileKernel) -> Comparison {
    Comparison {
        hostile: job(
            &hostile_name(kernel),
            kernel,
            &with_long_rest(&kernel.source),
        ),
        twin: with_long_rest(&kernel.twin),
    }
}

/// Whether one kernel is surely faster than the other by more than `MAX_GAIN`, by their speedups over the same baseline.
fn is_faster(hostile: &Judged, twin: &Judged) -> bool {
    hostile
        .interval
        .zip(twin.interval)
        .is_some_and(|([low, _], [_, high])| low > MAX_GAIN * high)
}

/// Compares what gained once more. The smaller gain counts: of hundreds of intervals a few miss the truth.
fn confirm_gains(
    runner: &Runner,
    kernels: &[HostileKernel],
    compared: &mut BTreeMap<String, Judged>,
) {
    let low = |judged: &Judged| judged.interval.map(|[low, _]| low);
    for kernel in kernels {
        let known = compared.get(&hostile_name(kernel)).and_then(low);
        if known.is_none_or(|low| low <= MAX_GAIN) {
            continue;
        }
        let (name, again) = runner.compare_directly(0, &comparison(kernel));
        // A kernel that is caught this time has gained all the same.
        if low(&again).is_some_and(|again| Some(again) < known) {
            compared.insert(name, again);
        }
    }
}

/// Whether a kernel passed, or would have on a quieter machine.
fn may_gain(judged: &Judged) -> bool {
    matches!(judged.status.as_str(), "passed" | "inconclusive")
}

fn hostile_name(kernel: &HostileKernel) -> String {
    format!("hostile{}", kernel.seed)
}

impl Report {
    fn judged(&self, index: usize) -> (&Judged, &Judged) {
        (
            &self.hostile[&hostile_name(&self.kernels[index])],
            &self.twins[&self.twin_names[index]],
        )
    }

    /// Judges kernels again that are wrong for some inputs and passed as faster than their twins, until one judgement catches them.
    fn judge_wrong_kernels_again(&mut self, runner: &Runner) {
        for (index, kernel) in self.kernels.iter().enumerate() {
            if kernel.part != WRONG_SOMEWHERE || self.found(index) != Outcome::Gain {
                continue;
            }
            let name = hostile_name(kernel);
            let jobs = [job(&name, kernel, &kernel.source)];
            let is_caught = (1..JUDGEMENTS_OF_WRONG_KERNELS).any(|_| {
                let judged = runner.judge(&jobs, None, |_| Vec::new(), |_, _| {}).judged;
                judged.get(&name).is_some_and(|judged| !may_gain(judged))
            });
            if is_caught {
                self.caught_later.insert(name);
            }
        }
    }

    /// Judges kernels again that are faster than their twins by the first verdicts, each together with its twin. The first verdicts come
    /// from different times, and the machine may have been busier during one of them.
    fn repeat_first_gains(&mut self, runner: &Runner) {
        for (index, kernel) in self.kernels.iter().enumerate() {
            let (hostile, twin) = self.judged(index);
            if !is_faster(hostile, twin) {
                continue;
            }
            let name = hostile_name(kernel);
            let jobs = [
                job(&name, kernel, &kernel.source),
                job(&self.twin_names[index], kernel, &kernel.twin),
            ];
            let pairs = (0..FIRST_GAIN_REPEATS).map(|_| {
                let mut judged = runner.judge(&jobs, None, |_| Vec::new(), |_, _| {}).judged;
                [0, 1].map(|side| judged.remove(&jobs[side].name).expect("a verdict of each"))
            });
            self.repeated.insert(name, pairs.collect());
        }
    }

    /// Whether a first verdict that was faster than the twin's came from noise: no repetition shows a gain, and none catches the kernel.
    fn is_refuted(&self, index: usize) -> bool {
        let repeated = self.repeated.get(&hostile_name(&self.kernels[index]));
        repeated.is_some_and(|pairs| {
            pairs
                .iter()
                .all(|[hostile, twin]| may_gain(hostile) && !is_faster(hostile, twin))
        })
    }

    pub(crate) fn outcome(&self, index: usize) -> Outcome {
        match self.found(index) {
            Outcome::Gain if self.kernels[index].is_known_gap => Outcome::KnownGap,
            found => found,
        }
    }

    fn found(&self, index: usize) -> Outcome {
        let (hostile, twin) = self.judged(index);
        if hostile.status == "harness_error" {
            return Outcome::Broken;
        }
        if REFUSED.contains(&hostile.status.as_str()) {
            return Outcome::Refused;
        }
        if (self.caught_later).contains(&hostile_name(&self.kernels[index])) {
            return Outcome::CaughtLater;
        }
        // A kernel may be caught only sometimes, so the first verdicts count too.
        if is_faster(hostile, twin) && !self.is_refuted(index) {
            return Outcome::Gain;
        }
        let Some(compared) = self.compared.get(&hostile_name(&self.kernels[index])) else {
            return Outcome::Caught;
        };
        match compared.interval {
            Some([low, _]) if low > MAX_GAIN => Outcome::Gain,
            Some(_) => Outcome::NoGain,
            None if compared.status == "harness_error" => Outcome::Broken,
            None if compared.status == "inconclusive" => Outcome::Untimed,
            None => Outcome::CaughtLater,
        }
    }

    /// One line for each fault of the judge.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (index, kernel) in self.kernels.iter().enumerate() {
            let (hostile, twin) = self.judged(index);
            let compared = self.compared.get(&hostile_name(kernel));
            let found = match self.outcome(index) {
                Outcome::Gain => {
                    let over_twin = compared.and_then(|judged| judged.interval);
                    let [low, high] = over_twin.or(hostile.interval).unwrap_or_default();
                    let over = match (over_twin, twin.interval) {
                        (None, Some([low, high])) => {
                            format!("the baseline, its twin at {low:.2}x to {high:.2}x")
                        }
                        _ => "its twin".to_owned(),
                    };
                    format!("passed at {low:.2}x to {high:.2}x over {over}")
                }
                Outcome::Broken => {
                    let broken = compared.filter(|_| hostile.status != "harness_error");
                    format!("harness_error: {}", broken.unwrap_or(hostile).reason)
                }
                _ => continue,
            };
            lines.push(format!(
                "seed {} ({}, {}): {}: {found}",
                kernel.seed,
                kernel.part,
                kernel.computation.name(),
                kernel.what
            ));
        }
        lines
    }

    /// One line for each honest twin that was accused of something.
    pub(crate) fn accused(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let mut lines = Vec::new();
        for (index, kernel) in self.kernels.iter().enumerate() {
            let (_, twin) = self.judged(index);
            if !may_gain(twin) && seen.insert(&self.twin_names[index]) {
                lines.push(format!(
                    "the twin of seed {} ({}, {}): {}: {}",
                    kernel.seed,
                    kernel.part,
                    kernel.computation.name(),
                    twin.status,
                    twin.reason
                ));
            }
        }
        lines
    }

    /// Kernels by part and outcome, and the statuses.
    pub(crate) fn table(&self) -> String {
        let mut rows = BTreeMap::<&str, [usize; COLUMNS.len()]>::new();
        let mut statuses = BTreeMap::<(&str, &str), usize>::new();
        let mut total = [0; COLUMNS.len()];
        for (index, kernel) in self.kernels.iter().enumerate() {
            let outcome = self.outcome(index);
            let column = COLUMNS
                .iter()
                .position(|(_, outcomes)| outcomes.contains(&outcome));
            let column = column.expect("each outcome has a column");
            rows.entry(kernel.part).or_default()[column] += 1;
            total[column] += 1;
            let status = self.judged(index).0.status.as_str();
            *statuses.entry((kernel.part, status)).or_default() += 1;
        }
        let names = COLUMNS.map(|(name, _)| name.to_owned());
        let mut text = format!("{}  statuses\n", cells("part", "kernels", &names));
        let counted = |part: &str, row: &[usize; COLUMNS.len()]| {
            let sum: usize = row.iter().sum();
            cells(part, &sum.to_string(), &row.map(|count| count.to_string()))
        };
        for (part, row) in &rows {
            let of_part = statuses.iter().filter(|((of, _), _)| of == part);
            let named: Vec<_> = of_part
                .map(|((_, status), count)| format!("{status} {count}"))
                .collect();
            writeln!(text, "{}  {}", counted(part, row), named.join(", ")).unwrap();
        }
        writeln!(text, "{}", counted("all", &total)).unwrap();
        let judged = self.hostile.values().chain(self.twins.values());
        let spent: f64 = judged.map(|judged| judged.seconds).sum();
        writeln!(
            text,
            "{} hostile kernels, {} twins, {} comparisons in {:.0} s; {:.2} s of judging per kernel",
            self.hostile.len(),
            self.twins.len(),
            self.compared.len(),
            self.took.as_secs_f64(),
            spent / (self.hostile.len() + self.twins.len()).max(1) as f64
        )
        .unwrap();
        if self.left_out > 0 {
            writeln!(
                text,
                "{} kernels were not judged for lack of time",
                self.left_out
            )
            .unwrap();
        }
        text
    }

    /// Each verdict in full, for a few kernels.
    pub(crate) fn details(&self) -> String {
        let mut text = String::new();
        for (index, kernel) in self.kernels.iter().enumerate() {
            let (hostile, twin) = self.judged(index);
            writeln!(
                text,
                "seed {} ({}): {}",
                kernel.seed, kernel.part, kernel.what
            )
            .unwrap();
            let compared = self.compared.get(&hostile_name(kernel));
            let all = [
                ("hostile", Some(hostile)),
                ("twin", Some(twin)),
                ("hostile over twin", compared),
            ];
            for (which, judged) in all {
                let Some(judged) = judged else { continue };
                let interval = judged.interval.map_or(String::new(), |[low, high]| {
                    format!(" {low:.3}x to {high:.3}x")
                });
                writeln!(
                    text,
                    "  {which}: {}{interval}, {:.2} s {}",
                    judged.status, judged.seconds, judged.reason
                )
                .unwrap();
            }
        }
        text
    }
}

/// One row of the table.
fn cells(part: &str, count: &str, row: &[String; COLUMNS.len()]) -> String {
    let mut text = format!("{part:<24} {count:>7}");
    for cell in row {
        write!(text, " {cell:>7}").unwrap();
    }
    text
}
