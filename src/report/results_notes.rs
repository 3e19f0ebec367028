//! The notes below a task's tables: what the figures mean, why models gave no candidate, and where the files are.
//!
//! Pure: from results to text.

use super::headline::{WhyUnconfirmed, suggested_seconds};
use super::progress::Progress;
use super::task_results::{TaskResults, UnansweredSteps};
use super::text::{TERMINAL_WIDTH, device_note, pluralize, wrap};
use crate::event::FailedReason;

/// What to do if at least half of the candidates were correct and could not be timed. Empty if the first lines say it already.
pub(super) fn noise_hint(progress: &Progress) -> String {
    let is_said = progress.why_unconfirmed() == Some(WhyUnconfirmed::TooNoisy);
    if is_said || progress.inconclusive == 0 || progress.inconclusive * 2 < progress.judged {
        return String::new();
    }
    let kernels = pluralize(progress.inconclusive, "correct kernel");
    let seconds = suggested_seconds(progress.timing_seconds);
    let text = format!(
        "{kernels} could not be timed, because this machine was too busy: close other programs, or start a run with more time for each, for example `--set eval.seconds={seconds}`"
    );
    wrap(&text, TERMINAL_WIDTH, 2)
}

/// Why models gave no candidate.
pub(super) fn unanswered_steps(unanswered: &[UnansweredSteps]) -> String {
    let lines = unanswered.iter().map(|missing| {
        let what = match missing.reason {
            FailedReason::NoReply => "no reply",
            FailedReason::Refused => "a refusal",
            FailedReason::Truncated => "a reply that was cut off",
            _ => "a reply without a kernel",
        };
        let steps = pluralize(missing.steps, "step");
        let last = if missing.steps == 1 {
            format!("step {}", missing.last)
        } else {
            format!("the last, step {}", missing.last)
        };
        let text = format!("{steps} got {what}; {last}: {}", missing.detail);
        wrap(&text, TERMINAL_WIDTH, 2)
    });
    lines.collect()
}

/// Notes on the numbers, and the paths of the files.
pub(super) fn notes(results: &TaskResults) -> String {
    let elites = &results.elites;
    let over = format!(
        "speedups are over the baseline `{}`, the geometric mean over the workloads",
        results.baseline
    );
    let mut text = format!("\n{}", wrap(&over, TERMINAL_WIDTH, 2));
    text += "  order: confirmed kernels, fastest first; then the rest by their search speedup\n";
    text += &noise_hint(&results.progress);
    if elites.iter().any(|elite| elite.confirmed.is_some()) {
        text += "  confirmed: measured again with new seeds in fresh processes\n";
    }
    text += "  ~: provisional, the figure of the search\n";
    if let Some(anchor) = &results.anchor {
        let note = format!(
            "in the search, candidates were timed against `{}`, whose {:.2}x over the baseline was measured once; confirmed figures are timed against the baseline",
            anchor.kernel, anchor.speedup
        );
        text += &wrap(&note, TERMINAL_WIDTH, 2);
    }
    if results.progress.unmeasured.strongest && results.progress.confirmed_best().is_some() {
        let progress = &results.progress;
        let command = progress.continuation.command(&progress.directory);
        let note = format!(
            "no time was left to time the best kernel in pairs with a library: Python, PyTorch and what it compiles have to start first. `{command}` does it"
        );
        text += &wrap(&note, TERMINAL_WIDTH, 2);
    }
    if elites.iter().any(|elite| elite.too_noisy) {
        text += "  too noisy: correct when measured again, but not precise enough to confirm\n";
    }
    text += &unanswered_steps(&results.unanswered);
    text += &results
        .device
        .as_ref()
        .map_or_else(String::new, device_note);
    let best = match results.progress.confirmed_best() {
        Some(_) => "best kernel",
        None => "unconfirmed",
    };
    for (name, path) in [
        (best, &results.best),
        ("its verdict", &results.best_verdict),
        ("all steps", &results.steps),
    ] {
        text += &format!("  {name:<13}{}\n", path.display());
    }
    text
}
