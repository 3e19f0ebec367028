//! The result of admitting a task, as text: what its oracle and tolerances let pass that they must not.
//!
//! Pure: from the result to text.

use super::text::pluralize;
use crate::eval::Admission;
use crate::task::PrecisionCheck;

/// Whether a task is admitted, and a table of the corrupted outputs that passed.
pub(crate) fn describe_admission(admission: &Admission) -> String {
    let result = if admission.admitted {
        "admitted"
    } else {
        "refused"
    };
    let mut text = format!(
        "{}: {result}; {}, {}, {} in {:.1} s, seed {}\n",
        admission.task,
        pluralize(admission.workloads as u64, "workload"),
        pluralize(admission.regimes.len() as u64, "regime"),
        pluralize(admission.comparisons as u64, "corrupted output"),
        admission.seconds,
        admission.seed,
    );
    if admission.precision == PrecisionCheck::Unchecked {
        text += "  precision: unchecked, as task.yaml says; every verdict says so too\n";
    }
    text += &missed_table(admission);
    for fault in &admission.faults {
        let location: Vec<_> = [&fault.workload, &fault.regime]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        let location = if location.is_empty() {
            String::new()
        } else {
            format!("{}: ", location.join(", "))
        };
        text += &format!("  {location}{}\n", fault.reason);
    }
    text
}

/// One row for each kind of corruption and output, with the number of inputs and the worst example.
fn missed_table(admission: &Admission) -> String {
    let missed = &admission.passed;
    if missed.is_empty() {
        return String::new();
    }
    let mut kinds: Vec<(&str, Option<&str>)> = Vec::new();
    for case in missed {
        let kind = (case.candidate.as_str(), case.output.as_deref());
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let mut text = format!(
        "\n  {:<46} {:<14} {:>6}  {:<28} {:>9}\n",
        "passes but must not", "output", "inputs", "for example", "error"
    );
    for (candidate, output) in kinds {
        let same = missed
            .iter()
            .filter(|case| case.candidate == candidate && case.output.as_deref() == output);
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
    text += "\n  error: share of what the tolerance allows\n";
    text += "  hint: narrow the tolerance or change the inputs; if precision cannot be checked, set `precision: unchecked`\n";
    text
}
