//! Verdicts as text.
//!
//! Pure: from a verdict to text.

use super::headline::{over_strongest, suggested_seconds, with_interval};
use super::profiling::profiling_text;
use super::text::device_note;
use crate::verdict::{Dismissal, Status, TimeSummary, TimedAgainst, Verdict};

/// Maximum number of inefficient memory accesses to show.
const MAX_POOR_ACCESSES: usize = 5;

/// Minimum ratio of bank passes to necessary passes at which bank conflicts are shown.
const MIN_BANK_CONFLICTS: f64 = 1.5;

/// A verdict as a table, with its log if the kernel did not pass. `timing_seconds`: the timing budget that it had for each workload.
pub(crate) fn describe_verdict(verdict: &Verdict, timing_seconds: f64) -> String {
    let mut text = headline(verdict);
    match &verdict.dismissal {
        Some(dismissal) => text += &dismissal_note(verdict, dismissal),
        None => text += &not_faster_note(verdict, timing_seconds),
    }
    if let Some(anchor) = &verdict.timed_against {
        text += &anchor_note(anchor);
    }
    if !verdict.not_done.is_empty() {
        text += &format!("  not done: {}\n", verdict.not_done.join(", "));
    }
    text += &workloads_table(verdict);
    for (name, unchecked) in [("precision", &verdict.precision), ("state", &verdict.state)] {
        if let Some(unchecked) = unchecked {
            text += &format!("  {name}: {unchecked}\n");
        }
    }
    for note in &verdict.notes {
        text += &format!("  note: {note}\n");
    }
    for access in poor_accesses(verdict) {
        text += &format!("  {access}\n");
    }
    text += &profiling_text(verdict);
    if verdict.status == Status::Inconclusive {
        text += &inconclusive_hint(timing_seconds);
    }
    let evidence = verdict.evidence.as_ref().filter(|_| !verdict.passed());
    if let Some(log) = evidence.and_then(|evidence| evidence.log.as_ref()) {
        log.lines()
            .for_each(|line| text += &format!("  | {line}\n"));
    }
    text
}

/// What to do about a correct kernel without a speedup.
fn inconclusive_hint(timing_seconds: f64) -> String {
    let seconds = suggested_seconds(timing_seconds);
    format!(
        "  hint: this machine is too busy to time the kernel: close other programs, or\n  allow more time with `--seconds {seconds}`; in a run with `--set eval.seconds={seconds}`\n"
    )
}

/// That a kernel that passed is not faster than the baseline, or not certainly. Empty for others.
fn not_faster_note(verdict: &Verdict, timing_seconds: f64) -> String {
    match &verdict.speedup {
        Some(speedup) if speedup.is_slower() => "  slower than the baseline\n".to_owned(),
        Some(speedup) if !speedup.is_faster() => format!(
            "  not clearly faster than the baseline: the interval contains 1; a quieter\n  machine, or more time with `--seconds {}`, narrows it\n",
            suggested_seconds(timing_seconds)
        ),
        _ => String::new(),
    }
}

/// Why the timing of a kernel ended early.
fn dismissal_note(verdict: &Verdict, dismissal: &Dismissal) -> String {
    let Dismissal { look, looks, bar } = dismissal;
    let most = verdict.speedup.map_or_else(String::new, |speedup| {
        format!("at most {:.2}x, ", speedup.ci95[1])
    });
    format!("  dismissed at look {look} of {looks}: {most}a kernel of its kind needs {bar:.2}x\n")
}

/// Which kernel was timed instead of the baseline, and how fast it is.
fn anchor_note(anchor: &TimedAgainst) -> String {
    let TimedAgainst {
        step,
        kernel,
        speedup,
    } = anchor;
    format!("  timed against `{kernel}` (step {step}), which is {speedup:.2}x\n")
}

/// Status, and the speedup or the reason.
fn headline(verdict: &Verdict) -> String {
    let status = format!("{}: {}", verdict.kernel, verdict.status);
    match (&verdict.speedup, &verdict.reason) {
        (Some(speedup), _) => {
            let baseline = verdict.baseline.as_ref();
            let others = verdict.strongest.iter().chain(&verdict.faster_outside);
            let others: String = others.map(over_strongest).collect();
            format!(
                "{status}, {} over `{}`{others}\n",
                with_interval(speedup),
                baseline.map_or("", |baseline| &baseline.name),
            )
        }
        (None, Some(reason)) => format!("{status}: {reason}\n"),
        (None, None) => format!("{status}\n"),
    }
}

/// A line per timed workload. Empty if none was timed.
fn workloads_table(verdict: &Verdict) -> String {
    let time = |times: &Option<TimeSummary>| {
        times.map_or_else(String::new, |times| format!("{:.1}", times.median))
    };
    let mut rows = String::new();
    for workload in &verdict.workloads {
        let (Some(speedup), Some(ci95)) = (workload.speedup, workload.ci95) else {
            continue;
        };
        rows += &format!(
            "  {:<14} {speedup:>8.3}x {:>20} {:>12} {:>12} {:>8}\n",
            workload.id,
            format!("[{:.3}, {:.3}]", ci95[0], ci95[1]),
            time(&workload.candidate_us),
            time(&workload.baseline_us),
            workload
                .tolerance_margin
                .map_or_else(String::new, |margin| format!("{margin:.3}"))
        );
    }
    if rows.is_empty() {
        return rows;
    }
    let header = format!(
        "  {:<14} {:>9} {:>20} {:>12} {:>12} {:>8}\n",
        "workload", "speedup", "95 % interval", "kernel us", "baseline us", "margin"
    );
    header + &rows
}

/// A line for each of the first loads and stores that use memory inefficiently.
fn poor_accesses(verdict: &Verdict) -> Vec<String> {
    let poor = verdict.accesses.iter().filter_map(|access| {
        let start = format!(
            "line {}: this {} {} of {} bytes",
            access.line, access.space, access.access, access.bytes
        );
        match (
            &access.pattern,
            access.sectors_per_request,
            access.bank_conflicts,
        ) {
            (Some(pattern), Some(sectors), _) if pattern != "coalesced" => Some(format!(
                "{start} touches {sectors:.1} sectors per request ({pattern})"
            )),
            (_, _, Some(conflicts)) if conflicts >= MIN_BANK_CONFLICTS => Some(format!(
                "{start} takes {conflicts:.1} times as many passes over the banks as necessary"
            )),
            _ => None,
        }
    });
    poor.take(MAX_POOR_ACCESSES).collect()
}

/// The device that the times of these verdicts were measured on, and that they are not confirmed. Empty if nothing was timed.
pub(crate) fn timing_note(verdicts: &[Verdict], profile: &str) -> String {
    let is_timed = |verdict: &&Verdict| {
        let mut workloads = verdict.workloads.iter();
        workloads.any(|workload| workload.speedup.is_some())
    };
    let first = verdicts.iter().find(is_timed);
    first.map_or_else(String::new, |verdict| {
        format!(
            "{}  profile `{profile}`, one process: not confirmed, as in a search\n",
            device_note(&verdict.device)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::{Speedup, Timing};

    #[test]
    fn dismissed_kernel_says_why_and_what_was_not_done() {
        let verdict = Verdict {
            status: Status::Passed,
            reason: None,
            timing: Some(Timing::Dismissed),
            dismissal: Some(Dismissal {
                look: 1,
                looks: 3,
                bar: 1.9,
            }),
            not_done: vec![
                "14 of 18 hidden cases".to_owned(),
                "bounds and race builds".to_owned(),
                "full timing".to_owned(),
            ],
            speedup: Some(Speedup {
                geomean: 0.4,
                ci95: [0.375, 0.421],
            }),
            ..Verdict::harness_error("softmax", "step 7", "cpu", String::new())
        };
        assert_eq!(
            describe_verdict(&verdict, 0.3),
            "step 7: passed, 0.400x [0.375, 0.421] over ``\n\
             \x20 dismissed at look 1 of 3: at most 0.42x, a kernel of its kind needs 1.90x\n\
             \x20 not done: 14 of 18 hidden cases, bounds and race builds, full timing\n"
        );
    }
}
