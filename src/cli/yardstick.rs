//! Finds the baseline that the targets of a run are over (`eval.baseline`), in the table of the device. Without a table it is measured first,
//! as `kforge baselines` does, and the table is kept.

use std::collections::HashMap;

use super::baselines::measure_for_run;
use super::contenders::{table_of, workload_ids};
use crate::base::Failure;
use crate::base::text::did_you_mean;
use crate::config::{NAIVE, ResolvedConfig, STRONGEST};
use crate::task::Task;
use crate::verdict::{BaselineTable, Yardstick};

/// The yardstick of each task. A task without an entry has its own baseline. Adds a choice for each, and the tables that were measured.
///
/// # Errors
/// An environment failure if there is no table and no Python with PyTorch to measure one; a usage failure if there is no baseline of this
/// name.
pub(super) fn yardsticks(
    resolved: &mut ResolvedConfig,
) -> anyhow::Result<HashMap<String, Yardstick>> {
    let mut found = HashMap::new();
    for index in 0..resolved.tasks.len() {
        let (files, task) = resolved.tasks[index].clone();
        if is_own_baseline(&resolved.baseline, &task) {
            continue;
        }
        let table = match table_of(resolved, &files, &task) {
            Some(table) => table,
            None => {
                let measured = measure_for_run(resolved, &files, &task);
                let table = measured.map_err(|error| not_measured(&resolved.baseline, error))?;
                let text = serde_json::to_string(&table)?;
                resolved.tasks[index].0.baseline_tables.push(text);
                table
            }
        };
        let name = Some(resolved.baseline.as_str()).filter(|name| *name != STRONGEST);
        let yardstick = Yardstick::of(&table, name, &workload_ids(resolved, &task));
        let choice = match (&yardstick, name) {
            (Some(over), _) => format!(
                "eval.baseline: targets of {} are over {} ({:.2}x over {}, measured {})",
                task.name,
                over.label(),
                over.speedup.geomean,
                table.baseline.name,
                table.time,
            ),
            (None, None) => format!(
                "eval.baseline: targets of {} are over {}: no other baseline is faster on this device",
                task.name, table.baseline.name,
            ),
            (None, Some(name)) => return Err(missing(name, &table).into()),
        };
        resolved.choices.push(choice);
        found.extend(yardstick.map(|over| (task.name.clone(), over)));
    }
    Ok(found)
}

/// The failure for a table that could not be measured, with the reason why it is needed. Anything else is returned as it is.
fn not_measured(choice: &str, error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<Failure>() {
        Ok(failure) => Failure {
            message: format!(
                "`eval.baseline: {choice}`: there is no table of baselines for this device, and none can be measured: {}",
                failure.message
            ),
            ..failure
        }
        .into(),
        Err(error) => error,
    }
}

/// Whether a name means the task's own baseline: `naive`, or the name or the file of its first baseline.
fn is_own_baseline(name: &str, task: &Task) -> bool {
    let first = task.settings.baselines.keys().next();
    name == NAIVE || name == task.baseline().0 || first.is_some_and(|first| first == name)
}

/// The failure for a baseline that a table does not have on the workloads of the run.
fn missing(name: &str, table: &BaselineTable) -> Failure {
    let task = &table.task;
    let mut entries = table.entries.iter();
    if let Some(entry) = entries.find(|entry| entry.name == name) {
        if let Some(deviation) = &entry.deviation {
            let deviation = deviation.in_words();
            return Failure::usage(format!(
                "`eval.baseline`: the outputs of `{name}` of task `{task}` are outside the tolerance ({deviation}), so targets cannot be over it"
            ))
            .hint("name another baseline; the run's first line still says whether this one is faster");
        }
        let reason = entry.reason.as_deref();
        let reason = reason.unwrap_or("it was not measured on all workloads of the run");
        return Failure::environment(format!(
            "`eval.baseline`: `{name}` of task `{task}` has no times on this device: {reason}"
        ))
        .hint(format!(
            "`kforge baselines {task} --only {name}` measures it"
        ));
    }
    let known = table.entries.iter().map(|entry| entry.name.as_str());
    Failure::usage(format!(
        "`eval.baseline`: task `{task}` has no baseline `{name}`"
    ))
    .hint(did_you_mean(name, known.chain([NAIVE, STRONGEST])))
}
