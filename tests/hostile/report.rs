//! Compares hostile kernels with their twins: faults of the judge, accused twins, and a table by part.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::{Duration, Instant};

use crate::kernels::HostileKernel;
use crate::runner::{Job, Judged, Runner};

/// A hostile kernel that passes may be at most this much faster than its twin. The bounds of both intervals are compared.
const MAX_GAIN: f64 = 1.05;
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
    /// The name of each kernel's twin.
    twin_names: Vec<String>,
    took: Duration,
}

/// Whether the judge let a kernel gain something, or failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was refused, caught, or gained nothing.
    Caught,
    Refused,
    /// It passed and is no faster than its twin.
    NoGain,
    /// It passed and is faster than its twin.
    Gain,
    /// The judge itself failed.
    Broken,
    /// The machine was too busy to time it.
    Untimed,
}

/// Judges kernels and their twins.
pub(crate) fn judge(
    runner: &Runner,
    kernels: Vec<HostileKernel>,
    progress: impl Fn(usize, usize) + Sync,
) -> Report {
    let started = Instant::now();
    let mut jobs = Vec::new();
    let mut known = BTreeMap::new();
    let mut twin_names = Vec::new();
    for kernel in &kernels {
        let number = known.len();
        let name = known.entry(kernel.twin.clone()).or_insert_with(|| {
            let name = format!("twin{number}");
            jobs.push(Job {
                name: name.clone(),
                computation: kernel.computation,
                source: kernel.twin.clone(),
            });
            name
        });
        twin_names.push(name.clone());
        jobs.push(Job {
            name: hostile_name(kernel),
            computation: kernel.computation,
            source: kernel.source.clone(),
        });
    }
    let count = jobs.len();
    let all = runner.judge(&jobs, |judged| progress(judged, count));
    let (twins, hostile) = all
        .into_iter()
        .partition(|(name, _)| name.starts_with("twin"));
    Report {
        kernels,
        hostile,
        twins,
        twin_names,
        took: started.elapsed(),
    }
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

    pub(crate) fn outcome(&self, index: usize) -> Outcome {
        let (hostile, twin) = self.judged(index);
        match (hostile.interval, twin.interval) {
            _ if hostile.status == "harness_error" => Outcome::Broken,
            _ if hostile.status == "inconclusive" => Outcome::Untimed,
            _ if REFUSED.contains(&hostile.status.as_str()) => Outcome::Refused,
            (Some([low, _]), Some([_, high])) if low > MAX_GAIN * high => Outcome::Gain,
            // Without a twin's time there is nothing to compare with; the twin is reported.
            _ if hostile.passed() => Outcome::NoGain,
            _ => Outcome::Caught,
        }
    }

    /// One line for each fault of the judge.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (index, kernel) in self.kernels.iter().enumerate() {
            let (hostile, twin) = self.judged(index);
            let found = match self.outcome(index) {
                Outcome::Gain => {
                    let [low, high] = hostile.interval.unwrap_or_default();
                    let [twin_low, twin_high] = twin.interval.unwrap_or_default();
                    format!(
                        "passed at {low:.2}x to {high:.2}x, its twin at {twin_low:.2}x to {twin_high:.2}x"
                    )
                }
                Outcome::Broken => format!("{}: {}", hostile.status, hostile.reason),
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

    /// One line for each honest twin that did not pass.
    pub(crate) fn accused(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let mut lines = Vec::new();
        for (index, kernel) in self.kernels.iter().enumerate() {
            let (_, twin) = self.judged(index);
            if !twin.passed() && seen.insert(&self.twin_names[index]) {
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
        let mut rows = BTreeMap::<&str, [usize; 6]>::new();
        let mut statuses = BTreeMap::<(&str, &str), usize>::new();
        for (index, kernel) in self.kernels.iter().enumerate() {
            let row = rows.entry(kernel.part).or_default();
            row[0] += 1;
            row[match self.outcome(index) {
                Outcome::Caught => 1,
                Outcome::Refused => 2,
                Outcome::NoGain | Outcome::Untimed => 3,
                Outcome::Gain => 4,
                Outcome::Broken => 5,
            }] += 1;
            let status = self.judged(index).0.status.as_str();
            *statuses.entry((kernel.part, status)).or_default() += 1;
        }
        let mut text = format!(
            "{:<24} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7}  statuses\n",
            "part", "kernels", "caught", "refused", "no gain", "GAIN", "BROKEN"
        );
        let mut total = [0; 6];
        for (part, row) in &rows {
            for (sum, count) in total.iter_mut().zip(row) {
                *sum += count;
            }
            let of_part = statuses.iter().filter(|((of, _), _)| of == part);
            let named: Vec<_> = of_part
                .map(|((_, status), count)| format!("{status} {count}"))
                .collect();
            writeln!(text, "{}  {}", cells(part, row), named.join(", ")).unwrap();
        }
        writeln!(text, "{}", cells("all", &total)).unwrap();
        let spent: f64 = (self.hostile.values().chain(self.twins.values()))
            .map(|judged| judged.seconds)
            .sum();
        let judged = self.hostile.len() + self.twins.len();
        writeln!(
            text,
            "{} hostile kernels and {} twins in {:.0} s; {:.2} s of judging per kernel",
            self.hostile.len(),
            self.twins.len(),
            self.took.as_secs_f64(),
            spent / judged.max(1) as f64
        )
        .unwrap();
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
            for (which, judged) in [("hostile", hostile), ("twin", twin)] {
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

fn cells(name: &str, row: &[usize; 6]) -> String {
    let [count, caught, refused, no_gain, gain, broken] = row;
    format!("{name:<24} {count:>7} {caught:>7} {refused:>7} {no_gain:>7} {gain:>7} {broken:>7}")
}
