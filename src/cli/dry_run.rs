//! The description of a run before it starts: its first lines, and the output of `--dry-run`.
//!
//! Writes nothing and compiles nothing.

use anyhow::Context;
use serde_json::{Value, json};

use crate::config::{ResolvedConfig, WarmStartKernel};
use crate::report::{TERMINAL_WIDTH, pluralize};
use crate::task::Task;

/// The decisions that were made for the user, one line each, then tasks, steps, seed and directory.
pub(super) fn summary_line(resolved: &ResolvedConfig) -> String {
    let choices = resolved.choices.iter().map(|choice| format!("{choice}\n"));
    let tasks = resolved.tasks.iter().map(|(_, task)| task.name.as_str());
    let from = resolved.from.iter().flat_map(|(task, warm_starts)| {
        let line =
            |start: &WarmStartKernel| format!("{task}: starts from {}\n", start.record.origin);
        warm_starts.iter().map(line).collect::<Vec<_>>()
    });
    let budget = resolved.budget.map_or_else(String::new, |budget| {
        format!(" or {:.0} s each", budget.as_secs_f64())
    });
    let device_budget = resolved.device_budget.map_or_else(String::new, |budget| {
        format!(" or {:.0} device seconds each", budget.as_secs_f64())
    });
    let settings = format!(
        "{}: {}{budget}{device_budget}, seed {},",
        tasks.collect::<Vec<_>>().join(", "),
        pluralize(resolved.steps, "step"),
        resolved.seed
    );
    let directory = format!("into {}", resolved.output.display());
    let is_long = settings.len() + 1 + directory.len() > TERMINAL_WIDTH;
    format!(
        "{}{}{settings}{}{directory}",
        choices.collect::<String>(),
        from.collect::<String>(),
        if is_long { "\n  " } else { " " },
    )
}

/// The output of `--dry-run` for people: the summary, the tasks, the resolved config.
pub(super) fn describe_run(resolved: &ResolvedConfig) -> anyhow::Result<String> {
    let mut text = format!("{}\n\n", summary_line(resolved));
    for (files, task) in &resolved.tasks {
        text += &format!(
            "{}, from {}\n  workloads  {}\n  baseline   {}\n  starts     {}\n",
            task.name,
            files.origin,
            workload_ids(resolved, task)?.join(", "),
            task.baseline().0,
            match starting_kernels(task) {
                names if names.is_empty() => "none (a model writes the first kernel)".to_owned(),
                names => names.join(", "),
            }
        );
        for start in resolved.from.get(&task.name).into_iter().flatten() {
            text += &format!("  {:<9}  {}\n", "from", start.record.origin);
        }
    }
    text.push('\n');
    text += &serde_yaml::to_string(&resolved.record).context("failed to print the config")?;
    Ok(text)
}

/// The output of `--dry-run` as JSON.
pub(super) fn run_facts(resolved: &ResolvedConfig) -> anyhow::Result<Value> {
    let tasks = resolved.tasks.iter().map(|(files, task)| {
        Ok(json!({
            "task": task.name,
            "found_in": files.origin,
            "workloads": workload_ids(resolved, task)?,
            "baseline": task.baseline().0,
            "starts": starting_kernels(task),
            "from": resolved.from.get(&task.name).into_iter().flatten().map(|start| &start.record).collect::<Vec<_>>(),
        }))
    });
    Ok(json!({
        "choices": resolved.choices,
        "directory": resolved.output,
        "tasks": tasks.collect::<anyhow::Result<Vec<_>>>()?,
        "config": resolved.record,
    }))
}

/// The workloads that the run's profile selects.
fn workload_ids<'a>(resolved: &ResolvedConfig, task: &'a Task) -> anyhow::Result<Vec<&'a str>> {
    let profile = task
        .settings
        .profiles
        .get(&resolved.profile)
        .context("the task does not have the selected profile")?;
    let selected = task.selected_workloads(profile).into_iter();
    Ok(selected.map(|workload| workload.id.as_str()).collect())
}

fn starting_kernels(task: &Task) -> Vec<&str> {
    task.starting_kernels().map(|(name, _)| name).collect()
}
