//! Quantities of candidates: numbers that the journal of a task has for its steps, by name.
//!
//! A name is one of `STEP_QUANTITIES`, or the path of a number in the verdict, such as `resources.registers`. Reads the journal again for
//! paths, line by line, and keeps the asked numbers only.

use std::collections::HashMap;

use anyhow::Result;
use serde::Deserialize;
use serde_json::Value;

use super::step::StepHistory;
use super::task::TaskHistory;
use crate::run::{Journal, ParseLine};

/// The quantities of a step that are no path, and what each is.
pub(crate) const STEP_QUANTITIES: [(&str, &str); 11] = [
    ("step", "number of the step"),
    ("speedup", "provisional speedup of the search"),
    ("confirmed", "confirmed speedup"),
    ("gain", "speedup / speedup of the first parent"),
    (
        "expected",
        "change of the time that the model expected, in percent",
    ),
    (
        "change",
        "measured change of the time from the first parent, in percent",
    ),
    ("judge_seconds", "seconds that judging took"),
    ("at_seconds", "seconds of work since the start"),
    ("requests", "requests to models"),
    ("tokens", "tokens of models"),
    ("dollars", "dollars for models"),
];

/// The values of some quantities, by step. A step without the value is not there.
pub(super) fn values_of(task: &TaskHistory, names: &[&str]) -> Result<Vec<HashMap<u64, f64>>> {
    let mut values: Vec<HashMap<u64, f64>> = vec![HashMap::new(); names.len()];
    let paths: Vec<usize> = (0..names.len())
        .filter(|index| !is_of_step(names[*index]))
        .collect();
    for (index, name) in names.iter().enumerate() {
        if is_of_step(name) {
            let steps = task.steps.iter();
            let known = steps.filter_map(|step| Some((step.step, step_value(task, step, name)?)));
            values[index] = known.filter(|(_, value)| value.is_finite()).collect();
        }
    }
    if !paths.is_empty() && task.folder.journal().is_file() {
        let read = Journal::read(&task.folder.journal(), |_, line: VerdictLine| {
            if let VerdictLine::Judged(judged) = line {
                for index in &paths {
                    let found = number_at(&judged.verdict, names[*index]);
                    // The last judgement of a step counts.
                    values[*index].remove(&judged.step);
                    values[*index].extend(found.map(|value| (judged.step, value)));
                }
            }
            Ok(())
        });
        // Damage was reported when the history was read; what comes before it counts.
        if task.damage.is_none() {
            read?;
        }
    }
    Ok(values)
}

fn is_of_step(name: &str) -> bool {
    STEP_QUANTITIES.iter().any(|(known, _)| *known == name)
}

fn step_value(task: &TaskHistory, step: &StepHistory, name: &str) -> Option<f64> {
    let parent = || task.step(*step.parents.first()?)?.speedup;
    let gain = || Some(step.speedup?.geomean / parent()?.geomean);
    match name {
        "step" => Some(step.step as f64),
        "speedup" => step.speedup.map(|speedup| speedup.geomean),
        "confirmed" => Some(task.confirmations.get(&step.step)?.speedup?.geomean),
        "gain" => gain(),
        "change" => gain().map(|gain| (1.0 / gain - 1.0) * 100.0),
        "expected" => step.expected.map(|share| f64::from(share) * 100.0),
        "judge_seconds" => step
            .outcome
            .is_judged()
            .then_some(f64::from(step.judge_seconds)),
        "at_seconds" => Some(step.at_seconds),
        "requests" => Some(f64::from(step.requests)),
        "tokens" => Some(step.tokens as f64),
        "dollars" => Some(step.nano_usd as f64 / 1e9),
        _ => None,
    }
}

/// The number at a path. An entry of a list is named by its `id`, or by its number from 0.
fn number_at(value: &Value, path: &str) -> Option<f64> {
    let mut value = value;
    for part in path.split('.') {
        value = match value {
            Value::Array(items) => {
                let has_id = |item: &&Value| item.get("id").and_then(Value::as_str) == Some(part);
                let by_number = || items.get(part.parse::<usize>().ok()?);
                items.iter().find(has_id).or_else(by_number)?
            }
            other => other.get(part)?,
        };
    }
    value.as_f64().filter(|number| number.is_finite())
}

enum VerdictLine {
    Judged(Box<JudgedVerdict>),
    Other,
}

#[derive(Deserialize)]
struct JudgedVerdict {
    step: u64,
    verdict: Value,
}

impl ParseLine for VerdictLine {
    fn parse(name: &str, line: &str) -> Option<serde_json::Result<Self>> {
        match name {
            "judged" => Some(serde_json::from_str(line).map(Self::Judged)),
            _ => Some(Ok(Self::Other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_through_maps_and_lists() {
        let verdict = serde_json::json!({
            "resources": {"registers": 40, "occupancy": null},
            "workloads": [{"id": "b1", "speedup": 2.0}, {"id": "b4", "speedup": 3.0}],
        });
        for (path, expected) in [
            ("resources.registers", Some(40.0)),
            ("resources.occupancy", None),
            ("resources", None),
            ("workloads.b4.speedup", Some(3.0)),
            ("workloads.0.speedup", Some(2.0)),
            ("workloads.2.speedup", None),
            ("features.registers", None),
        ] {
            assert_eq!(number_at(&verdict, path), expected, "{path}");
        }
    }
}
