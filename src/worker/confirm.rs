//! Merges the verdicts of several fresh processes on one kernel into the confirmed verdict, whose speedup is the reported one, and
//! their duels into one ratio.
//!
//! Decides whether another process is needed and still fits into the time, and merges numbers. `pool` runs the processes.

use std::time::{Duration, Instant};

use crate::base::statistics::{Estimate, SampleSummary, mean_of_estimates};
use crate::eval::Coverage;
use crate::verdict::{
    BaselineEntry, BaselineWorkload, Deviation, Duel, Seconds, Speedup, Status, TimeSummary,
    Verdict, WorkloadVerdict,
};

/// Number of fresh processes that confirm a kernel on a GPU. There, process noise is the largest source of error.
const PROCESSES_ON_GPU: usize = 5;
/// Number of fresh processes that confirm a kernel on a CPU. A machine that is busy for a while disturbs one of them, and their spread
/// shows it.
const PROCESSES_ON_CPU: usize = 3;
/// Time for another process, as a multiple of the expected one: it may meet a busier machine.
const TIME_RESERVE: f64 = 1.2;

/// The fresh processes of a confirmation or a comparison: how many are wanted, and how many the time allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct FreshProcesses {
    pub(super) wanted: usize,
    pub(super) on_cpu: bool,
    started: Instant,
    limit: Option<Duration>,
}

impl FreshProcesses {
    /// `limit`: how long all of them together may take.
    pub(super) fn new(on_cpu: bool, limit: Option<Duration>) -> Self {
        Self {
            wanted: Self::usual(on_cpu),
            on_cpu,
            started: Instant::now(),
            limit,
        }
    }

    /// The number of processes without a limit.
    pub(super) fn usual(on_cpu: bool) -> usize {
        if on_cpu {
            PROCESSES_ON_CPU
        } else {
            PROCESSES_ON_GPU
        }
    }

    /// Whether a process that takes this long would end in time.
    pub(super) fn has_time_for(&self, next: Duration) -> bool {
        let next = next.mul_f64(TIME_RESERVE);
        (self.limit).is_none_or(|limit| self.started.elapsed() + next <= limit)
    }
}

/// The verdicts of a confirmation so far.
pub(super) struct ConfirmationRuns {
    processes: FreshProcesses,
    verdicts: Vec<Verdict>,
    /// How many times in a row the last process was inconclusive: correct, but too noisy.
    noisy_in_a_row: usize,
    /// What the next process is expected to take.
    next: Duration,
    /// Device time and stages of all processes, the replaced ones included.
    seconds: Seconds,
}

/// A process is repeated if it is inconclusive, because the machine may be busy for a while. After this many times in a row the
/// confirmation is inconclusive.
const MAX_NOISY: usize = 2;

impl ConfirmationRuns {
    pub(super) fn new(processes: FreshProcesses) -> Self {
        Self {
            processes,
            verdicts: Vec::new(),
            noisy_in_a_row: 0,
            next: Duration::ZERO,
            seconds: Seconds::default(),
        }
    }

    /// Whether another process must judge the kernel, and there is time for it.
    pub(super) fn needs_another(&self) -> bool {
        let Some(last) = self.verdicts.last() else {
            return true;
        };
        let is_needed = if last.passed() {
            self.verdicts.len() < self.processes.wanted
        } else {
            (1..MAX_NOISY).contains(&self.noisy_in_a_row)
        };
        is_needed && self.processes.has_time_for(self.next)
    }

    /// The cases of the next process: all hidden cases until a process has passed them. Then a random part on a GPU; on a CPU, where
    /// inspecting them takes longer than timing, none.
    pub(super) fn next_coverage(&self) -> Coverage {
        if !self.verdicts.iter().any(Verdict::passed) {
            Coverage::All
        } else if self.processes.on_cpu {
            Coverage::Timed
        } else {
            Coverage::Part
        }
    }

    /// `took`: wall time of the process, its start included.
    pub(super) fn add(&mut self, verdict: Verdict, took: Duration) {
        let only_timed = self.processes.on_cpu && verdict.passed();
        let saved = if only_timed {
            verdict.seconds.check + verdict.seconds.inspect
        } else {
            0.0
        };
        // The checks of the workloads remain; they are short.
        self.next = took.saturating_sub(Duration::from_secs_f64(saved.max(0.0)));
        self.seconds = self.seconds.plus(&verdict.seconds);
        match verdict.status {
            Status::Inconclusive => self.noisy_in_a_row += 1,
            _ => self.noisy_in_a_row = 0,
        }
        // A repeated process replaces the inconclusive one.
        self.verdicts.pop_if(|last| !last.passed());
        self.verdicts.push(verdict);
    }

    /// The merged verdict; `None` if no process has judged.
    pub(super) fn into_verdict(mut self) -> Option<Verdict> {
        let wanted = self.processes.wanted;
        let nth = self.verdicts.len();
        if let Some(last) = self.verdicts.last_mut()
            && last.status == Status::Inconclusive
        {
            let reason = last.reason.take().unwrap_or_default();
            let times = match self.noisy_in_a_row {
                1 => "once, and no time was left".to_owned(),
                times => format!("{times} times"),
            };
            last.reason = Some(format!(
                "correct but not confirmed: fresh process {nth} of {wanted} was too noisy {times}: {reason}"
            ));
        }
        let mut merged = (nth > 0).then(|| merge_verdicts(self.verdicts))?;
        merged.seconds = self.seconds;
        if merged.passed() && nth < wanted {
            merged.not_done.push(missing_processes(nth, wanted));
        }
        Some(merged)
    }
}

/// What a confirmation did not do for lack of time, for `not_done` of its verdict.
fn missing_processes(done: usize, wanted: usize) -> String {
    format!("{} of {wanted} fresh processes", wanted - done)
}

/// Merges the verdicts of all processes. The first verdict that did not pass is the result.
///
/// Process noise is shared by all samples of a process. So the confidence interval is that of the mean over processes, however
/// narrow the interval of each process is.
fn merge_verdicts(verdicts: Vec<Verdict>) -> Verdict {
    if let Some(index) = verdicts.iter().position(|verdict| !verdict.passed()) {
        let mut verdicts = verdicts;
        return verdicts.swap_remove(index);
    }
    let mut merged = verdicts[0].clone();
    merged.confirmed = true;
    merged.seeds = verdicts
        .iter()
        .flat_map(|verdict| verdict.seeds.clone())
        .collect();
    merged.voided_blocks = verdicts.iter().map(|verdict| verdict.voided_blocks).sum();
    let shares: Vec<f64> = verdicts
        .iter()
        .filter_map(|verdict| verdict.checked_share)
        .collect();
    merged.checked_share =
        (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64);
    if verdicts.len() > 1 {
        merged.speedup = mean_speedup(&verdicts, &|verdict| verdict.speedup);
        for (index, workload) in merged.workloads.iter_mut().enumerate() {
            merge_workload(workload, index, &verdicts);
        }
    }
    merged
}

/// The geometric mean of the processes' speedups, with an interval that includes the differences between processes.
fn mean_speedup(
    verdicts: &[Verdict],
    speedup_of: &dyn Fn(&Verdict) -> Option<Speedup>,
) -> Option<Speedup> {
    let estimates: Vec<Estimate> = (verdicts.iter())
        .filter_map(speedup_of)
        .map(estimate_of)
        .collect();
    let mean = mean_of_estimates(&estimates)?;
    Some(Speedup {
        geomean: mean.estimate.exp(),
        ci95: [mean.low.exp(), mean.high.exp()],
    })
}

/// One ratio from the duels of several processes. Its interval includes the differences between processes. `None` without a number.
pub(super) fn merge_duels(duels: &[Duel]) -> Option<Duel> {
    if let [duel] = duels {
        return Some(*duel);
    }
    let estimates = duels.iter().map(|duel| Estimate {
        estimate: duel.ratio.ln(),
        low: duel.ci95[0].ln(),
        high: duel.ci95[1].ln(),
    });
    let mean = mean_of_estimates(&estimates.collect::<Vec<_>>())?;
    Some(Duel {
        ratio: mean.estimate.exp(),
        ci95: [mean.low.exp(), mean.high.exp()],
    })
}

/// The times of one baseline in several processes, as one entry. The interval of each workload, and of all together, includes the
/// differences between processes. There is at least one.
pub(super) fn merge_entries(mut entries: Vec<BaselineEntry>) -> BaselineEntry {
    let mut merged = entries.swap_remove(0);
    if entries.is_empty() {
        return merged;
    }
    entries.insert(0, merged.clone());
    for (index, workload) in merged.workloads.iter_mut().enumerate() {
        let of_workload = || {
            entries
                .iter()
                .filter_map(|entry| entry.workloads.get(index))
        };
        let count = of_workload().count() as f64;
        let logs: Vec<Estimate> = of_workload().map(BaselineWorkload::log).collect();
        if let Some(mean) = mean_of_estimates(&logs) {
            workload.kernel_speedup = mean.estimate.exp();
            workload.ci95 = [mean.low.exp(), mean.high.exp()];
        }
        let deviations = of_workload().filter_map(|one| one.deviation);
        workload.deviation = deviations.reduce(Deviation::merge);
        workload.baseline_us = of_workload().map(|one| one.baseline_us).sum::<f64>() / count;
        workload.kernel_us = of_workload().map(|one| one.kernel_us).sum::<f64>() / count;
    }
    // Of the merged entry this sets the deviation; its speedup follows.
    for entry in entries.iter_mut().chain([&mut merged]) {
        entry.summarize(None);
    }
    let estimates = entries.iter().filter_map(|entry| entry.kernel_speedup);
    let estimates: Vec<Estimate> = estimates.map(estimate_of).collect();
    merged.kernel_speedup = mean_of_estimates(&estimates).map(|mean| Speedup {
        geomean: mean.estimate.exp(),
        ci95: [mean.low.exp(), mean.high.exp()],
    });
    merged
}

/// The logarithm of a speedup.
fn estimate_of(speedup: Speedup) -> Estimate {
    Estimate {
        estimate: speedup.geomean.ln(),
        low: speedup.ci95[0].ln(),
        high: speedup.ci95[1].ln(),
    }
}

/// Merges the results of one workload, which has this index in every verdict.
fn merge_workload(merged: &mut WorkloadVerdict, index: usize, verdicts: &[Verdict]) {
    let all = || {
        verdicts
            .iter()
            .filter_map(|verdict| verdict.workloads.get(index))
    };
    let speedup = mean_speedup(verdicts, &|verdict| {
        let workload = verdict.workloads.get(index)?;
        Some(Speedup {
            geomean: workload.speedup?,
            ci95: workload.ci95?,
        })
    });
    merged.speedup = speedup.map(|speedup| speedup.geomean);
    merged.ci95 = speedup.map(|speedup| speedup.ci95);
    // Not for hidden shapes: every process draws its own.
    if !merged.hidden {
        let errors = |of: fn(&WorkloadVerdict) -> Option<f64>| {
            SampleSummary::of(&all().filter_map(of).collect::<Vec<_>>())
        };
        merged.max_abs_error = errors(|of| of.max_abs_error).map(|all| all.max);
        merged.max_rel_error = errors(|of| of.max_rel_error).map(|all| all.max);
        merged.mean_abs_error = errors(|of| of.mean_abs_error).map(|all| all.mean);
        merged.tolerance_margin = errors(|of| of.tolerance_margin).map(|all| all.min);
    }
    let times = |of: fn(&WorkloadVerdict) -> Option<TimeSummary>| {
        merge_times(&all().filter_map(of).collect::<Vec<_>>())
    };
    merged.candidate_us = times(|workload| workload.candidate_us);
    merged.baseline_us = times(|workload| workload.baseline_us);
    let candidate = merged.candidate_us.map(|times| times.median);
    merged.roofline = merged
        .floor_us
        .zip(candidate)
        .map(|(floor, time)| floor / time);
}

/// The times of all processes: the median of the medians, the mean of the means and of the deviations, the overall minimum and
/// maximum.
fn merge_times(times: &[TimeSummary]) -> Option<TimeSummary> {
    let of = |which: fn(&TimeSummary) -> f64| {
        SampleSummary::of(&times.iter().map(which).collect::<Vec<_>>())
    };
    Some(TimeSummary {
        median: of(|times| times.median)?.median,
        mean: of(|times| times.mean)?.mean,
        std: of(|times| times.std)?.mean,
        min: of(|times| times.min)?.min,
        max: of(|times| times.max)?.max,
        n: times.iter().map(|times| times.n).sum(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The verdict of one process on two workloads with these speedups. `half`: the half width of every interval, in logarithms.
    fn verdict(seed: u64, status: &str, [first, second]: [f64; 2], half: f64) -> Verdict {
        let speedup = |value: f64| json!([value * (-half).exp(), value * half.exp()]);
        let workload = |id: &str, value: f64| {
            json!({"id": id, "axes": {}, "variant": null, "status": status, "speedup": value, "ci95": speedup(value),
                "candidate_us": null, "baseline_us": null, "floor_us": null, "roofline": null,
                "max_abs_error": value, "max_rel_error": null, "mean_abs_error": null, "tolerance_margin": -value})
        };
        let whole = (first * second).sqrt();
        serde_json::from_value(json!({
            "schema": 1, "task": "scale", "kernel": "step 7", "backend": "cuda", "status": status, "reason": null,
            "confirmed": false, "device": {"name": "", "arch": "sm_90", "uuid": null, "driver": null}, "sandbox": "none",
            "cache": "cold", "checked_share": 0.5 + seed as f64 / 10.0, "voided_blocks": seed, "seeds": [seed], "baseline": null,
            "speedup": {"geomean": whole, "ci95": speedup(whole)},
            "workloads": [workload("a", first), workload("b", second)],
            "resources": {"registers": null, "spill_bytes": null, "shared_bytes": null, "occupancy": null},
            "seconds": {"compile": 0.1, "check": 0.2, "measure": 0.3}
        }))
        .unwrap()
    }

    fn is_near(found: f64, expected: f64) -> bool {
        (found / expected - 1.0).abs() < 1e-12
    }

    #[test]
    fn single_verdict_is_only_marked_confirmed() {
        let one = verdict(1, "passed", [2.0, 3.0], 0.01);
        let whole = merge_verdicts(vec![one.clone()]);
        assert!(whole.confirmed);
        assert_eq!(
            whole,
            Verdict {
                confirmed: true,
                ..one
            }
        );
    }

    #[test]
    fn speedup_is_the_mean_over_processes() {
        let each = [[2.0, 3.0], [2.2, 3.0], [1.8, 3.0]];
        let verdicts = (1..)
            .zip(each)
            .map(|(seed, both)| verdict(seed, "passed", both, 0.001));
        let whole = merge_verdicts(verdicts.collect());
        assert_eq!((whole.status, whole.confirmed), (Status::Passed, true));
        assert_eq!((whole.seeds, whole.voided_blocks), (vec![1, 2, 3], 6));
        assert!(is_near(whole.checked_share.unwrap(), 0.7));
        let first = (2.0f64 * 2.2 * 1.8).cbrt();
        assert!(is_near(whole.workloads[0].speedup.unwrap(), first));
        assert!(is_near(whole.workloads[1].speedup.unwrap(), 3.0));
        // The worst over all seeds, not the first seed's.
        let errors = &whole.workloads[0];
        assert_eq!(
            (errors.max_abs_error, errors.tolerance_margin),
            (Some(2.2), Some(-2.2))
        );
        let speedup = whole.speedup.unwrap();
        assert!(is_near(speedup.geomean, (first * 3.0).sqrt()));
        // Student's t for three values: the processes differ by ten times the width of their own intervals.
        let logs = each.map(|[first, _]| (first * 3.0).sqrt().ln());
        let mean = logs.iter().sum::<f64>() / 3.0;
        let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / 2.0;
        let half = 4.302_65 * (variance / 3.0).sqrt();
        let found = (speedup.ci95[1] / speedup.geomean).ln();
        assert!((found / half - 1.0).abs() < 1e-3, "{found} for {half}");
        // Where all processes agree, the interval is that of the mean of three estimates.
        let ci95 = whole.workloads[1].ci95.unwrap();
        let found = (ci95[1] / 3.0).ln();
        assert!(
            (found / (0.001 / 3f64.sqrt()) - 1.0).abs() < 1e-6,
            "{found}"
        );
    }

    /// Confirms with processes whose verdicts have these statuses. Also returns the number of processes that ran.
    fn confirmation(processes: usize, statuses: &[&str]) -> (Verdict, usize) {
        let fresh = FreshProcesses {
            wanted: processes,
            ..FreshProcesses::new(false, None)
        };
        let mut confirmation = ConfirmationRuns::new(fresh);
        let mut runs = 0;
        while confirmation.needs_another() {
            let mut verdict = verdict(runs as u64, statuses[runs], [2.0, 2.0], 0.01);
            verdict.reason = Some("±9 %".to_owned());
            confirmation.add(verdict, Duration::from_secs(1));
            runs += 1;
        }
        (confirmation.into_verdict().unwrap(), runs)
    }

    #[test]
    fn noisy_process_is_repeated_once() {
        let (passed, noisy) = ("passed", "inconclusive");
        let (whole, runs) =
            confirmation(5, &[passed, noisy, passed, noisy, passed, passed, passed]);
        assert_eq!((whole.status, runs), (Status::Passed, 7));
        assert!(whole.confirmed);
        assert_eq!(whole.seeds, [0, 2, 4, 5, 6]);

        let (whole, runs) = confirmation(5, &[passed, passed, noisy, noisy]);
        assert_eq!((whole.status, runs), (Status::Inconclusive, 4));
        assert!(!whole.confirmed);
        assert_eq!(
            whole.reason.unwrap(),
            "correct but not confirmed: fresh process 3 of 5 was too noisy 2 times: ±9 %"
        );

        // A wrong kernel is not judged again.
        for statuses in [&["wrong_output"][..], &[passed, noisy, "wrong_output"]] {
            let (whole, runs) = confirmation(5, statuses);
            assert_eq!((whole.status, runs), (Status::WrongOutput, statuses.len()));
        }
        assert_eq!(confirmation(1, &[noisy, passed]).1, 2);
    }

    #[test]
    fn confirmation_has_fewer_processes_if_the_time_is_short() {
        let confirm = |on_cpu, limit, seconds: u64| {
            let limit = Some(Duration::from_secs(limit));
            let mut runs = ConfirmationRuns::new(FreshProcesses::new(on_cpu, limit));
            let mut coverages = Vec::new();
            while runs.needs_another() {
                coverages.push(runs.next_coverage());
                // 0.2 of these seconds are checks; the verdict has no inspection.
                let verdict = verdict(1, "passed", [2.0, 2.0], 0.01);
                runs.add(verdict, Duration::from_secs(seconds));
            }
            (runs.into_verdict().unwrap(), coverages)
        };
        use Coverage::{All, Part, Timed};
        let (whole, coverages) = confirm(true, 1000, 10);
        assert_eq!(coverages, [All, Timed, Timed]);
        assert!(whole.not_done.is_empty());
        assert!(is_near(whole.seconds.measure, 0.9));
        let (whole, coverages) = confirm(false, 1000, 10);
        assert_eq!(coverages, [All, Part, Part, Part, Part]);
        assert!(whole.not_done.is_empty());
        // Another process would take longer than all of them may.
        let (whole, coverages) = confirm(true, 11, 10);
        assert_eq!(coverages, [All]);
        assert!(whole.confirmed);
        assert_eq!(whole.not_done, ["2 of 3 fresh processes"]);
    }

    #[test]
    fn disagreeing_duels_have_a_wide_interval() {
        let duels = |ratios: &[f64]| {
            let duels = ratios.iter().map(|ratio| Duel {
                ratio: *ratio,
                ci95: [ratio * 0.99, ratio * 1.01],
            });
            merge_duels(&duels.collect::<Vec<_>>())
        };
        assert_eq!(duels(&[]), None);
        assert_eq!(duels(&[1.2]).unwrap().ci95, [1.2 * 0.99, 1.2 * 1.01]);
        assert!(duels(&[1.2, 1.21, 1.2, 1.21, 1.2]).unwrap().ci95[0] > 1.15);
        // Each interval is narrow, and no two agree.
        let torn = duels(&[1.5, 0.8, 1.6, 0.9, 1.2]).unwrap().ci95;
        assert!(torn[0] < 1.0 && torn[1] > 1.0, "{torn:?}");
    }

    #[test]
    fn first_failed_verdict_is_the_result() {
        let verdicts = [(1, "passed"), (2, "wrong_output"), (3, "timed_out")];
        let verdicts = verdicts.map(|(seed, status)| verdict(seed, status, [2.0, 2.0], 0.01));
        let whole = merge_verdicts(verdicts.into());
        assert_eq!((whole.status, whole.seeds), (Status::WrongOutput, vec![2]));
        assert!(!whole.confirmed);
    }
}
