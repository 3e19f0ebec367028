//! How the time of a task is divided: when the search ends, and what may still be confirmed and compared.
//!
//! `budget.seconds` and `budget.device_seconds` cover the whole work on a task. The search leaves the share of the confirmation
//! (`budget.confirm_share`), or less if the kernels that may be the best need less; and at least what confirming one kernel costs on this
//! machine. Decides from the time and the costs alone; `task_loop` acts on it.

use std::time::{Duration, Instant};

use super::time_tally::{ExpectedTime, TimeTally};
use crate::event::{StopReason, Stopped};

/// Without a time budget, confirmations may always take this long in total: enough for one kernel on a slow machine.
const MIN_CONFIRMATION_TIME: Duration = Duration::from_secs(20);
/// The most of the time that the cost of one confirmation reserves beyond the share.
const MAX_RESERVED_PART: f64 = 0.5;
/// A confirmation that has less than this part of its cost is not started: not even one process would end in time. The first process takes
/// half of the cost on a CPU and a fifth on a GPU. It takes less if it runs alone, because the cost was measured while other judgements
/// were running.
const MIN_PART_OF_COST: f64 = 0.15;
/// With less than this part of its expected time left, a kernel is not timed against the strongest baselines: one process would not end.
const MIN_PART_OF_STRONGEST: f64 = 0.3;
/// The part of the remaining time that a confirmation may take, so that a comparison can follow.
const CONFIRMATION_PART: f64 = 0.75;
/// The most of its time that the search gives up so that judgements in progress end in time.
const MAX_LEAD_PART: f64 = 0.25;
/// How far work in progress may exceed the budget before it is cancelled, as a part of the budget.
const GRACE_PART: f64 = 0.05;

/// The time budgets of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct TimeLimits {
    /// Wall time.
    pub(super) wall: Option<Duration>,
    /// Device time.
    pub(super) device: Option<Duration>,
    /// The share of both that confirmation and comparison get, 0 to 0.9. With 0 nothing is confirmed.
    pub(super) confirm_share: f64,
    /// Whether the best kernel is timed against the strongest baselines, which needs a part of that share and at most as much again.
    pub(super) strongest: bool,
    /// Whether a judgement shows what a confirmation takes before one was made. On a GPU it does not: candidates are timed against a fast
    /// kernel, and confirmed kernels against the baseline.
    pub(super) foresees_confirmations: bool,
}

/// The kernels that would be confirmed if the search stopped now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Finalists {
    /// The step of the first.
    pub(super) first: u64,
    /// How many may be the best, by the search's figures.
    pub(super) count: u32,
}

/// Wall time of earlier processes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct EarlierTime {
    pub(super) worked: Duration,
    /// The part of it in which the search was running.
    pub(super) searched: Duration,
}

/// The time of one task.
#[derive(Debug)]
pub(super) struct TaskTime {
    limits: TimeLimits,
    earlier: EarlierTime,
    started: Instant,
    /// How long the search took in this process. `None` while it runs.
    search_took: Option<Duration>,
    pub(super) tally: TimeTally,
}

/// Permission for a confirmation or a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowance {
    /// How long it may take. `None`: as long as it takes.
    pub(super) limit: Option<Duration>,
}

impl TaskTime {
    pub(super) fn new(limits: TimeLimits, earlier: EarlierTime, tally: TimeTally) -> Self {
        Self {
            limits,
            earlier,
            started: Instant::now(),
            search_took: None,
            tally,
        }
    }

    /// Starts the clock of this process's work on the task.
    pub(super) fn start(&mut self) {
        self.started = Instant::now();
    }

    /// Time since this process started to work on the task.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Wall time of all processes.
    pub(super) fn worked(&self) -> Duration {
        self.earlier.worked + self.elapsed()
    }

    /// Wall time of the search in all processes.
    pub(super) fn searched(&self) -> Duration {
        self.earlier.searched + self.search_took.unwrap_or_else(|| self.elapsed())
    }

    /// The search has stopped.
    pub(super) fn stop_search(&mut self) {
        self.search_took.get_or_insert(self.started.elapsed());
    }

    /// When work in progress is cancelled, because it exceeds the budget.
    pub(super) fn cancel_at(&self) -> Option<Instant> {
        let grace = self.limits.wall?.mul_f64(GRACE_PART);
        self.end()?.checked_add(grace)
    }

    fn end(&self) -> Option<Instant> {
        let left = self.limits.wall?.saturating_sub(self.earlier.worked);
        self.started.checked_add(left)
    }

    /// When the search stops. `None` without a time budget. `best`: what would be confirmed.
    pub(super) fn search_end(&self, best: Option<Finalists>) -> Option<Instant> {
        let window = self.search_window(best)?;
        if best.is_none() {
            return self.started.checked_add(window);
        }
        // Half of the judgements that are in progress then need at least half of their time.
        let lead = self.tally.judgement().mul_f64(0.5);
        let lead = lead.min(window.mul_f64(MAX_LEAD_PART));
        self.started.checked_add(window.saturating_sub(lead))
    }

    /// How long this process may search, judgements in progress included. While nothing has passed there is nothing to confirm: all of the
    /// time is for the search.
    fn search_window(&self, best: Option<Finalists>) -> Option<Duration> {
        let budget = self.limits.wall?;
        let left = budget.saturating_sub(self.earlier.worked);
        let Some(best) = best else {
            return Some(left);
        };
        let wall = |expected: ExpectedTime| expected.wall;
        let all = budget.saturating_sub(self.reserve(budget, best, wall));
        let by_search = all.saturating_sub(self.earlier.searched);
        // Earlier confirmations may have taken more than their share.
        let by_rest = left.saturating_sub(self.reserve(left, best, wall));
        Some(by_search.min(by_rest))
    }

    /// The part of a budget that the search leaves: for confirmations and a comparison, and for the strongest baselines. `part`: the time
    /// that the budget limits.
    fn reserve(
        &self,
        budget: Duration,
        best: Finalists,
        part: fn(ExpectedTime) -> Duration,
    ) -> Duration {
        let mut share = budget.mul_f64(self.limits.confirm_share);
        if share.is_zero() {
            return Duration::ZERO;
        }
        let first = Some(best.first);
        let cost = part(self.tally.confirmation(first));
        if self.limits.foresees_confirmations || self.tally.has_confirmed() {
            let confirmations = cost.saturating_mul(best.count);
            share = share.min(confirmations + part(self.tally.comparison(first)));
        }
        let one = cost.min(budget.mul_f64(MAX_RESERVED_PART));
        share.max(one) + self.strongest_part(budget, part(self.tally.strongest()))
    }

    /// The part of a budget for timing the best kernel against the strongest baselines.
    fn strongest_part(&self, budget: Duration, cost: Duration) -> Duration {
        if !self.limits.strongest {
            return Duration::ZERO;
        }
        cost.min(budget.mul_f64(self.limits.confirm_share))
    }

    /// When judgements in progress are cancelled after the search has stopped: they get as much time after the end of the search as the
    /// search gave up before it, unless a confirmation needs the rest. While nothing has passed, they get all of the time.
    pub(super) fn drain_end(&self, best: Option<Finalists>) -> Option<Instant> {
        if best.is_none() {
            return self.cancel_at();
        }
        let window_end = self.started.checked_add(self.search_window(best)?)?;
        let lead = window_end.saturating_duration_since(self.search_end(best)?);
        let cost = self.tally.confirmation(best.map(|best| best.first)).wall;
        let last = self.end()?.checked_sub(cost).unwrap_or(window_end);
        Some(window_end.checked_add(lead)?.min(last.max(window_end)))
    }

    /// Why the search must stop now. `recorded`: how an earlier process has stopped it.
    pub(super) fn stop_reason(
        &self,
        best: Option<Finalists>,
        recorded: Option<&Stopped>,
    ) -> Option<(StopReason, Duration)> {
        let was_spent = |why, budget: Duration| {
            recorded.is_some_and(|stopped| {
                stopped.why == why
                    && (stopped.limit).is_some_and(|limit| limit >= budget.as_secs_f64())
            })
        };
        if let Some(budget) = self.limits.wall {
            let is_over = (self.search_end(best)).is_some_and(|end| Instant::now() >= end);
            if is_over || was_spent(StopReason::Seconds, budget) {
                return Some((StopReason::Seconds, budget));
            }
        }
        let budget = self.limits.device?;
        let reserve = best.map_or(Duration::ZERO, |best| {
            self.reserve(budget, best, |expected| expected.device)
        });
        let is_over = self.tally.device() >= budget.saturating_sub(reserve);
        (is_over || was_spent(StopReason::DeviceSeconds, budget))
            .then_some((StopReason::DeviceSeconds, budget))
    }

    /// Whether this candidate may be confirmed now. `has_best`: a kernel is confirmed to be faster than the baseline.
    pub(super) fn allow_confirmation(&self, step: u64, has_best: bool) -> Option<Allowance> {
        let share = self.limits.confirm_share;
        if share == 0.0 {
            return None;
        }
        if has_best {
            let took = self.worked().saturating_sub(self.searched());
            let part = match self.limits.wall {
                Some(budget) => budget.mul_f64(share),
                None => self.searched().mul_f64(share / (1.0 - share)),
            };
            if took >= part.max(MIN_CONFIRMATION_TIME) {
                return None;
            }
        }
        let cost = self.tally.confirmation(Some(step));
        let comparison = self.tally.comparison(Some(step));
        let Some(left) = self.left() else {
            return Some(Allowance { limit: None });
        };
        let needed = if has_best {
            cost.plus(&comparison)
        } else {
            cost.part(MIN_PART_OF_COST)
        };
        left.fits(&needed).then(|| {
            let left = left.shortest();
            let strongest = self.strongest_part(left, self.tally.strongest().wall);
            let left = left.saturating_sub(strongest);
            Allowance {
                limit: Some(left.mul_f64(CONFIRMATION_PART)),
            }
        })
    }

    /// Whether the best kernel may be timed against the strongest baselines now.
    pub(super) fn allow_strongest(&self) -> Option<Allowance> {
        if self.limits.confirm_share == 0.0 {
            return None;
        }
        let Some(left) = self.left() else {
            return Some(Allowance { limit: None });
        };
        let needed = self.tally.strongest().part(MIN_PART_OF_STRONGEST);
        left.fits(&needed).then(|| Allowance {
            limit: Some(left.shortest()),
        })
    }

    /// Whether the best kernel may be compared with a starting kernel now.
    pub(super) fn allow_comparison(&self, step: u64) -> Option<Allowance> {
        let Some(left) = self.left() else {
            return Some(Allowance { limit: None });
        };
        let needed = self.tally.comparison(Some(step)).part(MIN_PART_OF_COST);
        left.fits(&needed).then(|| Allowance {
            limit: Some(left.shortest()),
        })
    }

    /// The time left of work that is expected to take this long and has taken `elapsed`: at most what is left of the budget. `None` if
    /// nothing is known.
    pub(super) fn left_of(&self, expected: Duration, elapsed: Duration) -> Option<Duration> {
        let expected = expected.saturating_sub(elapsed);
        let rest = (self.limits.wall).map(|budget| budget.saturating_sub(self.worked()));
        match rest {
            Some(rest) if expected.is_zero() => Some(rest),
            Some(rest) => Some(rest.min(expected)),
            None => (!expected.is_zero()).then_some(expected),
        }
    }

    /// What is left of the budgets. `None` without one.
    fn left(&self) -> Option<Left> {
        let left = Left {
            wall: (self.limits.wall).map(|budget| budget.saturating_sub(self.worked())),
            device: (self.limits.device).map(|budget| budget.saturating_sub(self.tally.device())),
        };
        (left.wall.is_some() || left.device.is_some()).then_some(left)
    }
}

/// What is left of the budgets that exist.
#[derive(Clone, Copy, Debug)]
struct Left {
    wall: Option<Duration>,
    device: Option<Duration>,
}

impl Left {
    /// Whether something is left of each budget, and at least this much.
    fn fits(&self, cost: &ExpectedTime) -> bool {
        let fits =
            |left: Option<Duration>, cost| left.is_none_or(|left| !left.is_zero() && left >= cost);
        fits(self.wall, cost.wall) && fits(self.device, cost.device)
    }

    /// A process holds the device for less time than it runs, so this wall time keeps both budgets.
    fn shortest(&self) -> Duration {
        let wall = self.wall.unwrap_or(Duration::MAX);
        let shortest = wall.min(self.device.unwrap_or(Duration::MAX));
        // Multiplied later, which must not overflow.
        shortest.min(Duration::from_secs(u64::from(u32::MAX)))
    }
}

impl ExpectedTime {
    fn plus(&self, other: &Self) -> Self {
        Self {
            wall: self.wall + other.wall,
            device: self.device + other.device,
        }
    }

    fn part(&self, part: f64) -> Self {
        Self {
            wall: self.wall.mul_f64(part),
            device: self.device.mul_f64(part),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::{Seconds, Status};

    /// What is left of a search of 100 s after a judgement of 2 s, if this many kernels may be the best.
    fn reserve(count: u32, foresees_confirmations: bool) -> f64 {
        let limits = TimeLimits {
            wall: Some(Duration::from_secs(100)),
            confirm_share: 0.2,
            foresees_confirmations,
            ..TimeLimits::default()
        };
        let mut tally = TimeTally::new(0);
        let seconds = Seconds {
            measure: 2.0,
            ..Seconds::default()
        };
        tally.count_verdict(1, Status::Passed, &seconds);
        let time = TaskTime::new(limits, EarlierTime::default(), tally);
        let best = Finalists { first: 1, count };
        100.0 - time.search_window(Some(best)).unwrap().as_secs_f64()
    }

    #[test]
    fn the_search_leaves_no_more_time_than_the_kernels_that_may_be_the_best_need() {
        // One confirmation of 10 s, and a comparison of 5 s.
        assert!((reserve(1, true) - 15.0).abs() < 1e-9);
        assert!((reserve(3, true) - 20.0).abs() < 1e-9);
        assert!((reserve(1, false) - 20.0).abs() < 1e-9);
    }
}
