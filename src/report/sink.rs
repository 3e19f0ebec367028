//! A run as it happens: one line a task on a terminal, plain lines elsewhere, or every event as JSON.
//!
//! Progress goes to standard error, events to standard output. Never waits, never decides.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::{Observer, Progress, pluralize};
use crate::event::{Cost, Event};
use crate::run::JournalLine;
use crate::search::SearchUpdate;

/// How often a plain line may appear.
const MIN_LINE_INTERVAL: Duration = Duration::from_secs(5);

/// What to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProgressFormat {
    /// Progress for a person.
    Human,
    /// Nothing but complaints.
    Quiet,
    /// Every event as a line of JSON on standard output.
    JsonLines,
}

/// Where a run is shown.
pub(crate) struct ProgressView {
    form: ProgressFormat,
    bar: Option<ProgressBar>,
    last_shown: Option<Instant>,
    /// When it was last said who is waited for; `None` while nobody is.
    last_waiting: Option<Instant>,
}

impl ProgressView {
    pub(crate) fn new(form: ProgressFormat) -> Self {
        Self {
            form,
            bar: None,
            last_shown: None,
            last_waiting: None,
        }
    }

    /// A message for a person, beside the progress.
    pub(crate) fn print(&self, text: &str) {
        if self.form != ProgressFormat::Quiet {
            self.print_always(text);
        }
    }

    /// A message that is shown in every form: something went wrong, or is left to do.
    pub(crate) fn print_always(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| to_stderr(text)),
            None => to_stderr(text),
        }
    }

    /// Leaves the progress line as it stands.
    pub(crate) fn close(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.abandon();
        }
    }

    fn show(&mut self, progress: &Progress, always: bool) {
        if self.form != ProgressFormat::Human {
            return;
        }
        if let Some(bar) = &self.bar {
            bar.set_position(progress.steps);
            bar.set_message(progress_line(progress, LineLength::Short));
        } else if always
            || self
                .last_shown
                .is_none_or(|shown| shown.elapsed() >= MIN_LINE_INTERVAL)
        {
            self.last_shown = Some(Instant::now());
            to_stderr(&format!(
                "{}: {}",
                progress.task,
                progress_line(progress, LineLength::Full)
            ));
        }
    }
}

impl Observer for ProgressView {
    fn started(&mut self, progress: &Progress) {
        if self.form == ProgressFormat::Human && std::io::stderr().is_terminal() {
            self.close();
            let bar = ProgressBar::with_draw_target(
                Some(progress.total),
                ProgressDrawTarget::stderr_with_hz(8),
            );
            let style = ProgressStyle::with_template("{prefix:.bold} {bar:10} {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(progress.task.clone());
            bar.enable_steady_tick(Duration::from_secs(1));
            self.bar = Some(bar);
        }
        self.show(progress, true);
    }

    fn event(&mut self, event: &Event, _changes: &[SearchUpdate], progress: &Progress) {
        match self.form {
            ProgressFormat::JsonLines => to_stdout(&json_line(&progress.task, event)),
            _ => self.show(progress, false),
        }
    }

    fn waiting(&mut self, progress: &Progress) {
        if self.form != ProgressFormat::Human {
            return;
        }
        if let Some(bar) = &self.bar {
            bar.set_message(progress_line(progress, LineLength::Short));
        } else if progress.waiting.is_empty() {
            self.last_waiting = None;
        } else if self
            .last_waiting
            .is_none_or(|waited| waited.elapsed() >= MIN_LINE_INTERVAL)
        {
            self.last_waiting = Some(Instant::now());
            let mut waiting = progress.waiting.clone();
            // Several questions that wait for the same thing.
            waiting.dedup();
            to_stderr(&format!(
                "{}: waiting: {}",
                progress.task,
                waiting.join("; ")
            ));
        }
    }

    fn ended(&mut self, progress: &Progress) {
        self.show(progress, true);
        self.close();
    }
}

/// How much of a line there is room for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LineLength {
    /// Behind a bar, within 80 columns for most tasks.
    Short,
    Full,
}

/// Step, best, validity, rate, remaining time, cells: what matters least stands last, where a narrow terminal cuts.
fn progress_line(progress: &Progress, length: LineLength) -> String {
    let short = length == LineLength::Short;
    let mut parts = vec![match short {
        true => format!("{}/{}", progress.steps, progress.total),
        false => format!("step {}/{}", progress.steps, progress.total),
    }];
    parts.push(match progress.best {
        None => "none passed yet".to_owned(),
        Some(best) if short => format!("best {:.2}x", best.speedup.geomean),
        Some(best) => format!(
            "best {:.2}x (step {}{})",
            best.speedup.geomean,
            best.step,
            if best.confirmed { ", confirmed" } else { "" }
        ),
    });
    if let Some(validity) = progress.validity() {
        parts.push(format!("{:.0} % valid", validity * 100.0));
    }
    let steps = progress.steps.saturating_sub(progress.steps_before);
    let minutes = progress.elapsed.as_secs_f64() / 60.0;
    let rate = (steps > 0 && minutes > 0.0).then(|| steps as f64 / minutes);
    parts.extend(rate.map(|rate| format!("{rate:.0} steps/min")));
    parts.extend(match progress.stopped {
        Some(_) if progress.best.is_none_or(|best| best.confirmed) => Some("done".to_owned()),
        Some(_) => Some("confirming".to_owned()),
        None => rate.map(|rate| format!("{} left", duration_text(seconds_left(progress, rate)))),
    });
    parts.push(pluralize(progress.cells as u64, "cell"));
    parts.extend(
        progress
            .spent
            .filter(|spent| spent.tokens > 0)
            .map(cost_text),
    );
    if let (true, Some(first)) = (short, progress.waiting.first()) {
        parts.insert(1, format!("waiting for {first}"));
    }
    parts.join(", ")
}

/// Until the steps are made or the time is spent, whichever comes first.
fn seconds_left(progress: &Progress, rate: f64) -> f64 {
    let by_steps = progress.total.saturating_sub(progress.steps) as f64 / rate * 60.0;
    let spent = progress.spent_before + progress.elapsed;
    progress.budget.map_or(by_steps, |budget| {
        by_steps.min(budget.saturating_sub(spent).as_secs_f64())
    })
}

/// What models have cost so far.
fn cost_text(spent: Cost) -> String {
    match spent.nano_usd {
        Some(nano) => format!("${:.4}", nano as f64 / 1e9),
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

fn json_line(task: &str, event: &Event) -> String {
    let mut payload = Vec::new();
    let parsed = event
        .write(&mut payload)
        .and_then(|()| serde_json::from_slice(&payload));
    let mut line = json!({"task": task, "event": event.name()});
    if let (Value::Object(line), Ok(Value::Object(payload))) = (&mut line, parsed) {
        line.extend(payload);
    }
    line.to_string()
}

/// Whoever closed the stream does not want to know; the run goes on.
fn to_stderr(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

fn to_stdout(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::StopReason;
    use crate::report::BestCandidate;
    use crate::verdict::Speedup;

    #[test]
    fn progress_line_shows_steps_best_rate_and_time_left() {
        let mut progress = Progress {
            task: "softmax".to_owned(),
            steps: 20,
            steps_before: 10,
            total: 60,
            judged: 18,
            passed: 9,
            cells: 4,
            elapsed: Duration::from_secs(30),
            ..Progress::default()
        };
        assert_eq!(
            progress_line(&progress, LineLength::Full),
            "step 20/60, none passed yet, 50 % valid, 20 steps/min, 2 min 00 s left, 4 cells"
        );
        progress.budget = Some(Duration::from_secs(90));
        progress.spent_before = Duration::from_secs(15);
        assert_eq!(
            progress_line(&progress, LineLength::Short),
            "20/60, none passed yet, 50 % valid, 20 steps/min, 45 s left, 4 cells"
        );
        progress.best = Some(BestCandidate {
            step: 7,
            speedup: Speedup {
                geomean: 1.5,
                ci95: [1.4, 1.6],
            },
            confirmed: true,
        });
        progress.stopped = Some(StopReason::Seconds);
        assert_eq!(
            progress_line(&progress, LineLength::Full),
            "step 20/60, best 1.50x (step 7, confirmed), 50 % valid, 20 steps/min, done, 4 cells"
        );
        assert_eq!(
            progress_line(&Progress::default(), LineLength::Short),
            "0/0, none passed yet, 0 cells"
        );
    }
}
