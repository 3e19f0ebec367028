//! Differences between texts, by lines: for people, and as a small form from which the page makes the new text again.
//!
//! Pure.

use serde::Serialize;
use similar::{Algorithm, ChangeTag, DiffOp, TextDiff};

/// Lines of context around a change.
const CONTEXT_LINES: usize = 3;

/// Longer texts are not compared: the time grows with the square of the number of differences.
const MAX_COMPARED_BYTES: usize = 200_000;

/// One line of a difference for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct DiffLine {
    /// `+`, `-`, a space, or `@` for lines that are left out.
    pub(super) mark: char,
    pub(super) text: String,
}

/// A change of lines: at this line of the old text, counted from 0, so many are replaced by these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct LineEdit(usize, usize, Vec<String>);

fn compare<'a>(old: &'a str, new: &'a str) -> Option<TextDiff<'a, 'a, 'a, str>> {
    (old.len().max(new.len()) <= MAX_COMPARED_BYTES).then(|| {
        TextDiff::configure()
            .algorithm(Algorithm::Patience)
            .diff_lines(old, new)
    })
}

/// The changed lines with some context, at most `max_lines`. Empty if nothing changed.
pub(super) fn diff_lines(old: &str, new: &str, max_lines: usize) -> Vec<DiffLine> {
    let Some(diff) = compare(old, new) else {
        let text = "the texts are too long to be compared here".to_owned();
        return vec![DiffLine { mark: '@', text }];
    };
    let mut lines = Vec::new();
    for group in diff.grouped_ops(CONTEXT_LINES) {
        let first = group.first().map_or(0, |op| op.new_range().start) + 1;
        lines.push(DiffLine {
            mark: '@',
            text: format!("line {first}"),
        });
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            lines.push(DiffLine {
                mark: match change.tag() {
                    ChangeTag::Insert => '+',
                    ChangeTag::Delete => '-',
                    ChangeTag::Equal => ' ',
                },
                text: change.value().trim_end_matches(['\n', '\r']).to_owned(),
            });
        }
    }
    if lines.len() > max_lines {
        let more = lines.len() - max_lines;
        lines.truncate(max_lines);
        let text = format!("{more} more lines are not shown");
        lines.push(DiffLine { mark: '@', text });
    }
    lines
}

/// The edits that make `new` from `old`, from the first line to the last. `None` if the texts are too long.
pub(super) fn line_edits(old: &str, new: &str) -> Option<Vec<LineEdit>> {
    let diff = compare(old, new)?;
    let new_lines: Vec<_> = new.split('\n').collect();
    let mut edits = Vec::new();
    for op in diff.ops() {
        if matches!(op, DiffOp::Equal { .. }) {
            continue;
        }
        let (old_range, new_range) = (op.old_range(), op.new_range());
        let lines = new_lines.get(new_range).unwrap_or_default();
        let lines = lines.iter().map(|line| (*line).to_owned()).collect();
        edits.push(LineEdit(old_range.start, old_range.len(), lines));
    }
    // `diff_lines` gives a last line its newline; `split` gives an empty line after it. Only texts that end alike are the same here.
    (apply(old, &edits) == new).then_some(edits)
}

/// What the page's script does with edits.
fn apply(old: &str, edits: &[LineEdit]) -> String {
    let mut lines: Vec<&str> = old.split('\n').collect();
    for LineEdit(at, removed, added) in edits.iter().rev() {
        let end = (at + removed).min(lines.len());
        let start = (*at).min(end);
        lines.splice(start..end, added.iter().map(String::as_str));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_shown_with_context() {
        let old = "a\nb\nc\nd\ne\nf\ng\nh\ni\n";
        let new = "a\nb\nc\nd\nE\nf\ng\nh\ni\n";
        let lines = diff_lines(old, new, 100);
        let text: Vec<_> = lines
            .iter()
            .map(|line| format!("{}{}", line.mark, line.text))
            .collect();
        assert_eq!(
            text,
            ["@line 2", " b", " c", " d", "-e", "+E", " f", " g", " h"]
        );
        assert_eq!(diff_lines(old, old, 100), []);
        assert_eq!(diff_lines(old, new, 2).len(), 3);
    }

    #[test]
    fn edits_make_the_new_text_again() {
        let texts = [
            "",
            "a",
            "a\n",
            "a\nb\nc\n",
            "x\na\nc",
            "\n\n",
            "a\nb\nc\nd",
            "b\r\nc\n",
        ];
        for old in texts {
            for new in texts {
                if let Some(edits) = line_edits(old, new) {
                    assert_eq!(apply(old, &edits), new, "{old:?} {new:?}");
                }
            }
        }
        assert!(line_edits("a\nb\nc\n", "a\nX\nc\n").is_some());
    }
}
