//! Inserts a poll call into loops that may wait for another thread.
//!
//! The threads of a block share a core and are not preempted. A loop that waits must yield now and then; otherwise the thread
//! that it waits for never runs. A loop without a body always waits. A loop whose body only reads, such as
//! `do x = *flag; while (x == 0);`, may wait. If no other thread can run, a poll costs about a nanosecond.

use std::ops::Range;

use crate::kernel::lexer::{Lexeme, LexemeKind};

/// A loop with a longer body is assumed to do work.
const MAX_BODY_LEXEMES: usize = 48;
/// Longer conditions are ignored. The limit also keeps malformed source from being scanned to its end for every loop.
const MAX_CONDITION_LEXEMES: usize = 1000;

/// The insertions: empty ranges of the source, and the text for each.
pub(super) fn wait_loop_edits(source: &str, lexemes: &[Lexeme]) -> Vec<(Range<usize>, String)> {
    let text = |index: usize| {
        lexemes
            .get(index)
            .map_or("", |lexeme| &source[lexeme.range.clone()])
    };
    let mut edits = Vec::new();
    // The `{` of every open brace; and of every `do` without its `while` yet, its index and the number of open braces.
    let mut braces = Vec::new();
    let mut loops: Vec<(usize, usize)> = Vec::new();
    for index in 0..lexemes.len() {
        match (lexemes[index].kind, text(index)) {
            (LexemeKind::Symbol, "{") => braces.push(index),
            (LexemeKind::Symbol, "}") => {
                braces.pop();
                // A `do` inside the closed braces has no `while`, so it is not a loop.
                loops.retain(|(_, depth)| *depth <= braces.len());
            }
            (LexemeKind::Identifier, "do") => loops.push((index, braces.len())),
            (LexemeKind::Identifier, "while") => {
                let ends_a_statement = matches!(text(index.wrapping_sub(1)), ";" | "}");
                let open_do = loops
                    .last()
                    .filter(|(_, depth)| ends_a_statement && *depth == braces.len())
                    .map(|(start, _)| *start);
                if let Some(start) = open_do {
                    loops.pop();
                    if text(index + 1) == "(" && only_reads(source, &lexemes[start + 1..index]) {
                        let after = lexemes[index + 1].range.end;
                        edits.push((after..after, "::kforge::polled(), ".to_owned()));
                    }
                } else if let Some(close) = closing_parenthesis(source, lexemes, index + 1) {
                    let position = match (text(close + 1), text(close + 2)) {
                        (";", _) => lexemes[close + 1].range.start,
                        ("{", "}") => lexemes[close + 1].range.end,
                        _ => continue,
                    };
                    let call = if text(close + 1) == ";" {
                        "::kforge::polled()"
                    } else {
                        "::kforge::polled();"
                    };
                    edits.push((position..position, call.to_owned()));
                }
            }
            _ => {}
        }
    }
    edits
}

/// Whether a body only reads: it increments nothing, and contains no loop and no preprocessor line.
fn only_reads(source: &str, body: &[Lexeme]) -> bool {
    let increments = |pair: &[Lexeme]| {
        let adjacent = pair[0].range.end == pair[1].range.start;
        let joined = &source[pair[0].range.start..pair[1].range.end];
        adjacent && matches!(joined, "++" | "--" | "+=" | "-=" | "*=" | "/=" | "|=")
    };
    body.len() <= MAX_BODY_LEXEMES
        && !body.windows(2).any(increments)
        && !body.iter().any(|lexeme| {
            lexeme.kind == LexemeKind::Directive
                || matches!(&source[lexeme.range.clone()], "for" | "while" | "do")
        })
}

/// The index of the parenthesis that closes the one at `open`.
fn closing_parenthesis(source: &str, lexemes: &[Lexeme], open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (index, lexeme) in lexemes
        .iter()
        .enumerate()
        .skip(open)
        .take(MAX_CONDITION_LEXEMES)
    {
        match &source[lexeme.range.clone()] {
            "(" => depth += 1,
            ")" => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return (index > open).then_some(index);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::lexer::lex;

    fn with_polls(source: &str) -> String {
        let mut text = source.to_owned();
        for (range, words) in wait_loop_edits(source, &lex(source)).into_iter().rev() {
            text.replace_range(range, &words);
        }
        text.replace("::kforge::polled()", "P")
    }

    #[test]
    fn waiting_loops_get_a_poll() {
        for (source, expected) in [
            ("while (*flag == 0);", "while (*flag == 0)P;"),
            ("while (f(a, b)) { }", "while (f(a, b)) {P; }"),
            (
                "if (a) { b(); } while (*flag == 0) {\n}",
                "if (a) { b(); } while (*flag == 0) {P;\n}",
            ),
            (
                "do { x = *flag; } while (x == 0);",
                "do { x = *flag; } while (P, x == 0);",
            ),
            (
                "do x = *flag; while (x == 0);",
                "do x = *flag; while (P, x == 0);",
            ),
            (
                "do { if (a) { b(); } x = *flag; } while (x == 0); while (y);",
                "do { if (a) { b(); } x = *flag; } while (P, x == 0); while (y)P;",
            ),
        ] {
            assert_eq!(with_polls(source), expected);
        }
    }

    #[test]
    fn working_loops_are_unchanged() {
        for source in [
            "while (i < n) { ++i; }",
            "do { ++i; } while (i < n);",
            "do { i += stride; } while (i < n);",
            "do { for (;;) {} } while (i < n);",
            "while (i < n) f(i++);",
        ] {
            assert_eq!(with_polls(source), source);
        }
    }

    #[test]
    fn malformed_source_is_unchanged() {
        for source in [
            "while",
            "while (",
            "while )",
            "do",
            "}} do { while ( }",
            "do while",
            "while (()",
        ] {
            assert_eq!(with_polls(source), source);
        }
    }
}
