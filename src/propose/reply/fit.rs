//! Fits the replacement of an edit to a match that differs in white space, line endings, quotes, entities or line numbers.
//!
//! Never searches: `apply` finds the match. Every difference that was ignored is reported as a `RepairKind`.

use std::ops::Range;

use super::content::Edit;
use super::faults::RepairKind;
use super::normalized::ascii_punctuation;
use super::text::{indentation, unescape_html};

/// One replacement to make in a kernel.
pub(super) struct Replacement {
    pub(super) range: Range<usize>,
    pub(super) new: String,
    pub(super) repairs: Vec<RepairKind>,
}

/// The replacement of an exact match. Only line endings are adapted to the file.
pub(super) fn verbatim_replacement(
    text: &str,
    range: Range<usize>,
    edit: &Edit,
    repair: Option<RepairKind>,
) -> Replacement {
    let mut repairs: Vec<_> = repair.into_iter().collect();
    let new = with_line_endings(&edit.new, uses_crlf(text));
    if new != edit.new {
        repairs.push(RepairKind::LineEndings);
    }
    Replacement {
        range,
        new,
        repairs,
    }
}

/// The edit as it is, then without HTML entities, then without line numbers: those that apply, each with its repair.
pub(super) fn edit_variants(edit: &Edit) -> Vec<(Option<RepairKind>, Edit)> {
    let mut variants = vec![(None, edit.clone())];
    if edit.old.contains('&') && edit.old.contains(';') {
        let unescaped = Edit {
            old: unescape_html(&edit.old),
            new: unescape_html(&edit.new),
        };
        if unescaped.old != edit.old {
            variants.push((Some(RepairKind::Entities), unescaped));
        }
    }
    if let Some(old) = strip_line_numbers(&edit.old) {
        let new = strip_line_numbers(&edit.new).unwrap_or_else(|| edit.new.clone());
        variants.push((Some(RepairKind::LineNumbers), Edit { old, new }));
    }
    variants
}

/// The lines without `31 | ` before each; `None` unless every line has it.
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

/// Whether all lines end with `\r\n`.
fn uses_crlf(text: &str) -> bool {
    let lines = text.matches('\n').count();
    lines > 0 && text.matches("\r\n").count() == lines
}

fn with_line_endings(text: &str, crlf: bool) -> String {
    if crlf {
        text.replace("\r\n", "\n").replace('\n', "\r\n")
    } else {
        text.to_owned()
    }
}

/// The replacement of a match at bytes `found` that equals `old_str` only after normalization.
pub(super) fn fit_replacement(text: &str, found: Range<usize>, edit: &Edit) -> Replacement {
    let line_start = text[..found.start].rfind('\n').map_or(0, |line| line + 1);
    let starts_line = text[line_start..found.start].trim().is_empty();
    let after = &text[found.end..];
    let blank = after.len() - after.trim_start_matches([' ', '\t']).len();
    let rest = &after[blank..];
    let ends_line = rest.is_empty() || rest.starts_with('\n') || rest.starts_with("\r\n");
    // A match that fills its lines includes their indentation and trailing space.
    let start = if starts_line { line_start } else { found.start };
    let end = found.end + if ends_line { blank } else { 0 };
    let matched = &text[start..end];

    let crlf = uses_crlf(text);
    let mut repairs = repair_kinds(&edit.old, matched, starts_line, crlf);
    let mut new = trim_blank_lines(&edit.new).replace("\r\n", "\n");
    let is_typographic = |text: &str| {
        text.chars()
            .any(|letter| ascii_punctuation(letter) != letter)
    };
    if repairs.contains(&RepairKind::Quotes)
        && is_typographic(&edit.old)
        && !is_typographic(matched)
    {
        new = new.chars().map(ascii_punctuation).collect();
    }
    if starts_line && ends_line && new.trim().is_empty() {
        // Nothing is left of these lines: their line ending goes as well.
        let ending = rest.len() - rest.trim_start_matches('\r').len();
        let ending = ending + usize::from(rest[ending..].starts_with('\n'));
        return Replacement {
            range: start..end + ending,
            new: String::new(),
            repairs,
        };
    }
    new = if starts_line {
        reindent(&new, &edit.old, matched)
    } else {
        new.trim_start().to_owned()
    };
    if crlf && new.contains('\n') && !repairs.contains(&RepairKind::LineEndings) {
        repairs.insert(0, RepairKind::LineEndings);
    }
    Replacement {
        range: start..end,
        new: with_line_endings(&new, crlf),
        repairs,
    }
}

/// The text without empty lines at its start and white space at its end.
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

/// The differences between `old_str` and the text that it matches, sorted and without duplicates.
fn repair_kinds(old: &str, matched: &str, starts_line: bool, crlf: bool) -> Vec<RepairKind> {
    let mut kinds = Vec::new();
    if old.contains('\n') && old.contains("\r\n") != crlf {
        kinds.push(RepairKind::LineEndings);
    }
    let lines = filled_lines(old).zip(filled_lines(matched));
    for (index, (old, matched)) in lines.enumerate() {
        let has_indentation = index > 0 || starts_line;
        line_repair_kinds(old, matched, has_indentation, &mut kinds);
    }
    let blank_lines = |text: &str| {
        text.trim()
            .lines()
            .filter(|line| line.trim().is_empty())
            .count()
    };
    if blank_lines(old) != blank_lines(matched) {
        kinds.push(RepairKind::Spacing);
    }
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

/// Adds the differences between two lines that match.
fn line_repair_kinds(old: &str, matched: &str, has_indentation: bool, kinds: &mut Vec<RepairKind>) {
    let trailing = |line: &str| line[line.trim_end().len()..].to_owned();
    if trailing(old) != trailing(matched) {
        kinds.push(RepairKind::TrailingSpace);
    }
    if has_indentation && indentation(old) != indentation(matched) {
        kinds.push(RepairKind::Indentation);
    }
    let (old, matched) = (old.trim(), matched.trim());
    if old == matched {
        return;
    }
    let plain = |line: &str| line.chars().map(ascii_punctuation).collect::<String>();
    let (plain_old, plain_matched) = (plain(old), plain(matched));
    if plain_old != plain_matched {
        kinds.push(RepairKind::Spacing);
    }
    if plain_old == plain_matched || plain_old != old || plain_matched != matched {
        kinds.push(RepairKind::Quotes);
    }
}

/// The lines that are not blank.
fn filled_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim().is_empty())
}

/// The replacement with its lines shifted as `old_str` is shifted against the text that it matches.
///
/// The first line may be shifted by another amount than the rest: models often leave out only its indentation.
fn reindent(new: &str, old: &str, matched: &str) -> String {
    let first_two = |text| {
        let mut indentations = filled_lines(text).map(indentation);
        let first = indentations.next()?;
        Some((first, indentations.next().unwrap_or(first)))
    };
    let (Some((old_first, old_rest)), Some((new_first, new_rest))) =
        (first_two(old), first_two(matched))
    else {
        return new.to_owned();
    };
    let tab_width = tab_width(&[(old_first, new_first), (old_rest, new_rest)]);
    let columns = |text: &str| tabs(text) * tab_width + spaces(text);
    let uses_tabs = tabs(new_first) + tabs(new_rest) > 0;
    let shift = |line: &str, from: &str, to: &str| {
        if from == to || line.trim().is_empty() {
            return line.to_owned();
        }
        let own = indentation(line);
        let column = (columns(own) + columns(to)).saturating_sub(columns(from));
        let indentation = if uses_tabs {
            "\t".repeat(column / tab_width) + &" ".repeat(column % tab_width)
        } else {
            " ".repeat(column)
        };
        format!("{indentation}{}", &line[own.len()..])
    };
    new.split('\n')
        .enumerate()
        .map(|(index, line)| match index {
            0 => shift(line, old_first, new_first),
            _ => shift(line, old_rest, new_rest),
        })
        .collect::<Vec<_>>()
        .join("\n")
}

fn tabs(text: &str) -> usize {
    text.matches('\t').count()
}

fn spaces(text: &str) -> usize {
    text.matches(' ').count()
}

/// The columns of a tab, from a pair of equal indentations of which one uses tabs and one spaces; 4 if there is none.
fn tab_width(pairs: &[(&str, &str)]) -> usize {
    let width = |tabbed: &str, spaced: &str| {
        let (tabs, spaces) = (tabs(tabbed), spaces(spaced));
        (tabs > 0 && spaces > 0 && spaces % tabs == 0).then(|| spaces / tabs)
    };
    pairs
        .iter()
        .find_map(|(old, new)| width(new, old).or_else(|| width(old, new)))
        .unwrap_or(4)
}
