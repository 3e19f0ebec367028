//! Whether arms of runs differ: paired differences with intervals, effect sizes, and a correction for several comparisons.
//!
//! An arm is one run or several. The value of a run on a task is the confirmed speedup of its best kernel; without one it is 1, because
//! then the baseline is what its user has. All statistics are of logarithms. Pure.

use serde::Serialize;

use super::holm;
use super::run::RunHistory;
use super::run_log::RunState;
use super::task::TaskHistory;
use crate::base::statistics::Z95;
use crate::base::student;
use crate::verdict::{StrongestBaseline, Verdict};

/// The quantile of the normal distribution for a power of 80 %.
const Z80: f64 = 0.841_621_233_572_914_3;

/// The level of significance over all comparisons.
pub(crate) const LEVEL: f64 = 0.05;

/// How the difference of two arms was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Method {
    /// One run each: the best kernels, workload by workload, with the intervals of their confirmations.
    Workloads,
    /// Several runs each, in pairs of the same seed.
    PairedRuns,
    /// Several runs each, without common seeds: Welch's t.
    Runs,
    /// Too little is known for an interval.
    None,
}

/// The difference between two arms on one task.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Difference {
    pub(crate) task: String,
    /// The arms by number, from 0.
    pub(crate) first: usize,
    pub(crate) second: usize,
    pub(crate) method: Method,
    /// Number of runs of each arm that have the task.
    pub(crate) runs: [usize; 2],
    /// The geometric mean of the speedups of each arm.
    pub(crate) speedups: [f64; 2],
    /// Speedup of the second / speedup of the first, and its 95 % interval, which is not corrected.
    pub(crate) ratio: f64,
    pub(crate) ci95: Option<[f64; 2]>,
    /// The probability of such a difference between equal arms; `corrected` by Holm's method over all comparisons.
    pub(crate) p: Option<f64>,
    pub(crate) corrected: Option<f64>,
    /// Hedges' g: the difference in units of the scatter between runs or workloads. `None` for too few of them.
    pub(crate) hedges_g: Option<f64>,
    /// The smallest ratio above 1 that such data show with a power of 80 %.
    pub(crate) detectable: Option<f64>,
    /// The ratio on each workload that both best kernels have, with its interval. One run each only.
    pub(crate) on_workloads: Vec<(String, f64, [f64; 2])>,
    /// The strongest known baselines beside the best kernel of each arm, the strongest first. Empty for an arm of several runs.
    pub(crate) strongest: [Vec<StrongestBaseline>; 2],
    /// What makes the figures incomparable.
    pub(crate) warnings: Vec<String>,
}

impl Difference {
    /// Whether the difference is significant after the correction.
    pub(crate) fn is_shown(&self) -> bool {
        self.corrected.is_some_and(|p| p < LEVEL)
    }
}

/// Compares the first arm with each other one, on every task that both have.
pub(crate) fn compare(arms: &[Vec<&RunHistory>]) -> Vec<Difference> {
    let Some((first, others)) = arms.split_first() else {
        return Vec::new();
    };
    let mut names: Vec<&str> = Vec::new();
    for task in first.iter().flat_map(|run| &run.tasks) {
        if !names.contains(&task.name.as_str()) {
            names.push(&task.name);
        }
    }
    let mut differences = Vec::new();
    for name in names {
        for (number, other) in (1..).zip(others) {
            let (before, after) = (RunValue::of_arm(first, name), RunValue::of_arm(other, name));
            if !before.is_empty() && !after.is_empty() {
                let mut difference = difference(name, &before, &after);
                difference.second = number;
                differences.push(difference);
            }
        }
    }
    let corrected = holm::corrected(&differences.iter().map(|one| one.p).collect::<Vec<_>>());
    for (one, p) in differences.iter_mut().zip(corrected) {
        one.corrected = p;
    }
    differences
}

/// A run's result on a task.
struct RunValue<'a> {
    run: &'a RunHistory,
    task: &'a TaskHistory,
    log_speedup: f64,
    best: Option<&'a Verdict>,
}

impl<'a> RunValue<'a> {
    fn of_arm(arm: &[&'a RunHistory], name: &str) -> Vec<Self> {
        let tasks = arm.iter().filter_map(|run| {
            let run: &'a RunHistory = run;
            let task = run.tasks.iter().find(|task| task.name == name)?;
            Some((run, task))
        });
        let values = tasks.map(|(run, task)| {
            let best = task.best();
            Self {
                run,
                task,
                log_speedup: best.map_or(0.0, |(.., speedup)| speedup.geomean.ln()),
                best: best.map(|(_, confirmation, _)| &confirmation.verdict),
            }
        });
        values.collect()
    }
}

/// A difference of logarithms with what its scatter says.
#[derive(Clone, Copy, Debug, Default)]
struct Test {
    mean: f64,
    /// Standard error of the mean, and its degrees of freedom; 0 for a known error.
    error: f64,
    degrees: usize,
    hedges_g: Option<f64>,
}

fn difference(name: &str, before: &[RunValue<'_>], after: &[RunValue<'_>]) -> Difference {
    let mean = |values: &[RunValue<'_>]| {
        values.iter().map(|one| one.log_speedup).sum::<f64>() / values.len() as f64
    };
    let mut on_workloads = Vec::new();
    let (method, test) = match (before, after) {
        ([one], [other]) => {
            on_workloads = workload_differences(one.best, other.best);
            match of_workloads(&on_workloads) {
                Some(test) => (Method::Workloads, Some(test)),
                None => (Method::None, None),
            }
        }
        _ => match paired(before, after) {
            Some(differences) => (Method::PairedRuns, of_pairs(&differences)),
            None => {
                let logs = |values: &[RunValue<'_>]| {
                    values.iter().map(|one| one.log_speedup).collect::<Vec<_>>()
                };
                (Method::Runs, welch(&logs(before), &logs(after)))
            }
        },
    };
    let log_ratio = test.map_or(mean(after) - mean(before), |test| test.mean);
    let half = test.map(|test| test.quantile(0.025) * test.error);
    Difference {
        task: name.to_owned(),
        first: 0,
        second: 1,
        method: if test.is_some() { method } else { Method::None },
        runs: [before.len(), after.len()],
        speedups: [mean(before), mean(after)].map(f64::exp),
        ratio: log_ratio.exp(),
        ci95: half.map(|half| [log_ratio - half, log_ratio + half].map(f64::exp)),
        p: test.map(|test| test.p()),
        corrected: None,
        hedges_g: test.and_then(|test| test.hedges_g),
        detectable: test.map(|test| test.detectable()),
        on_workloads: on_workloads
            .into_iter()
            .map(|one| {
                let interval = one.interval().map(f64::exp);
                (one.id, one.log_ratio.exp(), interval)
            })
            .collect(),
        strongest: [before, after].map(|arm| match arm {
            [one] => one.task.strongest_baselines(),
            _ => Vec::new(),
        }),
        warnings: warnings(before, after),
    }
}

impl Test {
    /// The value that a difference of equal arms exceeds with probability `tail`, in standard errors.
    fn quantile(&self, tail: f64) -> f64 {
        match self.degrees {
            0 if tail == 0.025 => Z95,
            0 => Z80,
            degrees => student::quantile(tail, degrees),
        }
    }

    /// The two-sided probability of such a difference between equal arms.
    fn p(&self) -> f64 {
        if self.error == 0.0 {
            return if self.mean == 0.0 { 1.0 } else { 0.0 };
        }
        // A normal distribution is Student's with very many degrees of freedom.
        let degrees = if self.degrees == 0 {
            10_000
        } else {
            self.degrees
        };
        (2.0 * student::tail((self.mean / self.error).abs(), degrees)).min(1.0)
    }

    /// The smallest ratio above 1 that is shown with a power of 80 %.
    fn detectable(&self) -> f64 {
        ((self.quantile(0.025) + self.quantile(0.2)) * self.error).exp()
    }
}

/// The difference on one workload: the logarithm of the ratio, and its half width on each side.
struct WorkloadDifference {
    id: String,
    log_ratio: f64,
    below: f64,
    above: f64,
}

impl WorkloadDifference {
    fn interval(&self) -> [f64; 2] {
        [self.log_ratio - self.below, self.log_ratio + self.above]
    }
}

fn workload_differences(
    before: Option<&Verdict>,
    after: Option<&Verdict>,
) -> Vec<WorkloadDifference> {
    let timed = |verdict: Option<&Verdict>| {
        let workloads = verdict.map_or(&[][..], |verdict| &verdict.workloads).iter();
        let timed = workloads
            .filter_map(|one| Some((one.id.clone(), one.speedup?.ln(), one.ci95?.map(f64::ln))));
        timed.collect::<Vec<_>>()
    };
    let (before, after) = (timed(before), timed(after));
    let differences = before.iter().filter_map(|(id, log, [low, high])| {
        let (_, other, [other_low, other_high]) = after.iter().find(|one| one.0 == *id)?;
        // The two were measured independently.
        Some(WorkloadDifference {
            id: id.clone(),
            log_ratio: other - log,
            below: (other - other_low).hypot(high - log),
            above: (other_high - other).hypot(log - low),
        })
    });
    differences.collect()
}

/// The mean over workloads. Its error is that of the confirmations, not the scatter between workloads: the workloads are the task.
fn of_workloads(differences: &[WorkloadDifference]) -> Option<Test> {
    if differences.is_empty() {
        return None;
    }
    let count = differences.len() as f64;
    let logs: Vec<f64> = differences.iter().map(|one| one.log_ratio).collect();
    let half = differences
        .iter()
        .map(|one| one.below.max(one.above).powi(2))
        .sum::<f64>()
        .sqrt()
        / count;
    Some(Test {
        mean: logs.iter().sum::<f64>() / count,
        error: half / Z95,
        degrees: 0,
        hedges_g: of_pairs(&logs).and_then(|test| test.hedges_g),
    })
}

/// The differences of runs with the same seeds. `None` if the two arms have other seeds, or fewer than two runs.
fn paired(before: &[RunValue<'_>], after: &[RunValue<'_>]) -> Option<Vec<f64>> {
    if before.len() != after.len() || before.len() < 2 {
        return None;
    }
    let seed = |one: &RunValue<'_>| one.run.record.seed;
    let differences = before.iter().map(|one| {
        let mut same = after.iter().filter(|other| seed(other) == seed(one));
        let other = same.next()?;
        same.next()
            .is_none()
            .then_some(other.log_speedup - one.log_speedup)
    });
    differences.collect()
}

/// Student's t of paired differences. `None` for fewer than two, and for equal ones: they say nothing of the scatter.
fn of_pairs(differences: &[f64]) -> Option<Test> {
    let count = differences.len();
    let (mean, deviation) = mean_and_deviation(differences)?;
    (deviation > 0.0).then_some(Test {
        mean,
        error: deviation / (count as f64).sqrt(),
        degrees: count - 1,
        hedges_g: hedges_g(mean, deviation, count - 1),
    })
}

/// Welch's t of two groups. `None` if one has fewer than two values, and if the values of each are equal.
fn welch(before: &[f64], after: &[f64]) -> Option<Test> {
    let (mean_before, deviation_before) = mean_and_deviation(before)?;
    let (mean_after, deviation_after) = mean_and_deviation(after)?;
    let (n, m) = (before.len() as f64, after.len() as f64);
    let (one, other) = (deviation_before.powi(2) / n, deviation_after.powi(2) / m);
    let variance = one + other;
    let degrees = variance.powi(2) / (one.powi(2) / (n - 1.0) + other.powi(2) / (m - 1.0));
    let pooled = ((n - 1.0) * deviation_before.powi(2) + (m - 1.0) * deviation_after.powi(2))
        / (n + m - 2.0);
    let mean = mean_after - mean_before;
    (variance > 0.0).then_some(Test {
        mean,
        error: variance.sqrt(),
        degrees: (degrees.floor() as usize).max(1),
        hedges_g: hedges_g(mean, pooled.sqrt(), before.len() + after.len() - 2),
    })
}

fn mean_and_deviation(values: &[f64]) -> Option<(f64, f64)> {
    if values.len() < 2 {
        return None;
    }
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares = values
        .iter()
        .map(|value| (value - mean).powi(2))
        .sum::<f64>();
    Some((mean, (squares / (count - 1.0)).sqrt()))
}

/// Hedges' g: the mean difference in standard deviations, with the correction for few values, 1 - 3 / (4 degrees - 1). With one degree of
/// freedom the correction leaves nothing.
fn hedges_g(mean: f64, deviation: f64, degrees: usize) -> Option<f64> {
    let correction = 1.0 - 3.0 / (4.0 * degrees as f64 - 1.0);
    (deviation > 0.0 && degrees > 1).then_some(mean / deviation * correction)
}

/// What makes the figures of two arms incomparable.
fn warnings(before: &[RunValue<'_>], after: &[RunValue<'_>]) -> Vec<String> {
    let all: Vec<_> = before.iter().chain(after).collect();
    let differs = |value: &dyn Fn(&RunValue<'_>) -> String| {
        all.windows(2).any(|pair| value(pair[0]) != value(pair[1]))
    };
    let mut warnings = Vec::new();
    if differs(&|one| format!("{:?}", one.run.record.device)) {
        warnings.push("different devices".to_owned());
    }
    if differs(&|one| {
        one.task
            .baseline
            .as_ref()
            .map_or_else(String::new, |baseline| baseline.name.clone())
    }) {
        warnings.push("different baselines".to_owned());
    }
    let folder = |one: &RunValue<'_>| {
        let task = one.run.record.tasks.get(&one.task.name);
        task.map_or_else(String::new, |task| task.folder.to_string())
    };
    if differs(&folder) {
        warnings.push("the files of the task differ".to_owned());
    }
    let unfinished = all.iter().filter(|one| one.run.state != RunState::Finished);
    let unfinished = unfinished.count();
    if unfinished > 0 {
        warnings.push(format!(
            "{unfinished} of {} runs have not finished",
            all.len()
        ));
    }
    let open = all.iter().filter(|one| one.best.is_none()).count();
    if open > 0 {
        warnings.push(format!(
            "{open} of {} runs have no confirmed gain and count as 1",
            all.len()
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::RandomStream;

    /// Values with a standard deviation of 0.1, from sums of twelve uniform numbers.
    fn sample(stream: &mut RandomStream, mean: f64, count: usize) -> Vec<f64> {
        let value = |stream: &mut RandomStream| {
            let sum: f64 = (0..12).map(|_| stream.uniform()).sum();
            mean + 0.1 * (sum - 6.0)
        };
        (0..count).map(|_| value(stream)).collect()
    }

    /// How many of 200 pairs of arms with 8 runs differ, for a true difference of the logarithms.
    fn shown(difference: f64, is_paired: bool) -> (usize, f64) {
        let mut stream = RandomStream::new(7, "comparison", u64::from(is_paired));
        let mut count = 0;
        let mut detectable = 0.0;
        for _ in 0..200 {
            let before = sample(&mut stream, 0.5, 8);
            let after = sample(&mut stream, 0.5 + difference, 8);
            let test = match is_paired {
                true => of_pairs(
                    &before
                        .iter()
                        .zip(&after)
                        .map(|(one, other)| other - one)
                        .collect::<Vec<_>>(),
                ),
                false => welch(&before, &after),
            };
            let test = test.unwrap();
            count += usize::from(test.p() < LEVEL);
            detectable += test.detectable().ln() / 200.0;
        }
        (count, detectable)
    }

    #[test]
    fn false_positives_and_power_are_as_stated() {
        for is_paired in [true, false] {
            let (false_positives, detectable) = shown(0.0, is_paired);
            // 5 % of 200 are 10; more than 20 have a probability of 0.1 %.
            assert!(false_positives <= 20, "{false_positives}");
            // The detectable difference is shown in 80 % of the cases: 160 of 200, with a deviation of 6.
            let (true_positives, _) = shown(detectable, is_paired);
            assert!(
                (140..=180).contains(&true_positives),
                "{true_positives} for {detectable}"
            );
        }
    }

    /// How many of 200 pairs of kernels with 6 workloads differ, for a true difference of the logarithms. Every figure has a known error.
    fn kernels_shown(difference: f64) -> (usize, f64) {
        let mut stream = RandomStream::new(7, "workloads", 0);
        // Two figures with a deviation of 0.1 each.
        let half = Z95 * 0.1 * 2.0_f64.sqrt();
        let tests: Vec<Test> = (0..200)
            .map(|_| {
                let before = sample(&mut stream, 0.5, 6);
                let after = sample(&mut stream, 0.5 + difference, 6);
                let pairs = before.iter().zip(&after);
                let workloads = pairs.map(|(one, other)| WorkloadDifference {
                    id: String::new(),
                    log_ratio: other - one,
                    below: half,
                    above: half,
                });
                of_workloads(&workloads.collect::<Vec<_>>()).unwrap()
            })
            .collect();
        let count = tests.iter().filter(|test| test.p() < LEVEL).count();
        (count, tests[0].detectable().ln())
    }

    #[test]
    fn kernels_differ_as_often_as_stated() {
        let (false_positives, detectable) = kernels_shown(0.0);
        assert!(false_positives <= 20, "{false_positives}");
        let (true_positives, _) = kernels_shown(detectable);
        assert!((140..=180).contains(&true_positives), "{true_positives}");
    }

    #[test]
    fn several_arms_are_corrected_together() {
        let mut stream = RandomStream::new(7, "families", 0);
        let is_any_shown = |_: &usize| {
            let first = sample(&mut stream, 0.5, 8);
            let others = (0..5).map(|_| welch(&first, &sample(&mut stream, 0.5, 8)));
            let p: Vec<_> = others.map(|test| test.map(|test| test.p())).collect();
            let corrected = holm::corrected(&p);
            corrected.iter().flatten().any(|p| *p < LEVEL)
        };
        // Of 200 families of five comparisons without a difference at most 5 % may show one.
        let wrong = (0..200).filter(is_any_shown).count();
        assert!(wrong <= 20, "{wrong}");
    }

    #[test]
    fn interval_and_p_value_agree() {
        let test = of_pairs(&[0.1, 0.2, 0.15, 0.05, 0.12]).unwrap();
        let half = test.quantile(0.025) * test.error;
        assert!(test.mean - half > 0.0 && test.p() < 0.05);
        let unclear = of_pairs(&[0.1, -0.2, 0.15, -0.05, 0.02]).unwrap();
        assert!(unclear.p() > 0.5);
        assert!(of_pairs(&[0.1]).is_none());
        // g of these: 0.124 / 0.0559 * (1 - 3 / 15).
        assert!((test.hedges_g.unwrap() - 1.774).abs() < 0.01, "{test:?}");
    }
}
