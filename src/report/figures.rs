//! The figures by which kernel generators are compared: fast_p, pass@k, and speedups. Of the attempts of a task, a model or a version of
//! the prompts, and of the tasks of a run.
//!
//! Pure counting. Decides nothing, and prints nothing.

use serde::Serialize;

/// Steps that tried to make a kernel. Starting kernels are none.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Attempts {
    /// All steps.
    steps: u64,
    /// Steps whose operator or model changed nothing.
    no_ops: u64,
    /// Steps that cost an evaluation or a reply, without noise and kforge's own faults.
    counted: u64,
    /// The speedups of the candidates that passed, those that were dismissed included.
    speedups: Vec<f64>,
    /// The highest of those that were timed in full.
    max: Option<f64>,
}

/// What an attempt led to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum AttemptResult {
    /// A candidate that passed. A dismissed one was not timed in full.
    Passed { speedup: f64, dismissed: bool },
    /// It changed nothing. `counted`: it cost a reply.
    NoOp { counted: bool },
    /// Anything else. `counted`: it cost an evaluation or a reply, and is neither noise nor kforge's own fault.
    Other { counted: bool },
}

/// Figures of attempts. All speedups are those of the search, so they are provisional. Part of `summary.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct AttemptFigures {
    /// Steps that cost an evaluation or a reply, without noise, kforge's own faults and starting kernels. The shares are of them.
    attempts: u64,
    passed: u64,
    #[serde(flatten)]
    fast: FastShares,
    /// The chance that at least one of 1 or 5 attempts passes. `null` with fewer attempts.
    #[serde(rename = "pass@1")]
    pass_1: Option<f64>,
    #[serde(rename = "pass@5")]
    pass_5: Option<f64>,
    #[serde(flatten)]
    speedups: SpeedupFigures,
    /// Share of all steps, those that cost nothing included, whose operator or model changed nothing. `null` without a step.
    no_op_rate: Option<f64>,
}

/// Figures of the tasks of a run, from confirmed speedups. Part of `summary.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct TaskFigures {
    /// Tasks of the run. The shares are of them. A task without a confirmed kernel counts as none of them.
    tasks: u64,
    /// Tasks whose fastest confirmed kernel passed.
    confirmed: u64,
    #[serde(flatten)]
    fast: FastShares,
    #[serde(flatten)]
    speedups: SpeedupFigures,
}

/// fast_p: the share that is correct and has a speedup above p (KernelBench, Ouyang et al. 2025). fast_0 is the share that is correct.
/// `null` of nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct FastShares {
    fast_0: Option<f64>,
    fast_1: Option<f64>,
    #[serde(rename = "fast_1.5")]
    fast_1_5: Option<f64>,
    fast_2: Option<f64>,
}

/// Speedups of what passed. `null` without one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct SpeedupFigures {
    geometric_mean: Option<f64>,
    median: Option<f64>,
    /// The highest of those that were timed in full.
    max: Option<f64>,
}

impl Attempts {
    /// Adds an attempt.
    pub(crate) fn add(&mut self, result: AttemptResult) {
        self.steps += 1;
        match result {
            AttemptResult::Passed { speedup, dismissed } => {
                self.counted += 1;
                self.speedups.push(speedup);
                if !dismissed {
                    self.max = Some(self.max.map_or(speedup, |max| max.max(speedup)));
                }
            }
            AttemptResult::NoOp { counted } => {
                self.no_ops += 1;
                self.counted += u64::from(counted);
            }
            AttemptResult::Other { counted } => self.counted += u64::from(counted),
        }
    }

    pub(crate) fn figures(&self) -> AttemptFigures {
        let passed = self.speedups.len() as u64;
        AttemptFigures {
            attempts: self.counted,
            passed,
            fast: FastShares::of(&self.speedups, self.counted),
            pass_1: pass_at(1, self.counted, passed),
            pass_5: pass_at(5, self.counted, passed),
            speedups: SpeedupFigures {
                max: self.max,
                ..SpeedupFigures::of(&self.speedups)
            },
            no_op_rate: share(self.no_ops, self.steps),
        }
    }
}

impl TaskFigures {
    /// `confirmed`: for each task the speedup of its fastest confirmed kernel, if it has one.
    pub(crate) fn of(confirmed: &[Option<f64>]) -> Self {
        let tasks = confirmed.len() as u64;
        let speedups: Vec<f64> = confirmed.iter().flatten().copied().collect();
        Self {
            tasks,
            confirmed: speedups.len() as u64,
            fast: FastShares::of(&speedups, tasks),
            speedups: SpeedupFigures::of(&speedups),
        }
    }
}

impl FastShares {
    fn of(speedups: &[f64], attempts: u64) -> Self {
        let fast = |p| share(count_above(speedups, p), attempts);
        Self {
            fast_0: fast(0.0),
            fast_1: fast(1.0),
            fast_1_5: fast(1.5),
            fast_2: fast(2.0),
        }
    }
}

impl SpeedupFigures {
    fn of(speedups: &[f64]) -> Self {
        let mut sorted = speedups.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let Some(max) = sorted.last().copied() else {
            return Self::default();
        };
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        let logarithms: f64 = sorted.iter().map(|speedup| speedup.ln()).sum();
        Self {
            geometric_mean: Some((logarithms / sorted.len() as f64).exp()),
            median: Some(median),
            max: Some(max),
        }
    }
}

fn count_above(speedups: &[f64], p: f64) -> u64 {
    speedups.iter().filter(|speedup| **speedup > p).count() as u64
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// pass@k: the chance that at least one of k attempts passes, estimated without bias from n attempts of which c passed:
/// 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, "Evaluating Large Language Models Trained on Code", equation 1). `None` if n < k.
fn pass_at(k: u64, n: u64, c: u64) -> Option<f64> {
    if n < k {
        return None;
    }
    let none_passes: f64 = (0..k)
        .map(|drawn| (n - c).saturating_sub(drawn) as f64 / (n - drawn) as f64)
        .product();
    Some(1.0 - none_passes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pass_at_k_is_the_share_of_all_draws_with_a_success() {
        for n in 5..9_u64 {
            for c in 0..=n {
                // Every set of five attempts, of which the first c passed.
                let sets = (0..1_u64 << n).filter(|set| set.count_ones() == 5);
                let sets: Vec<u64> = sets.collect();
                let hits = sets.iter().filter(|set| **set & ((1 << c) - 1) != 0);
                let expected = hits.count() as f64 / sets.len() as f64;
                let estimate = pass_at(5, n, c).unwrap();
                assert!((estimate - expected).abs() < 1e-12, "{n} {c}: {estimate}");
            }
        }
        assert_eq!(pass_at(5, 4, 4), None);
        assert_eq!(pass_at(1, 4, 1), Some(0.25));
    }

    #[test]
    fn shares_are_of_the_attempts_that_cost_something() {
        let mut attempts = Attempts::default();
        for (speedup, dismissed) in [(0.5, false), (1.0, false), (1.6, false), (4.0, true)] {
            attempts.add(AttemptResult::Passed { speedup, dismissed });
        }
        for counted in [true, true, true, true, false] {
            attempts.add(AttemptResult::Other { counted });
        }
        attempts.add(AttemptResult::NoOp { counted: false });
        let json = serde_json::to_value(attempts.figures()).unwrap();
        for (name, expected) in [
            ("attempts", 8.0),
            ("passed", 4.0),
            ("fast_0", 0.5),
            ("fast_1", 0.25),
            ("fast_1.5", 0.25),
            ("fast_2", 0.125),
            ("pass@1", 0.5),
            ("pass@5", 1.0),
            ("median", 1.3),
            // The dismissed one was not timed in full.
            ("max", 1.6),
            ("no_op_rate", 0.1),
        ] {
            let value = json[name].as_f64().unwrap();
            assert!((value - expected).abs() < 1e-12, "{name}: {value}");
        }
        let mean = json["geometric_mean"].as_f64().unwrap();
        assert!((mean - 3.2_f64.powf(0.25)).abs() < 1e-12, "{mean}");
    }

    #[test]
    fn nothing_is_null_and_never_0_or_1() {
        let json = serde_json::to_value(Attempts::default().figures()).unwrap();
        for name in ["fast_0", "pass@1", "pass@5", "median", "max", "no_op_rate"] {
            assert!(json[name].is_null(), "{name}: {}", json[name]);
        }
    }

    #[test]
    fn a_task_without_a_confirmed_kernel_counts_in_the_shares() {
        let json = serde_json::to_value(TaskFigures::of(&[Some(3.0), None])).unwrap();
        assert_eq!(
            (&json["tasks"], &json["fast_0"], &json["fast_2"]),
            (&2.into(), &0.5.into(), &0.5.into())
        );
        assert_eq!(json["median"], 3.0);
    }
}
