//! One door for each server, shared by all questions to it: it stays shut for as long as the server asks for, and after several
//! failures in a row it opens for one question alone.
//!
//! Knows times, not requests.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row after which a server is taken to be down.
const MAX_FAILURES: u32 = 5;

/// How long it is left alone then; doubled with every further failure.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// How long to look away while another question finds out whether the server is back.
const PROBE_POLL_INTERVAL: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
pub(super) struct CircuitBreaker(Mutex<BreakerState>);

#[derive(Debug, Default)]
struct BreakerState {
    blocked_until: Option<Instant>,
    why: String,
    failures: u32,
    /// Whether a question is under way that finds out.
    probe_in_flight: bool,
}

/// What the door says.
pub(super) enum Admission<'a> {
    Allowed(Permit<'a>),
    Blocked { until: Instant, why: String },
}

/// The right to send once. To be reported on; dropped without a report, somebody else may try.
pub(super) struct Permit<'a> {
    breaker: &'a CircuitBreaker,
    is_probe: bool,
}

impl CircuitBreaker {
    pub(super) fn admit(&self) -> Admission<'_> {
        let mut state = self.state();
        let now = Instant::now();
        if let Some(until) = state.blocked_until.filter(|until| *until > now) {
            let why = state.why.clone();
            return Admission::Blocked { until, why };
        }
        let is_probe = state.failures >= MAX_FAILURES;
        if is_probe && state.probe_in_flight {
            let until = now + PROBE_POLL_INTERVAL;
            let why = state.why.clone();
            return Admission::Blocked { until, why };
        }
        state.probe_in_flight |= is_probe;
        Admission::Allowed(Permit {
            breaker: self,
            is_probe,
        })
    }

    fn state(&self) -> MutexGuard<'_, BreakerState> {
        // Nothing is left half done under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit<'_> {
    /// The server answered.
    pub(super) fn report_success(self) {
        let mut state = self.breaker.state();
        state.failures = 0;
    }

    /// There were too many questions: the server is well, and says when to come back, or nothing.
    pub(super) fn report_rate_limit(self, after: Option<Duration>, why: &str) {
        let mut state = self.breaker.state();
        state.failures = 0;
        if let Some(after) = after {
            state.block_for(after, why);
        }
    }

    /// The server or the way there failed.
    pub(super) fn report_failure(self, after: Option<Duration>, why: &str) {
        let mut state = self.breaker.state();
        state.failures = state.failures.saturating_add(1);
        if let Some(after) = after {
            state.block_for(after, why);
        }
        if let Some(further) = state.failures.checked_sub(MAX_FAILURES) {
            let pause = FIRST_PAUSE
                .saturating_mul(1 << further.min(8))
                .min(MAX_PAUSE);
            let why = format!("{MAX_FAILURES} failures in a row, the last: {why}");
            state.block_for(pause, &why);
        }
    }
}

impl BreakerState {
    fn block_for(&mut self, after: Duration, why: &str) {
        let until = Instant::now() + after;
        if self.blocked_until.is_none_or(|shut| shut < until) {
            self.blocked_until = Some(until);
            self.why = why.to_owned();
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.is_probe {
            self.breaker.state().probe_in_flight = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed_permit(gate: &CircuitBreaker) -> Permit<'_> {
        match gate.admit() {
            Admission::Allowed(pass) => pass,
            Admission::Blocked { why, .. } => panic!("shut: {why}"),
        }
    }

    fn blocked_seconds(gate: &CircuitBreaker) -> f64 {
        match gate.admit() {
            Admission::Allowed(_) => 0.0,
            Admission::Blocked { until, .. } => (until - Instant::now()).as_secs_f64(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn retry_after_blocks_all_requests() {
        let gate = CircuitBreaker::default();
        let other = allowed_permit(&gate);
        allowed_permit(&gate).report_rate_limit(Some(Duration::from_secs(3)), "busy");
        assert_eq!(blocked_seconds(&gate), 3.0);
        other.report_rate_limit(Some(Duration::from_secs(1)), "busy");
        assert_eq!(blocked_seconds(&gate), 3.0, "the later time holds");
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(blocked_seconds(&gate), 0.0);
    }

    #[tokio::test(start_paused = true)]
    async fn repeated_failures_allow_one_probe() {
        let gate = CircuitBreaker::default();
        for _ in 1..MAX_FAILURES {
            allowed_permit(&gate).report_failure(None, "500");
        }
        assert_eq!(blocked_seconds(&gate), 0.0);
        allowed_permit(&gate).report_success();
        for _ in 0..MAX_FAILURES {
            allowed_permit(&gate).report_failure(None, "500");
        }
        assert_eq!(blocked_seconds(&gate), 10.0);
        tokio::time::advance(FIRST_PAUSE).await;
        let probe = allowed_permit(&gate);
        assert!(blocked_seconds(&gate) > 0.0, "the others wait");
        drop(probe);
        let probe = allowed_permit(&gate);
        probe.report_failure(None, "500");
        assert_eq!(blocked_seconds(&gate), 20.0);
        tokio::time::advance(2 * FIRST_PAUSE).await;
        allowed_permit(&gate).report_success();
        let (_one, _two) = (allowed_permit(&gate), allowed_permit(&gate));
    }
}
