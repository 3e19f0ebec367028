//! The message to a model about edits that were not applied: why, and how to correct them.
//!
//! Quoted text is fenced, so that it cannot be mistaken for part of the prompt.

use std::fmt::Write as _;

use super::faults::{EditFault, NumberedLine, UnmatchedEdit};

/// The most lines that the message lists for an ambiguous edit.
const MAX_LISTED_LINES: usize = 8;

/// The message for the next request to the model.
pub fn describe_faults(faults: &[EditFault]) -> String {
    let mut text = String::from("None of your edits was made: the kernel is unchanged.\n");
    for fault in faults {
        text.push('\n');
        // Writing to a string cannot fail.
        let _ = write_fault(&mut text, fault);
    }
    text.push_str(
        "\nSend all edits again. Copy each `old_str` exactly from the kernel, without line numbers, and keep it short: \
         it must occur exactly once.\n",
    );
    text
}

fn write_fault(text: &mut String, fault: &EditFault) -> std::fmt::Result {
    match fault {
        EditFault::TooMany { given, limit } => writeln!(
            text,
            "There are {given} edits; at most {limit} {} allowed. Keep the most important.",
            if *limit == 1 { "is" } else { "are" }
        ),
        EditFault::Empty { edit } => writeln!(
            text,
            "Edit {edit}: `old_str` is empty. To insert text, put a neighboring line in `old_str` and repeat it in `new_str`."
        ),
        EditFault::Ambiguous { edit, lines, more } => {
            let count = if *more {
                format!("more than {} times", lines.len())
            } else {
                format!("{} times", lines.len())
            };
            writeln!(
                text,
                "Edit {edit}: `old_str` occurs {count}, in {}. Add a neighboring line that only the intended place has.",
                listed_lines(lines, *more)
            )
        }
        EditFault::Overtaken { edit } => writeln!(
            text,
            "Edit {edit}: an earlier edit of this reply changes the text of `old_str`. Merge the two edits, or write `old_str` \
             as the earlier edit leaves it."
        ),
        EditFault::Missed(missed) => write_missed(text, missed),
    }
}

/// `line 5`, `lines 5 and 8`, `lines 1, 2, 3, …`.
fn listed_lines(lines: &[usize], more: bool) -> String {
    let mut numbers = lines.to_vec();
    numbers.dedup();
    let is_cut = more || numbers.len() > MAX_LISTED_LINES;
    let shown: Vec<_> = numbers
        .iter()
        .take(MAX_LISTED_LINES)
        .map(usize::to_string)
        .collect();
    match shown.as_slice() {
        list if is_cut => format!("lines {}, …", list.join(", ")),
        [only] => format!("line {only}"),
        [first @ .., last] => format!("lines {} and {last}", first.join(", ")),
        [] => "no line".to_owned(),
    }
}

fn write_missed(text: &mut String, missed: &UnmatchedEdit) -> std::fmt::Result {
    let UnmatchedEdit {
        edit,
        nearest,
        unmatched_line,
        is_absent,
        found_instead,
        already_at,
    } = missed;
    writeln!(text, "Edit {edit}: `old_str` does not occur in the kernel.")?;
    if let Some(line) = already_at {
        writeln!(text, "`new_str` is already in the kernel, in line {line}.")?;
    }
    if nearest.is_empty() {
        return writeln!(
            text,
            "Nothing in the kernel is similar to this line of `old_str`:\n{}",
            in_code_fence(unmatched_line)
        );
    }
    writeln!(
        text,
        "The most similar part of the kernel (line numbers are not part of it):\n{}",
        in_code_fence(&with_line_numbers(nearest))
    )?;
    let lead = if *is_absent {
        "This line of `old_str` is not in the kernel:"
    } else {
        "Every line of `old_str` is in the kernel, but not in this order. The first line out of order:"
    };
    writeln!(text, "{lead}\n{}", in_code_fence(unmatched_line))?;
    match found_instead {
        Some(found) => writeln!(text, "The kernel has line {} in its place.", found.line),
        None => writeln!(text, "The kernel has no line in its place."),
    }
}

fn with_line_numbers(lines: &[NumberedLine]) -> String {
    let width = lines
        .last()
        .map_or(1, |numbered| numbered.line.to_string().len());
    let lines = lines
        .iter()
        .map(|numbered| format!("{:>width$} | {}", numbered.line, numbered.text));
    lines.collect::<Vec<_>>().join("\n")
}

/// The text between fences that are longer than any in it, without terminal control characters.
fn in_code_fence(text: &str) -> String {
    let text: String = text
        .chars()
        .map(|letter| match letter {
            '\n' | '\t' => letter,
            letter if letter.is_control() => '\u{fffd}',
            letter => letter,
        })
        .collect();
    let longest = text
        .split(|letter| letter != '`')
        .map(str::len)
        .max()
        .unwrap_or(0);
    let fence = "`".repeat(3.max(longest + 1));
    format!("{fence}\n{text}\n{fence}")
}
