//! White space and parentheses around rewritten C++ code, so that a changed kernel stays readable.
//!
//! Never decides what to rewrite: transformations do.

use std::ops::Range;

use tree_sitter::Node;

use crate::kernel::syntax::{Syntax, children, contains};

/// The white space at the start of the line that contains byte `at`.
pub(super) fn indentation(source: &str, at: usize) -> &str {
    let start = line_start(source, at);
    let line = &source[start..];
    &line[..line.len() - line.trim_start_matches([' ', '\t']).len()]
}

/// The first byte of the line that contains byte `at`.
fn line_start(source: &str, at: usize) -> usize {
    source[..at].rfind('\n').map_or(0, |newline| newline + 1)
}

/// Whether a line has only white space before byte `at`.
fn starts_line(source: &str, at: usize) -> bool {
    source[line_start(source, at)..at].trim().is_empty()
}

/// The edit that inserts whole lines before the code at byte `at`: the byte, and the text. Code before `at` on the same line
/// stays before the new lines.
///
/// `lines`: each with its indentation and its line break.
pub(super) fn lines_before(source: &str, at: usize, lines: &str) -> (usize, String) {
    if starts_line(source, at) {
        (line_start(source, at), lines.to_owned())
    } else {
        (at, format!("\n{lines}{}", indentation(source, at)))
    }
}

/// The edit that replaces the code in `range` by whole lines: the bytes, and the text. Other code on the first and the last line
/// stays.
///
/// `lines`: the first with its indentation, the last without its line break.
pub(super) fn lines_instead(
    source: &str,
    range: Range<usize>,
    lines: &str,
) -> (Range<usize>, String) {
    if starts_line(source, range.start) {
        (line_start(source, range.start)..range.end, lines.to_owned())
    } else {
        (range, format!("\n{lines}"))
    }
}

/// Indents every line but the first by four more spaces. Blank lines and preprocessor directives are left alone.
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

/// The text of a statement's head, such as `for (…)`: up to its closing parenthesis. A comment before the body is left out,
/// because other code on its line would become part of it.
pub(super) fn head_range(statement: Node<'_>, body: Node<'_>) -> Option<Range<usize>> {
    let close = children(statement)
        .take_while(|child| child.id() != body.id())
        .filter(|child| child.kind() == ")")
        .last()?;
    Some(statement.start_byte()..close.end_byte())
}

/// The bytes of a loop or function body without its braces: from the first statement or comment to the last.
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

/// The sum that replaces `node`, in parentheses if the code around `node` binds more tightly than `+`.
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

/// The text without any white space.
pub(super) fn without_spaces(text: &str) -> String {
    text.split_whitespace().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_before_a_statement_stays_on_its_line() {
        let source = "{\n  a; b;\n  c;\n}";
        assert_eq!(
            lines_before(source, 7, "  x;\n"),
            (7, "\n  x;\n  ".to_owned())
        );
        assert_eq!(
            lines_before(source, 12, "  x;\n"),
            (10, "  x;\n".to_owned())
        );
        assert_eq!(
            lines_instead(source, 7..9, "  x;"),
            (7..9, "\n  x;".to_owned())
        );
        assert_eq!(
            lines_instead(source, 12..14, "  x;"),
            (10..14, "  x;".to_owned())
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
