//! One door for each server, shared by all questions to it: it stays shut for as long as the server asks for, and after several
//! failures in a row it opens for one question alone.
//!
//! Knows times, not requests.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row after which a server is taken to be down.
const TRIP: u32 = 5;

/// How long it is left alone then; doubled with every further failure.
const REST: Duration = Duration::from_secs(10);
const LONGEST_REST: Duration = Duration::from_secs(60);

/// How long to look away while another question finds out whether the server is back.
const GLANCE: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
pub(super) struct Gate(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    shut_until: Option<Instant>,
    why: String,
    failures: u32,
    /// Whether a question is under way that finds out.
    is_probed: bool,
}

/// What the door says.
pub(super) enum Entry<'a> {
    Open(Pass<'a>),
    Shut { until: Instant, why: String },
}

/// The right to send once. To be reported on; dropped without a report, somebody else may try.
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    is_probe: bool,
}

impl Gate {
    pub(super) fn enter(&self) -> Entry<'_> {
        let mut state = self.state();
        let now = Instant::now();
        if let Some(until) = state.shut_until.filter(|until| *until > now) {
            let why = state.why.clone();
            return Entry::Shut { until, why };
        }
        let is_probe = state.failures >= TRIP;
        if is_probe && state.is_probed {
            let until = now + GLANCE;
            let why = state.why.clone();
            return Entry::Shut { until, why };
        }
        state.is_probed |= is_probe;
        Entry::Open(Pass {
            gate: self,
            is_probe,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is left half done under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass<'_> {
    /// The server answered.
    pub(super) fn well(self) {
        let mut state = self.gate.state();
        state.failures = 0;
    }

    /// There were too many questions: the server is well, and says when to come back, or nothing.
    pub(super) fn too_many(self, after: Option<Duration>, why: &str) {
        let mut state = self.gate.state();
        state.failures = 0;
        if let Some(after) = after {
            state.shut(after, why);
        }
    }

    /// The server or the way there failed.
    pub(super) fn failed(self, after: Option<Duration>, why: &str) {
        let mut state = self.gate.state();
        state.failures = state.failures.saturating_add(1);
        if let Some(after) = after {
            state.shut(after, why);
        }
        if let Some(further) = state.failures.checked_sub(TRIP) {
            let rest = REST.saturating_mul(1 << further.min(8)).min(LONGEST_REST);
            let why = format!("{TRIP} failures in a row, the last: {why}");
            state.shut(rest, &why);
        }
    }
}

impl State {
    fn shut(&mut self, after: Duration, why: &str) {
        let until = Instant::now() + after;
        if self.shut_until.is_none_or(|shut| shut < until) {
            self.shut_until = Some(until);
            self.why = why.to_owned();
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.is_probe {
            self.gate.state().is_probed = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(gate: &Gate) -> Pass<'_> {
        match gate.enter() {
            Entry::Open(pass) => pass,
            Entry::Shut { why, .. } => panic!("shut: {why}"),
        }
    }

    fn shut_for(gate: &Gate) -> f64 {
        match gate.enter() {
            Entry::Open(_) => 0.0,
            Entry::Shut { until, .. } => (until - Instant::now()).as_secs_f64(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_asks_for_time_is_left_alone_by_all() {
        let gate = Gate::default();
        let other = pass(&gate);
        pass(&gate).too_many(Some(Duration::from_secs(3)), "busy");
        assert_eq!(shut_for(&gate), 3.0);
        other.too_many(Some(Duration::from_secs(1)), "busy");
        assert_eq!(shut_for(&gate), 3.0, "the later time holds");
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(shut_for(&gate), 0.0);
    }

    #[tokio::test(start_paused = true)]
    async fn after_failures_in_a_row_one_question_finds_out() {
        let gate = Gate::default();
        for _ in 1..TRIP {
            pass(&gate).failed(None, "500");
        }
        assert_eq!(shut_for(&gate), 0.0);
        pass(&gate).well();
        for _ in 0..TRIP {
            pass(&gate).failed(None, "500");
        }
        assert_eq!(shut_for(&gate), 10.0);
        tokio::time::advance(REST).await;
        let probe = pass(&gate);
        assert!(shut_for(&gate) > 0.0, "the others wait");
        drop(probe);
        let probe = pass(&gate);
        probe.failed(None, "500");
        assert_eq!(shut_for(&gate), 20.0);
        tokio::time::advance(2 * REST).await;
        pass(&gate).well();
        let (_one, _two) = (pass(&gate), pass(&gate));
    }
}
