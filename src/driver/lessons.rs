//! `lessons.md` of a task: which changes led to kernels that are confirmed to be faster than the baseline, for people and later runs.
//!
//! Written at the end of a run, from confirmed measurements alone. A person may change the file: then kforge never writes it again.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;

use super::task_state::TaskState;
use crate::base::{Digest, files};
use crate::event::Operator;
use crate::search::{Confirmation, Search};
use crate::task::Task;
use crate::verdict::Speedup;

/// The most kernels that a file describes.
const MAX_KERNELS: usize = 8;

/// The most changes of one kernel that are listed: the last ones.
const MAX_CHANGES: usize = 16;

/// The longest description of a change, in characters. A model's may be long.
const MAX_DETAIL: usize = 200;

/// The last line starts with this, and has the hash of the text before it: so an edited file is known.
const MARK: &str = "<!-- written by kforge; hash of the text above: ";

/// Writes the file if there is something to say, unless a person has changed it.
pub(super) fn write_lessons(state: &TaskState<'_>) -> Result<()> {
    let Some(text) = lessons(&state.task, &state.search) else {
        return Ok(());
    };
    let path = state.writer.directory().lessons();
    if !may_be_replaced(&path)? {
        tracing::info!("`{}` was edited and is kept", path.display());
        return Ok(());
    }
    files::replace_durably(&path, text.as_bytes())
}

/// Whether a file is missing, or as kforge wrote it.
fn may_be_replaced(path: &Path) -> Result<bool> {
    if !path.exists() {
        return Ok(true);
    }
    let text = files::read(path)?;
    Ok(text
        .rsplit_once(MARK)
        .is_some_and(|(written, rest)| rest == mark_end(written)))
}

fn mark_end(written: &str) -> String {
    format!("{} -->\n", Digest::of(written))
}

/// The text. `None` if no kernel that the search made is confirmed to be faster than the baseline.
fn lessons(task: &Task, search: &Search) -> Option<String> {
    let is_made = |step: u64| {
        let record = search.record(step);
        record.is_some_and(|record| record.operator != Operator::Start)
    };
    let faster = search.confirmed_faster().into_iter();
    let faster: Vec<&Confirmation> = faster.filter(|one| is_made(one.step)).collect();
    let device = &faster.first()?.verdict.device;
    let mut text = format!("# What helped: {} on {}", task.name, device.name);
    if !device.arch.is_empty() {
        let _ = write!(text, " ({})", device.arch);
    }
    text += "\n\n\
        kforge wrote this at the end of a run, for you and for the models of later runs (`llm.lessons`). Change it,\n\
        add what you know, or delete what is wrong; an edited file is never overwritten. Every speedup here is confirmed:\n\
        measured again, with new seeds in new processes. The effects of single changes were not confirmed.\n";
    for confirmation in faster.into_iter().take(MAX_KERNELS) {
        text += &describe_kernel(task, search, confirmation);
    }
    let end = mark_end(&text);
    Some(format!("{text}{MARK}{end}"))
}

fn describe_kernel(task: &Task, search: &Search, confirmation: &Confirmation) -> String {
    let mut text = String::new();
    let Some(speedup) = confirmation.speedup else {
        return text;
    };
    let (baseline, _) = task.baseline();
    let step = confirmation.step;
    let _ = writeln!(
        text,
        "\n## {} over `{baseline}` (step {step})\n",
        figure(&speedup)
    );
    let verdict = &confirmation.verdict;
    let workloads = verdict.workloads.iter().filter_map(|workload| {
        let speedup = workload.speedup?;
        Some(format!("{} {speedup:.2}x", workload.id))
    });
    let workloads: Vec<_> = workloads.collect();
    if workloads.len() > 1 {
        let _ = writeln!(text, "By workload: {}.", workloads.join(", "));
    }
    if let Some((request, Some(duel))) = search.comparison().filter(|one| one.0.step == step) {
        let name = search.starting_kernel(request.against).unwrap_or_default();
        let [low, high] = duel.ci95;
        let _ = writeln!(
            text,
            "Against the starting kernel `{name}`, timed in pairs: {:.2}x [{low:.2}, {high:.2}].",
            duel.ratio
        );
    }
    if !verdict.tunables.is_empty() {
        let tunables = verdict.tunables.iter();
        let tunables = tunables.map(|(name, value)| format!("{name}={value}"));
        let _ = writeln!(
            text,
            "Tunables: {}.",
            tunables.collect::<Vec<_>>().join(", ")
        );
    }
    let (start, changes) = changes_to(search, step);
    let from = start.map_or_else(String::new, |name| format!(" from `{name}`"));
    let _ = writeln!(text, "Made{from} by, in order:\n");
    for change in changes {
        let _ = writeln!(text, "- {change}");
    }
    text
}

fn figure(speedup: &Speedup) -> String {
    let [low, high] = speedup.ci95;
    format!("{:.2}x [{low:.2}, {high:.2}]", speedup.geomean)
}

/// The starting kernel at the root of a kernel's first parents, and what each step on the way did, the earliest first.
fn changes_to(search: &Search, step: u64) -> (Option<&str>, Vec<String>) {
    let mut changes = Vec::new();
    let mut next = Some(step);
    let mut start = None;
    while let Some(step) = next {
        let Some(record) = search.record(step) else {
            break;
        };
        if record.operator == Operator::Start {
            start = search.starting_kernel(step);
            break;
        }
        let detail = one_line(&record.detail);
        let by = if record.operator.asks_model() {
            "a model's "
        } else {
            ""
        };
        let other = match &record.parents[..] {
            [_, other] => format!(" (with step {other})"),
            _ => String::new(),
        };
        changes.push(format!("{by}`{}`: {detail}{other}", record.operator.name()));
        // A parent was made earlier, so this ends.
        next = record
            .parents
            .first()
            .copied()
            .filter(|parent| *parent != step);
    }
    changes.truncate(MAX_CHANGES);
    changes.reverse();
    (start, changes)
}

/// One line of at most `MAX_DETAIL` characters. A model's description may have several.
fn one_line(detail: &str) -> String {
    let words: Vec<&str> = detail.split_whitespace().collect();
    let line = words.join(" ");
    if line.is_empty() {
        return "no description".to_owned();
    }
    match line.char_indices().nth(MAX_DETAIL) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_one_line_of_limited_length() {
        assert_eq!(one_line(" a\n b "), "a b");
        assert_eq!(one_line(""), "no description");
        assert_eq!(one_line(&"ä".repeat(300)).chars().count(), MAX_DETAIL + 1);
    }

    #[test]
    fn only_an_unchanged_file_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("lessons.md");
        assert!(may_be_replaced(&path).unwrap());
        let written = "# What helped\n";
        let whole = format!("{written}{MARK}{}", mark_end(written));
        std::fs::write(&path, &whole).unwrap();
        assert!(may_be_replaced(&path).unwrap());
        for edited in [
            whole.replace("helped", "did not help"),
            format!("{whole}more\n"),
            written.to_owned(),
            String::new(),
        ] {
            std::fs::write(&path, edited).unwrap();
            assert!(!may_be_replaced(&path).unwrap());
        }
    }
}
