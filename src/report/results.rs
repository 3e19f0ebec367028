//! The results of a task as a table: its best kernels of each kind, the starting kernels, and where everything is on disk.
//!
//! Pure: from what the driver found to text.

use std::path::PathBuf;

use serde::Serialize;

use super::progress::Progress;
use super::text::{device_note, indent, pluralize, wrap};
use crate::event::{FailedReason, Operator, StopReason};
use crate::verdict::{DeviceIdentity, Speedup, Status};

/// Maximum number of elites to list.
const MAX_LISTED: usize = 5;

/// Maximum width of a table in columns: that of the narrowest common terminal. A path may be wider.
const TABLE_WIDTH: usize = 80;

/// The results of a task.
#[derive(Clone, Debug, Default)]
pub struct TaskResults {
    pub progress: Progress,
    /// Error message of a failed oracle or baseline.
    pub failure: Option<String>,
    /// The elites, the best one first.
    pub elites: Vec<RankedElite>,
    /// Number of elites that did not pass when they were measured again.
    pub refuted: usize,
    pub starts: Vec<StartingKernelResult>,
    /// Steps whose model gave no candidate, by reason.
    pub unanswered: Vec<UnansweredSteps>,
    /// Name of the baseline. Empty if nothing was judged.
    pub baseline: String,
    pub device: Option<DeviceIdentity>,
    /// `best.cu`.
    pub best: PathBuf,
    /// `best.json`.
    pub best_verdict: PathBuf,
    /// The folder of all steps.
    pub steps: PathBuf,
}

/// The steps whose requests led to no candidate for one reason. Part of `summary.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnansweredSteps {
    pub reason: FailedReason,
    /// The number of steps.
    pub steps: u64,
    /// The last of them.
    pub last: u64,
    /// Why the last of them has no candidate, in the server's words. Untrusted text.
    pub detail: String,
}

/// An elite in the table.
#[derive(Clone, Debug)]
pub struct RankedElite {
    pub step: u64,
    pub operator: Operator,
    pub detail: String,
    /// Description of its cell, axis by axis.
    pub cell: String,
    pub measured: Speedup,
    /// The speedup of its confirmation. `None` if it is not confirmed.
    pub confirmed: Option<Speedup>,
    /// Its confirmation was correct, but the interval stayed too wide.
    pub too_noisy: bool,
    pub source: PathBuf,
}

/// A starting kernel in the table.
#[derive(Clone, Debug)]
pub struct StartingKernelResult {
    pub step: u64,
    pub name: String,
    /// `None` if it was not judged.
    pub status: Option<Status>,
    pub speedup: Option<Speedup>,
}

/// The tables of all tasks.
pub(crate) fn results_tables(tasks: &[TaskResults]) -> String {
    tasks.iter().map(task_text).collect()
}

fn task_text(results: &TaskResults) -> String {
    let mut text = headline(&results.progress);
    if let Some(failure) = &results.failure {
        text += &indent(failure, 2);
    }
    if results.elites.is_empty() {
        text += &without_elites(results);
    } else {
        text += &elites_table(results);
        text += &starting_kernels_table(&results.starts);
        text += &notes(results);
    }
    text
}

/// Counts, and why the search stopped.
fn headline(progress: &Progress) -> String {
    let stopped = progress.stopped.map_or_else(String::new, |reason| {
        format!("  stopped: {}\n", stop_reason_text(progress, reason))
    });
    let validity = progress.validity().map_or_else(String::new, |validity| {
        let noise = match progress.inconclusive {
            0 => String::new(),
            count => {
                format!("  inconclusive: {count} more, correct but not timed precisely enough\n")
            }
        };
        format!(
            "  valid: {:.0} % of {} that cost an evaluation or a reply\n{noise}",
            validity * 100.0,
            pluralize(progress.counted, "step"),
        )
    });
    format!(
        "\n{}: {} of {}, {} judged, {} passed, {} filled\n{validity}{stopped}",
        progress.task,
        progress.steps,
        pluralize(progress.total, "step"),
        progress.judged,
        progress.passed,
        pluralize(progress.cells as u64, "cell"),
    )
}

fn without_elites(results: &TaskResults) -> String {
    let mut text = "  no candidate passed\n".to_owned();
    if results.refuted > 0 {
        let kernels = pluralize(results.refuted as u64, "kernel");
        text += &format!("  {kernels} looked fast but did not pass when measured again\n");
    }
    text += &noise_hint(&results.progress);
    text += &unanswered_steps(&results.unanswered);
    if results.progress.judged > 0 || !results.unanswered.is_empty() {
        text += &format!("  {:<13}{}\n", "all steps", results.steps.display());
    }
    text + &starting_kernels_table(&results.starts)
}

fn elites_table(results: &TaskResults) -> String {
    let mut text = format!(
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
            "  {:>2}  {}  {confirmed:<9}  {:>5}  {}\n",
            index + 1,
            speedup_columns(elite.confirmed.unwrap_or(elite.measured)),
            elite.step,
            elite.operator.name(),
        );
        text += &wrap(&elite.detail, TABLE_WIDTH, 6);
        text += &wrap_cell(&elite.cell);
        text += &format!("      {}\n", elite.source.display());
    }
    if results.elites.len() > MAX_LISTED {
        let more = results.elites.len() - MAX_LISTED;
        text += &format!("      and {more} more, each the fastest of its cell\n");
    }
    if results.refuted > 0 {
        let kernels = pluralize(results.refuted as u64, "kernel");
        text += &format!(
            "      {kernels} looked fast but did not pass when measured again: not listed\n"
        );
    }
    text
}

/// The description of a cell, wrapped between its axes.
fn wrap_cell(cell: &str) -> String {
    const NO_BREAK: &str = "\u{a0}";
    let whole_axes = cell
        .replace(' ', NO_BREAK)
        .replace(&format!(",{NO_BREAK}"), ", ");
    wrap(&whole_axes, TABLE_WIDTH, 6).replace(NO_BREAK, " ")
}

fn starting_kernels_table(starts: &[StartingKernelResult]) -> String {
    if starts.is_empty() {
        return String::new();
    }
    let rows = starts.iter().map(|start| {
        let columns = match (start.speedup, start.status) {
            (Some(speedup), _) => speedup_columns(speedup),
            (None, Some(status)) => format!("{:>8}  {:<16}", "-", status.to_string()),
            (None, None) => format!("{:>8}  {:<16}", "-", "not judged"),
        };
        format!(
            "      {columns}  {:<9}  {:>5}  {}\n",
            "", start.step, start.name
        )
    });
    format!("\n  starting kernels\n{}", rows.collect::<String>())
}

/// What to do if at least half of the candidates were correct and could not be timed.
fn noise_hint(progress: &Progress) -> String {
    if progress.inconclusive == 0 || progress.inconclusive * 2 < progress.judged {
        return String::new();
    }
    let kernels = pluralize(progress.inconclusive, "correct kernel");
    let text = format!(
        "{kernels} could not be timed, because this machine was too busy: close other programs, or start a run with more time for each, for example `--set eval.seconds=5`"
    );
    wrap(&text, TABLE_WIDTH, 2)
}

/// Why models gave no candidate.
fn unanswered_steps(unanswered: &[UnansweredSteps]) -> String {
    let lines = unanswered.iter().map(|missing| {
        let what = match missing.reason {
            FailedReason::NoReply => "no reply",
            FailedReason::Refused => "a refusal",
            FailedReason::Truncated => "a reply that was cut off",
            _ => "a reply without a kernel",
        };
        let steps = pluralize(missing.steps, "step");
        let last = if missing.steps == 1 {
            format!("step {}", missing.last)
        } else {
            format!("the last, step {}", missing.last)
        };
        let text = format!("{steps} got {what}; {last}: {}", missing.detail);
        wrap(&text, TABLE_WIDTH, 2)
    });
    lines.collect()
}

/// Notes on the numbers, and the paths of the files.
fn notes(results: &TaskResults) -> String {
    let elites = &results.elites;
    let mut text = format!(
        "\n  speedups are over the baseline `{}`, the geometric mean over the workloads\n",
        results.baseline
    );
    let is_faster = |elite: &RankedElite| elite.confirmed.unwrap_or(elite.measured).ci95[0] > 1.0;
    if !elites.iter().any(is_faster) {
        text += "  no kernel was found that is certainly faster than the baseline\n";
    }
    text += &noise_hint(&results.progress);
    if elites.iter().any(|elite| elite.confirmed.is_some()) {
        text += "  confirmed: measured again with new seeds in fresh processes\n";
    }
    if elites.iter().any(|elite| elite.too_noisy) {
        text += "  too noisy: correct when measured again, but not precise enough to confirm\n";
    }
    text += &unanswered_steps(&results.unanswered);
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

fn speedup_columns(speedup: Speedup) -> String {
    let Speedup { geomean, ci95 } = speedup;
    let interval = format!("[{:.3}, {:.3}]", ci95[0], ci95[1]);
    format!("{geomean:>7.3}x  {interval:<16}")
}

/// Why the search of a task stopped, as a fragment.
pub(crate) fn stop_reason_text(progress: &Progress, reason: StopReason) -> String {
    match (reason, progress.budget) {
        (StopReason::Steps, _) => "all steps were made".to_owned(),
        (StopReason::Seconds, Some(budget)) => {
            format!("the time budget of {:.0} s is spent", budget.as_secs_f64())
        }
        (StopReason::Seconds, None) => "the time budget is spent".to_owned(),
        (StopReason::Target, _) => "the target speedup was reached".to_owned(),
        (StopReason::Patience, _) => "no improvement for `search.patience` steps".to_owned(),
        (StopReason::Exhausted, _) => "nothing is left to try".to_owned(),
        (StopReason::Budget, _) => "the budget for models is spent".to_owned(),
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

    fn elite(
        step: u64,
        operator: Operator,
        detail: &str,
        confirmed: Option<Speedup>,
    ) -> RankedElite {
        RankedElite {
            step,
            operator,
            detail: detail.to_owned(),
            cell: "block_threads 64 to 128, barriers < 1".to_owned(),
            measured: speedup(2.0),
            too_noisy: confirmed.is_none(),
            confirmed,
            source: format!("out/softmax/steps/{step:06}/kernel.cu").into(),
        }
    }

    fn sample() -> TaskResults {
        let start = |step, name: &str, status, speedup| StartingKernelResult {
            step,
            name: name.to_owned(),
            status: Some(status),
            speedup,
        };
        let detail = "split the sum `total` in 16";
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
                elite(12, Operator::Mutate, detail, Some(speedup(2.1))),
                elite(2, Operator::Start, "rows.cu", None),
            ],
            refuted: 1,
            starts: vec![
                start(1, "naive.cu", Status::Passed, Some(speedup(1.0))),
                start(2, "rows.cu", Status::Inconclusive, None),
            ],
            unanswered: Vec::new(),
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
    fn table_ranks_elites_and_explains_its_numbers() {
        insta::assert_snapshot!(results_tables(&[sample()]));
    }

    #[test]
    fn long_lines_are_wrapped_to_the_width_of_a_terminal() {
        let mut task = sample();
        let elite = &mut task.elites[0];
        elite.detail =
            "unroll `for (int i = threadIdx.x; i < columns; i += 256)` at line 32 four times"
                .to_owned();
        elite.cell = "block_threads 64 to 128, vector_bytes < 8, barriers < 1, coalescing < 0.3, speedup 1 to 1.25".to_owned();
        let text = results_tables(&[task]);
        for line in text.lines() {
            assert!(line.chars().count() <= TABLE_WIDTH, "{line}");
        }
        assert!(
            text.contains(" coalescing < 0.3,\n      speedup 1 to 1.25\n"),
            "{text}"
        );
        assert!(text.contains(" at line 32 four\n      times\n"), "{text}");
    }

    #[test]
    fn unanswered_steps_are_reported_in_the_words_of_the_server() {
        let words = "the reply was lost three times: the stream ended before the reply";
        let missing = |steps| UnansweredSteps {
            reason: FailedReason::NoReply,
            steps,
            last: 7,
            detail: words.to_owned(),
        };
        for is_solved in [true, false] {
            let mut task = sample();
            task.unanswered = vec![missing(2)];
            if !is_solved {
                task.elites.clear();
            }
            let text = results_tables(&[task]);
            assert!(text.lines().all(|line| line.chars().count() <= TABLE_WIDTH));
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let expected = format!("2 steps got no reply; the last, step 7: {words}");
            assert!(text.contains(&expected), "{text}");
        }
        let text = unanswered_steps(&[missing(1)]);
        assert!(
            text.starts_with("  1 step got no reply; step 7: "),
            "{text}"
        );
    }

    #[test]
    fn task_without_a_passing_kernel_says_so() {
        let mut task = sample();
        task.elites.clear();
        task.failure = Some("the baseline `naive` fails\n\nhint: fix it".to_owned());
        let text = results_tables(&[task]);
        assert!(text.contains("\n  no candidate passed\n"), "{text}");
        assert!(text.contains("\n  hint: fix it\n"), "{text}");
        assert!(!text.contains("made by"), "{text}");
    }
}
