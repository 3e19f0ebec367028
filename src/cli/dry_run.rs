//! What a run is about to do, for `--dry-run` and for its first lines. Writes nothing and compiles nothing.

use anyhow::Context;
use serde_json::{Value, json};

use crate::config::{Beginning, Resolved};
use crate::report::counted;
use crate::task::Task;

/// What was decided for whoever typed, and what comes now.
pub(super) fn opening(resolved: &Resolved) -> String {
    let choices = resolved.choices.iter().map(|choice| format!("{choice}\n"));
    let tasks = resolved.tasks.iter().map(|(_, task)| task.name.as_str());
    let from = resolved.from.iter().flat_map(|(task, begun)| {
        let line = |begin: &Beginning| format!("{task}: begins from {}\n", begin.record.origin);
        begun.iter().map(line).collect::<Vec<_>>()
    });
    let budget = resolved.budget.map_or_else(String::new, |budget| {
        format!(" or {:.0} s each", budget.as_secs_f64())
    });
    format!(
        "{}{}{}: {}{budget}, seed {}, into {}",
        choices.collect::<String>(),
        from.collect::<String>(),
        tasks.collect::<Vec<_>>().join(", "),
        counted(resolved.steps, "step"),
        resolved.seed,
        resolved.output.display()
    )
}

/// The config with its decisions, and what it would work on.
pub(super) fn describe(resolved: &Resolved) -> anyhow::Result<String> {
    let mut text = format!("{}\n\n", opening(resolved));
    for (files, task) in &resolved.tasks {
        text += &format!(
            "{}, from {}\n  workloads  {}\n  baseline   {}\n  starts     {}\n",
            task.name,
            files.origin,
            workloads(resolved, task)?.join(", "),
            task.baseline().0,
            match starts(task) {
                none if none.is_empty() => "none: a model writes the first kernel".to_owned(),
                starts => starts.join(", "),
            }
        );
        for begin in resolved.from.get(&task.name).into_iter().flatten() {
            text += &format!("  {:<9}  {}\n", "from", begin.record.origin);
        }
    }
    text.push('\n');
    text += &serde_yaml::to_string(&resolved.record).context("the config cannot be shown")?;
    Ok(text)
}

/// The same for scripts.
pub(super) fn facts(resolved: &Resolved) -> anyhow::Result<Value> {
    let tasks = resolved.tasks.iter().map(|(files, task)| {
        Ok(json!({
            "task": task.name,
            "found_in": files.origin,
            "workloads": workloads(resolved, task)?,
            "baseline": task.baseline().0,
            "starts": starts(task),
            "from": resolved.from.get(&task.name).into_iter().flatten().map(|begin| &begin.record).collect::<Vec<_>>(),
        }))
    });
    Ok(json!({
        "choices": resolved.choices,
        "directory": resolved.output,
        "tasks": tasks.collect::<anyhow::Result<Vec<_>>>()?,
        "config": resolved.record,
    }))
}

fn workloads<'a>(resolved: &Resolved, task: &'a Task) -> anyhow::Result<Vec<&'a str>> {
    let profile = task
        .settings
        .profiles
        .get(&resolved.profile)
        .context("the profile is gone")?;
    let selected = task.selected(profile).into_iter();
    Ok(selected.map(|workload| workload.id.as_str()).collect())
}

fn starts(task: &Task) -> Vec<&str> {
    task.starts().map(|(name, _)| name).collect()
}
