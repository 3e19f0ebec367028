//! What a model is told about edits that were not made.

use std::fmt::Write as _;

use super::apply::{Fault, Near};

/// How many places are named.
const MOST_PLACES: usize = 8;

/// The faults in words that a model can act on. What is quoted is fenced, so that it cannot pose as anything else.
pub fn message(faults: &[Fault]) -> String {
    let mut text = String::from("None of your edits was made; the kernel is as it was.\n");
    for fault in faults {
        text.push('\n');
        // Writing to a string cannot fail.
        let _ = tell(&mut text, fault);
    }
    text.push_str(
        "\nWrite all edits again. Copy each `old_str` from the kernel letter by letter, without line numbers, and keep it short: \
         it has to occur exactly once.\n",
    );
    text
}

fn tell(text: &mut String, fault: &Fault) -> std::fmt::Result {
    match fault {
        Fault::TooMany { given, most } => writeln!(
            text,
            "There are {given} edits; at most {most} {} allowed. Choose those that matter most.",
            if *most == 1 { "is" } else { "are" }
        ),
        Fault::Empty { edit } => writeln!(
            text,
            "Edit {edit}: its `old_str` is empty. To insert a text, name a line beside it in `old_str` and repeat that line in `new_str`."
        ),
        Fault::Ambiguous { edit, lines, more } => {
            let mut numbers = lines.clone();
            numbers.dedup();
            let is_cut = *more || numbers.len() > MOST_PLACES;
            let shown: Vec<_> = numbers
                .iter()
                .take(MOST_PLACES)
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
        Fault::Overtaken { edit } => writeln!(
            text,
            "Edit {edit}: its `old_str` was there until an earlier edit of yours changed it. Make one edit of the two, or write its \
             `old_str` as the earlier edit leaves it."
        ),
        Fault::Missed {
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
                    quoted(wrote)
                );
            }
            writeln!(
                text,
                "Most like it is this (the numbers are not part of the kernel):\n{}",
                quoted(&numbered(nearest))
            )?;
            let lead = if *absent {
                "This line of yours is nowhere in the kernel:"
            } else {
                "All your lines are in the kernel, but not one behind the other. The first that is out of place:"
            };
            writeln!(text, "{lead}\n{}", quoted(wrote))?;
            match instead {
                Some(near) => writeln!(text, "In its place stands line {}.", near.line),
                None => writeln!(text, "The kernel has no line in its place."),
            }
        }
    }
}

fn numbered(lines: &[Near]) -> String {
    let width = lines.last().map_or(1, |near| near.line.to_string().len());
    let lines = lines
        .iter()
        .map(|near| format!("{:>width$} | {}", near.line, near.text));
    lines.collect::<Vec<_>>().join("\n")
}

/// The text between fences that are longer than any in it, without signs that control a terminal.
fn quoted(text: &str) -> String {
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
