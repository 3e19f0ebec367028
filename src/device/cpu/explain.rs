//! Explains a failed compilation: what this device lacks or refuses where the compiler stopped, or a tunable that replaces a name.
//!
//! Reads the compiler's output and the results of the checks. `diagnostics` makes the refusal of every other compile error.

use super::checked_source::CheckedSource;
use super::diagnostics::first_error_block;
use super::directives::EMPTY_HEADER;
use super::own_names::RENAMED_PREFIX;
use crate::device::Refusal;
use crate::device::macro_collisions::{self, CompilerError};
use crate::kernel::plan::TranslationUnit;
use crate::verdict::{Evidence, Status};

/// Parts of the messages about a name that is not declared.
const UNDECLARED: [&str; 9] = [
    "was not declared",
    "has not been declared",
    "does not name a type",
    "is not a member",
    "is not a namespace",
    "is not a class",
    "not a template",
    "undeclared",
    "no member named",
];

/// The refusal behind a compiler's output. `None`: an ordinary compile error.
pub(super) fn explain(
    unit: &TranslationUnit,
    checked: &CheckedSource,
    output: &str,
) -> Option<Refusal> {
    if let Some(refusal) = checked.edits.reached(output) {
        return Some(refusal.clone());
    }
    if let Some(suspect) = checked
        .suspect_words
        .iter()
        .find(|suspect| is_unlinked(output, &suspect.word))
    {
        return Some(suspect.refusal.clone());
    }
    let block = first_error_block(output)?;
    // The longest names first: the name of line 1 is a part of that of line 12.
    let mut suspects: Vec<_> = checked.suspect_words.iter().collect();
    suspects.sort_by_key(|suspect| std::cmp::Reverse(suspect.word.len()));
    let is_quoted = |word: &str| !word.is_empty() && block.message.contains(word);
    let quoted = suspects.iter().find(|suspect| is_quoted(&suspect.word));
    let at_line = || {
        let is_named = |line: &u32| block.lines.contains(line);
        suspects.iter().find(|suspect| is_named(&suspect.line))
    };
    let collision = macro_collisions::explain(
        &unit.source,
        &unit.macros,
        &CompilerError {
            lines: &block.lines,
            text: &block.text,
        },
    );
    if let Some((line, reason)) = collision {
        return Some(Refusal {
            status: Status::CompileError,
            reason,
            evidence: Box::new(Evidence {
                line,
                log: super::diagnostics::compile_error(output).evidence.log,
                ..Evidence::default()
            }),
        });
    }
    if let Some(suspect) = quoted.or_else(at_line) {
        return Some(suspect.refusal.clone());
    }
    let is_undeclared = UNDECLARED.iter().any(|part| block.message.contains(part));
    let header = || empty_headers(output).find_map(|number| checked.empty_headers.get(number));
    if is_undeclared {
        header().cloned()
    } else {
        None
    }
}

/// Whether the linker misses a name of the runtime, which has another name in the source.
fn is_unlinked(output: &str, word: &str) -> bool {
    let mut missing = output
        .lines()
        .filter(|line| line.contains("undefined reference"));
    word.starts_with(RENAMED_PREFIX) && missing.any(|line| line.contains(word))
}

/// The numbers of the empty headers that the compiler reached.
fn empty_headers(output: &str) -> impl Iterator<Item = usize> + '_ {
    let notes = output.lines().filter(|line| !line.starts_with(' '));
    notes.filter_map(|line| {
        let (_, rest) = line.split_once(EMPTY_HEADER)?;
        let digits = rest.split(|letter: char| !letter.is_ascii_digit()).next()?;
        digits.parse().ok()
    })
}
