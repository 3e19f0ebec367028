//! Adds up where the wall time of a judgement goes: by phase, such as timing, and by stage within it, such as filling buffers.
//!
//! Every moment counts once: a stage within a stage belongs to the outer one, and what no stage covers is the phase's `other`.
//! Waiting for locks belongs to no phase. Always on; a stage costs less than a microsecond. Prints nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indexmap::IndexMap;

use crate::device::{Build, Compiled, LaunchOutcome};
use crate::verdict::Seconds;

/// The part of the time that a judgement waits for other kforge processes.
const LOCK_WAITS: &str = "wait for locks";
/// Parts that are shorter are left out of a verdict.
const SHORTEST_PART: f64 = 0.000_5;
/// Parts are rounded to this fraction of a second: a journal holds many verdicts.
const DIGITS: f64 = 10_000.0;

/// A phase of a judgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    Compile,
    Screen,
    Check,
    Inspect,
    Timing,
}

impl Phase {
    /// Its name in the names of parts.
    fn name(self) -> &'static str {
        match self {
            Self::Compile => "compile",
            Self::Screen => "screen",
            Self::Check => "check",
            Self::Inspect => "inspect",
            Self::Timing => "timing",
        }
    }
}

/// The times of one judgement. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct StageTimes(Arc<Mutex<Recorded>>);

#[derive(Debug, Default)]
struct Recorded {
    phase: Option<Phase>,
    /// Number of open stages; only the outermost counts.
    depth: usize,
    /// Time of the closed stages and lock waits of the open phase.
    covered: Duration,
    /// Seconds by phase, without lock waits.
    phases: IndexMap<Phase, f64>,
    parts: IndexMap<String, f64>,
}

impl Recorded {
    fn add(&mut self, part: String, time: Duration) {
        *self.parts.entry(part).or_default() += time.as_secs_f64();
    }

    fn add_to_phase(&mut self, name: &str, time: Duration) {
        let part = match self.phase {
            Some(phase) => format!("{} {name}", phase.name()),
            None => name.to_owned(),
        };
        self.add(part, time);
    }
}

impl StageTimes {
    /// Starts a phase. It lasts until the result is dropped. A phase within a phase belongs to the outer one.
    pub(super) fn phase(&self, phase: Phase) -> OpenPhase<'_> {
        let mut recorded = self.lock();
        let is_outermost = recorded.phase.is_none();
        if is_outermost {
            recorded.phase = Some(phase);
            recorded.covered = Duration::ZERO;
        }
        OpenPhase {
            times: self,
            phase: is_outermost.then_some(phase),
            started: Instant::now(),
            waited_before: recorded.waits(),
        }
    }

    /// Starts a stage of the phase. It lasts until the result is dropped.
    pub(super) fn stage(&self, name: &'static str) -> OpenStage {
        let mut recorded = self.lock();
        recorded.depth += 1;
        OpenStage {
            times: self.clone(),
            is_outermost: recorded.depth == 1,
            name,
            started: Instant::now(),
        }
    }

    /// Adds a stage of the phase that was timed by other means, unless it is within another stage.
    pub(super) fn add(&self, name: &str, time: Duration) {
        let mut recorded = self.lock();
        if recorded.depth == 0 {
            recorded.covered += time;
            recorded.add_to_phase(name, time);
        }
    }

    /// Adds the time that compiling a build took, in any phase.
    pub(super) fn add_build(&self, build: Build, time: Duration) {
        let mut recorded = self.lock();
        if recorded.depth == 0 {
            recorded.covered += time;
            recorded.add(format!("compile {}", build.name()), time);
        }
    }

    /// Adds the time of compiling several builds at once, divided between them.
    pub(super) fn add_builds(&self, compiled: &[Compiled], time: Duration) {
        let programs = compiled.iter().filter_map(|compiled| match compiled {
            Compiled::Ready(program) => Some(program),
            Compiled::Refused(_) => None,
        });
        let programs: Vec<_> = programs.collect();
        let total: f64 = programs.iter().map(|program| program.compile_seconds).sum();
        for program in programs {
            let share = program.compile_seconds / total.max(f64::MIN_POSITIVE);
            self.add_build(program.build, time.mul_f64(share));
        }
    }

    /// Adds a launch of `runs` runs. What the device does before and after the clock is a part of its own: on the CPU it restores the
    /// memory of the process. `host`: what it did, as far as the device says.
    pub(super) fn add_launch(
        &self,
        outcome: &LaunchOutcome,
        runs: usize,
        elapsed: Duration,
        host: &[(&'static str, Duration)],
    ) {
        let time = match outcome {
            LaunchOutcome::Finished { time } => elapsed.min(*time * runs as u32),
            LaunchOutcome::Fault(_) => elapsed,
        };
        self.add("launch", time);
        let mut around = elapsed - time;
        for (name, time) in host {
            let time = around.min(*time);
            self.add(&format!("around launches, {name}"), time);
            around -= time;
        }
        self.add("around launches", around);
    }

    /// Adds time that was spent waiting for a lock.
    pub(super) fn add_wait(&self, time: Duration) {
        let mut recorded = self.lock();
        recorded.covered += time;
        recorded.add(LOCK_WAITS.to_owned(), time);
    }

    /// Forgets everything: a new judgement begins.
    pub(super) fn clear(&self) {
        *self.lock() = Recorded::default();
    }

    /// Writes the seconds of each phase, and all parts, the largest first.
    pub(super) fn write_to(&self, seconds: &mut Seconds) {
        let recorded = self.lock();
        let phase = |phase| recorded.phases.get(&phase).copied().unwrap_or_default();
        seconds.compile = phase(Phase::Compile);
        seconds.check = phase(Phase::Check);
        seconds.inspect = phase(Phase::Inspect);
        seconds.measure = phase(Phase::Timing);
        seconds.screen = phase(Phase::Screen);
        let parts = recorded.parts.iter();
        let mut parts: Vec<_> = parts
            .filter(|(_, seconds)| **seconds >= SHORTEST_PART)
            .map(|(name, seconds)| (name.clone(), (seconds * DIGITS).round() / DIGITS))
            .collect();
        parts.sort_by(|(_, first), (_, second)| second.total_cmp(first));
        seconds.parts = parts.into_iter().collect();
    }

    fn lock(&self) -> MutexGuard<'_, Recorded> {
        // A number that a panicked thread has left is still a time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recorded {
    fn waits(&self) -> f64 {
        self.parts.get(LOCK_WAITS).copied().unwrap_or_default()
    }
}

/// The name of a run of an inspected build: each kind of schedule is a part.
pub(super) fn run_name(build: Build, schedule: u64) -> &'static str {
    match (build, schedule) {
        (Build::Race, 0) => "race, schedule 0",
        (Build::Race, 1) => "race, schedule 1",
        (Build::Race, 2) => "race, schedule 2",
        (Build::Race, _) => "race, schedule 3",
        _ => "bounds",
    }
}

/// A phase that is under way.
#[must_use = "a phase ends when this is dropped"]
pub(super) struct OpenPhase<'t> {
    times: &'t StageTimes,
    /// `None` within another phase.
    phase: Option<Phase>,
    started: Instant,
    waited_before: f64,
}

impl Drop for OpenPhase<'_> {
    fn drop(&mut self) {
        let Some(phase) = self.phase else { return };
        let elapsed = self.started.elapsed();
        let mut recorded = self.times.lock();
        let waited = recorded.waits() - self.waited_before;
        let seconds = (elapsed.as_secs_f64() - waited).max(0.0);
        *recorded.phases.entry(phase).or_default() += seconds;
        let other = elapsed.saturating_sub(recorded.covered);
        recorded.add_to_phase("other", other);
        recorded.phase = None;
    }
}

/// A stage that is under way.
#[must_use = "a stage ends when this is dropped"]
pub(super) struct OpenStage {
    times: StageTimes,
    /// Not within another stage.
    is_outermost: bool,
    name: &'static str,
    started: Instant,
}

impl Drop for OpenStage {
    fn drop(&mut self) {
        let mut recorded = self.times.lock();
        recorded.depth = recorded.depth.saturating_sub(1);
        drop(recorded);
        if self.is_outermost {
            self.times.add(self.name, self.started.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleep(milliseconds: u64) {
        std::thread::sleep(Duration::from_millis(milliseconds));
    }

    #[test]
    fn every_moment_counts_once_and_waits_are_no_part_of_a_phase() {
        let times = StageTimes::default();
        let started = Instant::now();
        {
            let _phase = times.phase(Phase::Check);
            {
                let _stage = times.stage("oracle");
                let _inner = times.stage("fill");
                sleep(20);
            }
            sleep(10);
            let waiting = Instant::now();
            sleep(30);
            times.add_wait(waiting.elapsed());
            let _inner = times.phase(Phase::Compile);
        }
        let wall = started.elapsed().as_secs_f64();
        let mut seconds = Seconds::default();
        times.write_to(&mut seconds);
        let mut names: Vec<_> = seconds.parts.keys().map(String::as_str).collect();
        let parts: Vec<_> = seconds.parts.values().copied().collect();
        assert!(parts.is_sorted_by(|first, second| first >= second));
        names.sort_unstable();
        assert_eq!(names, ["check oracle", "check other", LOCK_WAITS]);
        let sum: f64 = seconds.parts.values().sum();
        assert!((sum - wall).abs() < 0.005, "{sum} of {wall}");
        let phase = seconds.check + seconds.parts[LOCK_WAITS];
        assert!((phase - wall).abs() < 0.005, "{phase} of {wall}");
        assert_eq!((seconds.compile, seconds.measure), (0.0, 0.0));
        times.clear();
        times.write_to(&mut seconds);
        assert!(seconds.parts.is_empty() && seconds.check == 0.0);
    }

    #[test]
    fn parts_of_a_phase_that_runs_twice_add_up() {
        let times = StageTimes::default();
        for _ in 0..2 {
            let _phase = times.phase(Phase::Timing);
            times.add("launch", Duration::from_secs(1));
            times.add_build(Build::Fast, Duration::from_secs(2));
        }
        let mut seconds = Seconds::default();
        times.write_to(&mut seconds);
        assert_eq!(seconds.parts["timing launch"], 2.0);
        assert_eq!(seconds.parts["compile fast"], 4.0);
    }
}
