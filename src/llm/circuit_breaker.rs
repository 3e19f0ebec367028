//! One circuit breaker per server, shared by all requests to it. It blocks requests for as long as the server asks, and after
//! several failures in a row it lets one request probe the server before the others continue.
//!
//! Knows times, not requests: `client` asks for a permit, sends, and reports the result.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// After this many failures in a row the server is considered down.
const MAX_FAILURES: u32 = 5;

/// How long requests are blocked then. Doubles with each further failure.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// How long a request waits before it checks again whether the probe of another request succeeded.
const PROBE_POLL_INTERVAL: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
pub(super) struct CircuitBreaker(Mutex<BreakerState>);

#[derive(Debug, Default)]
struct BreakerState {
    blocked_until: Option<Instant>,
    why: String,
    /// In a row.
    failures: u32,
    /// In a row, of the requests that probed the server.
    failed_probes: u32,
    /// Whether a request is probing the server.
    probe_in_flight: bool,
}

/// Whether a request may be sent now.
pub(super) enum BreakerDecision<'a> {
    Allowed(Permit<'a>),
    Blocked { until: Instant, why: String },
}

/// The right to send one request. Report the result; if the permit is dropped without a report, another request may probe.
pub(super) struct Permit<'a> {
    breaker: &'a CircuitBreaker,
    is_probe: bool,
}

impl CircuitBreaker {
    pub(super) fn admit(&self) -> BreakerDecision<'_> {
        let mut state = self.state();
        let now = Instant::now();
        if let Some(until) = state.blocked_until.filter(|until| *until > now) {
            let why = state.why.clone();
            return BreakerDecision::Blocked { until, why };
        }
        let is_probe = state.failures >= MAX_FAILURES;
        if is_probe && state.probe_in_flight {
            let until = now + PROBE_POLL_INTERVAL;
            let why = state.why.clone();
            return BreakerDecision::Blocked { until, why };
        }
        state.probe_in_flight |= is_probe;
        BreakerDecision::Allowed(Permit {
            breaker: self,
            is_probe,
        })
    }

    fn state(&self) -> MutexGuard<'_, BreakerState> {
        // Every change under this lock is complete, so a poisoned lock is harmless.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit<'_> {
    /// The server replied.
    pub(super) fn report_success(self) {
        let mut state = self.breaker.state();
        state.reset();
    }

    /// The server works but has too many requests. It may say how long to wait.
    pub(super) fn report_rate_limit(self, after: Option<Duration>, why: &str) {
        let mut state = self.breaker.state();
        state.reset();
        if let Some(after) = after {
            state.block_for(after, why);
        }
    }

    /// The server or the connection failed.
    pub(super) fn report_failure(self, after: Option<Duration>, why: &str) {
        let mut state = self.breaker.state();
        state.failures = state.failures.saturating_add(1);
        if let Some(after) = after {
            state.block_for(after, why);
        }
        // Requests that were in flight when the server went down prove nothing new: only a probe makes the pause longer.
        if state.failures == MAX_FAILURES || self.is_probe {
            let pause = FIRST_PAUSE
                .saturating_mul(1 << state.failed_probes.min(8))
                .min(MAX_PAUSE);
            state.failed_probes += 1;
            let why = format!("{MAX_FAILURES} failures in a row, the last: {why}");
            state.block_for(pause, &why);
        }
    }
}

impl BreakerState {
    /// The server works.
    fn reset(&mut self) {
        self.failures = 0;
        self.failed_probes = 0;
    }

    /// Blocks requests for a time, unless they are blocked for longer already.
    fn block_for(&mut self, after: Duration, why: &str) {
        let until = Instant::now() + after;
        if self.blocked_until.is_none_or(|blocked| blocked < until) {
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

    fn allowed_permit(breaker: &CircuitBreaker) -> Permit<'_> {
        match breaker.admit() {
            BreakerDecision::Allowed(permit) => permit,
            BreakerDecision::Blocked { why, .. } => panic!("blocked: {why}"),
        }
    }

    fn blocked_seconds(breaker: &CircuitBreaker) -> f64 {
        match breaker.admit() {
            BreakerDecision::Allowed(_) => 0.0,
            BreakerDecision::Blocked { until, .. } => (until - Instant::now()).as_secs_f64(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn retry_after_blocks_all_requests() {
        let breaker = CircuitBreaker::default();
        let other = allowed_permit(&breaker);
        allowed_permit(&breaker).report_rate_limit(Some(Duration::from_secs(3)), "busy");
        assert_eq!(blocked_seconds(&breaker), 3.0);
        other.report_rate_limit(Some(Duration::from_secs(1)), "busy");
        assert_eq!(blocked_seconds(&breaker), 3.0, "the later time wins");
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(blocked_seconds(&breaker), 0.0);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_in_flight_do_not_lengthen_the_pause() {
        let breaker = CircuitBreaker::default();
        let permits: Vec<_> = (0..20).map(|_| allowed_permit(&breaker)).collect();
        for permit in permits {
            permit.report_failure(None, "500");
        }
        assert_eq!(blocked_seconds(&breaker), 10.0);
    }

    #[tokio::test(start_paused = true)]
    async fn repeated_failures_allow_one_probe() {
        let breaker = CircuitBreaker::default();
        for _ in 1..MAX_FAILURES {
            allowed_permit(&breaker).report_failure(None, "500");
        }
        assert_eq!(blocked_seconds(&breaker), 0.0);
        allowed_permit(&breaker).report_success();
        for _ in 0..MAX_FAILURES {
            allowed_permit(&breaker).report_failure(None, "500");
        }
        assert_eq!(blocked_seconds(&breaker), 10.0);
        tokio::time::advance(FIRST_PAUSE).await;
        let probe = allowed_permit(&breaker);
        assert!(blocked_seconds(&breaker) > 0.0, "the others wait");
        drop(probe);
        let probe = allowed_permit(&breaker);
        probe.report_failure(None, "500");
        assert_eq!(blocked_seconds(&breaker), 20.0);
        tokio::time::advance(2 * FIRST_PAUSE).await;
        allowed_permit(&breaker).report_success();
        let (_one, _two) = (allowed_permit(&breaker), allowed_permit(&breaker));
    }
}
