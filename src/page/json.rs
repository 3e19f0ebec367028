//! Runs as JSON, for scripts: the answer and the counts of each task, and every step with its figures.
//!
//! `docs/reports.md` describes the fields. Fields may be added.

use serde_json::{Value, json};

use super::answer::Answer;
use crate::history::{Outcome, RunHistory, StepHistory, TaskHistory};

/// The version of the JSON.
const SCHEMA: u32 = 1;

/// Runs as one document.
pub(crate) fn json(runs: &[RunHistory]) -> Value {
    json!({"schema": SCHEMA, "runs": runs.iter().map(run_json).collect::<Vec<_>>()})
}

fn run_json(run: &RunHistory) -> Value {
    let tasks = run.tasks.iter().map(|task| task_json(run, task));
    let (tokens, dollars) = run.spent();
    json!({
        "directory": run.directory.display().to_string(),
        "state": run.state.name(),
        "kforge": run.record.kforge,
        "host": run.record.host,
        "seed": run.record.seed.to_string(),
        "backend": run.record.backend,
        "device": run.record.device,
        "started": run.started,
        "last_event": run.last_event,
        "tokens": tokens,
        "dollars": dollars,
        "damage": run.damage,
        "tasks": tasks.collect::<Vec<_>>(),
    })
}

fn task_json(run: &RunHistory, task: &TaskHistory) -> Value {
    json!({
        "task": task.name,
        "answer": Answer::of(task, run.state),
        "steps_made": task.ended(),
        "judged": task.count(Outcome::is_judged),
        "passed": task.count(|one| matches!(one, Outcome::Passed | Outcome::Dismissed)),
        "failures": task.count(Outcome::is_failure),
        "cells": task.grid.elites().len(),
        "seconds": task.seconds,
        "dollars": task.dollars(),
        "tokens": task.tokens,
        "elites": task.grid.elites().iter().map(|elite| elite.step).collect::<Vec<_>>(),
        "workloads": task.workloads,
        "steps": task.steps.iter().map(|step| step_json(task, step)).collect::<Vec<_>>(),
    })
}

fn step_json(task: &TaskHistory, step: &StepHistory) -> Value {
    let confirmation = task.confirmations.get(&step.step);
    json!({
        "step": step.step,
        "operator": step.operator,
        "model": task.name_of(step.model),
        "parents": step.parents,
        "island": step.island,
        "change": step.detail,
        "outcome": step.outcome.name(),
        "reason": step.reason,
        "provisional": step.speedup,
        "confirmed": confirmation.and_then(|one| one.speedup),
        "added": step.added,
        "seconds": step.at_seconds,
        "tokens": step.tokens,
        "dollars": task.dollars().map(|_| step.nano_usd as f64 / 1e9),
    })
}
