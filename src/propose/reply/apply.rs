//! Edits put into a kernel: all of them, or none.
//!
//! A text that occurs once is replaced. One that does not occur as it is may still differ only in what means nothing to a
//! compiler, and occur once so: then the place is as sure, and the replacement is fitted to it. Anything else is a fault that is
//! told back. Never a guess: what is merely similar is shown, and not replaced.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::nearest::nearest;
use super::stream::{Stream, straight};
use super::{Edit, unescaped};

/// The most places of a text that are looked for.
const MOST_PLACES: usize = 64;

/// A replacement of fewer letters may stand in a kernel by chance.
const SURE_LETTERS: usize = 8;

/// What became of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub enum Applied {
    /// Another kernel, with what had to be put right in the edits.
    Changed {
        source: String,
        repaired: Vec<Repair>,
    },
    /// Not one edit was made.
    Missed { faults: Vec<Fault> },
    /// All edits are made, and the kernel is as it was.
    NoOp,
}

/// Something put right in an edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Repair {
    /// Counted from 1.
    pub edit: usize,
    pub mend: Mend,
}

/// How an edit's text differed from the one that it meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mend {
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
pub enum Fault {
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
        nearest: Vec<Near>,
        /// The first of its lines that is nowhere in the kernel; where all are, the first that is not where it had to be.
        wrote: String,
        absent: bool,
        /// The line that stands in its place.
        instead: Option<Near>,
        /// Where its replacement stands already, if it does.
        present: Option<usize>,
    },
}

/// A line of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Near {
    pub line: usize,
    pub text: String,
}

/// Makes the edits in their order, each in what those before it have left. More than `most` are refused unseen.
pub fn apply(source: &str, edits: &[Edit], most: usize) -> Applied {
    if edits.len() > most {
        let given = edits.len();
        return Applied::Missed {
            faults: vec![Fault::TooMany { given, most }],
        };
    }
    let mut work = Work {
        text: source.to_owned(),
        lines: (1..=source.matches('\n').count() + 1).collect(),
        stream: None,
    };
    let (mut faults, mut repaired) = (Vec::new(), Vec::new());
    for (index, edit) in edits.iter().enumerate() {
        let number = index + 1;
        if edit.old == edit.new {
            continue;
        }
        match work.place(edit) {
            Ok(change) => {
                repaired.extend(change.mends.iter().map(|mend| Repair {
                    edit: number,
                    mend: *mend,
                }));
                work.replace(change);
            }
            Err(reason) => faults.push(work.fault(number, edit, reason, source)),
        }
    }
    if !faults.is_empty() {
        Applied::Missed { faults }
    } else if work.text == source {
        Applied::NoOp
    } else {
        Applied::Changed {
            source: work.text,
            repaired,
        }
    }
}

/// A kernel under way.
struct Work {
    text: String,
    /// For each line, the line of the kernel that was shown.
    lines: Vec<usize>,
    /// Made when it is needed; of the text as it is now.
    stream: Option<Stream>,
}

/// One replacement, decided.
struct Change {
    range: Range<usize>,
    new: String,
    mends: Vec<Mend>,
}

/// Why there is no place for an edit.
enum Reason {
    Empty,
    /// The places' first bytes.
    Ambiguous(Vec<usize>),
    Missed,
}

impl Work {
    fn place(&mut self, edit: &Edit) -> Result<Change, Reason> {
        if edit.old.trim().is_empty() {
            return Err(Reason::Empty);
        }
        let exact = exact(&self.text, &edit.old, MOST_PLACES);
        let range = |start: usize| start..start + edit.old.len();
        match exact.as_slice() {
            [] => {}
            [only] => return Ok(self.as_given(range(*only), edit, None)),
            [..] => {
                let mut whole = exact
                    .iter()
                    .filter(|start| is_whole_lines(&self.text, &range(**start)));
                return match (whole.next(), whole.next()) {
                    (Some(only), None)
                        if exact.len() < MOST_PLACES && edit.old.starts_with([' ', '\t']) =>
                    {
                        Ok(self.as_given(range(*only), edit, Some(Mend::WholeLines)))
                    }
                    _ => Err(Reason::Ambiguous(exact)),
                };
            }
        }
        let text = self.text.as_str();
        let stream = self.stream.get_or_insert_with(|| Stream::of(text));
        for (mend, variant) in variants(edit) {
            let wanted = Stream::of(&variant.old);
            let found = stream.find(&wanted, MOST_PLACES);
            match found.as_slice() {
                [] => {}
                [only] => {
                    let mut change = fitted(text, only.clone(), &variant);
                    change.mends.extend(mend);
                    if change.mends.is_empty() {
                        // Nothing but empty lines around it.
                        change.mends.push(Mend::TrailingSpace);
                    }
                    return Ok(change);
                }
                [..] => {
                    return Err(Reason::Ambiguous(
                        found.into_iter().map(|range| range.start).collect(),
                    ));
                }
            }
        }
        Err(Reason::Missed)
    }

    /// The replacement word for word, but for the line endings of the file.
    fn as_given(&self, range: Range<usize>, edit: &Edit, mend: Option<Mend>) -> Change {
        let mut mends: Vec<_> = mend.into_iter().collect();
        let new = with_endings(&edit.new, has_carriage_returns(&self.text));
        if new != edit.new {
            mends.push(Mend::LineEndings);
        }
        Change { range, new, mends }
    }

    fn replace(&mut self, change: Change) {
        let count = |text: &str| text.matches('\n').count();
        let first = count(&self.text[..change.range.start]);
        let last = first + count(&self.text[change.range.clone()]);
        let (from, to) = (self.lines[first], self.lines[last]);
        let new = count(&change.new);
        let lines = (0..=new).map(|line| {
            if line == new {
                to
            } else {
                (from + line).min(to)
            }
        });
        self.lines.splice(first..=last, lines);
        self.text.replace_range(change.range, &change.new);
        self.stream = None;
    }

    fn fault(&self, edit: usize, given: &Edit, reason: Reason, source: &str) -> Fault {
        match reason {
            Reason::Empty => Fault::Empty { edit },
            Reason::Ambiguous(places) => {
                let mut lines = Vec::new();
                let (mut at, mut line) = (0, 0);
                for place in places.iter().take(MOST_PLACES - 1) {
                    line += self.text[at..*place].matches('\n').count();
                    at = *place;
                    lines.push(self.lines[line]);
                }
                Fault::Ambiguous {
                    edit,
                    lines,
                    more: places.len() >= MOST_PLACES,
                }
            }
            Reason::Missed => {
                let was_there = self.text != source
                    && Stream::of(source).find(&Stream::of(&given.old), 2).len() == 1;
                if was_there {
                    return Fault::Overtaken { edit };
                }
                // Against the kernel that was shown: nothing of this reply is made.
                let near = nearest(source, &given.old);
                let present = match exact(source, given.new.trim(), 2).as_slice() {
                    [only] if given.new.trim().len() >= SURE_LETTERS => {
                        Some(source[..*only].matches('\n').count() + 1)
                    }
                    _ => None,
                };
                Fault::Missed {
                    edit,
                    nearest: near.lines,
                    wrote: near.wrote,
                    absent: near.absent,
                    instead: near.instead,
                    present,
                }
            }
        }
    }
}

/// Where a text occurs, overlapping itself or not.
fn exact(text: &str, wanted: &str, most: usize) -> Vec<usize> {
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
fn variants(edit: &Edit) -> Vec<(Option<Mend>, Edit)> {
    let mut variants = vec![(None, edit.clone())];
    if edit.old.contains('&') && edit.old.contains(';') {
        let plain = Edit {
            old: unescaped(&edit.old),
            new: unescaped(&edit.new),
        };
        if plain.old != edit.old {
            variants.push((Some(Mend::Entities), plain));
        }
    }
    if let Some(old) = without_numbers(&edit.old) {
        let new = without_numbers(&edit.new).unwrap_or_else(|| edit.new.clone());
        variants.push((Some(Mend::LineNumbers), Edit { old, new }));
    }
    variants
}

/// Lines without `31 | ` before each, where all have it.
fn without_numbers(text: &str) -> Option<String> {
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
fn has_carriage_returns(text: &str) -> bool {
    let lines = text.matches('\n').count();
    lines > 0 && text.matches("\r\n").count() == lines
}

fn with_endings(text: &str, carriage_returns: bool) -> String {
    if carriage_returns {
        text.replace("\r\n", "\n").replace('\n', "\r\n")
    } else {
        text.to_owned()
    }
}

/// The replacement fitted to a place that is the edit's text but for white space and quotes.
fn fitted(text: &str, found: Range<usize>, edit: &Edit) -> Change {
    let line_start = text[..found.start].rfind('\n').map_or(0, |line| line + 1);
    let begins_line = text[line_start..found.start].trim().is_empty();
    let behind = &text[found.end..];
    let blank = behind.len() - behind.trim_start_matches([' ', '\t']).len();
    let rest = &behind[blank..];
    let ends_line = rest.is_empty() || rest.starts_with('\n') || rest.starts_with("\r\n");
    let start = if begins_line { line_start } else { found.start };
    let end = found.end + if ends_line { blank } else { 0 };
    let place = &text[start..end];

    let mut mends = mends(&edit.old, place, begins_line, text);
    let mut new = without_empty_ends(&edit.new).replace("\r\n", "\n");
    let is_typographic = |text: &str| text.chars().any(|letter| straight(letter) != letter);
    if mends.contains(&Mend::Quotes) && is_typographic(&edit.old) && !is_typographic(place) {
        new = new.chars().map(straight).collect();
    }
    if begins_line && ends_line && new.trim().is_empty() {
        // Nothing is left of these lines: they go.
        let ending = rest.len() - rest.trim_start_matches('\r').len();
        let ending = ending + usize::from(rest[ending..].starts_with('\n'));
        return Change {
            range: start..end + ending,
            new: String::new(),
            mends,
        };
    }
    new = if begins_line {
        shifted(&new, &edit.old, place)
    } else {
        new.trim_start().to_owned()
    };
    let carriage_returns = has_carriage_returns(text);
    if carriage_returns && new.contains('\n') && !mends.contains(&Mend::LineEndings) {
        mends.insert(0, Mend::LineEndings);
    }
    Change {
        range: start..end,
        new: with_endings(&new, carriage_returns),
        mends,
    }
}

/// A text without empty lines at its beginning and white space at its end.
fn without_empty_ends(text: &str) -> &str {
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
fn mends(old: &str, place: &str, begins_line: bool, text: &str) -> Vec<Mend> {
    let mut mends = Vec::new();
    let carriage_returns = has_carriage_returns(text);
    if old.contains('\n') && old.contains("\r\n") != carriage_returns {
        mends.push(Mend::LineEndings);
    }
    let filled = |text: &'_ str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        lines.map(str::to_owned).collect()
    };
    let (olds, places) = (filled(old), filled(place));
    let fold = |line: &str| line.trim().chars().map(straight).collect::<String>();
    for (index, (old, place)) in olds.iter().zip(&places).enumerate() {
        let trailing = |line: &str| line[line.trim_end().len()..].to_owned();
        if trailing(old) != trailing(place) {
            mends.push(Mend::TrailingSpace);
        }
        if (index > 0 || begins_line) && indentation(old) != indentation(place) {
            mends.push(Mend::Indentation);
        }
        if old.trim() != place.trim() {
            let (old, place) = (fold(old), fold(place));
            if old == place {
                mends.push(Mend::Quotes);
                continue;
            }
            mends.push(Mend::Spacing);
            let is_typographic = |line: &str, fold: &str| line.trim() != fold;
            if is_typographic(&olds[index], &old) || is_typographic(&places[index], &place) {
                mends.push(Mend::Quotes);
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
        mends.push(Mend::Spacing);
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
fn shifted(new: &str, old: &str, place: &str) -> String {
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
