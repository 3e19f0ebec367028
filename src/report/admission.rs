//! What became of tasks that were to be admitted, in words and tables.

use super::pluralize;
use crate::eval::Admission;
use crate::task::PrecisionCheck;

/// One task: admitted, or what it lets pass, where, and by how much.
pub(crate) fn describe_admission(admission: &Admission) -> String {
    let mut text = format!(
        "{}: {}; {}, {}, {} in {:.1} s, seed {}\n",
        admission.task,
        if admission.admitted {
            "admitted"
        } else {
            "refused"
        },
        pluralize(admission.workloads as u64, "workload"),
        pluralize(admission.regimes.len() as u64, "regime"),
        pluralize(admission.comparisons as u64, "spoilt output"),
        admission.seconds,
        admission.seed,
    );
    if admission.precision == PrecisionCheck::Unchecked {
        text += "  precision: unchecked, as task.yaml says; every verdict says so too\n";
    }
    let mut kinds: Vec<(&str, Option<&str>)> = Vec::new();
    for leak in &admission.passed {
        let kind = (leak.candidate.as_str(), leak.output.as_deref());
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    if !kinds.is_empty() {
        text += &format!(
            "\n  {:<46} {:<14} {:>6}  {:<28} {:>9}\n",
            "passes and must not", "output", "inputs", "for example", "error"
        );
    }
    for (candidate, output) in kinds {
        let same = admission
            .passed
            .iter()
            .filter(|leak| leak.candidate == candidate && leak.output.as_deref() == output);
        let count = same.clone().count();
        let Some(worst) = same.max_by(|one, other| one.error.total_cmp(&other.error)) else {
            continue;
        };
        let regime = worst.regime.as_deref().map(|name| format!(", {name}"));
        text += &format!(
            "  {candidate:<46} {:<14} {count:>6}  {:<28} {:>8.1} %\n",
            output.unwrap_or("all"),
            format!("{}{}", worst.workload, regime.unwrap_or_default()),
            worst.error * 100.0
        );
    }
    if !admission.passed.is_empty() {
        text += "\n  The error is a share of what the tolerance allows. Narrow the tolerance or change the inputs; where precision\n  cannot be told, say `precision: unchecked`.\n";
    }
    for fault in &admission.faults {
        let place: Vec<_> = [&fault.workload, &fault.regime]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        let place = match place.is_empty() {
            true => String::new(),
            false => format!("{}: ", place.join(", ")),
        };
        text += &format!("  {place}{}\n", fault.reason);
    }
    text
}
