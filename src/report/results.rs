//! The results of a task as text: what was found, the tables of its kernels, what the time was spent on, and notes.
//!
//! Pure: from what the driver found to text.

use std::time::Duration;

use super::kernel_tables::{baselines_text, comparison_text, elites_table, starting_kernels_table};
use super::progress::Progress;
use super::results_notes::{noise_hint, notes, unanswered_steps};
use super::task_results::TaskResults;
use super::text::{TERMINAL_WIDTH, indent, pluralize, wrap, wrap_after_first};
use crate::event::StopReason;

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
        text += &baselines_text(results);
        text += &comparison_text(results);
        text += &time_table(progress);
        text += &notes(results);
    }
    text
}

/// What was found; if there is no best kernel, why, and what to do.
fn found_text(progress: &Progress) -> String {
    let first = format!("{}: {}", progress.task, progress.headline());
    let mut text = format!("\n{}", wrap_after_first(&first, TERMINAL_WIDTH, 2));
    if let Some(reason) = progress.unconfirmed_reason() {
        text += &wrap(&reason, TERMINAL_WIDTH, 2);
    }
    if let Some(remedy) = progress.unconfirmed_remedy() {
        text += &wrap_after_first(&format!("  hint: {remedy}"), TERMINAL_WIDTH, 2);
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
    progress.time.table(rate, TERMINAL_WIDTH)
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
        StopReason::WorkloadTargets => {
            "one kernel reached the targets of all workloads in the search".to_owned()
        }
        StopReason::Roofline => {
            "the target share of the roofline was reached in the search".to_owned()
        }
        StopReason::Unlikely => "no later kernel is likely to be measurably faster".to_owned(),
        StopReason::Patience => "no improvement for `search.patience` steps".to_owned(),
        StopReason::Exhausted => "nothing is left to try".to_owned(),
        StopReason::Budget => "the budget for models is spent".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{FailedReason, Operator};
    use crate::report::{
        BestCandidate, Comparison, EndOfWork, RankedElite, Standing, StartingKernelResult,
        UnansweredSteps,
    };
    use crate::verdict::{DeviceIdentity, Duel, Speedup, Status};

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
            anchor: None,
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
            assert!(line.chars().count() <= TERMINAL_WIDTH, "{line}");
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
            assert!(
                text.lines()
                    .all(|line| line.chars().count() <= TERMINAL_WIDTH)
            );
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
