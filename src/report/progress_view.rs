//! A run while it happens: a live view on a terminal, plain lines elsewhere, or every event as a line of JSON.
//!
//! Progress goes to standard error, events to standard output, both through `streams`: a reader that reads nothing does not hold up
//! the run. Never waits and never decides.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::activity::{Activity, Improvement};
use super::headline::{provisional, with_interval};
use super::live_block::{LiveTask, live_block};
use super::observer::Observer;
use super::progress::{Progress, RunPhase, Standing};
use super::progress_line::{Moment, phase, progress_line};
use super::streams;
use super::text::{TERMINAL_WIDTH, message_for_stderr};
use crate::event::{Event, Failed, StrongestCompared};
use crate::run::now_milliseconds;
use crate::search::SearchUpdate;
use crate::verdict::{Duel, Status, VerdictSummary};

/// Minimum time between two plain lines about the same.
const MIN_LINE_INTERVAL: Duration = Duration::from_secs(60);

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
    /// How many candidates are judged at once.
    workers: usize,
    /// The live view is on the terminal.
    has_block: bool,
    activity: Activity,
    last_shown: Option<Instant>,
    /// The phase of the last plain line, without its remaining time.
    last_phase: Option<String>,
    /// When the waiting requests were last shown. `None` if none is waiting.
    last_waiting: Option<Instant>,
}

impl ProgressView {
    /// `workers`: how many candidates are judged at once.
    pub(crate) fn new(format: ProgressFormat, workers: usize) -> Self {
        Self {
            format,
            workers,
            has_block: false,
            activity: Activity::default(),
            last_shown: None,
            last_phase: None,
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

    /// Leaves the live view on the screen as it is.
    pub(crate) fn close(&mut self) {
        if std::mem::take(&mut self.has_block) {
            streams::close_block();
        }
    }

    fn show(&mut self, progress: &Progress, moment: Moment) {
        if self.format != ProgressFormat::Human {
            return;
        }
        if self.has_block {
            if matches!(
                progress.phase,
                RunPhase::Confirming { .. }
                    | RunPhase::ComparingStrongest { .. }
                    | RunPhase::Comparing { .. }
            ) {
                self.activity.judgements_ended();
            }
            let task = self.live_task(progress, moment);
            let has_colour = console::colors_enabled_stderr();
            streams::show_block(move |size| live_block(&task, size, has_colour));
            return;
        }
        let (phase, _) = phase(progress, moment);
        let is_new_phase = phase != self.last_phase;
        if moment != Moment::Between || is_new_phase || has_passed(self.last_shown) {
            self.last_shown = Some(Instant::now());
            self.last_phase = phase;
            let width = TERMINAL_WIDTH.saturating_sub(progress.task.chars().count() + 2);
            let line = progress_line(progress, moment, width);
            streams::log_to_stderr(format!("{}: {line}\n", progress.task));
        }
    }

    /// The figures of the live view.
    fn live_task(&self, progress: &Progress, moment: Moment) -> LiveTask {
        let now = now_milliseconds();
        let (phase, left) = phase(progress, moment);
        let is_over = moment == Moment::End;
        let is_searching = progress.phase == RunPhase::Searching && !is_over;
        let mut waits = progress.waiting.clone();
        // Several requests may wait for the same reason.
        waits.dedup();
        waits.extend(self.activity.waits(now));
        let activity = Some(&self.activity);
        let activity = activity.filter(|_| is_searching);
        LiveTask {
            task: progress.task.clone(),
            doing: phase.unwrap_or_default(),
            steps: progress.steps,
            total: progress.total,
            left,
            best: progress.best,
            baseline: progress.baseline.clone(),
            course: self.activity.course().to_vec(),
            cells: (progress.cells, progress.all_cells),
            validity: progress.validity(),
            steps_per_minute: activity.and_then(|activity| activity.steps_per_minute(now)),
            spent: progress.spent,
            device: activity
                .and_then(|activity| activity.device_share(self.workers, now))
                .map(|share| (share, self.workers)),
            device_budget: progress
                .device_budget
                .map(|budget| (progress.time.device, budget.as_secs_f64())),
            waits: if is_over { Vec::new() } else { waits },
            quiet: self.activity.quiet(now).filter(|_| !is_over),
        }
    }

    /// Shows an improvement: on a terminal as a line above the live view, elsewhere by the next progress line, which is due now.
    fn show_improvement(&mut self, improvement: Improvement, progress: &Progress) {
        if !self.has_block {
            self.last_shown = None;
            return;
        }
        let Improvement { step, speedup } = improvement;
        let figure = provisional(speedup);
        let line = format!(
            "{}: step {step}: {figure}, the fastest so far",
            progress.task
        );
        streams::log_to_stderr(message_for_stderr(&line));
    }
}

/// Whether `MIN_LINE_INTERVAL` has passed since the last line.
fn has_passed(last: Option<Instant>) -> bool {
    last.is_none_or(|last| last.elapsed() >= MIN_LINE_INTERVAL)
}

/// Whether a block can be drawn on standard error: it is a terminal that knows escape codes, and `--quiet` is not given.
fn can_draw() -> bool {
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    std::io::stderr().is_terminal() && !is_dumb && !streams::is_quiet()
}

/// Adds an event to what the task is doing.
fn note(activity: &mut Activity, event: &Event, now: u64) -> Option<Improvement> {
    activity.note_event(now);
    match event {
        Event::Sent(sent) => activity.request_sent(sent.step, sent.ask, &sent.model, now),
        Event::Replied(replied) => activity.request_ended(replied.step, replied.ask),
        Event::Proposed(proposed) => activity.candidate_made(proposed.step, now),
        Event::Failed(Failed { step, seconds, .. }) => {
            let device = seconds.map_or(0.0, |seconds| seconds.device);
            return activity.step_ended(*step, None, device, now);
        }
        Event::Judged(judged) => {
            let verdict = &judged.verdict;
            let summary = VerdictSummary::from(verdict);
            let speedup = summary.passed_speedup().filter(|_| !summary.is_dismissed());
            let speedup = speedup.map(|speedup| speedup.geomean);
            return activity.step_ended(judged.step, speedup, verdict.seconds.device, now);
        }
        _ => {}
    }
    None
}

impl Observer for ProgressView {
    fn started(&mut self, progress: &Progress) {
        self.close();
        let best = progress.best.map(|best| best.speedup.geomean);
        self.activity = Activity::new(now_milliseconds(), best);
        self.has_block = self.format == ProgressFormat::Human && can_draw();
        self.last_phase = None;
        self.show(progress, Moment::Start);
    }

    fn event(&mut self, event: &Event, updates: &[SearchUpdate], progress: &Progress) {
        if self.format == ProgressFormat::JsonLines {
            streams::line_to_stdout(json_line(&progress.task, event));
            return;
        }
        if self.format != ProgressFormat::Human {
            return;
        }
        if let Some(improvement) = note(&mut self.activity, event, now_milliseconds()) {
            self.show_improvement(improvement, progress);
        }
        if let Some(text) = measured_again_text(event, updates, progress) {
            let line = format!("{}: {text}", progress.task);
            streams::log_to_stderr(message_for_stderr(&line));
        }
        self.show(progress, Moment::Between);
    }

    fn waiting(&mut self, progress: &Progress) {
        self.show(progress, Moment::Between);
        if self.format != ProgressFormat::Human || self.has_block {
            return;
        }
        if progress.waiting.is_empty() {
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

/// The best kernel beside the strongest of the baselines that it was timed against, or why there is no figure.
fn strongest_text(compared: &StrongestCompared) -> String {
    let result = match compared.strongest() {
        Some(strongest) => format!(
            "against `{}`, in pairs: {}",
            strongest.label(),
            with_interval(&strongest.speedup)
        ),
        None => {
            let mut reasons = compared.entries.iter().filter_map(|entry| {
                let reason = entry.reason.as_ref()?;
                Some(format!("{}: {reason}", entry.name))
            });
            let reason = compared.reason.clone().or_else(|| reasons.next());
            let reason = reason.unwrap_or_else(|| "none works here".to_owned());
            format!("against no other baseline: {reason}")
        }
    };
    format!("step {} {result}", compared.step)
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
        Event::StrongestCompared(compared) => return Some(strongest_text(compared)),
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
