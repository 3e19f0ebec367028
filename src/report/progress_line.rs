//! The progress of a task in one line. It fits the width that it gets: parts that do not fit are left out, the least important first, and
//! no word is cut.
//!
//! Pure. `progress_view` shows the line.

use std::time::Duration;

use super::headline::provisional;
use super::progress::{Progress, RunPhase, Standing};
use super::text::{duration_text, pluralize};
use crate::event::Cost;

/// When a progress line is shown. The first and the last of a task are always shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    Start,
    Between,
    End,
}

/// What separates the parts of a line.
const SEPARATOR: &str = ", ";

/// Steps, phase with its remaining time, best, cost, rate, validity, cells, device time. `width`: the most columns.
pub(super) fn progress_line(progress: &Progress, moment: Moment, width: usize) -> String {
    let mut parts = vec![format!("step {}/{}", progress.steps, progress.total)];
    let (phase, left) = phase(progress, moment);
    parts.extend(phase);
    parts.extend(left.map(|left| format!("{} left", duration_text(left.as_secs_f64()))));
    parts.push(best_text(progress));
    // The cost comes before the rest, which may not fit.
    let spent = progress.spent.filter(|spent| spent.tokens > 0);
    parts.extend(spent.map(cost_text));
    if progress.phase == RunPhase::Searching {
        parts.extend(rate(progress).map(|rate| format!("{rate:.0} candidates/min")));
    }
    if let Some(validity) = progress.validity() {
        parts.push(format!("{:.0} % valid", validity * 100.0));
    }
    parts.push(pluralize(progress.cells as u64, "cell"));
    if let Some(budget) = progress.device_budget {
        let device = progress.time.device.round();
        parts.push(format!("device {device} of {:.0} s", budget.as_secs_f64()));
    }
    if progress.inconclusive > 0 {
        parts.push(format!("{} inconclusive", progress.inconclusive));
    }
    fit(&parts, width)
}

/// The parts that fit, in their order. A part that does not fit is left out, and a shorter one after it may still fit. The first is always
/// there.
fn fit(parts: &[String], width: usize) -> String {
    let mut line = String::new();
    let mut columns = 0;
    for part in parts {
        let part_columns = part.chars().count();
        if line.is_empty() {
            line.clone_from(part);
            columns = part_columns;
        } else if columns + SEPARATOR.len() + part_columns <= width {
            line += SEPARATOR;
            line += part;
            columns += SEPARATOR.len() + part_columns;
        }
    }
    line
}

/// What the process does, and the time that is left for it. Nothing is said of a search that goes on.
pub(super) fn phase(progress: &Progress, moment: Moment) -> (Option<String>, Option<Duration>) {
    if moment == Moment::End {
        // Work in progress and confirmations follow the stop, so only the last line says that the task is done.
        return (progress.stopped.map(|_| "done".to_owned()), None);
    }
    match progress.phase {
        RunPhase::Searching => (None, seconds_left(progress).map(duration)),
        RunPhase::Ending => (Some("ending".to_owned()), None),
        RunPhase::Confirming { number, of, left } => {
            (Some(format!("confirming {number} of {of}")), left)
        }
        RunPhase::ComparingStrongest { left } => {
            (Some("timing the strongest baseline".to_owned()), left)
        }
        RunPhase::Comparing { left } => (Some("comparing".to_owned()), left),
    }
}

/// Seconds as a duration. Steps of a slow run may need more than any duration has.
fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// Candidates that this process judges in a minute.
fn rate(progress: &Progress) -> Option<f64> {
    let judged = progress.judged.saturating_sub(progress.judged_before);
    per_minute(judged, progress)
}

fn per_minute(count: u64, progress: &Progress) -> Option<f64> {
    let minutes = progress.elapsed.as_secs_f64() / 60.0;
    (count > 0 && minutes > 0.0).then(|| count as f64 / minutes)
}

/// Time until the steps are made or the whole time budget is spent, whichever comes first.
fn seconds_left(progress: &Progress) -> Option<f64> {
    let new_steps = progress.steps.saturating_sub(progress.steps_before);
    let steps_left = progress.total.saturating_sub(progress.steps) as f64;
    let by_steps = per_minute(new_steps, progress).map(|rate| steps_left / rate * 60.0);
    let by_time = progress.budget.map(|budget| {
        let left = budget.saturating_sub(progress.worked);
        left.as_secs_f64()
    });
    match (by_steps, by_time) {
        (Some(by_steps), Some(by_time)) => Some(by_steps.min(by_time)),
        (by_steps, by_time) => by_time.or(by_steps),
    }
}

fn best_text(progress: &Progress) -> String {
    let Some(best) = progress.best else {
        return "none passed yet".to_owned();
    };
    let speedup = best.speedup.geomean;
    let figure = if best.standing.is_confirmed() {
        format!("{speedup:.2}x")
    } else {
        provisional(speedup)
    };
    // The mark of a provisional figure is explained where the run starts.
    let text = match best.standing {
        Standing::NotClear | Standing::Slower => format!("{figure} not faster"),
        Standing::TooNoisy => format!("{figure} too noisy"),
        Standing::Faster | Standing::Provisional => format!("best {figure}"),
    };
    format!("{text} (step {})", best.step)
}

/// Dollars, or tokens if a price is unknown.
fn cost_text(spent: Cost) -> String {
    match spent.nano_usd {
        Some(nano) => format!("${:.4}", nano as f64 / 1e9),
        None if spent.estimated => format!("about {} tokens", spent.tokens),
        None => format!("{} tokens", spent.tokens),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::StopReason;
    use crate::report::BestCandidate;
    use crate::verdict::Speedup;

    /// Wide enough for every line of these tests.
    const WIDE: usize = 200;

    fn line(progress: &Progress) -> String {
        progress_line(progress, Moment::Between, WIDE)
    }

    fn sample() -> Progress {
        Progress {
            task: "softmax".to_owned(),
            steps: 20,
            steps_before: 10,
            total: 60,
            judged: 16,
            judged_before: 8,
            passed: 9,
            counted: 18,
            cells: 4,
            elapsed: Duration::from_secs(30),
            worked: Duration::from_secs(45),
            ..Progress::default()
        }
    }

    fn best(standing: Standing) -> Option<BestCandidate> {
        Some(BestCandidate {
            step: 7,
            speedup: Speedup {
                geomean: 1.5,
                ci95: [1.4, 1.6],
            },
            standing,
        })
    }

    #[test]
    fn line_shows_steps_best_rate_and_time_left() {
        let mut progress = sample();
        assert_eq!(
            line(&progress),
            "step 20/60, 2 min 00 s left, none passed yet, 16 candidates/min, 50 % valid, 4 cells"
        );
        progress.budget = Some(Duration::from_secs(90));
        progress.device_budget = Some(Duration::from_secs(70));
        progress.time.device = 12.3;
        assert_eq!(
            line(&progress),
            "step 20/60, 45 s left, none passed yet, 16 candidates/min, 50 % valid, 4 cells, device 12 of 70 s"
        );
        assert_eq!(
            line(&Progress::default()),
            "step 0/0, none passed yet, 0 cells"
        );
    }

    #[test]
    fn line_shows_the_phase_with_its_remaining_time() {
        let mut progress = sample();
        progress.stopped = Some(StopReason::Seconds);
        progress.best = best(Standing::Provisional);
        let left = Some(Duration::from_secs(15));
        let phases = [
            (RunPhase::Ending, "ending"),
            (
                RunPhase::Confirming {
                    number: 2,
                    of: 3,
                    left,
                },
                "confirming 2 of 3, 15 s left",
            ),
            (
                RunPhase::Confirming {
                    number: 1,
                    of: 1,
                    left: None,
                },
                "confirming 1 of 1",
            ),
            (RunPhase::Comparing { left }, "comparing, 15 s left"),
        ];
        for (phase, text) in phases {
            progress.phase = phase;
            assert_eq!(
                line(&progress),
                format!("step 20/60, {text}, best ~1.50x (step 7), 50 % valid, 4 cells")
            );
        }
        progress.inconclusive = 2;
        progress.best = best(Standing::Faster);
        assert_eq!(
            progress_line(&progress, Moment::End, WIDE),
            "step 20/60, done, best 1.50x (step 7), 50 % valid, 4 cells, 2 inconclusive"
        );
    }

    #[test]
    fn line_says_what_is_known_about_the_best() {
        let mut progress = sample();
        for (standing, short) in [
            (Standing::Provisional, "best ~1.50x"),
            (Standing::Faster, "best 1.50x"),
            (Standing::TooNoisy, "~1.50x too noisy"),
            (Standing::Slower, "1.50x not faster"),
            (Standing::NotClear, "1.50x not faster"),
        ] {
            progress.best = best(standing);
            let text = line(&progress);
            assert!(text.contains(&format!(", {short} (step 7), ")), "{text}");
        }
    }

    #[test]
    fn line_fits_its_width_and_cuts_no_word() {
        let mut progress = sample();
        progress.budget = Some(Duration::from_secs(4000));
        progress.best = best(Standing::Faster);
        progress.phase = RunPhase::Confirming {
            number: 2,
            of: 3,
            left: Some(Duration::from_secs(15)),
        };
        let whole = line(&progress);
        let parts: Vec<_> = whole.split(SEPARATOR).collect();
        for width in 10..WIDE {
            let line = progress_line(&progress, Moment::Between, width);
            assert!(line.chars().count() <= width, "{line}");
            assert!(
                line.split(SEPARATOR).all(|part| parts.contains(&part)),
                "{line}"
            );
        }
        assert_eq!(
            progress_line(&progress, Moment::Between, 68),
            "step 20/60, confirming 2 of 3, 15 s left, best 1.50x (step 7)"
        );
    }
}
