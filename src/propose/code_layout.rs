//! White space and parentheses around rewritten C++ code, so that a changed kernel stays readable.
//!
//! Never decides what to rewrite: transformations do.

use std::ops::Range;

use tree_sitter::Node;

use crate::kernel::syntax::{Syntax, contains};

/// The white space at the start of the line that contains byte `at`.
pub(super) fn indentation(source: &str, at: usize) -> &str {
    let start = line_start(source, at);
    let line = &source[start..];
    &line[..line.len() - line.trim_start_matches([' ', '\t']).len()]
}

/// The first byte of the line that contains byte `at`.
pub(super) fn line_start(source: &str, at: usize) -> usize {
    source[..at].rfind('\n').map_or(0, |newline| newline + 1)
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
    fn indentation_is_found_and_added() {
        assert_eq!(indentation("a\n  b c", 6), "  ");
        assert_eq!(
            indent_following_lines("a\n  b\n#pragma\n\nc"),
            "a\n      b\n#pragma\n\n    c"
        );
    }
}
