//! The answer of a run for one task: what was gained on what, against what, on which device, and how certain that is.
//!
//! The page, the Markdown and the JSON all begin with it. Pure.

use serde::Serialize;

use super::figures;
use crate::history::{Confirmation, Outcome, RunState, TaskHistory};
use crate::report::pluralize;
use crate::verdict::{DeviceIdentity, Speedup, StrongestBaseline, WorkloadVerdict};

/// What a task has found.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Answer {
    pub(super) task: String,
    /// `faster`: there is a best kernel; `unconfirmed`: something passed; `nothing`.
    pub(super) kind: &'static str,
    /// The confirmed speedup of the best kernel. `None` without one.
    pub(super) speedup: Option<Speedup>,
    /// The same as text: the figure, and the interval. Empty without one.
    pub(super) figure: String,
    pub(super) interval: String,
    /// Step of the best kernel, else of the fastest elite.
    pub(super) step: Option<u64>,
    pub(super) baseline: String,
    /// The strongest known baselines beside the best kernel, the strongest first.
    pub(super) strongest: Vec<StrongestBaseline>,
    /// The same in words, one text each.
    pub(super) over_strongest: Vec<String>,
    /// The same in one line.
    pub(super) headline: String,
    /// The device, in words.
    pub(super) device: String,
    /// What speaks for and against the result, one sentence each.
    pub(super) certainty: Vec<String>,
    /// What the best kernel gains over the best starting kernel, in words.
    pub(super) over_start: Option<String>,
    /// How the kernel was made, in words.
    pub(super) made_by: String,
    /// Path of the kernel, relative to the run directory.
    pub(super) kernel: Option<String>,
}

impl Answer {
    pub(super) fn of(task: &TaskHistory, state: RunState) -> Self {
        let baseline = task.baseline.as_ref();
        let baseline = baseline.map_or("the baseline", |baseline| baseline.name.as_str());
        let mut answer = Self {
            task: task.name.clone(),
            kind: "nothing",
            speedup: None,
            figure: String::new(),
            interval: String::new(),
            step: task.leading_step(),
            baseline: baseline.to_owned(),
            strongest: task.strongest_baselines(),
            over_strongest: Vec::new(),
            headline: String::new(),
            device: task.device.as_ref().map_or_else(String::new, device_text),
            certainty: Vec::new(),
            over_start: None,
            made_by: String::new(),
            kernel: None,
        };
        answer.made_by = answer
            .step
            .map_or_else(String::new, |step| made_by(task, step));
        if let Some((step, confirmation, speedup)) = task.best() {
            answer.kind = "faster";
            answer.speedup = Some(speedup);
            answer.figure = figures::confirmed(speedup.geomean);
            answer.interval = figures::confirmed_interval(speedup.ci95);
            answer.over_strongest = answer.strongest.iter().map(over_strongest).collect();
            let others = answer.over_strongest.iter();
            answer.headline = format!(
                "{} over {baseline}{}, confirmed (step {step})",
                figures::confirmed_speedup(&speedup),
                others.map(|text| format!(", {text}")).collect::<String>()
            );
            answer.kernel = Some(format!("{}/best.cu", task.name));
            answer.certainty = certainty(task, confirmation);
            answer.over_start = over_start(task);
        } else if let Some(elite) = task.unrefuted_elites().next() {
            answer.kind = "unconfirmed";
            answer.headline = format!(
                "no kernel confirmed faster than {baseline}; the fastest of the search has {}",
                figures::provisional_speedup(&elite.speedup)
            );
            let confirmation = task.confirmations.get(&elite.step);
            answer.certainty.push(why_unconfirmed(confirmation, state));
            answer.kernel = Some(format!("{}/steps/{:06}/kernel.cu", task.name, elite.step));
        } else {
            let (headline, why) = match task.ended() {
                0 => ("no step has ended", why_no_step(state)),
                _ => ("no candidate passed", why_nothing(task)),
            };
            answer.headline = headline.to_owned();
            answer.certainty.push(why);
        }
        if task
            .device
            .as_ref()
            .is_some_and(|device| device.cores.is_some())
        {
            let note = "These are CPU times: they rank kernels for this CPU, not for a GPU.";
            answer.certainty.push(note.to_owned());
        }
        answer
    }
}

/// What the confirmation of the best kernel says.
fn certainty(task: &TaskHistory, confirmation: &Confirmation) -> Vec<String> {
    let verdict = &confirmation.verdict;
    let mut sentences = vec![
        "Measured again in new processes, with new inputs and seeds: the whole 95 % interval is above 1."
            .to_owned(),
    ];
    let timed: Vec<_> = timed_workloads(&verdict.workloads).collect();
    let slower: Vec<_> = timed
        .iter()
        .filter(|one| one.ci95.is_some_and(|[_, high]| high < 1.0))
        .map(|one| {
            let speedup = one.speedup.map_or_else(String::new, figures::confirmed);
            format!("{} ({speedup})", one.id)
        })
        .collect();
    if !slower.is_empty() {
        sentences.push(format!(
            "It is slower on {} of {}: {}.",
            slower.len(),
            pluralize(timed.len() as u64, "workload"),
            slower.join(", ")
        ));
    }
    let unclear: Vec<_> = timed
        .iter()
        .filter(|one| {
            one.ci95
                .is_some_and(|[low, high]| low <= 1.0 && high >= 1.0)
        })
        .map(|one| one.id.as_str())
        .collect();
    if !unclear.is_empty() {
        sentences.push(format!(
            "On {} of {} the interval contains 1: {}.",
            unclear.len(),
            pluralize(timed.len() as u64, "workload"),
            unclear.join(", ")
        ));
    }
    if !verdict.not_done.is_empty() {
        let missing = verdict.not_done.join(", ");
        sentences.push(format!("Not done for lack of time: {missing}."));
    }
    let detectable = task.self_tests.iter().map(|test| test.detectable);
    if let Some(detectable) = detectable.reduce(f64::max) {
        sentences.push(format!(
            "The baseline timed against itself: a single judgement detects differences from {:.1} % on.",
            detectable * 100.0
        ));
    }
    let confirmed = task.confirmations.len() as u64;
    if confirmed > 1 {
        sentences.push(format!(
            "{} were measured again; this is the fastest of them.",
            pluralize(confirmed, "kernel")
        ));
    }
    sentences
}

/// The best kernel beside another baseline: `1.160x [1.140, 1.180] over torch 2.11.0 in pairs`, or that it is slower.
pub(super) fn over_strongest(strongest: &StrongestBaseline) -> String {
    let figure = figures::confirmed_speedup(&strongest.speedup);
    let (label, origin) = (strongest.label(), strongest.origin.in_words());
    if let Some(outside) = &strongest.outside {
        let faster = outside.in_words();
        return format!("but {label} {faster}: {figure} over it, {origin}");
    }
    match strongest.speedup.is_slower() {
        true => format!("but slower than {label}: {figure} over it, {origin}"),
        false => format!("{figure} over {label} {origin}"),
    }
}

/// The best kernel against the best starting kernel.
fn over_start(task: &TaskHistory) -> Option<String> {
    let best = task.best()?.0;
    if task.is_start(best) {
        return Some("The best kernel is a starting kernel.".to_owned());
    }
    let (against, duel) = task.against_start()?;
    let name = task.step(against).map_or("", |step| &*step.detail);
    Some(match duel {
        Some(duel) => format!(
            "{} {} over the best starting kernel, {name} (step {against}), timed in pairs.",
            figures::confirmed(duel.ratio),
            figures::confirmed_interval(duel.ci95)
        ),
        None => format!(
            "The comparison with the best starting kernel, {name} (step {against}), has no precise result."
        ),
    })
}

fn why_unconfirmed(confirmation: Option<&Confirmation>, state: RunState) -> String {
    let Some(confirmation) = confirmation else {
        return match state {
            RunState::Open | RunState::Working => "It is not confirmed: the run has not ended.",
            RunState::Interrupted => "It is not confirmed: the run was interrupted.",
            RunState::AwaitingReplies => {
                "It is not confirmed: the run waits for replies in its mailbox."
            }
            RunState::Failed => "It is not confirmed: the run has failed.",
            RunState::Finished => "It was not measured again, so nothing is claimed.",
        }
        .to_owned();
    };
    match &confirmation.speedup {
        Some(speedup) if speedup.is_slower() => format!(
            "Measured again, it is slower than the baseline: {}.",
            figures::confirmed_speedup(speedup)
        ),
        Some(speedup) if speedup.is_faster() => "It has the source of the baseline.".to_owned(),
        Some(speedup) => format!(
            "Measured again, its interval contains 1: {}.",
            figures::confirmed_speedup(speedup)
        ),
        None => "Measured again, its times were too noisy.".to_owned(),
    }
}

fn why_no_step(state: RunState) -> String {
    match state {
        RunState::Open | RunState::Working => "The run has not ended.",
        RunState::Interrupted => "The run was interrupted before its first step had ended.",
        RunState::AwaitingReplies => "The run waits for replies in its mailbox.",
        RunState::Failed => "The run has failed before its first step had ended.",
        RunState::Finished => "The run ended before its first step.",
    }
    .to_owned()
}

fn why_nothing(task: &TaskHistory) -> String {
    let judged = task.count(Outcome::is_judged);
    let mut kinds = std::collections::BTreeMap::<String, u64>::new();
    for step in &task.steps {
        if step.outcome.is_failure() {
            *kinds.entry(step.outcome.name()).or_default() += 1;
        }
    }
    let most = kinds.into_iter().max_by_key(|(_, count)| *count);
    let most = most.map_or_else(String::new, |(kind, count)| {
        format!(
            " The most frequent result is {kind}: {}.",
            pluralize(count, "step")
        )
    });
    let judged = pluralize(judged, "candidate");
    let steps = pluralize(task.ended(), "step");
    format!("{judged} judged in {steps}.{most}")
}

/// How the kernel of a step was made.
pub(super) fn made_by(task: &TaskHistory, step: u64) -> String {
    let Some(step) = task.step(step) else {
        return String::new();
    };
    let operator = step.operator.map_or("", crate::event::Operator::name);
    match task.name_of(step.model) {
        Some(model) => format!("{operator} by {model}"),
        None => operator.to_owned(),
    }
}

/// The workloads that were timed.
pub(super) fn timed_workloads(
    workloads: &[WorkloadVerdict],
) -> impl Iterator<Item = &WorkloadVerdict> {
    workloads
        .iter()
        .filter(|one| !one.hidden && one.speedup.is_some())
}

/// A device in words.
pub(super) fn device_text(device: &DeviceIdentity) -> String {
    match device.cores {
        Some(cores) => format!("{} ({})", device.name, pluralize(u64::from(cores), "core")),
        None => format!("{} ({})", device.name, device.arch),
    }
}
