//! Edits put into a kernel: all of them, or none.
//!
//! A text that occurs once is replaced. One that does not occur as it is may still differ only in what means nothing to a
//! compiler, and occur once so: then the place is as sure, and the replacement is fitted to it. Anything else is a fault that is
//! told back. Never a guess: what is merely similar is shown, and not replaced.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::nearest::find_nearest;
use super::normalized::{NormalizedCode, ascii_punctuation};
use super::{Edit, unescape_html};

/// The most places of a text that are looked for.
const MAX_MATCHES: usize = 64;

/// A replacement of fewer letters may stand in a kernel by chance.
const MIN_DISTINCTIVE_BYTES: usize = 8;

/// What became of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub enum AppliedEdits {
    /// Another kernel, with what had to be put right in the edits.
    Changed {
        source: String,
        repairs: Vec<EditRepair>,
    },
    /// Not one edit was made.
    Missed { faults: Vec<EditFault> },
    /// All edits are made, and the kernel is as it was.
    NoOp,
}

/// Something put right in an edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EditRepair {
    /// Counted from 1.
    pub edit: usize,
    pub mend: RepairKind,
}

/// How an edit's text differed from the one that it meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RepairKind {
    /// It occurs more than once, and once as whole lines.
    WholeLines,
    LineEndings,
    /// White space at the end of lines.
    TrailingSpace,
    /// White space at the beginning of lines: the replacement is shifted as the text was.
    Indentation,
    /// White space within lines, or empty lines.
    Spacing,
    /// Typographic quotes, dashes and spaces.
    Quotes,
    /// `&lt;` for `<` and the like.
    Entities,
    /// Numbers before the lines, as they are shown where an edit missed.
    LineNumbers,
}

/// Why an edit was not made. Lines are those of the kernel that the model was shown, counted from 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "fault")]
pub enum EditFault {
    TooMany {
        given: usize,
        most: usize,
    },
    /// There is nothing to look for.
    Empty {
        edit: usize,
    },
    /// It occurs at several places, which begin in these lines.
    Ambiguous {
        edit: usize,
        lines: Vec<usize>,
        /// There are more places than these.
        more: bool,
    },
    /// An earlier edit of the same reply has replaced it.
    Overtaken {
        edit: usize,
    },
    /// It does not occur.
    Missed {
        edit: usize,
        /// The part of the kernel that is most like it; empty where nothing is.
        nearest: Vec<NumberedLine>,
        /// The first of its lines that is nowhere in the kernel; where all are, the first that is not where it had to be.
        wrote: String,
        absent: bool,
        /// The line that stands in its place.
        instead: Option<NumberedLine>,
        /// Where its replacement stands already, if it does.
        present: Option<usize>,
    },
}

/// A line of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumberedLine {
    pub line: usize,
    pub text: String,
}

/// Makes the edits in their order, each in what those before it have left. More than `most` are refused unseen.
pub fn apply_edits(source: &str, edits: &[Edit], most: usize) -> AppliedEdits {
    if edits.len() > most {
        let given = edits.len();
        return AppliedEdits::Missed {
            faults: vec![EditFault::TooMany { given, most }],
        };
    }
    let mut work = EditSession {
        text: source.to_owned(),
        original_lines: (1..=source.matches('\n').count() + 1).collect(),
        stream: None,
    };
    let (mut faults, mut repaired) = (Vec::new(), Vec::new());
    for (index, edit) in edits.iter().enumerate() {
        let number = index + 1;
        if edit.old == edit.new {
            continue;
        }
        match work.locate(edit) {
            Ok(change) => {
                repaired.extend(change.repairs.iter().map(|mend| EditRepair {
                    edit: number,
                    mend: *mend,
                }));
                work.replace(change);
            }
            Err(reason) => faults.push(work.describe_failure(number, edit, reason, source)),
        }
    }
    if !faults.is_empty() {
        AppliedEdits::Missed { faults }
    } else if work.text == source {
        AppliedEdits::NoOp
    } else {
        AppliedEdits::Changed {
            source: work.text,
            repairs: repaired,
        }
    }
}

/// A kernel under way.
struct EditSession {
    text: String,
    /// For each line, the line of the kernel that was shown.
    original_lines: Vec<usize>,
    /// Made when it is needed; of the text as it is now.
    stream: Option<NormalizedCode>,
}

/// One replacement, decided.
struct Replacement {
    range: Range<usize>,
    new: String,
    repairs: Vec<RepairKind>,
}

/// Why there is no place for an edit.
enum MatchFailure {
    Empty,
    /// The places' first bytes.
    Ambiguous(Vec<usize>),
    Missed,
}

impl EditSession {
    fn locate(&mut self, edit: &Edit) -> Result<Replacement, MatchFailure> {
        if edit.old.trim().is_empty() {
            return Err(MatchFailure::Empty);
        }
        let exact = exact_matches(&self.text, &edit.old, MAX_MATCHES);
        let range = |start: usize| start..start + edit.old.len();
        match exact.as_slice() {
            [] => {}
            [only] => return Ok(self.verbatim(range(*only), edit, None)),
            [..] => {
                let mut whole = exact
                    .iter()
                    .filter(|start| is_whole_lines(&self.text, &range(**start)));
                return match (whole.next(), whole.next()) {
                    (Some(only), None)
                        if exact.len() < MAX_MATCHES && edit.old.starts_with([' ', '\t']) =>
                    {
                        Ok(self.verbatim(range(*only), edit, Some(RepairKind::WholeLines)))
                    }
                    _ => Err(MatchFailure::Ambiguous(exact)),
                };
            }
        }
        let text = self.text.as_str();
        let stream = self.stream.get_or_insert_with(|| NormalizedCode::of(text));
        for (mend, variant) in edit_variants(edit) {
            let wanted = NormalizedCode::of(&variant.old);
            let found = stream.find(&wanted, MAX_MATCHES);
            match found.as_slice() {
                [] => {}
                [only] => {
                    let mut change = fit_replacement(text, only.clone(), &variant);
                    change.repairs.extend(mend);
                    if change.repairs.is_empty() {
                        // Nothing but empty lines around it.
                        change.repairs.push(RepairKind::TrailingSpace);
                    }
                    return Ok(change);
                }
                [..] => {
                    return Err(MatchFailure::Ambiguous(
                        found.into_iter().map(|range| range.start).collect(),
                    ));
                }
            }
        }
        Err(MatchFailure::Missed)
    }

    /// The replacement word for word, but for the line endings of the file.
    fn verbatim(&self, range: Range<usize>, edit: &Edit, mend: Option<RepairKind>) -> Replacement {
        let mut mends: Vec<_> = mend.into_iter().collect();
        let new = with_line_endings(&edit.new, uses_crlf(&self.text));
        if new != edit.new {
            mends.push(RepairKind::LineEndings);
        }
        Replacement {
            range,
            new,
            repairs: mends,
        }
    }

    fn replace(&mut self, change: Replacement) {
        let count = |text: &str| text.matches('\n').count();
        let first = count(&self.text[..change.range.start]);
        let last = first + count(&self.text[change.range.clone()]);
        let (from, to) = (self.original_lines[first], self.original_lines[last]);
        let new = count(&change.new);
        let lines = (0..=new).map(|line| {
            if line == new {
                to
            } else {
                (from + line).min(to)
            }
        });
        self.original_lines.splice(first..=last, lines);
        self.text.replace_range(change.range, &change.new);
        self.stream = None;
    }

    fn describe_failure(
        &self,
        edit: usize,
        given: &Edit,
        reason: MatchFailure,
        source: &str,
    ) -> EditFault {
        match reason {
            MatchFailure::Empty => EditFault::Empty { edit },
            MatchFailure::Ambiguous(places) => {
                let mut lines = Vec::new();
                let (mut at, mut line) = (0, 0);
                for place in places.iter().take(MAX_MATCHES - 1) {
                    line += self.text[at..*place].matches('\n').count();
                    at = *place;
                    lines.push(self.original_lines[line]);
                }
                EditFault::Ambiguous {
                    edit,
                    lines,
                    more: places.len() >= MAX_MATCHES,
                }
            }
            MatchFailure::Missed => {
                let was_there = self.text != source
                    && NormalizedCode::of(source)
                        .find(&NormalizedCode::of(&given.old), 2)
                        .len()
                        == 1;
                if was_there {
                    return EditFault::Overtaken { edit };
                }
                // Against the kernel that was shown: nothing of this reply is made.
                let near = find_nearest(source, &given.old);
                let present = match exact_matches(source, given.new.trim(), 2).as_slice() {
                    [only] if given.new.trim().len() >= MIN_DISTINCTIVE_BYTES => {
                        Some(source[..*only].matches('\n').count() + 1)
                    }
                    _ => None,
                };
                EditFault::Missed {
                    edit,
                    nearest: near.lines,
                    wrote: near.unmatched_line,
                    absent: near.is_absent,
                    instead: near.found_instead,
                    present,
                }
            }
        }
    }
}

/// Where a text occurs, overlapping itself or not.
fn exact_matches(text: &str, wanted: &str, most: usize) -> Vec<usize> {
    let mut found = Vec::new();
    let mut at = 0;
    let Some(first) = wanted.chars().next() else {
        return found;
    };
    while let Some(offset) = text[at..].find(wanted) {
        found.push(at + offset);
        if found.len() >= most {
            break;
        }
        at += offset + first.len_utf8();
    }
    found
}

fn is_whole_lines(text: &str, range: &Range<usize>) -> bool {
    let begins = range.start == 0 || text[..range.start].ends_with('\n');
    let rest = &text[range.end..];
    let ends = rest.is_empty() || rest.starts_with('\n') || rest.starts_with("\r\n");
    begins && (ends || text[range.clone()].ends_with('\n'))
}

/// The edit as it is, and as it was meant where it was written for HTML or with the numbers of its lines.
fn edit_variants(edit: &Edit) -> Vec<(Option<RepairKind>, Edit)> {
    let mut variants = vec![(None, edit.clone())];
    if edit.old.contains('&') && edit.old.contains(';') {
        let plain = Edit {
            old: unescape_html(&edit.old),
            new: unescape_html(&edit.new),
        };
        if plain.old != edit.old {
            variants.push((Some(RepairKind::Entities), plain));
        }
    }
    if let Some(old) = strip_line_numbers(&edit.old) {
        let new = strip_line_numbers(&edit.new).unwrap_or_else(|| edit.new.clone());
        variants.push((Some(RepairKind::LineNumbers), Edit { old, new }));
    }
    variants
}

/// Lines without `31 | ` before each, where all have it.
fn strip_line_numbers(text: &str) -> Option<String> {
    let strip = |line: &str| {
        let rest = line.trim_start();
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let rest = (1..=6)
            .contains(&digits)
            .then(|| rest[digits..].trim_start_matches(' '))?;
        let rest = rest.strip_prefix('|').or_else(|| rest.strip_prefix('│'))?;
        Some(rest.strip_prefix(' ').unwrap_or(rest).to_owned())
    };
    let lines: Option<Vec<_>> = text
        .trim_end()
        .lines()
        .map(|line| {
            if line.trim().is_empty() {
                Some(String::new())
            } else {
                strip(line)
            }
        })
        .collect();
    lines.map(|lines| lines.join("\n"))
}

/// Whether all lines end as those of Windows do.
fn uses_crlf(text: &str) -> bool {
    let lines = text.matches('\n').count();
    lines > 0 && text.matches("\r\n").count() == lines
}

fn with_line_endings(text: &str, carriage_returns: bool) -> String {
    if carriage_returns {
        text.replace("\r\n", "\n").replace('\n', "\r\n")
    } else {
        text.to_owned()
    }
}

/// The replacement fitted to a place that is the edit's text but for white space and quotes.
fn fit_replacement(text: &str, found: Range<usize>, edit: &Edit) -> Replacement {
    let line_start = text[..found.start].rfind('\n').map_or(0, |line| line + 1);
    let begins_line = text[line_start..found.start].trim().is_empty();
    let behind = &text[found.end..];
    let blank = behind.len() - behind.trim_start_matches([' ', '\t']).len();
    let rest = &behind[blank..];
    let ends_line = rest.is_empty() || rest.starts_with('\n') || rest.starts_with("\r\n");
    let start = if begins_line { line_start } else { found.start };
    let end = found.end + if ends_line { blank } else { 0 };
    let place = &text[start..end];

    let mut mends = repair_kinds(&edit.old, place, begins_line, text);
    let mut new = trim_blank_lines(&edit.new).replace("\r\n", "\n");
    let is_typographic = |text: &str| {
        text.chars()
            .any(|letter| ascii_punctuation(letter) != letter)
    };
    if mends.contains(&RepairKind::Quotes) && is_typographic(&edit.old) && !is_typographic(place) {
        new = new.chars().map(ascii_punctuation).collect();
    }
    if begins_line && ends_line && new.trim().is_empty() {
        // Nothing is left of these lines: they go.
        let ending = rest.len() - rest.trim_start_matches('\r').len();
        let ending = ending + usize::from(rest[ending..].starts_with('\n'));
        return Replacement {
            range: start..end + ending,
            new: String::new(),
            repairs: mends,
        };
    }
    new = if begins_line {
        reindent(&new, &edit.old, place)
    } else {
        new.trim_start().to_owned()
    };
    let carriage_returns = uses_crlf(text);
    if carriage_returns && new.contains('\n') && !mends.contains(&RepairKind::LineEndings) {
        mends.insert(0, RepairKind::LineEndings);
    }
    Replacement {
        range: start..end,
        new: with_line_endings(&new, carriage_returns),
        repairs: mends,
    }
}

/// A text without empty lines at its beginning and white space at its end.
fn trim_blank_lines(text: &str) -> &str {
    let trimmed = text.trim_end();
    let mut start = 0;
    for line in trimmed.split_inclusive('\n') {
        if !line.trim().is_empty() {
            break;
        }
        start += line.len();
    }
    &trimmed[start..]
}

/// What differs between an edit's text and its place.
fn repair_kinds(old: &str, place: &str, begins_line: bool, text: &str) -> Vec<RepairKind> {
    let mut mends = Vec::new();
    let carriage_returns = uses_crlf(text);
    if old.contains('\n') && old.contains("\r\n") != carriage_returns {
        mends.push(RepairKind::LineEndings);
    }
    let filled = |text: &'_ str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        lines.map(str::to_owned).collect()
    };
    let (olds, places) = (filled(old), filled(place));
    let fold = |line: &str| {
        line.trim()
            .chars()
            .map(ascii_punctuation)
            .collect::<String>()
    };
    for (index, (old, place)) in olds.iter().zip(&places).enumerate() {
        let trailing = |line: &str| line[line.trim_end().len()..].to_owned();
        if trailing(old) != trailing(place) {
            mends.push(RepairKind::TrailingSpace);
        }
        if (index > 0 || begins_line) && indentation(old) != indentation(place) {
            mends.push(RepairKind::Indentation);
        }
        if old.trim() != place.trim() {
            let (old, place) = (fold(old), fold(place));
            if old == place {
                mends.push(RepairKind::Quotes);
                continue;
            }
            mends.push(RepairKind::Spacing);
            let is_typographic = |line: &str, fold: &str| line.trim() != fold;
            if is_typographic(&olds[index], &old) || is_typographic(&places[index], &place) {
                mends.push(RepairKind::Quotes);
            }
        }
    }
    let empty = |text: &str| {
        text.trim()
            .lines()
            .filter(|line| line.trim().is_empty())
            .count()
    };
    if empty(old) != empty(place) {
        mends.push(RepairKind::Spacing);
    }
    mends.sort_unstable();
    mends.dedup();
    mends
}

fn indentation(line: &str) -> &str {
    &line[..line.len() - line.trim_start_matches([' ', '\t']).len()]
}

/// The replacement with its lines shifted as the edit's text is shifted against its place. The first line may be shifted
/// otherwise than the rest: models often leave out its indentation alone.
fn reindent(new: &str, old: &str, place: &str) -> String {
    let filled = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        lines
            .take(2)
            .map(|line| indentation(line).to_owned())
            .collect()
    };
    let (from, to) = (filled(old), filled(place));
    let (Some(from_first), Some(to_first)) = (from.first(), to.first()) else {
        return new.to_owned();
    };
    let from_rest = from.get(1).unwrap_or(from_first);
    let to_rest = to.get(1).unwrap_or(to_first);
    let tabs = |text: &str| text.matches('\t').count();
    let spaces = |text: &str| text.matches(' ').count();
    let uses_tabs = tabs(to_first) + tabs(to_rest) > 0;
    // As many columns as make the indentation of one be that of the other.
    let width = |tabbed: &str, spaced: &str| {
        let (tabs, spaces) = (tabs(tabbed), spaces(spaced));
        (tabs > 0 && spaces > 0 && spaces % tabs == 0).then(|| spaces / tabs)
    };
    let tab = [(from_first, to_first), (from_rest, to_rest)]
        .into_iter()
        .find_map(|(from, to)| width(to, from).or_else(|| width(from, to)))
        .unwrap_or(4);
    let columns = |text: &str| tabs(text) * tab + spaces(text);
    let shift = |line: &str, from: &str, to: &str| {
        if from == to || line.trim().is_empty() {
            return line.to_owned();
        }
        let own = indentation(line);
        let column = (columns(own) + columns(to)).saturating_sub(columns(from));
        let indentation = if uses_tabs {
            "\t".repeat(column / tab) + &" ".repeat(column % tab)
        } else {
            " ".repeat(column)
        };
        format!("{indentation}{}", &line[own.len()..])
    };
    new.split('\n')
        .enumerate()
        .map(|(index, line)| match index {
            0 => shift(line, from_first, to_first),
            _ => shift(line, from_rest, to_rest),
        })
        .collect::<Vec<_>>()
        .join("\n")
}
