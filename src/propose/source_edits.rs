//! Edits of a text by byte ranges, and the small matters of layout that keep edited code readable.

use std::ops::Range;

use tree_sitter::Node;

use crate::kernel::syntax::{Syntax, contains};

/// Replacements of disjoint ranges of one text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SourceEdits(Vec<(Range<usize>, String)>);

impl SourceEdits {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn replace(&mut self, range: Range<usize>, text: impl Into<String>) -> &mut Self {
        self.0.push((range, text.into()));
        self
    }

    pub(crate) fn insert(&mut self, at: usize, text: impl Into<String>) -> &mut Self {
        self.replace(at..at, text)
    }

    /// These edits but for those that lie within a range, or fill it.
    pub(crate) fn without_range(mut self, part: &Range<usize>) -> Self {
        self.0
            .retain(|(range, _)| range.start < part.start || part.end < range.end);
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These edits and others.
    pub(crate) fn merged_with(mut self, others: &Self) -> Self {
        self.0.extend(others.0.iter().cloned());
        self
    }

    /// The text with all edits made; `None` where two overlap or one lies outside.
    pub(crate) fn apply(&self, text: &str) -> Option<String> {
        self.apply_within(text, 0..text.len())
    }

    /// A part of the text with the edits that lie within it made; the others are left out.
    pub(crate) fn apply_within(&self, text: &str, part: Range<usize>) -> Option<String> {
        let mut edits: Vec<_> = self
            .0
            .iter()
            .filter(|(range, _)| part.start <= range.start && range.end <= part.end)
            .collect();
        // Stable: insertions at one place stay in the order in which they were asked for.
        edits.sort_by_key(|(range, _)| (range.start, range.end));
        let mut result = String::new();
        let mut at = part.start;
        for (range, replacement) in edits {
            result.push_str(text.get(at..range.start)?);
            result.push_str(replacement);
            at = range.end;
        }
        result.push_str(text.get(at..part.end)?);
        Some(result)
    }
}

/// The white space in front of the line on which a byte lies.
pub(super) fn indentation(source: &str, at: usize) -> &str {
    let start = line_start(source, at);
    let line = &source[start..];
    &line[..line.len() - line.trim_start_matches([' ', '\t']).len()]
}

/// Where the line of a byte begins.
pub(super) fn line_start(source: &str, at: usize) -> usize {
    source[..at].rfind('\n').map_or(0, |newline| newline + 1)
}

/// Every line but the first moved to the right by four spaces; directives stay where they are.
pub(super) fn indent_following_lines(text: &str) -> String {
    let mut result = String::with_capacity(text.len() + 64);
    for (index, line) in text.split('\n').enumerate() {
        if index > 0 {
            result.push('\n');
            if !line.trim().is_empty() && !line.starts_with('#') {
                result.push_str("    ");
            }
        }
        result.push_str(line);
    }
    result
}

/// The bytes of a loop's or function's body without its braces: from the first statement to the last, comments included.
pub(super) fn body_range(syntax: &Syntax<'_>, body: Node<'_>) -> Range<usize> {
    if body.kind() != "compound_statement" {
        return body.byte_range();
    }
    let inner = body.start_byte() + 1..body.end_byte() - 1;
    let text = syntax.source().get(inner.clone()).unwrap_or_default();
    let lead = text.len() - text.trim_start().len();
    let trail = text.len() - text.trim_end().len();
    if lead == text.len() {
        return inner.start..inner.start;
    }
    inner.start + lead..inner.end - trail
}

/// An expression put in place of `node`, in parentheses where the surroundings bind more tightly than a sum.
pub(super) fn parenthesize_if_needed(node: Node<'_>, sum: &str) -> String {
    let is_safe = node.parent().is_some_and(|parent| {
        let operator = parent
            .child_by_field_name("operator")
            .map_or("", |operator| operator.kind());
        let is_left = parent
            .child_by_field_name("left")
            .is_some_and(|left| contains(left, node));
        match parent.kind() {
            "binary_expression" => match operator {
                "+" | "<" | "<=" | ">" | ">=" | "==" | "!=" | "&&" | "||" => true,
                "-" => is_left,
                _ => false,
            },
            "assignment_expression" | "init_declarator" => !is_left,
            "subscript_argument_list"
            | "argument_list"
            | "parenthesized_expression"
            | "return_statement" => true,
            _ => false,
        }
    });
    if is_safe {
        sum.to_owned()
    } else {
        format!("({sum})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_apply_in_any_order_and_overlaps_are_refused() {
        let mut edits = SourceEdits::new();
        edits.replace(4..5, "X").insert(0, "a").insert(0, "b");
        assert_eq!(edits.apply("01234567").as_deref(), Some("ab0123X567"));
        assert_eq!(edits.apply_within("01234567", 1..4).as_deref(), Some("123"));
        edits.replace(3..6, "Y");
        assert_eq!(edits.apply("01234567"), None);
        assert_eq!(
            SourceEdits::new().replace(3..9, "").apply("0123"),
            Some("0123".to_owned())
        );
    }

    #[test]
    fn indentation_is_found_and_added() {
        assert_eq!(indentation("a\n  b c", 6), "  ");
        assert_eq!(
            indent_following_lines("a\n  b\n#pragma\n\nc"),
            "a\n      b\n#pragma\n\n    c"
        );
    }
}
