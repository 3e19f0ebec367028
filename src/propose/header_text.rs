//! Finds and edits parts of a kernel header as text: a launch value, a tunable's list, a section.
//!
//! Works on the text, so that an edit leaves every other byte of the header as it is. Never checks what a header means:
//! `kernel::Kernel` parses it.

use std::ops::Range;

use super::source_edits::SourceEdits;
pub(super) use crate::kernel::header_ranges::replacement_value;
use crate::kernel::header_ranges::value_range;

/// The bytes of the header comment, from `/*` to the end of `*/`.
pub(super) fn header_range(source: &str) -> Range<usize> {
    let is_blank = |letter: char| letter.is_whitespace() || letter == '\u{feff}';
    let start = source.len() - source.trim_start_matches(is_blank).len();
    let end = source[start..]
        .find("*/")
        .map_or(source.len(), |end| start + end + 2);
    start..end
}

/// The lines of the header: the first byte in the file, the line number counted from 1, and the text.
fn header_lines(source: &str) -> impl Iterator<Item = (usize, usize, &str)> {
    let end = header_range(source).end;
    let mut at = 0;
    source[..end]
        .split_inclusive('\n')
        .enumerate()
        .map(move |(index, line)| {
            let start = at;
            at += line.len();
            (start, index + 1, line)
        })
}

/// The value of `key:` in the launch entry that starts at `line`, without a trailing comment.
pub(super) fn launch_value_range(source: &str, line: u32, key: &str) -> Option<Range<usize>> {
    let mut lines = header_lines(source).skip_while(|(_, number, _)| *number < line as usize);
    let (start, _, first) = lines.next()?;
    let own = |text: &str| text.len() - text.trim_start().len();
    // A single launch may be written without a list.
    let indent = if first.trim_start().starts_with("- ") {
        own(first)
    } else {
        own(first).checked_sub(1)?
    };
    let entry = lines.take_while(|(_, _, text)| text.trim().is_empty() || own(text) > indent);
    std::iter::once((start, 0, first))
        .chain(entry)
        .find_map(|(start, _, text)| line_value_range(source, start, text, key))
}

/// The values of a tunable, in whatever form they are written.
pub(super) fn tunable_list_range(source: &str, name: &str) -> Option<Range<usize>> {
    let section = section_range(source, "tunables")?;
    header_lines(source)
        .filter(|(start, _, _)| section.contains(start))
        .find_map(|(start, _, text)| line_value_range(source, start, text, name))
}

/// The whole lines of a top-level section such as `tunables:`.
pub(super) fn section_range(source: &str, key: &str) -> Option<Range<usize>> {
    let head = format!("{key}:");
    let mut lines = header_lines(source).skip_while(|(_, _, text)| !text.starts_with(&head));
    let (start, _, first) = lines.next()?;
    let rest: usize = lines
        .take_while(|(_, _, text)| text.starts_with([' ', '-', '#']) && !text.contains("*/"))
        .map(|(_, _, text)| text.len())
        .sum();
    Some(start..start + first.len() + rest)
}

/// Declares a tunable at the end of the `tunables` section, and adds the section if the header has none.
///
/// `None` if the header's `*/` is not on a line of its own.
pub(super) fn add_tunable(
    source: &str,
    name: &str,
    values: &[i64],
    edits: &mut SourceEdits,
) -> Option<()> {
    let values: Vec<_> = values.iter().map(i64::to_string).collect();
    let line = format!("  {name}: [{}]\n", values.join(", "));
    match section_range(source, "tunables") {
        Some(section) => {
            let text = &source[section.clone()];
            let first = text.lines().next()?.trim_start_matches("tunables:");
            let first = first.split('#').next().unwrap_or_default().trim();
            // Nothing can be added below `tunables: {ROWS: [4]}`.
            if !first.is_empty() {
                return None;
            }
            edits.insert(section.end, line)
        }
        None => {
            let end = header_range(source)
                .end
                .checked_sub(2)
                .filter(|end| source[..*end].ends_with('\n'))?;
            edits.insert(end, format!("tunables:\n{line}"))
        }
    };
    Some(())
}

/// The value after `key:` in a line that starts at byte `start`, or in the lines below it.
fn line_value_range(source: &str, start: usize, line: &str, key: &str) -> Option<Range<usize>> {
    let text = line.trim_start().trim_start_matches("- ").trim_start();
    let rest = text.strip_prefix(key)?.strip_prefix(':')?;
    let mut at = start + line.len() - rest.len();
    let end = header_range(source).end;
    // Comments and line breaks may come before the value.
    loop {
        let rest = &source[at..end];
        at += rest.len() - rest.trim_start().len();
        if !source[at..end].starts_with('#') {
            break;
        }
        at += source[at..end].find('\n')?;
    }
    value_range(source, at).filter(|range| range.end <= end)
}

/// The byte offsets at which `word` occurs as a whole name or number.
pub(super) fn whole_word_positions<'a>(
    text: &'a str,
    word: &'a str,
) -> impl Iterator<Item = usize> + 'a {
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == '.';
    text.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |at| {
            let before = text[..*at].chars().next_back();
            let after = text[at + word.len()..].chars().next();
            !before.is_some_and(is_part) && !after.is_some_and(is_part)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "/* kforge\nlaunch:\n  - kernel: f\n    grid: ceil_div(n, 128), 2  # why\n    block: 128\n  - {kernel: g}\ntunables:\n  ROWS: [4, 1]\n  TOTAL: [2]\nvariants:\n  - {when: n > 2, ROWS: 1}\n*/\nint x;\n";

    fn source_text(range: Option<Range<usize>>) -> Option<&'static str> {
        range.map(|range| &SOURCE[range])
    }

    #[test]
    fn values_and_sections_are_found() {
        let launch_value = |line, key| source_text(launch_value_range(SOURCE, line, key));
        assert_eq!(launch_value(3, "grid"), Some("ceil_div(n, 128), 2"));
        assert_eq!(launch_value(3, "kernel"), Some("f"));
        assert_eq!(launch_value(3, "shared"), None);
        assert_eq!(launch_value(6, "grid"), None);
        assert_eq!(
            source_text(tunable_list_range(SOURCE, "TOTAL")),
            Some("[2]")
        );
        assert_eq!(source_text(tunable_list_range(SOURCE, "TOT")), None);
        assert_eq!(
            source_text(section_range(SOURCE, "variants")),
            Some("variants:\n  - {when: n > 2, ROWS: 1}\n")
        );
    }

    #[test]
    fn words_inside_other_words_are_not_found() {
        assert_eq!(
            whole_word_positions("128 + 1280 + N128 + (128)", "128").collect::<Vec<_>>(),
            [0, 21]
        );
    }

    #[test]
    fn add_tunable_extends_or_creates_the_section() {
        let mut edits = SourceEdits::new();
        add_tunable(SOURCE, "BLOCK", &[128, 64], &mut edits);
        assert!(
            edits
                .apply(SOURCE)
                .is_some_and(|text| text.contains("  TOTAL: [2]\n  BLOCK: [128, 64]\nvariants:"))
        );
        let bare = "/* kforge\nlaunch:\n  - kernel: f\n*/\n";
        let mut edits = SourceEdits::new();
        add_tunable(bare, "BLOCK", &[128], &mut edits);
        assert_eq!(
            edits.apply(bare).as_deref(),
            Some("/* kforge\nlaunch:\n  - kernel: f\ntunables:\n  BLOCK: [128]\n*/\n")
        );
    }
}
