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
use super::progress::{Progress, Standing};
use super::streams;
use super::text::{message_for_stderr, pluralize};
use crate::event::{Cost, Event};
use crate::search::SearchUpdate;
use crate::verdict::{Duel, Status};

/// Minimum time between two plain lines.
const MIN_LINE_INTERVAL: Duration = Duration::from_secs(5);

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

    /// Prints a message unless the format is `Quiet`.
    pub(crate) fn print(&self, text: &str) {
        if self.format != ProgressFormat::Quiet {
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
            let message = progress_line(progress, LineLength::Short, moment);
            let steps = progress.steps;
            streams::update_bar(move |bar| {
                bar.set_position(steps);
                bar.set_message(message);
            });
        } else if moment != Moment::Between || has_passed(self.last_shown) {
            self.last_shown = Some(Instant::now());
            let line = progress_line(progress, LineLength::Full, moment);
            streams::log_to_stderr(format!("{}: {line}\n", progress.task));
        }
    }
}

/// When a progress line is shown. The first and the last of a task are always shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moment {
    Start,
    Between,
    End,
}

/// Whether `MIN_LINE_INTERVAL` has passed since the last line.
fn has_passed(last: Option<Instant>) -> bool {
    last.is_none_or(|last| last.elapsed() >= MIN_LINE_INTERVAL)
}

impl Observer for ProgressView {
    fn started(&mut self, progress: &Progress) {
        if self.format == ProgressFormat::Human && std::io::stderr().is_terminal() {
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
            let message = progress_line(progress, LineLength::Short, Moment::Between);
            streams::update_bar(move |bar| bar.set_message(message));
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

fn new_bar(task: String, total: u64) -> ProgressBar {
    let target = ProgressDrawTarget::stderr_with_hz(8);
    let bar = ProgressBar::with_draw_target(Some(total), target);
    let style = ProgressStyle::with_template("{prefix:.bold} {bar:10} {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_prefix(task);
    bar.enable_steady_tick(Duration::from_secs(1));
    bar
}

/// How much room a progress line has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LineLength {
    /// Next to a bar, within 80 columns for most tasks.
    Short,
    Full,
}

/// Steps, best, validity, rate, remaining time, cells, cost. The least important comes last, where a narrow terminal cuts the line.
fn progress_line(progress: &Progress, length: LineLength, moment: Moment) -> String {
    let is_short = length == LineLength::Short;
    let steps = format!("{}/{}", progress.steps, progress.total);
    let mut parts = Vec::new();
    if is_short {
        parts.push(steps);
        parts.extend(
            progress
                .waiting
                .first()
                .map(|line| format!("waiting for {line}")),
        );
    } else {
        parts.push(format!("step {steps}"));
    }
    parts.push(best_text(progress, length));
    if let Some(validity) = progress.validity() {
        parts.push(format!("{:.0} % valid", validity * 100.0));
    }
    let new_steps = progress.steps.saturating_sub(progress.steps_before);
    let minutes = progress.elapsed.as_secs_f64() / 60.0;
    let rate = (new_steps > 0 && minutes > 0.0).then(|| new_steps as f64 / minutes);
    parts.extend(rate.map(|rate| format!("{rate:.0} steps/min")));
    parts.extend(match progress.stopped {
        // Work in progress and confirmations follow the stop, so only the last line says that the task is done.
        Some(_) if moment == Moment::End => Some("done".to_owned()),
        Some(_) if progress.to_confirm > 0 => Some("confirming".to_owned()),
        Some(_) => Some("ending".to_owned()),
        None if moment == Moment::End => None,
        None => rate.map(|rate| {
            let left = seconds_left(progress, rate);
            format!("{} left", duration_text(left))
        }),
    });
    parts.push(pluralize(progress.cells as u64, "cell"));
    if !is_short && progress.inconclusive > 0 {
        parts.push(format!("{} inconclusive", progress.inconclusive));
    }
    let spent = progress.spent.filter(|spent| spent.tokens > 0);
    parts.extend(spent.map(cost_text));
    parts.join(", ")
}

fn best_text(progress: &Progress, length: LineLength) -> String {
    let Some(best) = progress.best else {
        return "none passed yet".to_owned();
    };
    let speedup = best.speedup.geomean;
    let figure = if best.standing.is_confirmed() {
        format!("{speedup:.2}x")
    } else {
        provisional(speedup)
    };
    let standing = match best.standing {
        Standing::Faster => "confirmed",
        Standing::NotClear => "not clearly faster",
        Standing::Slower => "slower",
        Standing::TooNoisy => "too noisy",
        Standing::Provisional => "unconfirmed",
    };
    match (length, best.standing) {
        (LineLength::Short, Standing::NotClear | Standing::Slower) => {
            format!("{figure} not faster")
        }
        // The mark of a provisional figure is explained where the run starts.
        (LineLength::Short, Standing::Faster | Standing::Provisional) => format!("best {figure}"),
        (LineLength::Short, _) => format!("{figure} {standing}"),
        (LineLength::Full, _) => format!("best {figure} (step {}, {standing})", best.step),
    }
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
            format!("the confirmation {}{note}", with_interval(speedup))
        }
        (Status::Inconclusive, _) => "the confirmation was too noisy".to_owned(),
        (status, _) => format!("it did not pass again: {status}"),
    };
    Some(format!("step {step}: {searched}{result}"))
}

/// Time until the steps are made or the time budget is spent, whichever comes first.
fn seconds_left(progress: &Progress, steps_per_minute: f64) -> f64 {
    let steps_left = progress.total.saturating_sub(progress.steps);
    let by_steps = steps_left as f64 / steps_per_minute * 60.0;
    let spent = progress.searched_before + progress.elapsed;
    progress.budget.map_or(by_steps, |budget| {
        by_steps.min(budget.saturating_sub(spent).as_secs_f64())
    })
}

/// Dollars, or tokens if a price is unknown.
fn cost_text(spent: Cost) -> String {
    match spent.nano_usd {
        Some(nano) => format!("${:.4}", nano as f64 / 1e9),
        None if spent.estimated => format!("about {} tokens", spent.tokens),
        None => format!("{} tokens", spent.tokens),
    }
}

fn duration_text(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
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
    use crate::report::BestCandidate;
    use crate::verdict::{Speedup, Verdict};

    #[test]
    fn progress_line_shows_steps_best_rate_and_time_left() {
        let mut progress = Progress {
            task: "softmax".to_owned(),
            steps: 20,
            steps_before: 10,
            total: 60,
            judged: 16,
            passed: 9,
            counted: 18,
            cells: 4,
            elapsed: Duration::from_secs(30),
            ..Progress::default()
        };
        assert_eq!(
            progress_line(&progress, LineLength::Full, Moment::Between),
            "step 20/60, none passed yet, 50 % valid, 20 steps/min, 2 min 00 s left, 4 cells"
        );
        progress.budget = Some(Duration::from_secs(90));
        progress.searched_before = Duration::from_secs(15);
        assert_eq!(
            progress_line(&progress, LineLength::Short, Moment::Between),
            "20/60, none passed yet, 50 % valid, 20 steps/min, 45 s left, 4 cells"
        );
        progress.best = Some(BestCandidate {
            step: 7,
            speedup: Speedup {
                geomean: 1.5,
                ci95: [1.4, 1.6],
            },
            standing: Standing::Faster,
        });
        progress.stopped = Some(StopReason::Seconds);
        progress.inconclusive = 2;
        assert_eq!(
            progress_line(&progress, LineLength::Full, Moment::End),
            "step 20/60, best 1.50x (step 7, confirmed), 50 % valid, 20 steps/min, done, 4 cells, 2 inconclusive"
        );
        assert_eq!(
            progress_line(&progress, LineLength::Short, Moment::Between),
            "20/60, best 1.50x, 50 % valid, 20 steps/min, ending, 4 cells"
        );
        progress.to_confirm = 1;
        for (standing, short, full) in [
            (
                Standing::Provisional,
                "best ~1.50x",
                "best ~1.50x (step 7, unconfirmed)",
            ),
            (
                Standing::TooNoisy,
                "~1.50x too noisy",
                "best ~1.50x (step 7, too noisy)",
            ),
            (
                Standing::Slower,
                "1.50x not faster",
                "best 1.50x (step 7, slower)",
            ),
        ] {
            progress.best = progress.best.map(|best| BestCandidate { standing, ..best });
            let line = |length| progress_line(&progress, length, Moment::Between);
            assert_eq!(
                line(LineLength::Short),
                format!("20/60, {short}, 50 % valid, 20 steps/min, confirming, 4 cells")
            );
            let line = line(LineLength::Full);
            assert!(line.contains(&format!(", {full}, ")), "{line}");
        }
        assert_eq!(
            progress_line(&Progress::default(), LineLength::Short, Moment::Start),
            "0/0, none passed yet, 0 cells"
        );
    }

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
            let event = Event::Confirmed(Confirmed { step: 19, verdict });
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
    fn short_progress_line_shows_the_first_waiting_request() {
        let progress = Progress {
            waiting: vec!["a: 9 s (rate limit)".to_owned(), "b".to_owned()],
            ..Progress::default()
        };
        assert_eq!(
            progress_line(&progress, LineLength::Short, Moment::Between),
            "0/0, waiting for a: 9 s (rate limit), none passed yet, 0 cells"
        );
    }

    #[test]
    fn json_line_has_task_event_and_payload() {
        let event = Event::Stopped(Stopped {
            why: StopReason::Steps,
            at: 8,
        });
        assert_eq!(
            json_line("softmax", &event),
            r#"{"task":"softmax","event":"stopped","why":"steps","at":8}"#
        );
    }
}
