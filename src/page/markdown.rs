//! Runs as Markdown for a pull request: under 60 lines for one run.
//!
//! Text of others stands in code spans or escaped, so that it is never markup.

use super::answer::{Answer, timed_workloads};
use super::environment;
use super::figures;
use super::tables::{FailureKind, failure_kinds};
use crate::history::{Outcome, RunHistory, TaskHistory};
use crate::report::pluralize;

/// The most lines.
const MAX_LINES: usize = 59;

/// The most workloads and kernels of a table.
const MAX_ROWS: usize = 8;

/// Runs as one Markdown text.
pub(crate) fn markdown(runs: &[RunHistory]) -> String {
    let mut lines = Vec::new();
    for run in runs {
        for task in &run.tasks {
            task_lines(run, task, &mut lines);
        }
        lines.push(format!(
            "kforge {}, seed {}, host {}, {}. Reproduce:",
            run.record.kforge,
            run.record.seed,
            escape(&run.record.host),
            run.state.name()
        ));
        lines.push(String::new());
        lines.push("```console".to_owned());
        let commands = environment::commands(run);
        lines.extend(
            commands
                .iter()
                .map(|one| format!("$ {}", one.command.replace("```", ""))),
        );
        lines.push("```".to_owned());
        for damage in &run.damage {
            lines.push(format!("\nIncomplete: {}", escape(damage)));
        }
        lines.push(String::new());
    }
    if lines.len() > MAX_LINES {
        lines.truncate(MAX_LINES - 1);
        // A cut code block would swallow what follows.
        if lines.iter().filter(|line| line.starts_with("```")).count() % 2 == 1 {
            lines.pop();
            lines.push("```".to_owned());
        }
        lines.push("… the rest is in the HTML report.".to_owned());
    }
    lines.join("\n") + "\n"
}

fn task_lines(run: &RunHistory, task: &TaskHistory, lines: &mut Vec<String>) {
    let answer = Answer::of(task, run.state);
    lines.push(format!(
        "### {}: {}",
        escape(&task.name),
        escape(&answer.headline)
    ));
    lines.push(String::new());
    if !answer.device.is_empty() {
        lines.push(format!("On {}.", escape(&answer.device)));
    }
    lines.extend(answer.certainty.iter().map(|sentence| escape(sentence)));
    lines.extend(answer.over_start.as_deref().map(escape));
    lines.push(String::new());
    workload_lines(task, lines);
    lines.push(format!(
        "{}: {} judged, {} passed, {} failed, {}; {} of kernels; {} of work{}.",
        pluralize(task.ended(), "step"),
        task.count(Outcome::is_judged),
        task.count(|one| matches!(one, Outcome::Passed | Outcome::Dismissed)),
        task.count(Outcome::is_failure),
        pluralize(task.count(Outcome::is_repeat), "duplicate"),
        pluralize(task.grid.elites().len() as u64, "kind"),
        figures::duration(task.seconds),
        match (task.tokens, task.dollars()) {
            (0, _) => String::new(),
            (tokens, Some(dollars)) => format!(
                "; {} tokens, {}",
                figures::count(tokens),
                figures::dollars(dollars)
            ),
            (tokens, None) => format!("; {} tokens", figures::count(tokens)),
        }
    ));
    let failures = failure_kinds(task, &Default::default());
    if !failures.is_empty() {
        let kinds = failures.iter().map(FailureKind::summary);
        lines.push(format!(
            "Failures: {}.",
            kinds.collect::<Vec<_>>().join(", ")
        ));
    }
    lines.push(String::new());
    if let Some(step) = answer.step {
        let made = task.lineage(step);
        let made = made.iter().filter_map(|step| task.step(*step));
        let made: Vec<_> = made
            .map(|step| {
                let operator = step.operator.map_or("", crate::event::Operator::name);
                format!("{} (step {}, {operator})", code(&step.detail), step.step)
            })
            .collect();
        let skipped = made.len().saturating_sub(MAX_ROWS);
        lines.push(format!(
            "How it was made: {}.",
            made[skipped..].join(", then ")
        ));
        lines.push(String::new());
    }
}

/// The workloads of the best kernel.
fn workload_lines(task: &TaskHistory, lines: &mut Vec<String>) {
    let Some((_, best, _)) = task.best() else {
        return;
    };
    let timed: Vec<_> = timed_workloads(&best.verdict.workloads).collect();
    let strongest = task.strongest_timed();
    let label = strongest.map(|entry| escape(&entry.label()));
    let [head, rule] = match &label {
        Some(label) => [
            format!(" {label} | speedup over it |"),
            " ---: | ---: |".to_owned(),
        ],
        None => Default::default(),
    };
    lines.push(format!(
        "| workload | time | baseline | speedup | 95 % interval |{head}"
    ));
    lines.push(format!("| --- | ---: | ---: | ---: | --- |{rule}"));
    for one in timed.iter().take(MAX_ROWS) {
        let time = |times: &Option<crate::verdict::TimeSummary>| {
            times.map_or_else(String::new, |times| figures::microseconds(times.median))
        };
        let beside = strongest.map_or_else(String::new, |entry| {
            let found = entry.on(&one.id);
            let time = found.map(|found| figures::microseconds(found.baseline_us));
            let ratio = found.map(|found| figures::confirmed(found.kernel_speedup));
            let [time, ratio] = [time, ratio].map(Option::unwrap_or_default);
            format!(" {time} | {ratio} |")
        });
        lines.push(format!(
            "| {} | {} | {} | {} | {} |{beside}",
            escape(&one.id),
            time(&one.candidate_us),
            time(&one.baseline_us),
            one.speedup.map_or_else(String::new, figures::confirmed),
            one.ci95
                .map_or_else(String::new, figures::confirmed_interval)
        ));
    }
    lines.push(String::new());
    if timed.len() > MAX_ROWS {
        let more = pluralize((timed.len() - MAX_ROWS) as u64, "more workload");
        lines.push(format!("{more}: see the HTML report."));
        lines.push(String::new());
    }
}

/// A text of others on one line, without markup.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        match letter {
            '\n' | '\r' => escaped.push(' '),
            '<' => escaped.push_str("&lt;"),
            '&' => escaped.push_str("&amp;"),
            '`' | '*' | '_' | '[' | ']' | '|' | '\\' | '#' | '~' | '!' => {
                escaped.push('\\');
                escaped.push(letter);
            }
            other => escaped.push(other),
        }
    }
    escaped
}

/// A text of others as a code span.
pub(super) fn code(text: &str) -> String {
    let text: String = text.chars().take(100).collect();
    let text = text.replace(['`', '\n', '\r', '|'], " ");
    match text.trim() {
        "" => "a kernel".to_owned(),
        text => format!("`{text}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_is_no_markup() {
        assert_eq!(escape("<img> `x` |\n#"), "&lt;img> \\`x\\` \\| \\#");
        assert_eq!(code("a`b|c"), "`a b c`");
    }
}
