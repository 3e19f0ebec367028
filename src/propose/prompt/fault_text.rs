//! What went wrong with a kernel, and where: the finding's location, the judge's reason, the log, and the source lines they name.
//!
//! Reason, log and source are quoted. Nothing about hidden shapes is here: `feedback` has removed it.

use std::fmt::Write;

use super::feedback::{FaultLocation, Feedback};
use super::quote::{code_span, fenced_block, one_line, truncate_chars};
use crate::task::Task;

/// The most lines of source that are quoted.
const MAX_QUOTED_LINES: usize = 4;

/// Appends the description of a finding: reason, location, log, source lines.
pub(super) fn describe_fault(feedback: &Feedback, source: &str, task: &Task, text: &mut String) {
    if feedback.hidden {
        text.push_str(
            "- found on a shape or on inputs that you are not shown: the kernel must be correct for all\n",
        );
    }
    let mut lines = Vec::new();
    if let Some(location) = &feedback.location {
        describe_location(location, task, text);
        lines.extend(location.line);
        lines.extend(location.other.as_ref().and_then(|(_, line)| *line));
    }
    if let Some(log) = &feedback.log {
        lines.extend(lines_named_in_log(log));
    }
    let reason = feedback.reason.as_deref().unwrap_or_default();
    if !reason.trim().is_empty() {
        let _ = writeln!(text, "\nThe judge:\n{}", fenced_block(reason, "text"));
    }
    if let Some(log) = &feedback.log {
        let _ = writeln!(text, "\nThe log:\n{}", fenced_block(log, "text"));
    }
    let quoted = quote_lines(source, &lines);
    if !quoted.is_empty() {
        let quoted = fenced_block(&quoted.join("\n"), "text");
        let _ = writeln!(text, "\nThe lines:\n{quoted}");
    }
}

fn describe_location(location: &FaultLocation, task: &Task, text: &mut String) {
    if let Some((tensor, found)) = location.tensor.as_deref().zip(location.found.as_deref()) {
        let index = location.index.map_or(String::new(), |index| {
            format_element_index(location, tensor, index, task)
        });
        let expected = (location.expected).map_or("?".to_owned(), |value| format!("{value:.6e}"));
        let _ = writeln!(
            text,
            "- first wrong element: {}{index}: expected {expected}, found {}",
            code_span(tensor, 60),
            one_line(found, 32)
        );
    } else if let Some((tensor, index)) = location.tensor.as_deref().zip(location.index) {
        let _ = writeln!(
            text,
            "- first element: {}{}",
            code_span(tensor, 60),
            format_element_index(location, tensor, index, task)
        );
    }
    if let Some(workload) = &location.workload {
        let _ = writeln!(text, "- on workload {}", code_span(workload, 60));
    }
    if let Some(variable) = &location.variable {
        let _ = writeln!(text, "- variable {}", code_span(variable, 80));
    }
    let triple = |[x, y, z]: [u32; 3]| format!("({x}, {y}, {z})");
    if let Some(block) = location.block {
        let thread = (location.thread).map_or(String::new(), |thread| {
            format!(", thread {}", triple(thread))
        });
        let _ = writeln!(text, "- in block {}{thread}", triple(block));
    }
    if let Some((other, line)) = &location.other {
        let line = line.map_or(String::new(), |line| format!(" in line {line}"));
        let _ = writeln!(text, "- conflicts with a {}{line}", one_line(other, 120));
    }
}

/// `[0, 3, 17]` if the workload's shape is known, else `[flat 401]`.
fn format_element_index(location: &FaultLocation, tensor: &str, index: u64, task: &Task) -> String {
    let flat = format!("[flat {index}]");
    let definition = &task.definition;
    let tensor = (definition.outputs.get(tensor)).or_else(|| definition.inputs.get(tensor));
    let workload =
        (task.workloads.iter()).find(|workload| Some(&workload.id) == location.workload.as_ref());
    let Some((tensor, workload)) = tensor.zip(workload) else {
        return flat;
    };
    let Ok(shape) = workload.binding.shape(tensor) else {
        return flat;
    };
    let mut rest = index;
    let mut indices = Vec::new();
    for size in shape.iter().rev() {
        indices.push((rest % (*size).max(1)).to_string());
        rest /= (*size).max(1);
    }
    if rest > 0 || indices.is_empty() {
        return flat;
    }
    indices.reverse();
    format!("[{}]", indices.join(", "))
}

/// Line numbers of the kernel that a compiler's log names as `kernel.cu:31:` or `kernel.cu(31)`.
fn lines_named_in_log(log: &str) -> Vec<u32> {
    let names = log.match_indices("kernel.cu");
    let lines = names.filter_map(|(position, name)| {
        let rest = log[position + name.len()..].strip_prefix([':', '('])?;
        let end = rest.find(|letter: char| !letter.is_ascii_digit());
        rest[..end.unwrap_or(rest.len())].parse().ok()
    });
    lines.collect()
}

/// The first few of these lines of the source, with their numbers, in order.
fn quote_lines(source: &str, numbers: &[u32]) -> Vec<String> {
    let mut shown: Vec<u32> = Vec::new();
    for number in numbers {
        if !shown.contains(number) && shown.len() < MAX_QUOTED_LINES {
            shown.push(*number);
        }
    }
    shown.sort_unstable();
    let quoted = shown.iter().filter_map(|number| {
        let index = usize::try_from(*number).ok()?.checked_sub(1)?;
        let line = source.lines().nth(index)?;
        Some(format!("{number}: {}", truncate_chars(line, 200)))
    });
    quoted.collect()
}
