//! What a task is doing, from its events and their times: open requests, candidates without a verdict, the rate, the course of the best.
//!
//! A run feeds it with its events, `kforge watch` with the lines of the journal. Reads no clock: the caller gives the times, in
//! milliseconds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::text::{duration_text, pluralize};

/// How far back rates look, in milliseconds.
const RATE_MILLISECONDS: u64 = 300_000;

/// The shortest time that gives a rate, in milliseconds.
const MIN_RATE_MILLISECONDS: u64 = 5_000;

/// How much faster than the last reported best a candidate must be to be reported as an improvement.
const REPORTED_GAIN: f64 = 1.01;

/// What a task is doing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Activity {
    /// When the process that works on the task started.
    started: u64,
    last_event: Option<u64>,
    /// The model and the time of each request without a reply, by step and request.
    requests: BTreeMap<(u64, u32), (String, u64)>,
    /// When each candidate without a verdict was made, by step.
    candidates: BTreeMap<u64, u64>,
    /// Time and device seconds of the steps that ended in the last minutes.
    ended: VecDeque<(u64, f64)>,
    /// The fastest speedup of the search after each step that ended, from the first candidate that passed on.
    course: Vec<f32>,
    /// The last reported best.
    reported: f64,
}

/// A candidate that is clearly faster than the last one that was reported.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Improvement {
    pub(crate) step: u64,
    pub(crate) speedup: f64,
}

impl Activity {
    /// `best`: the fastest speedup that is known already.
    pub(crate) fn new(now: u64, best: Option<f64>) -> Self {
        Self {
            started: now,
            course: best.map(|best| best as f32).into_iter().collect(),
            reported: best.unwrap_or(0.0),
            ..Self::default()
        }
    }

    /// Another process goes on with the task: requests of the last one are lost, and its candidates wait again.
    pub(crate) fn restart(&mut self, now: u64) {
        self.started = now;
        self.last_event = Some(now);
        self.requests.clear();
        self.ended.clear();
        self.candidates.values_mut().for_each(|since| *since = now);
    }

    /// An event was recorded.
    pub(crate) fn note_event(&mut self, now: u64) {
        self.last_event = Some(now);
    }

    pub(crate) fn request_sent(&mut self, step: u64, ask: u32, model: &str, now: u64) {
        self.requests.insert((step, ask), (model.to_owned(), now));
    }

    pub(crate) fn request_ended(&mut self, step: u64, ask: u32) {
        self.requests.remove(&(step, ask));
    }

    pub(crate) fn candidate_made(&mut self, step: u64, now: u64) {
        self.candidates.insert(step, now);
    }

    /// No candidate of the search is judged any more: those without a verdict have none, or a resumed run judges them.
    pub(crate) fn judgements_ended(&mut self) {
        self.candidates.clear();
    }

    /// A step ended. `speedup`: of a candidate that passed. `device_seconds`: how long its judgement held the device.
    pub(crate) fn step_ended(
        &mut self,
        step: u64,
        speedup: Option<f64>,
        device_seconds: f64,
        now: u64,
    ) -> Option<Improvement> {
        self.candidates.remove(&step);
        self.ended.push_back((now, device_seconds));
        self.forget_old(now);
        let best = self.course.last().copied();
        let speedup = speedup.filter(|speedup| speedup.is_finite());
        let now_best = match (best, speedup) {
            (Some(best), Some(speedup)) => Some(best.max(speedup as f32)),
            (best, speedup) => best.or(speedup.map(|speedup| speedup as f32)),
        };
        self.course.extend(now_best);
        let speedup = speedup.filter(|speedup| *speedup > self.reported * REPORTED_GAIN)?;
        self.reported = speedup;
        Some(Improvement { step, speedup })
    }

    /// Steps that no longer count for a rate are dropped.
    fn forget_old(&mut self, now: u64) {
        let start = now.saturating_sub(RATE_MILLISECONDS);
        while self.ended.front().is_some_and(|(time, _)| *time < start) {
            self.ended.pop_front();
        }
    }

    /// The time that rates are about, in seconds. `None` if it is too short.
    fn rate_seconds(&self, now: u64) -> Option<f64> {
        let milliseconds = now.saturating_sub(self.started).min(RATE_MILLISECONDS);
        (milliseconds >= MIN_RATE_MILLISECONDS).then_some(milliseconds as f64 / 1000.0)
    }

    /// Steps a minute, in the last minutes. `None` before the first step of this process.
    pub(crate) fn steps_per_minute(&self, now: u64) -> Option<f64> {
        let seconds = self.rate_seconds(now).filter(|_| !self.ended.is_empty())?;
        let start = now.saturating_sub(RATE_MILLISECONDS);
        let recent = self.ended.iter().filter(|(time, _)| *time >= start);
        Some(recent.count() as f64 * 60.0 / seconds)
    }

    /// The share of their time in which the workers held the device, in the last minutes. From 0 to 1.
    pub(crate) fn device_share(&self, workers: usize, now: u64) -> Option<f64> {
        let seconds = self.rate_seconds(now)?;
        let start = now.saturating_sub(RATE_MILLISECONDS);
        let recent = self.ended.iter().filter(|(time, _)| *time >= start);
        let held: f64 = recent.map(|(_, device)| device).sum();
        (held > 0.0).then(|| (held / (seconds * workers.max(1) as f64)).min(1.0))
    }

    /// The fastest speedup of the search after each step.
    pub(crate) fn course(&self) -> &[f32] {
        &self.course
    }

    /// The time since the last event.
    pub(crate) fn quiet(&self, now: u64) -> Option<Duration> {
        let last = self.last_event?;
        Some(Duration::from_millis(now.saturating_sub(last)))
    }

    /// The models that have not replied to a request, each once.
    pub(crate) fn awaited_models(&self) -> BTreeSet<&str> {
        let models = self.requests.values();
        models.map(|(model, _)| model.as_str()).collect()
    }

    /// What the task waits for, and for how long: a text for each model, and one for the verdicts.
    pub(crate) fn waits(&self, now: u64) -> Vec<String> {
        let mut models: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for (model, since) in self.requests.values() {
            let (count, oldest) = models.entry(model).or_insert((0, *since));
            *count += 1;
            *oldest = (*oldest).min(*since);
        }
        let mut waits: Vec<_> = models
            .into_iter()
            .map(|(model, (count, since))| wait_text(model, since, now, (count, "request")))
            .collect();
        if let Some(since) = self.candidates.values().min() {
            let count = self.candidates.len() as u64;
            waits.push(wait_text("verdicts", *since, now, (count, "candidate")));
        }
        waits
    }
}

/// `anthropic for 34 s (2 requests)`
fn wait_text(what: &str, since: u64, now: u64, (count, noun): (u64, &str)) -> String {
    let seconds = now.saturating_sub(since) as f64 / 1000.0;
    format!(
        "{what} for {} ({})",
        duration_text(seconds),
        pluralize(count, noun)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_name_models_and_verdicts_with_the_oldest_time() {
        let mut activity = Activity::new(0, None);
        assert!(activity.waits(5_000).is_empty());
        activity.request_sent(3, 1, "anthropic", 10_000);
        activity.request_sent(4, 1, "anthropic", 20_000);
        activity.request_sent(5, 1, "local", 40_000);
        activity.candidate_made(1, 41_000);
        assert_eq!(
            activity.waits(44_000),
            [
                "anthropic for 34 s (2 requests)",
                "local for 4 s (1 request)",
                "verdicts for 3 s (1 candidate)"
            ]
        );
        assert_eq!(
            activity.awaited_models(),
            BTreeSet::from(["anthropic", "local"])
        );
        activity.request_ended(3, 1);
        activity.step_ended(1, None, 0.0, 50_000);
        assert_eq!(
            activity.waits(140_000),
            [
                "anthropic for 2 min 00 s (1 request)",
                "local for 1 min 40 s (1 request)"
            ]
        );
        activity.candidate_made(8, 140_000);
        activity.judgements_ended();
        assert_eq!(activity.waits(140_000).len(), 2);
        activity.candidate_made(9, 140_000);
        activity.restart(200_000);
        assert_eq!(
            activity.waits(201_000),
            ["verdicts for 1 s (1 candidate)"],
            "a new process sends its own requests"
        );
    }

    #[test]
    fn rates_are_those_of_the_last_minutes() {
        let mut activity = Activity::new(0, None);
        assert_eq!(activity.steps_per_minute(60_000), None);
        for step in 1..=10 {
            activity.step_ended(step, None, 3.0, step * 6_000);
        }
        assert_eq!(activity.steps_per_minute(60_000), Some(10.0));
        assert_eq!(activity.device_share(2, 60_000), Some(0.25));
        // Nothing has ended in the last five minutes.
        assert_eq!(activity.steps_per_minute(400_000), Some(0.0));
        assert_eq!(activity.device_share(2, 400_000), None);
        assert_eq!(activity.quiet(9), None);
        activity.note_event(60_000);
        assert_eq!(activity.quiet(400_000), Some(Duration::from_secs(340)));
    }

    #[test]
    fn course_never_falls_and_only_clear_gains_are_improvements() {
        let mut activity = Activity::new(0, None);
        let speedups = [None, Some(1.0), Some(0.5), None, Some(1.005), Some(2.0)];
        let improved = speedups.iter().zip(1..).filter_map(|(speedup, step)| {
            activity
                .step_ended(step, *speedup, 0.0, step)
                .map(|one| one.step)
        });
        assert_eq!(improved.collect::<Vec<_>>(), [2, 6]);
        assert_eq!(activity.course(), [1.0, 1.0, 1.0, 1.005, 2.0]);
        let mut resumed = Activity::new(0, Some(2.0));
        assert_eq!(resumed.step_ended(7, Some(1.9), 0.0, 1), None);
        assert_eq!(resumed.course(), [2.0, 2.0]);
    }
}
