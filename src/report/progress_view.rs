//! A run while it happens: one progress line per task on a terminal, plain lines elsewhere, or every event as a line of JSON.
//!
//! Progress goes to standard error, events to standard output, both through `streams`: a reader that reads nothing does not hold up
//! the run. Never waits and never decides.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::headline::{provisional, with_interval};
use super::observer::Observer;
use super::progress::{Progress, RunPhase, Standing};
use super::progress_line::{LineLength, Moment, progress_line};
use super::streams;
use super::text::{TERMINAL_WIDTH, message_for_stderr, terminal_columns};
use crate::event::Event;
use crate::search::SearchUpdate;
use crate::verdict::{Duel, Status};

/// Minimum time between two plain lines.
const MIN_LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Width of the bar.
const BAR_COLUMNS: usize = 10;

/// What to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProgressFormat {
    /// Progress lines for a person.
    Human,
    /// Only problems and what is left to do.
    Quiet,
    /// Every event as a line of JSON on standard output.
    JsonLines,
}

/// Shows a run.
pub(crate) struct ProgressView {
    format: ProgressFormat,
    /// A bar is on the terminal.
    has_bar: bool,
    last_shown: Option<Instant>,
    /// When the waiting requests were last shown. `None` if none is waiting.
    last_waiting: Option<Instant>,
}

impl ProgressView {
    pub(crate) fn new(format: ProgressFormat) -> Self {
        Self {
            format,
            has_bar: false,
            last_shown: None,
            last_waiting: None,
        }
    }

    /// Prints a message unless the format is `Quiet`, or with `--quiet`.
    pub(crate) fn print(&self, text: &str) {
        if self.format != ProgressFormat::Quiet && !streams::is_quiet() {
            streams::print_to_stderr(message_for_stderr(text));
        }
    }

    /// Prints a message in every format: a problem, or something that is left to do.
    pub(crate) fn print_always(&self, text: &str) {
        streams::print_to_stderr(format!("{text}\n"));
    }

    /// Leaves the progress line on the screen as it is.
    pub(crate) fn close(&mut self) {
        if std::mem::take(&mut self.has_bar) {
            streams::close_bar();
        }
    }

    fn show(&mut self, progress: &Progress, moment: Moment) {
        if self.format != ProgressFormat::Human {
            return;
        }
        if self.has_bar {
            let message = bar_message(progress, moment);
            let steps = progress.steps;
            streams::update_bar(move |bar| {
                bar.set_position(steps);
                bar.set_message(message);
            });
        } else if moment != Moment::Between || has_passed(self.last_shown) {
            self.last_shown = Some(Instant::now());
            let width = TERMINAL_WIDTH.saturating_sub(progress.task.chars().count() + 2);
            let line = progress_line(progress, LineLength::Full, moment, width);
            streams::log_to_stderr(format!("{}: {line}\n", progress.task));
        }
    }
}

/// Whether `MIN_LINE_INTERVAL` has passed since the last line.
fn has_passed(last: Option<Instant>) -> bool {
    last.is_none_or(|last| last.elapsed() >= MIN_LINE_INTERVAL)
}

impl Observer for ProgressView {
    fn started(&mut self, progress: &Progress) {
        if self.format == ProgressFormat::Human
            && std::io::stderr().is_terminal()
            && !streams::is_quiet()
        {
            self.close();
            let (task, total) = (progress.task.clone(), progress.total);
            streams::open_bar(move || new_bar(task, total));
            self.has_bar = true;
        }
        self.show(progress, Moment::Start);
    }

    fn event(&mut self, event: &Event, updates: &[SearchUpdate], progress: &Progress) {
        if self.format == ProgressFormat::JsonLines {
            streams::line_to_stdout(json_line(&progress.task, event));
            return;
        }
        if self.format == ProgressFormat::Human
            && let Some(text) = measured_again_text(event, updates, progress)
        {
            let line = format!("{}: {text}", progress.task);
            streams::log_to_stderr(message_for_stderr(&line));
        }
        self.show(progress, Moment::Between);
    }

    fn waiting(&mut self, progress: &Progress) {
        if self.format != ProgressFormat::Human {
            return;
        }
        if self.has_bar {
            let message = bar_message(progress, Moment::Between);
            streams::update_bar(move |bar| bar.set_message(message));
        } else if matches!(
            progress.phase,
            RunPhase::Confirming { .. } | RunPhase::Comparing { .. }
        ) {
            self.show(progress, Moment::Between);
        } else if progress.waiting.is_empty() {
            self.last_waiting = None;
        } else if has_passed(self.last_waiting) {
            self.last_waiting = Some(Instant::now());
            let mut waiting = progress.waiting.clone();
            // Several requests may wait for the same reason.
            waiting.dedup();
            streams::log_to_stderr(format!(
                "{}: waiting: {}\n",
                progress.task,
                waiting.join("; ")
            ));
        }
    }

    fn ended(&mut self, progress: &Progress) {
        self.show(progress, Moment::End);
        self.close();
    }
}

/// What is written next to the bar, in the columns that are left there.
fn bar_message(progress: &Progress, moment: Moment) -> String {
    let columns = terminal_columns().unwrap_or(TERMINAL_WIDTH);
    // The task's name, the bar, a space after each, and the last column, which some terminals wrap.
    let used = progress.task.chars().count() + 1 + BAR_COLUMNS + 1 + 1;
    let width = columns.saturating_sub(used);
    progress_line(progress, LineLength::Short, moment, width)
}

fn new_bar(task: String, total: u64) -> ProgressBar {
    let target = ProgressDrawTarget::stderr_with_hz(8);
    let bar = ProgressBar::with_draw_target(Some(total), target);
    let style = ProgressStyle::with_template(&format!(
        "{{prefix:.bold}} {{bar:{BAR_COLUMNS}}} {{wide_msg}}"
    ));
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_prefix(task);
    bar.enable_steady_tick(Duration::from_secs(1));
    bar
}

/// What a confirmation or a comparison has changed: the figure of the search and the new one. `None` for other events.
fn measured_again_text(
    event: &Event,
    updates: &[SearchUpdate],
    progress: &Progress,
) -> Option<String> {
    let confirmed = match event {
        Event::Confirmed(confirmed) => confirmed,
        Event::Compared(compared) => {
            let name = &progress.comparison.as_ref()?.kernel;
            let result = match &compared.duel {
                Some(Duel { ratio, ci95 }) => {
                    format!("{ratio:.3}x [{:.3}, {:.3}]", ci95[0], ci95[1])
                }
                None => "no precise result".to_owned(),
            };
            let step = compared.step;
            return Some(format!("step {step} against {name}, in pairs: {result}"));
        }
        _ => return None,
    };
    let mut updates = updates.iter();
    let searched = updates.find_map(|update| match update {
        SearchUpdate::Confirmed { searched, .. } => *searched,
        _ => None,
    });
    let searched = searched.map_or_else(String::new, |searched| {
        format!("the search said {}, ", provisional(searched.geomean))
    });
    let (step, verdict) = (confirmed.step, &confirmed.verdict);
    let result = match (verdict.status, &verdict.speedup) {
        (Status::Passed, Some(speedup)) => {
            let note = match Standing::of_confirmed(speedup) {
                Standing::Slower => ": slower than the baseline",
                Standing::NotClear => ": not clearly faster than the baseline",
                _ => "",
            };
            let short = match &verdict.not_done[..] {
                [] => String::new(),
                missing => format!(" (time was short: without {})", missing.join(", ")),
            };
            format!("the confirmation {}{note}{short}", with_interval(speedup))
        }
        (Status::Inconclusive, _) => "the confirmation was too noisy".to_owned(),
        (status, _) => format!("it did not pass again: {status}"),
    };
    Some(format!("step {step}: {searched}{result}"))
}

/// An event as one line of JSON: task, name of the event, step, then its payload.
fn json_line(task: &str, event: &Event) -> String {
    let mut line = json!({"task": task, "event": event.name()});
    if let Some(step) = event.step() {
        line["step"] = json!(step);
    }
    if let (Value::Object(line), Ok(Value::Object(payload))) =
        (&mut line, serde_json::to_value(event))
    {
        line.extend(payload);
    }
    line.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Confirmed, StopReason, Stopped};
    use crate::verdict::{Speedup, Verdict};

    #[test]
    fn a_confirmation_says_what_the_search_had_said() {
        let progress = Progress::default();
        let text = |status, speedup: Option<[f64; 3]>| {
            let verdict = Verdict {
                status,
                speedup: speedup.map(|[low, geomean, high]| Speedup {
                    geomean,
                    ci95: [low, high],
                }),
                ..Verdict::harness_error("softmax", "", "cpu", String::new())
            };
            let update = SearchUpdate::Confirmed {
                step: 19,
                passed: speedup.is_some(),
                searched: Some(Speedup {
                    geomean: 2.39,
                    ci95: [2.3, 2.5],
                }),
            };
            let event = Event::Confirmed(Confirmed {
                step: 19,
                verdict,
                seconds: None,
            });
            measured_again_text(&event, &[update], &progress).unwrap()
        };
        assert_eq!(
            text(Status::Passed, Some([1.4, 1.43, 1.46])),
            "step 19: the search said ~2.39x, the confirmation 1.430x [1.400, 1.460]"
        );
        assert_eq!(
            text(Status::Passed, Some([0.931, 1.01, 1.116])),
            "step 19: the search said ~2.39x, the confirmation 1.010x [0.931, 1.116]: not clearly faster than the baseline"
        );
        assert_eq!(
            text(Status::Inconclusive, None),
            "step 19: the search said ~2.39x, the confirmation was too noisy"
        );
        assert_eq!(
            text(Status::Race, None),
            "step 19: the search said ~2.39x, it did not pass again: race"
        );
    }

    #[test]
    fn json_line_has_task_event_and_payload() {
        let event = Event::Stopped(Stopped {
            why: StopReason::Steps,
            at: 8,
            limit: None,
        });
        assert_eq!(
            json_line("softmax", &event),
            r#"{"task":"softmax","event":"stopped","why":"steps","at":8}"#
        );
    }
}
