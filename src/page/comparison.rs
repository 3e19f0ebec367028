//! The comparison of arms as text: first whether they differ, then by how much and how sure that is.
//!
//! Pure.

use super::answer::over_strongest;
use super::figures;
use crate::history::{Difference, LEVEL, Method};
use crate::report::{TERMINAL_WIDTH, pluralize, wrap, wrap_after_first};

/// A difference as text. `arms`: what the user calls each arm.
pub(crate) fn difference_text(difference: &Difference, arms: &[String]) -> String {
    let name = |index: usize| arms.get(index).map_or("", String::as_str);
    let (first, second) = (name(difference.first), name(difference.second));
    let mut text = format!(
        "{}: {}\n",
        difference.task,
        headline(difference, first, second)
    );
    let [before, after] = difference.speedups.map(figures::confirmed);
    let [one, other] = difference.runs.map(|count| pluralize(count as u64, "run"));
    let [over, over_other] = (difference.strongest.each_ref())
        .map(|known| known.iter().map(|one| format!(", {}", over_strongest(one))))
        .map(Iterator::collect::<String>);
    let line = |text: String| wrap_after_first(&text, TERMINAL_WIDTH, 4);
    text += &line(format!("  {first}: {before}{over} ({one})"));
    text += &line(format!("  {second}: {after}{over_other} ({other})"));
    if let Some(interval) = difference.ci95 {
        text += &format!(
            "  ratio {} {}, {}\n",
            figures::confirmed(difference.ratio),
            figures::confirmed_interval(interval),
            method_text(difference.method)
        );
    }
    if let (Some(p), Some(corrected)) = (difference.p, difference.corrected) {
        let effect = difference
            .hedges_g
            .map_or_else(String::new, |g| format!(", Hedges' g {g:.2}"));
        text += &format!(
            "  p {}, corrected {}{effect}\n",
            p_text(p),
            p_text(corrected)
        );
    }
    for (id, ratio, interval) in &difference.on_workloads {
        let sure = match interval {
            [low, _] if *low > 1.0 => "faster",
            [_, high] if *high < 1.0 => "slower",
            _ => "no difference shown",
        };
        text += &format!(
            "  on {id}: {} {}: {sure}\n",
            figures::confirmed(*ratio),
            figures::confirmed_interval(*interval)
        );
    }
    for warning in &difference.warnings {
        text += &wrap(&format!("warning: {warning}"), TERMINAL_WIDTH, 2);
    }
    text
}

fn headline(difference: &Difference, first: &str, second: &str) -> String {
    if difference.is_shown() {
        let word = if difference.ratio > 1.0 {
            "faster"
        } else {
            "slower"
        };
        return format!("{second} is {word} than {first}");
    }
    match difference.detectable {
        Some(detectable) => format!(
            "no difference can be shown; such data show a ratio of {} in 80 % of the cases",
            figures::confirmed(detectable)
        ),
        None if difference.runs.iter().all(|count| *count == 1) => {
            "no difference can be shown: not both runs have a confirmed gain".to_owned()
        }
        None => {
            "no difference can be shown: each arm needs two runs or more, with different results"
                .to_owned()
        }
    }
}

fn method_text(method: Method) -> &'static str {
    match method {
        Method::Workloads => "over the workloads of the two best kernels",
        Method::PairedRuns => "over pairs of runs with the same seed",
        Method::Runs => "over runs (Welch's t)",
        Method::None => "without an interval",
    }
}

/// A probability; very small ones are bounded.
fn p_text(p: f64) -> String {
    match p {
        p if p < LEVEL / 500.0 => "< 0.0001".to_owned(),
        p => format!("{p:.4}"),
    }
}
