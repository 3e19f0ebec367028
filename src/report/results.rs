//! What came of a task: its best kernels of each kind beside those that it started from, and where they lie.
//!
//! Pure: from what the driver found to text.

use std::path::PathBuf;

use super::{Progress, pluralize};
use crate::event::{Operator, StopReason};
use crate::verdict::{DeviceIdentity, Speedup, Status};

/// How many kernels are listed.
const MAX_LISTED: usize = 5;

/// One task at its end.
#[derive(Clone, Debug, Default)]
pub struct TaskResults {
    pub progress: Progress,
    /// The oracle or the baseline failed, in words.
    pub failure: Option<String>,
    /// The elites, the one to report first.
    pub elites: Vec<RankedElite>,
    /// Elites that were fast when they were judged, and did not pass when they were measured again.
    pub refuted: usize,
    pub starts: Vec<StartingKernelResult>,
    /// The name of what speed is measured against; empty where nothing was judged.
    pub baseline: String,
    pub device: Option<DeviceIdentity>,
    /// Where the best kernel and its verdict lie, and the folder of all steps.
    pub best: PathBuf,
    pub best_verdict: PathBuf,
    pub steps: PathBuf,
}

/// An elite.
#[derive(Clone, Debug)]
pub struct RankedElite {
    pub step: u64,
    pub operator: Operator,
    pub detail: String,
    /// Its cell, axis by axis.
    pub cell: String,
    pub measured: Speedup,
    /// The same, measured again with new seeds in fresh processes.
    pub confirmed: Option<Speedup>,
    /// It was correct then, and the interval stayed too wide.
    pub too_noisy: bool,
    pub source: PathBuf,
}

/// A kernel that the search started from.
#[derive(Clone, Debug)]
pub struct StartingKernelResult {
    pub step: u64,
    pub name: String,
    /// `None` where it was not judged.
    pub status: Option<Status>,
    pub speedup: Option<Speedup>,
}

/// The tables of all tasks.
pub(crate) fn results_tables(tasks: &[TaskResults]) -> String {
    tasks.iter().map(task_text).collect()
}

fn task_text(results: &TaskResults) -> String {
    let progress = &results.progress;
    let mut text = format!(
        "\n{}: {} of {}, {} judged, {} passed, {} filled{}\n",
        progress.task,
        progress.steps,
        pluralize(progress.total, "step"),
        progress.judged,
        progress.passed,
        pluralize(progress.cells as u64, "cell"),
        progress
            .stopped
            .map_or_else(String::new, |why| format!("; {}", stop_reason_text(why)))
    );
    if let Some(failure) = &results.failure {
        text += &indent(failure);
    }
    if results.elites.is_empty() {
        text += "  no candidate passed\n";
        if results.refuted > 0 {
            text += &format!(
                "  {} looked fast and did not pass when measured again\n",
                pluralize(results.refuted as u64, "kernel")
            );
        }
        if progress.judged > 0 {
            text += &format!("  {:<13}{}\n", "all steps", results.steps.display());
        }
        return text + &starting_kernels_table(&results.starts);
    }
    text += &format!(
        "\n  {:>2}  {:>8}  {:<16}  {:<9}  {:>5}  {}\n",
        "", "speedup", "95 % interval", "confirmed", "step", "made by"
    );
    for (index, elite) in results.elites.iter().take(MAX_LISTED).enumerate() {
        let confirmed = match elite.confirmed {
            Some(_) => "yes",
            None if elite.too_noisy => "too noisy",
            None => "",
        };
        text += &format!(
            "  {:>2}  {}  {confirmed:<9}  {:>5}  {}: {}\n      {}\n      {}\n",
            index + 1,
            speedup_columns(elite.confirmed.unwrap_or(elite.measured)),
            elite.step,
            elite.operator.name(),
            elite.detail,
            elite.cell,
            elite.source.display()
        );
    }
    if results.elites.len() > MAX_LISTED {
        let more = results.elites.len() - MAX_LISTED;
        text += &format!("      and {more} more, each the fastest of its cell\n");
    }
    if results.refuted > 0 {
        text += &format!(
            "      {} looked fast and did not pass when measured again: not listed\n",
            pluralize(results.refuted as u64, "kernel")
        );
    }
    text += &starting_kernels_table(&results.starts);
    text += &format!(
        "\n  speedups are over the baseline `{}`, the geometric mean over the workloads\n",
        results.baseline
    );
    if results.elites.iter().any(|elite| elite.confirmed.is_some()) {
        text += "  confirmed: measured again with new seeds in fresh processes\n";
    }
    if results.elites.iter().any(|elite| elite.too_noisy) {
        text +=
            "  too noisy: correct when measured again, and not precise enough to be confirmed\n";
    }
    text += &results
        .device
        .as_ref()
        .map_or_else(String::new, device_note);
    for (name, path) in [
        ("best kernel", &results.best),
        ("its verdict", &results.best_verdict),
        ("all steps", &results.steps),
    ] {
        text += &format!("  {name:<13}{}\n", path.display());
    }
    text
}

fn starting_kernels_table(starts: &[StartingKernelResult]) -> String {
    if starts.is_empty() {
        return String::new();
    }
    let rows = starts.iter().map(|start| {
        let found = match (start.speedup, start.status) {
            (Some(speedup), _) => speedup_columns(speedup),
            (None, Some(status)) => format!("{:>8}  {:<16}", "-", status.to_string()),
            (None, None) => format!("{:>8}  {:<16}", "-", "not judged"),
        };
        format!(
            "      {found}  {:<9}  {:>5}  {}\n",
            "", start.step, start.name
        )
    });
    format!("\n  started from\n{}", rows.collect::<String>())
}

fn speedup_columns(speedup: Speedup) -> String {
    let Speedup { geomean, ci95 } = speedup;
    let interval = format!("[{:.3}, {:.3}]", ci95[0], ci95[1]);
    format!("{geomean:>7.3}x  {interval:<16}")
}

fn stop_reason_text(why: StopReason) -> &'static str {
    match why {
        StopReason::Steps => "all steps were made",
        StopReason::Seconds => "the time is spent",
        StopReason::Target => "the target was reached",
        StopReason::Patience => "nothing faster came for long",
        StopReason::Exhausted => "nothing was left to try",
        StopReason::Budget => "the budget for models is spent",
    }
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// A CPU time is a CPU time, wherever it is shown.
pub(super) fn device_note(device: &DeviceIdentity) -> String {
    match device.cores {
        Some(cores) => format!(
            "  times are CPU times on {} ({}): they rank kernels for this machine, not for a GPU\n",
            pluralize(u64::from(cores), "core"),
            device.name
        ),
        None => format!("  measured on {}\n", device.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speedup(geomean: f64) -> Speedup {
        Speedup {
            geomean,
            ci95: [geomean - 0.05, geomean + 0.05],
        }
    }

    fn sample() -> TaskResults {
        let elite = |step, operator, detail: &str, confirmed: Option<Speedup>| RankedElite {
            step,
            operator,
            detail: detail.to_owned(),
            cell: "block_threads 64 to 128, barriers < 1".to_owned(),
            measured: speedup(2.0),
            too_noisy: confirmed.is_none(),
            confirmed,
            source: format!("out/softmax/steps/{step:06}/kernel.cu").into(),
        };
        TaskResults {
            progress: Progress {
                task: "softmax".to_owned(),
                steps: 40,
                total: 40,
                judged: 31,
                passed: 30,
                cells: 7,
                stopped: Some(StopReason::Steps),
                ..Progress::default()
            },
            elites: vec![
                elite(
                    12,
                    Operator::Mutate,
                    "split the sum `total` in 16",
                    Some(speedup(2.1)),
                ),
                elite(2, Operator::Start, "rows.cu", None),
            ],
            refuted: 1,
            starts: vec![
                StartingKernelResult {
                    step: 1,
                    name: "naive.cu".to_owned(),
                    status: Some(Status::Passed),
                    speedup: Some(speedup(1.0)),
                },
                StartingKernelResult {
                    step: 2,
                    name: "rows.cu".to_owned(),
                    status: Some(Status::Inconclusive),
                    speedup: None,
                },
            ],
            baseline: "naive".to_owned(),
            device: Some(DeviceIdentity {
                name: "a CPU".to_owned(),
                cores: Some(2),
                ..DeviceIdentity::default()
            }),
            best: "out/softmax/best.cu".into(),
            best_verdict: "out/softmax/best.json".into(),
            steps: "out/softmax/steps".into(),
            failure: None,
        }
    }

    #[test]
    fn a_table_ranks_and_says_what_its_numbers_are() {
        insta::assert_snapshot!(results_tables(&[sample()]));
    }

    #[test]
    fn task_without_a_passing_kernel_says_so() {
        let mut task = sample();
        task.elites.clear();
        task.failure = Some("the baseline `naive` fails\n\nhint: mend it".to_owned());
        let text = results_tables(&[task]);
        assert!(text.contains("\n  no candidate passed\n"), "{text}");
        assert!(text.contains("\n  hint: mend it\n"), "{text}");
        assert!(!text.contains("made by"), "{text}");
    }
}
