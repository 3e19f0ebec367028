//! What a model is told about edits that were not made.

use std::fmt::Write as _;

use super::apply::{EditFault, NumberedLine};

/// How many places are named.
const MAX_LISTED_LINES: usize = 8;

/// The faults in words that a model can act on. What is quoted is fenced, so that it cannot pose as anything else.
pub fn describe_faults(faults: &[EditFault]) -> String {
    let mut text = String::from("None of your edits was made; the kernel is as it was.\n");
    for fault in faults {
        text.push('\n');
        // Writing to a string cannot fail.
        let _ = write_fault(&mut text, fault);
    }
    text.push_str(
        "\nWrite all edits again. Copy each `old_str` from the kernel letter by letter, without line numbers, and keep it short: \
         it has to occur exactly once.\n",
    );
    text
}

fn write_fault(text: &mut String, fault: &EditFault) -> std::fmt::Result {
    match fault {
        EditFault::TooMany { given, most } => writeln!(
            text,
            "There are {given} edits; at most {most} {} allowed. Choose those that matter most.",
            if *most == 1 { "is" } else { "are" }
        ),
        EditFault::Empty { edit } => writeln!(
            text,
            "Edit {edit}: its `old_str` is empty. To insert a text, name a line beside it in `old_str` and repeat that line in `new_str`."
        ),
        EditFault::Ambiguous { edit, lines, more } => {
            let mut numbers = lines.clone();
            numbers.dedup();
            let is_cut = *more || numbers.len() > MAX_LISTED_LINES;
            let shown: Vec<_> = numbers
                .iter()
                .take(MAX_LISTED_LINES)
                .map(usize::to_string)
                .collect();
            let places = match shown.split_last() {
                Some((last, first)) if !is_cut && !first.is_empty() => {
                    format!("{} and {last}", first.join(", "))
                }
                _ => shown.join(", "),
            };
            let count = if *more {
                format!("more than {}", lines.len())
            } else {
                lines.len().to_string()
            };
            writeln!(
                text,
                "Edit {edit}: its `old_str` occurs at {count} places, in line{} {places}{}. Add a line before or behind it \
                 that only the place you mean has.",
                if numbers.len() == 1 { "" } else { "s" },
                if is_cut { ", …" } else { "" }
            )
        }
        EditFault::Overtaken { edit } => writeln!(
            text,
            "Edit {edit}: its `old_str` was there until an earlier edit of yours changed it. Make one edit of the two, or write its \
             `old_str` as the earlier edit leaves it."
        ),
        EditFault::Missed {
            edit,
            nearest,
            wrote,
            absent,
            instead,
            present,
        } => {
            writeln!(
                text,
                "Edit {edit}: its `old_str` does not occur in the kernel."
            )?;
            if let Some(line) = present {
                writeln!(text, "Its `new_str` stands there already, in line {line}.")?;
            }
            if nearest.is_empty() {
                return writeln!(
                    text,
                    "Nothing there is like this line of it:\n{}",
                    in_code_fence(wrote)
                );
            }
            writeln!(
                text,
                "Most like it is this (the numbers are not part of the kernel):\n{}",
                in_code_fence(&with_line_numbers(nearest))
            )?;
            let lead = if *absent {
                "This line of yours is nowhere in the kernel:"
            } else {
                "All your lines are in the kernel, but not one behind the other. The first that is out of place:"
            };
            writeln!(text, "{lead}\n{}", in_code_fence(wrote))?;
            match instead {
                Some(near) => writeln!(text, "In its place stands line {}.", near.line),
                None => writeln!(text, "The kernel has no line in its place."),
            }
        }
    }
}

fn with_line_numbers(lines: &[NumberedLine]) -> String {
    let width = lines.last().map_or(1, |near| near.line.to_string().len());
    let lines = lines
        .iter()
        .map(|near| format!("{:>width$} | {}", near.line, near.text));
    lines.collect::<Vec<_>>().join("\n")
}

/// The text between fences that are longer than any in it, without signs that control a terminal.
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
