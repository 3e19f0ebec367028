//! A run as an entry of an experiment log: goal, hypothesis, reasoning, action, outcome, insight, next step.
//!
//! The run's journals fill in what was done and what came out. What only a person knows is a blank in angle brackets, as code so that it is
//! seen. Text of others stands escaped on one line. Reads traces of steps, and writes no file.

use std::collections::BTreeMap;

use super::answer::{Answer, timed_workloads};
use super::details::read_text;
use super::environment;
use super::figures;
use super::markdown::{code, escape};
use super::tables::{FailureKind, failure_kinds};
use crate::event::{Operator, StopReason};
use crate::history::{Outcome, RunHistory, Tallies, Tally, TaskHistory};
use crate::report::pluralize;

/// The first lines of a new log.
pub(crate) const LOG_HEAD: &str = "# Experiment Log\n";

/// The most hypotheses, kernels, workloads and failures that are listed.
const MAX_ITEMS: usize = 8;

/// An entry of the log, about one task of a run.
#[derive(Debug)]
pub(crate) struct LogEntry {
    pub(crate) text: String,
    /// The last line of the entry: which run, and how far it had come. A log with this line has the entry.
    pub(crate) marker: String,
    /// How the markers of all entries of the run and the task begin.
    run_marker: String,
}

impl LogEntry {
    /// Whether a log has this entry already.
    pub(crate) fn is_in(&self, log: &str) -> bool {
        log.lines().any(|line| line.trim() == self.marker)
    }

    /// The entry for a log: it says so if an earlier entry is about the same run.
    pub(crate) fn after(self, log: &str) -> String {
        let has_earlier = log
            .lines()
            .any(|line| line.trim().starts_with(&self.run_marker));
        if !has_earlier {
            return self.text;
        }
        let note =
            "\nThe run has gone on since the last entry about it; this entry covers all of it.\n";
        self.text.replacen("\n\n", &format!("\n{note}\n"), 1)
    }
}

/// The entries of a run: one for each task.
pub(crate) fn log_entries(run: &RunHistory) -> Vec<LogEntry> {
    run.tasks.iter().map(|task| entry(run, task)).collect()
}

fn entry(run: &RunHistory, task: &TaskHistory) -> LogEntry {
    let answer = Answer::of(task, run.state);
    let date = run.started.get(..10).unwrap_or("undated");
    let place = run.directory.display().to_string();
    let mut text = format!(
        "## {date} - {}: run {}\n\n",
        escape(&task.name),
        escape(&place)
    );
    let mut part = |title: &str, lines: Vec<String>| {
        text += &format!("### {title}\n{}\n\n", lines.join("\n"));
    };
    part("Goal", goal(run, task, &answer));
    part("Hypothesis", hypotheses(task));
    part("Reasoning", reasoning(run, task));
    part("Action", action(run, task));
    part("Outcome", outcome(run, task, &answer));
    part("Breakthrough / Insight", insight(task));
    part("Next Step", next_step(run, task));
    let run_marker = format!(
        "<!-- kforge log: {}, seed {}, started {},",
        escape(&task.name),
        run.record.seed,
        run.started
    );
    let marker = format!(
        "{run_marker} {} steps, {}, last event {} -->",
        task.ended(),
        run.state.name(),
        task.last_event
    );
    text += &format!("{marker}\n");
    LogEntry {
        text,
        marker,
        run_marker,
    }
}

fn blank(what: &str) -> String {
    format!("`<{what}>`")
}

fn goal(run: &RunHistory, task: &TaskHistory, answer: &Answer) -> Vec<String> {
    let device = match answer.device.as_str() {
        "" => run.record.device.name.as_str(),
        device => device,
    };
    vec![
        format!(
            "Find a kernel for {} that is faster than {} on {}.",
            code(&task.name),
            code(&answer.baseline),
            escape(device)
        ),
        blank("why this task, and what would be enough"),
    ]
}

/// What the models expected, of the steps that led to the leading kernel.
fn hypotheses(task: &TaskHistory) -> Vec<String> {
    let mut lines = vec![blank("why this run might help")];
    let lineage = task.leading_step().map(|step| task.lineage(step));
    for step in lineage.unwrap_or_default() {
        let trace = read_text(&task.folder.trace(step));
        let trace: Option<serde_json::Value> =
            trace.and_then(|text| serde_json::from_str(&text).ok());
        let hypothesis = trace
            .as_ref()
            .and_then(|trace| trace.get("hypothesis")?.as_str());
        if let Some(hypothesis) = hypothesis.filter(|text| !text.trim().is_empty()) {
            let short: String = hypothesis.chars().take(300).collect();
            lines.push(format!("- Step {step}, the model: {}", escape(&short)));
        }
    }
    lines.truncate(MAX_ITEMS + 1);
    lines
}

fn reasoning(run: &RunHistory, task: &TaskHistory) -> Vec<String> {
    let search = &run.record.config["search"];
    let setting = |key: &str| search[key].as_str().unwrap_or("unknown").to_owned();
    let starts = task
        .steps
        .iter()
        .filter(|step| step.operator == Some(Operator::Start));
    let starts: Vec<_> = starts.map(|step| code(&step.detail)).collect();
    let mut lines = vec![
        blank("how you decided on this run"),
        format!(
            "- Search: mode {}, strategy {}, seed {}.",
            escape(&setting("mode")),
            escape(&setting("strategy")),
            run.record.seed
        ),
    ];
    if !starts.is_empty() {
        lines.push(format!("- Starting kernels: {}.", starts.join(", ")));
    }
    lines
}

fn action(run: &RunHistory, task: &TaskHistory) -> Vec<String> {
    let tallies = Tallies::of(task);
    let by_name = |groups: &BTreeMap<String, Tally>, amount: &dyn Fn(&Tally) -> String| {
        let parts = groups
            .iter()
            .map(|(name, tally)| format!("{} {}", escape(name), amount(tally)));
        parts.collect::<Vec<_>>().join(", ")
    };
    let mut lines = vec![format!(
        "- Made {} in {} of work: {}.",
        pluralize(task.ended(), "step"),
        figures::duration(task.seconds),
        by_name(&tallies.operators, &|tally| tally.steps.to_string())
    )];
    if !tallies.models.is_empty() {
        let cost = task.dollars().map_or_else(String::new, |dollars| {
            format!(", {}", figures::dollars(dollars))
        });
        lines.push(format!(
            "- Asked models: {}; {} tokens{cost}.",
            by_name(&tallies.models, &|tally| pluralize(
                tally.requests,
                "request"
            )),
            figures::count(task.tokens)
        ));
    }
    lines.push(format!(
        "- kforge {} on {}; {}.",
        escape(&run.record.kforge),
        escape(&run.record.host),
        pluralize(run.sessions.len() as u64, "session")
    ));
    let commands = environment::commands(run);
    let evolve = commands.iter().find(|one| one.command.contains("evolve"));
    if let Some(command) = evolve {
        let command = command.command.replace('`', " ");
        lines.push(format!(
            "- To repeat it: `{command}`, with the settings of `run.yaml`."
        ));
    }
    lines.push(blank("what you changed before this run"));
    lines
}

fn outcome(run: &RunHistory, task: &TaskHistory, answer: &Answer) -> Vec<String> {
    let mut lines = vec![format!("- {}", escape(&answer.headline))];
    if run.state != crate::history::RunState::Finished {
        lines.push(format!("- The run is {}.", run.state.name()));
    }
    lines.extend(
        answer
            .certainty
            .iter()
            .map(|one| format!("- {}", escape(one))),
    );
    lines.extend(
        answer
            .over_start
            .iter()
            .map(|one| format!("- {}", escape(one))),
    );
    if let Some((_, best, _)) = task.best() {
        for one in timed_workloads(&best.verdict.workloads).take(MAX_ITEMS) {
            let (Some(speedup), Some(interval)) = (one.speedup, one.ci95) else {
                continue;
            };
            lines.push(format!(
                "- On {}: {} {}",
                escape(&one.id),
                figures::confirmed(speedup),
                figures::confirmed_interval(interval)
            ));
        }
    }
    lines.push(format!(
        "- {} judged, {} passed, {} failed.",
        pluralize(task.count(Outcome::is_judged), "candidate"),
        task.count(|one| matches!(one, Outcome::Passed | Outcome::Dismissed)),
        task.count(Outcome::is_failure)
    ));
    let failures = failure_kinds(task, &Default::default());
    if !failures.is_empty() {
        let kinds = failures.iter().take(MAX_ITEMS).map(FailureKind::summary);
        lines.push(format!(
            "- Failures: {}.",
            kinds.collect::<Vec<_>>().join(", ")
        ));
    }
    lines.extend(
        run.damage
            .iter()
            .map(|damage| format!("- Incomplete: {}", escape(damage))),
    );
    lines
}

/// How the leading kernel was made, and which operators brought something.
fn insight(task: &TaskHistory) -> Vec<String> {
    let mut lines = vec![blank("what you learned, and what it changes")];
    if let Some(step) = task.leading_step() {
        let made = task.lineage(step);
        let made = made.iter().filter_map(|step| task.step(*step));
        let made: Vec<_> = made
            .map(|step| {
                let figure = step.speedup.map_or_else(String::new, |one| {
                    format!(" {}", figures::provisional(one.geomean))
                });
                format!("step {} {}{figure}", step.step, code(&step.detail))
            })
            .collect();
        let skipped = made.len().saturating_sub(MAX_ITEMS);
        lines.push(format!(
            "- The kernel was made in: {}.",
            made[skipped..].join(", then ")
        ));
    }
    for (name, tally) in &Tallies::of(task).operators {
        if name != Operator::Start.name() {
            lines.push(format!(
                "- {}: {} of {} passed, {} faster than their parent in the search.",
                escape(name),
                tally.passed,
                pluralize(tally.steps, "step"),
                tally.faster
            ));
        }
    }
    lines
}

fn next_step(run: &RunHistory, task: &TaskHistory) -> Vec<String> {
    let mut lines = vec![blank("what follows from this")];
    let command = crate::report::Continuation::default().command(&run.directory);
    let command = command.replace('`', " ");
    let stopped = task.stopped.as_ref().map(|stopped| match stopped.why {
        StopReason::Steps => ("all steps were made", " --steps N"),
        StopReason::Seconds => ("the time budget is spent", " --budget-seconds N"),
        StopReason::DeviceSeconds => (
            "the budget of device time is spent",
            " --budget-device-seconds N",
        ),
        StopReason::Target => (
            "the target speedup was reached",
            " --set search.target_speedup=X",
        ),
        StopReason::WorkloadTargets => (
            "one kernel reached the targets of all workloads",
            " --set search.targets={}",
        ),
        StopReason::Roofline => (
            "the target share of the roofline was reached",
            " --set search.target_roofline=null",
        ),
        StopReason::Unlikely => (
            "no later kernel is likely to be measurably faster",
            " --set search.stop_when_unlikely=null",
        ),
        StopReason::Patience => ("no improvement for long", " --set search.patience=N"),
        StopReason::Exhausted => ("nothing is left to try", " --model PROVIDER/MODEL"),
        StopReason::Budget => ("the budget for models is spent", " --budget-usd DOLLARS"),
    });
    lines.push(match stopped {
        Some((reason, flag)) => {
            format!("- The search has stopped: {reason}. `{command}{flag}` goes on.")
        }
        None => format!("- The search has not stopped. `{command}` goes on."),
    });
    lines
}
