//! A recorded space while it is measured: a line on a terminal, else a line on standard error every few seconds; and its summary.
//!
//! Decides nothing.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indexmap::IndexMap;
use serde_json::{Value, json};

use super::spinner::Spinner;
use super::streams;
use super::text::pluralize;
use crate::run::{BestPoint, SpaceTally};

/// The time between two lines where standard error is not a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Shows how far a space is.
pub(crate) struct SpaceProgress {
    task: String,
    /// Points of an earlier command.
    before: u64,
    total: u64,
    /// When the first point was asked for.
    started: Instant,
    last_line: Option<Instant>,
    spinner: Spinner,
    is_terminal: bool,
}

impl SpaceProgress {
    /// `before`: points that the file has already; `total`: all of them.
    pub(crate) fn new(task: &str, before: u64, total: u64) -> Self {
        Self {
            task: task.to_owned(),
            before,
            total,
            started: Instant::now(),
            last_line: None,
            spinner: Spinner::new(),
            is_terminal: std::io::stderr().is_terminal(),
        }
    }

    /// The worker starts, and compiles the oracle and the baseline.
    pub(crate) fn starting(&self) {
        let Self {
            task,
            before,
            total,
            ..
        } = self;
        let known = match before {
            0 => String::new(),
            _ => format!(", {before} of them known"),
        };
        let text = format!("{task}: {}{known}", pluralize(*total, "point"));
        if self.is_terminal {
            self.spinner.set_message(&text);
        } else {
            streams::log_to_stderr(format!("{text}\n"));
        }
    }

    /// A point was recorded.
    pub(crate) fn show(&mut self, tally: &SpaceTally) {
        if self.last_line.is_none() {
            self.started = Instant::now();
            self.before = tally.points();
        }
        let text = self.line(tally);
        if self.is_terminal {
            self.last_line = Some(Instant::now());
            self.spinner.update_message(&text);
            return;
        }
        let is_last = tally.points() >= self.total;
        let is_due = |last: Instant| last.elapsed() >= LINE_INTERVAL;
        if is_last || self.last_line.is_none_or(is_due) {
            self.last_line = Some(Instant::now());
            streams::log_to_stderr(format!("{text}\n"));
        }
    }

    fn line(&self, tally: &SpaceTally) -> String {
        let done = tally.points();
        let seconds = self.started.elapsed().as_secs_f64();
        let measured = done.saturating_sub(self.before) as f64;
        let mut text = format!("{}: {done} of {} points", self.task, self.total);
        if measured > 0.0 && seconds > 0.0 {
            let rate = measured / seconds;
            let left = self.total.saturating_sub(done) as f64 / rate;
            text += &format!(", {rate:.1} a second, {} left", minutes(left));
        }
        let faults: u64 = tally.faults.values().sum();
        if faults > 0 {
            text += &format!(", {faults} without a time");
        }
        if let Some(best) = &tally.best {
            text += &format!("; best {}", best_text(best));
        }
        text
    }
}

/// `45 s`, `2 min 5 s`.
fn minutes(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds} s"),
        (minutes, seconds) => format!("{minutes} min {seconds} s"),
    }
}

fn best_text(best: &BestPoint) -> String {
    let values: Vec<String> = best
        .point
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let microseconds = best.time * 1e3;
    format!(
        "{microseconds:.2} us ({:.2}x), {}",
        best.speedup,
        values.join(" ")
    )
}

/// The summary of a file, for people. `reasons`: why the first point of a status has no time, by status.
pub(crate) fn describe_space(tally: &SpaceTally, reasons: &IndexMap<String, String>) -> String {
    let mut text = format!(
        "{}: {} measured\n",
        pluralize(tally.points(), "point"),
        tally.measured
    );
    for (status, count) in &tally.faults {
        let reason = reasons.get(status);
        let reason = reason.map_or_else(String::new, |reason| format!("; {reason}"));
        text += &format!("  {status}: {count}{reason}\n");
    }
    if let Some(best) = &tally.best {
        text += &format!("best: {}\n", best_text(best));
    }
    text
}

/// The summary as JSON.
pub(crate) fn space_json(tally: &SpaceTally, reasons: &IndexMap<String, String>) -> Value {
    let best = tally
        .best
        .as_ref()
        .map(|best| json!({"point": best.point, "time_ms": best.time, "speedup": best.speedup}));
    json!({
        "points": tally.points(),
        "measured": tally.measured,
        "faults": tally.faults,
        "reasons": reasons,
        "best": best,
    })
}
