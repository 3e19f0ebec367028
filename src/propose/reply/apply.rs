//! Applies edits to a kernel: all of them, or none.
//!
//! An `old_str` that occurs exactly once is replaced. An `old_str` that does not occur is searched for again without differences
//! that mean nothing to a compiler (`normalized`); if it then matches once, the replacement is fitted to the match (`fit`).
//! Anything else is a fault. Text that is only similar is shown to the model (`nearest`), and never replaced.

use std::ops::Range;

use super::content::Edit;
use super::faults::{EditFault, EditRepair, RepairKind, UnmatchedEdit};
use super::fit::{Replacement, edit_variants, fit_replacement, verbatim_replacement};
use super::nearest::find_nearest;
use super::normalized::NormalizedCode;

/// Number of matches of an `old_str` at which the search for more stops.
const MAX_MATCHES: usize = 64;

/// Minimum length of a `new_str` in bytes for the report that the kernel already contains it. A shorter one may occur by chance.
const MIN_DISTINCTIVE_BYTES: usize = 8;

/// The result of applying edits.
#[derive(Clone, Debug, PartialEq)]
pub enum AppliedEdits {
    /// A different kernel, and what was corrected in the edits.
    Changed {
        source: String,
        repairs: Vec<EditRepair>,
    },
    /// At least one edit does not match, so none was applied.
    Missed { faults: Vec<EditFault> },
    /// All edits match, and the kernel is unchanged.
    NoOp,
}

/// Applies edits in order, each to the result of those before it. More than `limit` edits are a fault.
pub fn apply_edits(source: &str, edits: &[Edit], limit: usize) -> AppliedEdits {
    if edits.len() > limit {
        let given = edits.len();
        return AppliedEdits::Missed {
            faults: vec![EditFault::TooMany { given, limit }],
        };
    }
    let mut edited = EditedSource::new(source);
    let (mut faults, mut repairs) = (Vec::new(), Vec::new());
    for (index, edit) in edits.iter().enumerate() {
        let number = index + 1;
        if edit.old == edit.new {
            continue;
        }
        match edited.locate(edit) {
            Ok(replacement) => {
                repairs.extend(replacement.repairs.iter().map(|kind| EditRepair {
                    edit: number,
                    kind: *kind,
                }));
                edited.replace(replacement);
            }
            Err(failure) => faults.push(edited.fault(number, edit, failure)),
        }
    }
    if !faults.is_empty() {
        AppliedEdits::Missed { faults }
    } else if edited.text == source {
        AppliedEdits::NoOp
    } else {
        AppliedEdits::Changed {
            source: edited.text,
            repairs,
        }
    }
}

/// Why no match was chosen for an edit.
enum MatchFailure {
    Empty,
    /// The first byte of every match, up to `MAX_MATCHES`.
    Ambiguous(Vec<usize>),
    Missed,
}

/// A kernel while edits are applied to it.
struct EditedSource<'s> {
    /// The kernel that the model was shown.
    original: &'s str,
    /// The kernel after the edits so far.
    text: String,
    /// For each line of `text`, the line number in `original`.
    original_lines: Vec<usize>,
    /// The normalized form of `text`, if it was needed since the last replacement.
    normalized: Option<NormalizedCode>,
}

impl<'s> EditedSource<'s> {
    fn new(original: &'s str) -> Self {
        Self {
            original,
            text: original.to_owned(),
            original_lines: (1..=original.matches('\n').count() + 1).collect(),
            normalized: None,
        }
    }

    /// The only match of an edit, as a replacement to make.
    fn locate(&mut self, edit: &Edit) -> Result<Replacement, MatchFailure> {
        if edit.old.trim().is_empty() {
            return Err(MatchFailure::Empty);
        }
        let exact = exact_matches(&self.text, &edit.old, MAX_MATCHES);
        match exact.as_slice() {
            [] => self.locate_normalized(edit),
            [only] => {
                let range = *only..*only + edit.old.len();
                Ok(verbatim_replacement(&self.text, range, edit, None))
            }
            [..] => match self.only_whole_lines(edit, &exact) {
                Some(range) => {
                    let repair = Some(RepairKind::WholeLines);
                    Ok(verbatim_replacement(&self.text, range, edit, repair))
                }
                None => Err(MatchFailure::Ambiguous(exact)),
            },
        }
    }

    /// The only exact match that consists of whole lines, if there are several exact matches. Requires that `old_str` starts with
    /// indentation.
    fn only_whole_lines(&self, edit: &Edit, exact: &[usize]) -> Option<Range<usize>> {
        let mut whole = exact
            .iter()
            .map(|start| *start..*start + edit.old.len())
            .filter(|range| is_whole_lines(&self.text, range));
        let (only, None) = (whole.next()?, whole.next()) else {
            return None;
        };
        let is_complete = exact.len() < MAX_MATCHES;
        (is_complete && edit.old.starts_with([' ', '\t'])).then_some(only)
    }

    /// The only match if white space, quotes, HTML entities and line numbers are ignored.
    fn locate_normalized(&mut self, edit: &Edit) -> Result<Replacement, MatchFailure> {
        let text = self.text.as_str();
        let normalized = self
            .normalized
            .get_or_insert_with(|| NormalizedCode::of(text));
        for (repair, variant) in edit_variants(edit) {
            let found = normalized.find(&NormalizedCode::of(&variant.old), MAX_MATCHES);
            match found.as_slice() {
                [] => {}
                [only] => {
                    let mut replacement = fit_replacement(text, only.clone(), &variant);
                    replacement.repairs.extend(repair);
                    if replacement.repairs.is_empty() {
                        // Only empty lines around `old_str` differ.
                        replacement.repairs.push(RepairKind::TrailingSpace);
                    }
                    return Ok(replacement);
                }
                [..] => {
                    let starts = found.into_iter().map(|range| range.start);
                    return Err(MatchFailure::Ambiguous(starts.collect()));
                }
            }
        }
        Err(MatchFailure::Missed)
    }

    fn replace(&mut self, replacement: Replacement) {
        let count = |text: &str| text.matches('\n').count();
        let first = count(&self.text[..replacement.range.start]);
        let last = first + count(&self.text[replacement.range.clone()]);
        let (from, to) = (self.original_lines[first], self.original_lines[last]);
        let added = count(&replacement.new);
        // New lines count up from the first replaced line, but not beyond the last.
        let lines = (0..=added).map(|line| {
            if line == added {
                to
            } else {
                (from + line).min(to)
            }
        });
        self.original_lines.splice(first..=last, lines);
        self.text.replace_range(replacement.range, &replacement.new);
        self.normalized = None;
    }

    fn fault(&self, edit: usize, given: &Edit, failure: MatchFailure) -> EditFault {
        match failure {
            MatchFailure::Empty => EditFault::Empty { edit },
            MatchFailure::Ambiguous(starts) => {
                let mut lines = Vec::new();
                let (mut at, mut line) = (0, 0);
                for start in starts.iter().take(MAX_MATCHES - 1) {
                    line += self.text[at..*start].matches('\n').count();
                    at = *start;
                    lines.push(self.original_lines[line]);
                }
                EditFault::Ambiguous {
                    edit,
                    lines,
                    more: starts.len() >= MAX_MATCHES,
                }
            }
            MatchFailure::Missed => self.missed(edit, given),
        }
    }

    fn missed(&self, edit: usize, given: &Edit) -> EditFault {
        let original = self.original;
        let was_there = self.text != original
            && NormalizedCode::of(original)
                .find(&NormalizedCode::of(&given.old), 2)
                .len()
                == 1;
        if was_there {
            return EditFault::Overtaken { edit };
        }
        // Compared with the kernel that the model was shown, because no edit of this reply will be applied.
        let nearest = find_nearest(original, &given.old);
        let new = given.new.trim();
        let already_at = match exact_matches(original, new, 2).as_slice() {
            [only] if new.len() >= MIN_DISTINCTIVE_BYTES => {
                Some(original[..*only].matches('\n').count() + 1)
            }
            _ => None,
        };
        EditFault::Missed(UnmatchedEdit {
            edit,
            nearest: nearest.lines,
            unmatched_line: nearest.unmatched_line,
            is_absent: nearest.is_absent,
            found_instead: nearest.found_instead,
            already_at,
        })
    }
}

/// The first bytes of the matches of a text, overlapping ones included, up to `max`.
fn exact_matches(text: &str, wanted: &str, max: usize) -> Vec<usize> {
    let mut found = Vec::new();
    let mut at = 0;
    let Some(first) = wanted.chars().next() else {
        return found;
    };
    while let Some(offset) = text[at..].find(wanted) {
        found.push(at + offset);
        if found.len() >= max {
            break;
        }
        at += offset + first.len_utf8();
    }
    found
}

fn is_whole_lines(text: &str, range: &Range<usize>) -> bool {
    let starts_line = range.start == 0 || text[..range.start].ends_with('\n');
    let rest = &text[range.end..];
    let ends_line = rest.is_empty() || rest.starts_with('\n') || rest.starts_with("\r\n");
    starts_line && (ends_line || text[range.clone()].ends_with('\n'))
}
