//! Which limits would stop a task again at once if its run were resumed now, and values that let it go on.
//!
//! Reads the state of a task that has ended. Changes nothing; `report::Continuation` makes the command.

use std::time::Duration;

use super::task_state::TaskState;
use crate::event::StopReason;
use crate::report::{Continuation, Progress, Unmeasured};

/// The part of the time budget below which the rest is not worth a resume.
const MIN_TIME_LEFT: f64 = 0.05;

/// The flags that continue a task. None for a task that was interrupted or waits for replies: the command alone continues it.
pub(super) fn continuation(state: &TaskState<'_>, failed: bool) -> Continuation {
    let progress = state.reporter.progress();
    let mut flags = Continuation {
        needs_change: failed,
        ..Continuation::default()
    };
    let Some(why) = progress.stopped else {
        return flags;
    };
    // Steps that were planned and have not ended are enough work for a resume.
    if progress.steps >= progress.total {
        flags.steps = Some(progress.total.max(1).saturating_mul(2));
    }
    flags.more_seconds = more_seconds(state, why);
    flags.more_device_seconds = more_device_seconds(state, why);
    flags.patience = patience(state);
    flags.target_speedup = target_speedup(state, why);
    flags.lifted.extend(lifted(why));
    if why == StopReason::Exhausted {
        flags.needs_model = state.requests.is_none();
        flags.needs_propose = !state.search.may_ask_models();
    }
    if let Some(requests) = &state.requests {
        let highest = state.reporter.highest_reservation();
        let limits = requests.limits_to_continue(highest).unwrap_or_default();
        flags.nano_usd = limits.nano_usd;
        flags.tokens = limits.tokens;
    }
    flags
}

/// The time budget once more, if it has no room for another step, or for a confirmation that is missing.
fn more_seconds(state: &TaskState<'_>, why: StopReason) -> Option<u64> {
    let progress = state.reporter.progress();
    let budget = progress.budget?;
    let left = budget.saturating_sub(progress.worked);
    let step = progress
        .searched
        .div_f64(progress.steps.max(1) as f64)
        .max(budget.mul_f64(MIN_TIME_LEFT));
    let has_room = why != StopReason::Seconds && left.mul_f64(1.0 - progress.confirm_share) > step;
    if has_room && !is_cut_short(progress) {
        return None;
    }
    // The flag adds to the budget or to the time that was worked, whichever is longer.
    Some(whole_seconds(budget))
}

/// The budget of device time once more, under the same conditions.
fn more_device_seconds(state: &TaskState<'_>, why: StopReason) -> Option<u64> {
    let progress = state.reporter.progress();
    let budget = progress.device_budget?;
    let left = budget.as_secs_f64() - progress.time.device;
    let is_spent = left < budget.mul_f64(MIN_TIME_LEFT).as_secs_f64();
    let needs_more = why == StopReason::DeviceSeconds
        || is_spent
        || (is_cut_short(progress) && progress.budget.is_none());
    needs_more.then(|| whole_seconds(budget))
}

/// Whether a confirmation or a comparison is missing for lack of time.
fn is_cut_short(progress: &Progress) -> bool {
    let Unmeasured {
        confirmation,
        comparison,
        strongest,
    } = progress.unmeasured;
    (confirmation || comparison || strongest) && progress.confirm_share > 0.0
}

fn whole_seconds(budget: Duration) -> u64 {
    budget.max(Duration::from_secs(1)).as_secs_f64().ceil() as u64
}

/// Twice the patience, if the search has stopped for lack of an improvement.
fn patience(state: &TaskState<'_>) -> Option<u64> {
    let patience = state.search.patience()?;
    let without_gain = state.search.steps_without_gain();
    (without_gain >= patience).then(|| without_gain.saturating_add(patience.max(1)))
}

/// The setting that switches off the rule that has stopped the search, where no higher limit can be named.
fn lifted(why: StopReason) -> Option<&'static str> {
    match why {
        StopReason::WorkloadTargets => Some("search.targets={}"),
        StopReason::Roofline => Some("search.target_roofline=null"),
        StopReason::Unlikely => Some("search.stop_when_unlikely=null"),
        StopReason::Steps
        | StopReason::Seconds
        | StopReason::DeviceSeconds
        | StopReason::Target
        | StopReason::Patience
        | StopReason::Exhausted
        | StopReason::Budget => None,
    }
}

/// A target above every elite, if the target was reached.
fn target_speedup(state: &TaskState<'_>, why: StopReason) -> Option<f64> {
    if why != StopReason::Target {
        return None;
    }
    let elites = state.search.archive().elites().iter();
    let highest = elites
        .map(|elite| elite.speedup.ci95[1])
        .fold(0.0, f64::max);
    // The target is over the yardstick, and the figures are over the task's baseline.
    let unit = state
        .reporter
        .yardstick()
        .map_or(1.0, |over| over.over_baseline(1.0));
    // Two decimals, rounded up.
    Some((highest * 1.2 / unit * 100.0).ceil() / 100.0)
}
