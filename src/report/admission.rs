//! The output of `kforge tasks check` for one task: admitted or refused, and a table of corrupted outputs that passed.
//!
//! Pure: from the result of `eval::admission` to text.

use super::text::pluralize;
use crate::eval::Admission;
use crate::task::PrecisionCheck;

/// Whether the task is admitted, the table of missed corruptions, and the other faults.
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
        text += "  precision: unchecked, as set in `task.yaml`; every verdict says so\n";
    }
    text += &coverage_line(admission);
    text += &reduced_line(admission);
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

/// How many wrong kernels the cases of a judgement expose.
fn coverage_line(admission: &Admission) -> String {
    let coverage = &admission.coverage;
    if coverage.mutants == 0 {
        return String::new();
    }
    format!(
        "  {} wrong kernels: a judgement exposes {:.1} % of them, a confirmation {} of {}\n",
        coverage.mutants,
        coverage.exposed_share * 100.0,
        coverage.exposed_by_confirmations,
        coverage.mutants,
    )
}

/// The workloads that were tested at a smaller size.
fn reduced_line(admission: &Admission) -> String {
    let names = |is_timed: bool| {
        let all = admission.reduced.iter();
        let chosen = all.filter(|one| {
            if is_timed {
                one.timed.is_some()
            } else {
                one.regimes.is_some()
            }
        });
        let names: Vec<_> = chosen.map(|one| one.workload.as_str()).collect();
        names.join(", ")
    };
    let mut text = String::new();
    for (is_timed, inputs) in [(true, "with the timed inputs"), (false, "under regimes")] {
        let names = names(is_timed);
        if !names.is_empty() {
            text += &format!("  at a smaller size {inputs}: {names}\n");
        }
    }
    text
}

/// One row for each corruption and output: the number of inputs on which it passed, and the input with the largest error.
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
    let mut is_right = false;
    for (candidate, output) in kinds {
        let same = missed
            .iter()
            .filter(|case| case.candidate == candidate && case.output.as_deref() == output);
        let count = same.clone().count();
        let Some(worst) = same.max_by(|one, other| one.error.total_cmp(&other.error)) else {
            continue;
        };
        let regime = worst.regime.as_deref().map(|name| format!(", {name}"));
        is_right |= worst.error == 0.0;
        text += &format!(
            "  {candidate:<46} {:<14} {count:>6}  {:<28} {:>8.1} %\n",
            output.unwrap_or("all"),
            format!("{}{}", worst.workload, regime.unwrap_or_default()),
            worst.error * 100.0
        );
    }
    text += "\n  error: largest error of an element, in percent of its tolerance\n";
    text += "  hint: narrow the tolerance or change the inputs; if precision cannot be\n";
    text += "        checked, set `precision: unchecked`\n";
    if is_right {
        text += "  0.0 %: with such inputs this kernel is right: change them or the regime\n";
    }
    text
}
