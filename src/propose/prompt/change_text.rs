//! One line for each step of the history: a candidate compared with its parent, or why there is no candidate.

use std::fmt::Write;

use indexmap::IndexMap;

use super::feedback::{Feedback, WorkloadFeedback};
use super::feedback_text::status_meaning;
use super::numbers::{describe_speedup, format_percent, format_significant};
use super::quote::code_span;
use crate::event::{Failed, FailedReason, TriedPoints};

/// Minimum relative change of a single workload that is reported.
const MIN_REPORTED_CHANGE: f64 = 0.02;

impl Feedback {
    /// Compares a candidate with its parent.
    pub(crate) fn describe_change_from(&self, parent: &Feedback) -> String {
        match (self.speedup, parent.speedup) {
            _ if self.dismissed => self.describe_outcome(),
            (Some(child_speedup), Some(parent_speedup)) => {
                describe_speed_change(self, child_speedup, parent, parent_speedup)
            }
            (Some(child_speedup), None) => format!(
                "passes now (the parent: `{}`), {}",
                parent.status,
                against_baseline(child_speedup[0])
            ),
            (None, _) if self.status == parent.status => {
                format!("still `{}`: {}", self.status, status_meaning(self.status))
            }
            (None, Some(_)) => {
                format!(
                    "fails now, `{}`: {}",
                    self.status,
                    status_meaning(self.status)
                )
            }
            (None, None) => format!(
                "`{}`, the parent `{}`: {}",
                self.status,
                parent.status,
                status_meaning(self.status)
            ),
        }
    }

    /// Describes a candidate without a parent, or with a parent that was not judged.
    pub(crate) fn describe_outcome(&self) -> String {
        match self.speedup {
            Some([estimate, ..]) if self.dismissed => format!(
                "passed, about {}x the baseline's speed (dismissed: surely slower than the best of its kind)",
                format_significant(estimate)
            ),
            Some([estimate, ..]) => format!("passed, {}", against_baseline(estimate)),
            None => format!("`{}`: {}", self.status, status_meaning(self.status)),
        }
    }
}

fn against_baseline(speedup: f64) -> String {
    format!(
        "{}x the baseline's speed ({})",
        format_significant(speedup),
        describe_speedup(speedup, "the baseline's")
    )
}

fn describe_speed_change(
    child: &Feedback,
    child_speedup: [f64; 3],
    parent: &Feedback,
    parent_speedup: [f64; 3],
) -> String {
    let ratio = child_speedup[0] / parent_speedup[0];
    // Both were measured against the same baseline, but separately: their errors are independent.
    let relative_error = |[estimate, low, high]: [f64; 3]| (high - low) / 2.0 / estimate;
    let noise = relative_error(child_speedup).hypot(relative_error(parent_speedup));
    let mut text = if (ratio - 1.0).abs() <= noise {
        format!(
            "no measurable difference (within {})",
            format_percent(noise)
        )
    } else {
        format!(
            "{}x the parent's speed ({})",
            format_significant(ratio),
            describe_speedup(ratio, "the parent's")
        )
    };
    let changes = workload_changes(child, parent);
    if is_worth_reporting(&changes, child.workloads.len()) {
        let (best, worst) = (changes.last(), changes.first());
        let ends = best.into_iter().chain(worst.filter(|_| changes.len() > 1));
        let ends: Vec<_> = ends
            .map(|(change, workload)| {
                format!(
                    "{} {}x",
                    code_span(&workload.id, 60),
                    format_significant(*change)
                )
            })
            .collect();
        let _ = write!(text, ", by workload {}", ends.join(", "));
    }
    let _ = write!(text, "; now {}", against_baseline(child_speedup[0]));
    text
}

/// Workloads whose speed changed by more than the noise, slowest first, with the ratio of the speeds.
fn workload_changes<'f>(
    child: &'f Feedback,
    parent: &Feedback,
) -> Vec<(f64, &'f WorkloadFeedback)> {
    let mut changes: Vec<_> = (child.workloads.iter())
        .filter_map(|workload| {
            let before = (parent.workloads.iter()).find(|before| before.id == workload.id)?;
            let change = workload.speedup / before.speedup;
            let noise =
                (workload.half_width / workload.speedup).hypot(before.half_width / before.speedup);
            ((change - 1.0).abs() > noise.max(MIN_REPORTED_CHANGE)).then_some((change, workload))
        })
        .collect();
    changes.sort_by(|a, b| a.0.total_cmp(&b.0));
    changes
}

/// Whether the workloads changed unevenly, so that their average hides something.
fn is_worth_reporting(changes: &[(f64, &WorkloadFeedback)], workloads: usize) -> bool {
    let spread = (changes.first().zip(changes.last()))
        .is_some_and(|((least, _), (most, _))| most / least > 1.0 + 2.0 * MIN_REPORTED_CHANGE);
    spread || (changes.len() == 1 && workloads > 1)
}

/// Which point of a kernel was judged, of those that were tried before.
pub(crate) fn describe_trials(judged: &IndexMap<String, i64>, tried: &TriedPoints) -> String {
    let count = tried.points.len();
    let Some(own) = tried.points.first() else {
        return String::new();
    };
    if own.point == *judged {
        return format!("no other of {count} tried points of its tunables was faster");
    }
    let fastest = tried.fastest().and_then(|fastest| fastest.time());
    let compared = match own.time().zip(fastest) {
        Some((own, fastest)) => format!("takes {:.2} times as long", own / fastest),
        None => format!("has the status `{}`", own.status),
    };
    format!(
        "judged with {}, the fastest of {count} tried points; its own, {}, {compared}",
        point_text(judged),
        point_text(&own.point)
    )
}

fn point_text(point: &IndexMap<String, i64>) -> String {
    let values = point.iter();
    let values: Vec<String> = values
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    values.join(" ")
}

/// Why a step has no candidate.
pub(crate) fn describe_failed_step(failed: &Failed) -> String {
    let text = match failed.reason {
        FailedReason::NoReply => "no reply",
        FailedReason::Refused => "the model refused to reply",
        FailedReason::Truncated => "the reply was cut off at its length limit",
        FailedReason::NoCode => "the reply contains no kernel",
        FailedReason::EditMissed => "the edits do not match the kernel",
        FailedReason::NoOp => "nothing changed",
        FailedReason::Duplicate => match failed.of {
            Some(step) if failed.code.is_some() => {
                return format!("compiles to the same code as step {step}");
            }
            Some(step) => return format!("the same code as step {step}"),
            None => "the same code as an earlier step",
        },
        FailedReason::NearCopy => match failed.of {
            Some(step) => return format!("nearly the same code as step {step}, so not judged"),
            None => "nearly the same code as an earlier step, so not judged",
        },
        FailedReason::HarnessError => "not judged",
    };
    text.to_owned()
}
