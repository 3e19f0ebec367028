//! Loops that wait for another thread: threads of a block take turns on one core and are not interrupted, so such a loop must
//! step aside now and then, or the thread that it waits for never runs.
//!
//! A loop without a body waits by definition. One whose body changes nothing by itself (`do x = *flag; while (x == 0);`) may.
//! Where nobody else can run, stepping aside costs a nanosecond.

use std::ops::Range;

use crate::kernel::lexer::{Lexeme, LexemeKind};

/// A longer body does something.
const MAX_BODY_TOKENS: usize = 48;
/// No honest condition is longer; and nonsense is not searched to its end again and again.
const MAX_CONDITION_TOKENS: usize = 1000;

/// What to put where.
pub(super) fn wait_loop_edits(source: &str, tokens: &[Lexeme]) -> Vec<(Range<usize>, String)> {
    let text = |index: usize| {
        tokens
            .get(index)
            .map_or("", |token| &source[token.range.clone()])
    };
    let mut edits = Vec::new();
    // Where the `{` of every open brace is; the `do` of every loop that has not met its `while`, with the braces open there.
    let mut braces = Vec::new();
    let mut loops: Vec<(usize, usize)> = Vec::new();
    for index in 0..tokens.len() {
        match (tokens[index].kind, text(index)) {
            (LexemeKind::Symbol, "{") => braces.push(index),
            (LexemeKind::Symbol, "}") => {
                braces.pop();
                // A `do` inside what has just closed found no `while`: not a loop after all.
                loops.retain(|(_, depth)| *depth <= braces.len());
            }
            (LexemeKind::Identifier, "do") => loops.push((index, braces.len())),
            (LexemeKind::Identifier, "while") => {
                let ends_a_statement = matches!(text(index.wrapping_sub(1)), ";" | "}");
                let begun = loops
                    .last()
                    .filter(|(_, depth)| ends_a_statement && *depth == braces.len())
                    .map(|(begin, _)| *begin);
                if let Some(begin) = begun {
                    loops.pop();
                    if text(index + 1) == "(" && only_reads(source, &tokens[begin + 1..index]) {
                        let after = tokens[index + 1].range.end;
                        edits.push((after..after, "::kforge::polled(), ".to_owned()));
                    }
                } else if let Some(close) = closing_parenthesis(source, tokens, index + 1) {
                    let place = match (text(close + 1), text(close + 2)) {
                        (";", _) => tokens[close + 1].range.start,
                        ("{", "}") => tokens[close + 1].range.end,
                        _ => continue,
                    };
                    let call = if text(close + 1) == ";" {
                        "::kforge::polled()"
                    } else {
                        "::kforge::polled();"
                    };
                    edits.push((place..place, call.to_owned()));
                }
            }
            _ => {}
        }
    }
    edits
}

/// Whether a body only looks: it counts nothing, and holds no loop and no preprocessor line.
fn only_reads(source: &str, body: &[Lexeme]) -> bool {
    let counts = |pair: &[Lexeme]| {
        let adjacent = pair[0].range.end == pair[1].range.start;
        let joined = &source[pair[0].range.start..pair[1].range.end];
        adjacent && matches!(joined, "++" | "--" | "+=" | "-=" | "*=" | "/=" | "|=")
    };
    body.len() <= MAX_BODY_TOKENS
        && !body.windows(2).any(counts)
        && !body.iter().any(|token| {
            token.kind == LexemeKind::Directive
                || matches!(&source[token.range.clone()], "for" | "while" | "do")
        })
}

/// The index of the bracket that closes the one at `open`.
fn closing_parenthesis(source: &str, tokens: &[Lexeme], open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (index, token) in tokens
        .iter()
        .enumerate()
        .skip(open)
        .take(MAX_CONDITION_TOKENS)
    {
        match &source[token.range.clone()] {
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
