//! Compares hostile kernels with their twins: faults of the judge, accused twins, and a table by part.
//!
//! A twin is judged if its hostile kernel passed, and in any case the first one of each part. Where the verdicts over the task's baseline
//! leave no gain, no further comparison is made.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::kernels::{HostileKernel, WRONG_SOMEWHERE};
use crate::runner::{CLEAR_GAIN, Comparison, FollowUp, Job, Judged, Results, Runner};
use crate::sketch::{Backend, Setting, with_long_rest};

/// A hostile kernel that passes may be at most this much faster than its twin, by the lower bound of the interval.
const MAX_GAIN: f64 = 1.05;
/// Where earlier launches of a sample on a GPU may leave a small gain (`docs/trust.md`): 1.5 us and a tenth of the time, of which a rest takes
/// about 20 us.
const ON_CHIP_PARTS: [&str; 4] = [
    "local memory",
    "static shared memory",
    "dynamic shared memory",
    "reserved shared memory",
];
const MAX_KNOWN_GAIN_ON_CHIP: f64 = 1.1 + 1.5 / 20.0;
/// How often a kernel and its twin are judged again if the first verdicts show a gain.
const FIRST_GAIN_REPEATS: usize = 3;
/// How many judgements a kernel that is wrong for some inputs must pass to count as a fault. One judgement draws a part of the hidden cases;
/// no kernel is reported as faster without a confirmation, which runs all.
const JUDGEMENTS_OF_WRONG_KERNELS: usize = 8;
/// The part of the time limit for judgements and comparisons; in the rest, kernels that gain are judged and compared again.
const FIRST_JUDGEMENTS_SHARE: f64 = 0.92;
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
    backend: Backend,
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

/// Judges kernels and their twins. Hostile kernels that pass are compared with their twins as soon as they have passed. The report is about
/// the kernels for which `limit` was enough. `progress` gets a line whenever more is known.
pub(crate) fn judge(
    runner: &Runner,
    mut kernels: Vec<HostileKernel>,
    limit: Option<Duration>,
    progress: impl Fn(&str) + Sync,
) -> Report {
    let started = Instant::now();
    let twins = Twins::new(&kernels);
    let mut jobs: Vec<_> = (kernels.iter())
        .map(|kernel| job(&hostile_name(kernel), kernel, &kernel.source))
        .collect();
    jobs.extend(twins.first_of_parts(&kernels));
    let count = jobs.len();
    let shown = Mutex::new(BTreeSet::new());
    let show = |results: &Results| {
        for line in suspects(&kernels, results, &mut shown.lock().unwrap()) {
            progress(&line);
        }
        progress(&format!(
            "{:.0} s: {} of {count} judged, {} passed; {} compared",
            started.elapsed().as_secs_f64(),
            results.judged.len(),
            results
                .judged
                .values()
                .filter(|judged| may_gain(judged))
                .count(),
            results.compared.len()
        ));
    };
    let asked = Asked::default();
    let follow_up = |judged: &BTreeMap<_, _>| asked.next(&kernels, &twins, judged);
    // The rest is for judging again what gains.
    let limit = limit.map(|limit| limit.mul_f64(FIRST_JUDGEMENTS_SHARE));
    let results = runner.judge(&jobs, limit, follow_up, show);
    let mut compared = asked.into_clear();
    compared.extend(results.compared);
    let (judged_twins, hostile): (BTreeMap<_, _>, BTreeMap<_, _>) =
        (results.judged.into_iter()).partition(|(name, _)| name.starts_with("twin"));
    let asked = kernels.len();
    kernels.retain(|kernel| {
        let name = hostile_name(kernel);
        let judged = hostile.get(&name);
        judged.is_some_and(|judged| !may_gain(judged) || compared.contains_key(&name))
    });
    confirm_gains(runner, &kernels, &mut compared);
    let mut report = Report {
        left_out: asked - kernels.len(),
        twin_names: twins.names(&kernels),
        kernels,
        hostile,
        twins: judged_twins,
        compared,
        repeated: BTreeMap::new(),
        caught_later: BTreeSet::new(),
        backend: runner.backend,
        took: started.elapsed(),
    };
    report.judge_wrong_kernels_again(runner);
    report.repeat_first_gains(runner);
    report.took = started.elapsed();
    report
}

/// A line for each kernel that may be a fault of the judge and is not in `shown` yet: it gains, or broke a worker. The table comes only at the
/// end, after such kernels were judged again.
fn suspects(
    kernels: &[HostileKernel],
    results: &Results,
    shown: &mut BTreeSet<String>,
) -> Vec<String> {
    let mut lines = Vec::new();
    for kernel in kernels {
        let name = hostile_name(kernel);
        let found = [results.judged.get(&name), results.compared.get(&name)];
        let broken = found
            .iter()
            .flatten()
            .find(|judged| judged.status == "harness_error");
        let gain = found[1].and_then(|judged| judged.interval.filter(|[low, _]| *low > MAX_GAIN));
        let what = match (broken, gain) {
            (Some(broken), _) => format!("harness_error: {}", broken.reason),
            (None, Some([low, high])) => format!("{low:.2}x to {high:.2}x over its twin"),
            (None, None) => continue,
        };
        if shown.insert(name) {
            let HostileKernel { seed, part, .. } = kernel;
            lines.push(format!("suspect: seed {seed} ({part}): {what}"));
        }
    }
    lines
}

/// The twins of some kernels. Kernels that share a text and a setting share a twin.
struct Twins {
    names: BTreeMap<(Setting, String), String>,
}

impl Twins {
    fn new(kernels: &[HostileKernel]) -> Self {
        let mut names = BTreeMap::new();
        for kernel in kernels {
            let name = format!("twin{}", names.len());
            names.entry(Self::key(kernel)).or_insert(name);
        }
        Self { names }
    }

    fn key(kernel: &HostileKernel) -> (Setting, String) {
        (kernel.setting, kernel.twin.clone())
    }

    fn name(&self, kernel: &HostileKernel) -> &str {
        &self.names[&Self::key(kernel)]
    }

    fn names(&self, kernels: &[HostileKernel]) -> Vec<String> {
        let names = kernels.iter().map(|kernel| self.name(kernel).to_owned());
        names.collect()
    }

    fn job(&self, kernel: &HostileKernel) -> Job {
        job(self.name(kernel), kernel, &kernel.twin)
    }

    /// One of each part.
    fn first_of_parts(&self, kernels: &[HostileKernel]) -> Vec<Job> {
        let (mut parts, mut known) = (BTreeSet::new(), BTreeSet::new());
        let first = kernels.iter().filter(|kernel| parts.insert(kernel.part));
        let first: Vec<_> = first.map(|kernel| self.job(kernel)).collect();
        let unknown = first
            .into_iter()
            .filter(|job| known.insert(job.name.clone()));
        unknown.collect()
    }
}

/// What was asked for so far, and what needs no comparison.
#[derive(Default)]
struct Asked {
    twins: Mutex<BTreeSet<String>>,
    compared: Mutex<BTreeSet<String>>,
    /// Kernels without a gain by the first verdicts: their speedup over the twin.
    clear: Mutex<BTreeMap<String, Judged>>,
}

impl Asked {
    /// What kernels that passed need next: their twin's verdict, then a comparison, unless both verdicts leave no gain.
    fn next(
        &self,
        kernels: &[HostileKernel],
        twins: &Twins,
        judged: &BTreeMap<String, Judged>,
    ) -> FollowUp {
        let mut next = FollowUp::default();
        for kernel in kernels {
            let name = hostile_name(kernel);
            let Some(verdict) = judged.get(&name).filter(|judged| may_gain(judged)) else {
                continue;
            };
            let twin = twins.name(kernel);
            let Some(of_twin) = judged.get(twin) else {
                if self.twins.lock().unwrap().insert(twin.to_owned()) {
                    next.jobs.push(twins.job(kernel));
                }
                continue;
            };
            if !self.compared.lock().unwrap().insert(name.clone()) {
                continue;
            }
            let over_twin = verdict.over(of_twin);
            if over_twin.interval.is_some() && over_twin.gains_at_most(CLEAR_GAIN) {
                self.clear.lock().unwrap().insert(name, over_twin);
            } else {
                next.comparisons.push(comparison(kernel));
            }
        }
        next
    }

    fn into_clear(self) -> BTreeMap<String, Judged> {
        self.clear.into_inner().unwrap()
    }
}

fn job(name: &str, kernel: &HostileKernel, source: &str) -> Job {
    Job {
        name: name.to_owned(),
        computation: kernel.computation,
        setting: kernel.setting,
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

/// Verdicts only.
fn judge_only(runner: &Runner, jobs: &[Job]) -> BTreeMap<String, Judged> {
    let nothing = |_: &BTreeMap<_, _>| FollowUp::default();
    runner.judge(jobs, None, nothing, |_| {}).judged
}

/// The name of a kernel of which this is a numbered copy.
fn without_copy(name: &str) -> &str {
    name.rsplit_once('_').map_or(name, |(kernel, _)| kernel)
}

fn hostile_name(kernel: &HostileKernel) -> String {
    format!("hostile{}", kernel.seed)
}

impl Report {
    /// The verdict of a hostile kernel, and that of its twin if it was judged.
    fn judged(&self, index: usize) -> (&Judged, Option<&Judged>) {
        (
            &self.hostile[&hostile_name(&self.kernels[index])],
            self.twins.get(&self.twin_names[index]),
        )
    }

    /// Judges kernels again that are wrong for some inputs and passed as faster than their twins: twice, and those that pass again as often
    /// as remains.
    fn judge_wrong_kernels_again(&mut self, runner: &Runner) {
        for copies in [0..2, 2..JUDGEMENTS_OF_WRONG_KERNELS - 1] {
            let wrong = (0..self.kernels.len()).filter(|index| {
                self.kernels[*index].part == WRONG_SOMEWHERE && self.found(*index) == Outcome::Gain
            });
            let jobs: Vec<_> = wrong
                .flat_map(|index| {
                    let kernel = &self.kernels[index];
                    let name = hostile_name(kernel);
                    let named = move |copy| format!("{name}_{copy}");
                    (copies.clone()).map(move |copy| job(&named(copy), kernel, &kernel.source))
                })
                .collect();
            for (name, judged) in judge_only(runner, &jobs) {
                if !may_gain(&judged) {
                    self.caught_later.insert(without_copy(&name).to_owned());
                }
            }
        }
    }

    /// Judges kernels again that are faster than their twins by the first verdicts, together with their twins. The first verdicts come
    /// from different times, and the machine may have been busier during one of them.
    fn repeat_first_gains(&mut self, runner: &Runner) {
        let mut jobs = Vec::new();
        for (index, kernel) in self.kernels.iter().enumerate() {
            let (hostile, twin) = self.judged(index);
            if !twin.is_some_and(|twin| is_faster(hostile, twin)) {
                continue;
            }
            let name = hostile_name(kernel);
            for copy in 0..FIRST_GAIN_REPEATS {
                jobs.push(job(&format!("{name}_{copy}"), kernel, &kernel.source));
                jobs.push(job(&format!("twin_{name}_{copy}"), kernel, &kernel.twin));
            }
        }
        let mut judged = judge_only(runner, &jobs);
        for pair in jobs.chunks(2) {
            let [Some(hostile), Some(twin)] = [0, 1].map(|side| judged.remove(&pair[side].name))
            else {
                // There was no time: the gain stays.
                continue;
            };
            let verdicts = [hostile, twin];
            let name = without_copy(&pair[0].name).to_owned();
            self.repeated.entry(name).or_default().push(verdicts);
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
            Outcome::Gain if self.kernels[index].is_known_gap || self.is_known_small(index) => {
                Outcome::KnownGap
            }
            found => found,
        }
    }

    /// Whether a gain is one that `docs/trust.md` says is not looked for.
    fn is_known_small(&self, index: usize) -> bool {
        let kernel = &self.kernels[index];
        let (hostile, twin) = self.judged(index);
        let compared = self.compared.get(&hostile_name(kernel));
        let gain = match (compared.and_then(|judged| judged.interval), twin) {
            (Some(over_twin), _) => Some(over_twin),
            (None, Some(twin)) => hostile.over(twin).interval,
            (None, None) => None,
        };
        self.backend == Backend::Cuda
            && ON_CHIP_PARTS.contains(&kernel.part)
            && gain.is_some_and(|[low, _]| low <= MAX_KNOWN_GAIN_ON_CHIP)
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
        if twin.is_some_and(|twin| is_faster(hostile, twin)) && !self.is_refuted(index) {
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
                    let over = match (over_twin, twin.and_then(|twin| twin.interval)) {
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
            let (_, Some(twin)) = self.judged(index) else {
                continue;
            };
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
        let judged = || self.hostile.values().chain(self.twins.values());
        writeln!(
            text,
            "{} hostile kernels, {} twins, {} comparisons in {:.0} s; {:.2} s of judging per kernel",
            self.hostile.len(),
            self.twins.len(),
            self.compared.len(),
            self.took.as_secs_f64(),
            judged().map(Judged::total_seconds).sum::<f64>() / judged().count().max(1) as f64
        )
        .unwrap();
        let mut stages = BTreeMap::<&str, f64>::new();
        for (stage, seconds) in judged().flat_map(|judged| &judged.seconds) {
            *stages.entry(stage).or_default() += seconds;
        }
        let stages = stages
            .iter()
            .map(|(stage, seconds)| format!("{stage} {seconds:.0} s"));
        writeln!(text, "stages: {}", stages.collect::<Vec<_>>().join(", ")).unwrap();
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
                ("twin", twin),
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
                    judged.status,
                    judged.total_seconds(),
                    judged.reason
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
