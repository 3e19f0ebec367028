//! The results of a task as a table: its best kernels of each kind, the starting kernels, and where everything is on disk.
//!
//! Pure: from what the driver found to text.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::figure_columns::{
    ConfirmedColumn, NO_FIGURE, TOO_NOISY, search_columns, without_figures,
};
use super::headline::{WhyUnconfirmed, suggested_seconds};
use super::progress::{Comparison, Progress};
use super::text::{device_note, indent, pluralize, wrap, wrap_after_first};
use crate::event::{FailedReason, Operator, StopReason};
use crate::verdict::{DeviceIdentity, Duel, DuelOutcome, Speedup, Status};

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
    /// The elites: confirmed ones first, by their confirmed speedup, then the others by that of the search.
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
    /// What its confirmation did not do for lack of time.
    pub not_done: Vec<String>,
    pub source: PathBuf,
}

/// A starting kernel in the table.
#[derive(Clone, Debug)]
pub struct StartingKernelResult {
    pub step: u64,
    pub name: String,
    /// `None` if it was not judged.
    pub status: Option<Status>,
    /// The speedup of the search.
    pub measured: Option<Speedup>,
    /// The speedup of its confirmation. `None` if it is not confirmed.
    pub confirmed: Option<Speedup>,
    /// Its confirmation was correct, but the interval stayed too wide.
    pub too_noisy: bool,
    /// It did not pass when it was measured again.
    pub refuted: bool,
    /// It was surely slower than another kernel, so its timing ended early.
    pub dismissed: bool,
}

/// The tables of all tasks.
pub(crate) fn results_tables(tasks: &[TaskResults]) -> String {
    tasks.iter().map(task_text).collect()
}

fn task_text(results: &TaskResults) -> String {
    let progress = &results.progress;
    let mut text = found_text(progress);
    text += &counts(progress);
    if let Some(failure) = &results.failure {
        text += &indent(failure, 2);
    }
    if results.elites.is_empty() {
        text += &without_elites(results);
    } else {
        text += &elites_table(results);
        text += &starting_kernels_table(&results.starts);
        text += &comparison_text(results);
        text += &time_table(progress);
        text += &notes(results);
    }
    text
}

/// What was found; if there is no best kernel, why, and what to do.
fn found_text(progress: &Progress) -> String {
    let first = format!("{}: {}", progress.task, progress.headline());
    let mut text = format!("\n{}", wrap_after_first(&first, TABLE_WIDTH, 2));
    if let Some(reason) = progress.unconfirmed_reason() {
        text += &wrap(&reason, TABLE_WIDTH, 2);
    }
    if let Some(remedy) = progress.unconfirmed_remedy() {
        text += &wrap_after_first(&format!("  hint: {remedy}"), TABLE_WIDTH, 2);
    }
    text
}

/// Counts, and why the search stopped.
fn counts(progress: &Progress) -> String {
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
        "  {} of {}, {} judged, {} passed, {} filled\n{validity}{stopped}",
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
    text += &starting_kernels_table(&results.starts);
    text + &time_table(&results.progress)
}

/// What the time was spent on.
fn time_table(progress: &Progress) -> String {
    let rate = progress.candidates_per_minute();
    progress.time.table(rate, TABLE_WIDTH)
}

fn elites_table(results: &TaskResults) -> String {
    let mut text = format!(
        "\n  {:>2}  {:>9}  {:<14}  {:>7}  {:<13}  {:>5}  {}\n",
        "", "confirmed", "95 % interval", "search", "95 % interval", "step", "made by"
    );
    for (index, elite) in results.elites.iter().take(MAX_LISTED).enumerate() {
        let confirmed = ConfirmedColumn {
            speedup: elite.confirmed,
            otherwise: if elite.too_noisy {
                TOO_NOISY
            } else {
                NO_FIGURE
            },
        };
        text += &format!(
            "  {:>2}  {}  {}  {:>5}  {}\n",
            index + 1,
            confirmed.text(),
            search_columns(elite.measured),
            elite.step,
            elite.operator.name(),
        );
        text += &wrap(&elite.detail, TABLE_WIDTH, 6);
        text += &wrap_cell(&elite.cell);
        if !elite.not_done.is_empty() {
            let missing = elite.not_done.join(", ");
            let text_of = format!("confirmed without {missing}, because the time was short");
            text += &wrap(&text_of, TABLE_WIDTH, 6);
        }
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
        let confirmed = ConfirmedColumn {
            speedup: start.confirmed,
            otherwise: match start {
                start if start.too_noisy => TOO_NOISY,
                start if start.refuted => "failed",
                start if start.dismissed => "dismissed",
                _ => NO_FIGURE,
            },
        };
        let columns = match (start.measured, start.status) {
            (Some(speedup), _) => format!("{}  {}", confirmed.text(), search_columns(speedup)),
            (None, Some(status)) => without_figures(&status.to_string()),
            (None, None) => without_figures("not judged"),
        };
        format!("      {columns}  {:>5}  {}\n", start.step, start.name)
    });
    format!("\n  starting kernels\n{}", rows.collect::<String>())
}

/// The best kernel against the best starting kernel. Empty if there is no best kernel.
fn comparison_text(results: &TaskResults) -> String {
    let Some(best) = results.progress.confirmed_best() else {
        return String::new();
    };
    let Some(comparison) = &results.progress.comparison else {
        if results.progress.unmeasured.comparison {
            let text = "no time was left to compare the best kernel with the best starting kernel";
            return format!("\n{}", wrap(text, TABLE_WIDTH, 2));
        }
        let mut starts = results.starts.iter();
        let start = starts.find(|start| start.step == best.step);
        return start.map_or_else(String::new, |start| {
            let text = format!("the best kernel is the starting kernel {}", start.name);
            format!("\n{}", wrap(&text, TABLE_WIDTH, 2))
        });
    };
    let Comparison {
        step,
        against,
        kernel,
        duel,
    } = comparison;
    let what = match duel.as_ref().map(Duel::outcome) {
        Some(DuelOutcome::Faster) => "is faster",
        Some(DuelOutcome::Slower) => "is slower",
        Some(DuelOutcome::Unclear) => "is not clearly faster",
        None => "failed, or the times varied too much",
    };
    let columns = ConfirmedColumn {
        speedup: duel.map(|duel| Speedup {
            geomean: duel.ratio,
            ci95: duel.ci95,
        }),
        otherwise: NO_FIGURE,
    };
    let row = format!("      {}  step {step} {what}", columns.text());
    format!(
        "\n{}{row}\n",
        wrap(
            &format!(
                "the best kernel against the best starting kernel, {kernel} (step {against}), in pairs"
            ),
            TABLE_WIDTH,
            2
        )
    )
}

/// What to do if at least half of the candidates were correct and could not be timed. Empty if the first lines say it already.
fn noise_hint(progress: &Progress) -> String {
    let is_said = progress.why_unconfirmed() == Some(WhyUnconfirmed::TooNoisy);
    if is_said || progress.inconclusive == 0 || progress.inconclusive * 2 < progress.judged {
        return String::new();
    }
    let kernels = pluralize(progress.inconclusive, "correct kernel");
    let seconds = suggested_seconds(progress.timing_seconds);
    let text = format!(
        "{kernels} could not be timed, because this machine was too busy: close other programs, or start a run with more time for each, for example `--set eval.seconds={seconds}`"
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
    let over = format!(
        "speedups are over the baseline `{}`, the geometric mean over the workloads",
        results.baseline
    );
    let mut text = format!("\n{}", wrap(&over, TABLE_WIDTH, 2));
    text += "  order: confirmed kernels by that figure, then the others by that of the search\n";
    text += &noise_hint(&results.progress);
    if elites.iter().any(|elite| elite.confirmed.is_some()) {
        text += "  confirmed: measured again with new seeds in fresh processes\n";
    }
    text += "  ~: provisional, the figure of the search\n";
    if elites.iter().any(|elite| elite.too_noisy) {
        text += "  too noisy: correct when measured again, but not precise enough to confirm\n";
    }
    text += &unanswered_steps(&results.unanswered);
    text += &results
        .device
        .as_ref()
        .map_or_else(String::new, device_note);
    let best = match results.progress.confirmed_best() {
        Some(_) => "best kernel",
        None => "unconfirmed",
    };
    for (name, path) in [
        (best, &results.best),
        ("its verdict", &results.best_verdict),
        ("all steps", &results.steps),
    ] {
        text += &format!("  {name:<13}{}\n", path.display());
    }
    text
}

/// Why the search of a task stopped, as a fragment.
pub(crate) fn stop_reason_text(progress: &Progress, reason: StopReason) -> String {
    let seconds = |budget: Option<Duration>| {
        budget.map_or_else(String::new, |budget| {
            format!(" of {:.0} s", budget.as_secs_f64())
        })
    };
    match reason {
        StopReason::Steps => "all steps were made".to_owned(),
        StopReason::Seconds => format!("the time budget{} is spent", seconds(progress.budget)),
        StopReason::DeviceSeconds => format!(
            "the budget of device time{} is spent",
            seconds(progress.device_budget)
        ),
        StopReason::Target => "the target speedup was reached in the search".to_owned(),
        StopReason::Patience => "no improvement for `search.patience` steps".to_owned(),
        StopReason::Exhausted => "nothing is left to try".to_owned(),
        StopReason::Budget => "the budget for models is spent".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{BestCandidate, EndOfWork, Standing};

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
            too_noisy: confirmed.is_none() && operator == Operator::Start,
            not_done: Vec::new(),
            confirmed,
            source: format!("out/softmax/steps/{step:06}/kernel.cu").into(),
        }
    }

    fn sample() -> TaskResults {
        let start = |step, name: &str, status, speedup| StartingKernelResult {
            step,
            name: name.to_owned(),
            status: Some(status),
            measured: speedup,
            confirmed: None,
            too_noisy: step == 2,
            refuted: false,
            dismissed: false,
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
                best: Some(BestCandidate {
                    step: 12,
                    speedup: speedup(2.1),
                    standing: Standing::Faster,
                }),
                comparison: Some(Comparison {
                    step: 12,
                    against: 1,
                    kernel: "naive.cu".to_owned(),
                    duel: Some(Duel {
                        ratio: 2.05,
                        ci95: [1.99, 2.11],
                    }),
                }),
                baseline: "naive".to_owned(),
                end: Some(EndOfWork::Finished),
                directory: "out".into(),
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
    fn run_without_a_confirmed_faster_kernel_says_so_in_its_first_line() {
        let mut task = sample();
        task.elites[0].confirmed = None;
        task.elites[0].too_noisy = true;
        task.progress.comparison = None;
        task.progress.best = Some(BestCandidate {
            step: 12,
            speedup: speedup(2.0),
            standing: Standing::TooNoisy,
        });
        let text = results_tables(&[task]);
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some(""));
        assert_eq!(
            lines.next(),
            Some("softmax: no kernel confirmed faster than the baseline (~2.00x: too noisy)")
        );
        insta::assert_snapshot!(text);
    }

    #[test]
    fn comparison_with_the_starting_kernel_says_what_its_interval_says() {
        for (ci95, words) in [
            ([1.99, 2.11], "step 12 is faster\n"),
            ([0.8, 0.9], "step 12 is slower\n"),
            ([0.98, 1.02], "step 12 is not clearly faster\n"),
        ] {
            let mut task = sample();
            if let Some(comparison) = &mut task.progress.comparison {
                comparison.duel = Some(Duel { ratio: 1.0, ci95 });
            }
            let text = results_tables(&[task]);
            assert!(text.contains(words), "{text}");
        }
        let mut task = sample();
        task.progress.comparison = None;
        task.starts[0].step = 12;
        let text = results_tables(&[task]);
        assert!(
            text.contains("\n  the best kernel is the starting kernel naive.cu\n"),
            "{text}"
        );
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
                task.progress.best = None;
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
        task.progress.best = None;
        task.progress.comparison = None;
        task.failure = Some("the baseline `naive` fails\n\nhint: fix it".to_owned());
        let text = results_tables(&[task]);
        assert!(text.contains("\n  no candidate passed\n"), "{text}");
        assert!(text.contains("\n  hint: fix it\n"), "{text}");
        assert!(!text.contains("made by"), "{text}");
    }
}
