//! Finds the header comment of a kernel file, and cleans it of what editors and chat programs put into a text.
//!
//! Cleaning keeps every line on its number. It never changes the code after the header. Reads no YAML.

use std::borrow::Cow;
use std::ops::Range;

use super::error::HeaderError;

/// Where the header comment is.
pub(super) struct HeaderComment {
    /// The bytes of the YAML, without `/* kforge` and `*/`.
    pub(super) body: Range<usize>,
    /// The number of lines before the YAML.
    pub(super) lines_before: u32,
}

/// Finds the header comment.
pub(super) fn find_header(text: &str) -> Result<HeaderComment, HeaderError> {
    let missing = |message: &str| {
        HeaderError::new(1, message).hint(
            "a kernel file starts with `/* kforge`, the launches in YAML, and `*/`: see `kernels/` for examples",
        )
    };
    let start = text.len() - text.trim_start_matches(is_blank).len();
    let Some(rest) = text[start..].strip_prefix("/*").filter(|rest| {
        let rest = rest.trim_start_matches('*').trim_start_matches([' ', '\t']);
        rest.starts_with("kforge")
    }) else {
        return Err(missing(
            "no header: the first comment does not start with `/* kforge`",
        ));
    };
    let Some(end) = rest.find("*/") else {
        return Err(missing("the header comment is not closed by `*/`"));
    };
    let comment = &rest[..end];
    let Some((first, body)) = comment.split_once('\n') else {
        return Err(missing("the header is empty"));
    };
    if first.trim_start_matches('*').trim() != "kforge" {
        return Err(missing(
            "the first line of the header has more than `kforge`",
        ));
    }
    let body_start = start + 2 + first.len() + 1;
    Ok(HeaderComment {
        body: body_start..body_start + body.len(),
        lines_before: text[..body_start].matches('\n').count() as u32,
    })
}

fn is_blank(letter: char) -> bool {
    letter.is_whitespace() || letter == BYTE_ORDER_MARK
}

const BYTE_ORDER_MARK: char = '\u{feff}';

/// The file without a byte order mark, and with a header of plain spaces, dashes and quotes: what YAML and the compilers read.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    let without_mark = text.trim_start_matches(BYTE_ORDER_MARK);
    let Ok(HeaderComment { body, .. }) = find_header(without_mark) else {
        return Cow::Borrowed(text);
    };
    let header = &without_mark[body.clone()];
    if without_mark.len() == text.len() && !needs_cleaning(header) {
        return Cow::Borrowed(text);
    }
    let has_stars = has_star_lines(header);
    let lines = header
        .split('\n')
        .map(|line| if has_stars { without_star(line) } else { line });
    let lines: Vec<_> = lines.map(clean_line).collect();
    let indentation = common_indentation(lines.iter().map(String::as_str));
    let lines: Vec<_> = lines
        .iter()
        .map(|line| line.get(indentation..).unwrap_or_default())
        .collect();
    let head = &without_mark[..body.start];
    let tail = &without_mark[body.end..];
    Cow::Owned(format!("{head}{}{tail}", lines.join("\n")))
}

fn needs_cleaning(header: &str) -> bool {
    header.contains('\t')
        || header.chars().any(|letter| plain(letter) != letter)
        || has_star_lines(header)
        || common_indentation(header.split('\n')) > 0
}

/// The spaces at the start of every line that is not blank.
fn common_indentation<'a>(lines: impl Iterator<Item = &'a str>) -> usize {
    lines
        .filter(|line| !line.trim().is_empty())
        .map(|line| line.len() - line.trim_start_matches(' ').len())
        .min()
        .unwrap_or(0)
}

/// Whether every line of the comment starts with ` * `.
pub(super) fn has_star_lines(header: &str) -> bool {
    let mut lines = header.lines().filter(|line| !line.trim().is_empty());
    let is_star = |line: &str| {
        let rest = line.trim_start();
        rest == "*" || rest.starts_with("* ")
    };
    lines.clone().next().is_some() && lines.all(is_star)
}

/// A line that starts with ` * `, without it.
fn without_star(line: &str) -> &str {
    let rest = line.trim_start();
    let rest = rest.strip_prefix('*').unwrap_or(rest);
    rest.strip_prefix(' ').unwrap_or(rest)
}

fn clean_line(line: &str) -> String {
    let blank = line.len() - line.trim_start_matches([' ', '\t']).len();
    // A key below `- kernel` is two columns further than the dash, so with tabs of two columns one more tab fits it.
    let indentation = line[..blank].replace('\t', "  ");
    let rest: String = line[blank..].chars().map(plain).collect();
    indentation + &rest
}

/// The ASCII character that a character is written for.
fn plain(letter: char) -> char {
    match letter {
        '\t'
        | '\u{a0}'
        | '\u{1680}'
        | '\u{2000}'..='\u{200d}'
        | '\u{202f}'
        | '\u{205f}'
        | '\u{2060}'
        | '\u{3000}'
        | BYTE_ORDER_MARK => ' ',
        '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{fe63}' | '\u{ff0d}' => '-',
        '\u{2018}' | '\u{2019}' | '\u{201b}' => '\'',
        '\u{201c}' | '\u{201d}' | '\u{201f}' => '"',
        '\u{d7}' | '\u{2217}' => '*',
        // Fullwidth forms of ASCII.
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(letter as u32 - 0xfee0).unwrap_or(letter),
        other => other,
    }
}
