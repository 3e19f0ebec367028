//! A lexer for C++ sources, precise enough to find declarations and forbidden names. Accepts any text; it never fails.
//!
//! Used by the source checks and rewrites of both devices. It knows no grammar: `kernel::syntax` parses kernels.

use std::ops::Range;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lexeme {
    pub(super) kind: LexemeKind,
    pub(super) range: Range<usize>,
    /// Line of the first character, counted from 1.
    pub(super) line: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LexemeKind {
    /// An identifier or a keyword.
    Identifier,
    Number,
    /// A string or character literal.
    Literal,
    /// A whole preprocessor line with its continuation lines.
    Directive,
    /// One character of punctuation.
    Symbol,
}

/// All lexemes of a source, without comments and white space.
pub(super) fn lex(source: &str) -> Vec<Lexeme> {
    let bytes = source.as_bytes();
    let mut lexemes = Vec::new();
    let (mut position, mut line, mut at_line_start) = (0, 1u32, true);
    while position < bytes.len() {
        let start = position;
        if let Some(end) = end_of_blank(source, start) {
            at_line_start |= bytes[start] == b'\n';
            line += newlines(&bytes[start..end]);
            position = end;
            continue;
        }
        let (kind, end) = lexeme_at(source, start, at_line_start);
        at_line_start = false;
        lexemes.push(Lexeme {
            kind,
            range: start..end,
            line,
        });
        line += newlines(&bytes[start..end]);
        position = end;
    }
    lexemes
}

/// The end of a comment, or of a character of white space, that starts at `start`.
fn end_of_blank(source: &str, start: usize) -> Option<usize> {
    let bytes = source.as_bytes();
    match bytes[start..] {
        [byte, ..] if byte.is_ascii_whitespace() => Some(start + 1),
        [b'/', b'/', ..] => Some(end_of_line(bytes, start)),
        [b'/', b'*', ..] => Some(end_of_comment(source, start)),
        _ => None,
    }
}

fn end_of_comment(source: &str, start: usize) -> usize {
    source[start + 2..]
        .find("*/")
        .map_or(source.len(), |offset| start + 2 + offset + 2)
}

/// The kind and the end of the lexeme at `start`.
fn lexeme_at(source: &str, start: usize, at_line_start: bool) -> (LexemeKind, usize) {
    let bytes = source.as_bytes();
    let end_while = |is_part: fn(u8) -> bool| {
        let rest = bytes[start..].iter();
        start + rest.take_while(|byte| is_part(**byte)).count()
    };
    match bytes[start..] {
        // `%:` is a digraph for `#`.
        [b'#', ..] | [b'%', b':', ..] if at_line_start => {
            (LexemeKind::Directive, end_of_directive(source, start))
        }
        [b'"' | b'\'', ..] => (LexemeKind::Literal, end_of_literal(source, start)),
        [byte, ..] if byte.is_ascii_digit() => (LexemeKind::Number, end_while(is_number_byte)),
        [byte, ..] if is_identifier_byte(byte) => {
            let end = end_while(is_identifier_byte);
            if bytes.get(end) == Some(&b'"') && source[start..end].ends_with('R') {
                (LexemeKind::Literal, end_of_raw_string(source, end))
            } else {
                (LexemeKind::Identifier, end)
            }
        }
        _ => {
            let length = source[start..].chars().next().map_or(1, char::len_utf8);
            (LexemeKind::Symbol, start + length)
        }
    }
}

fn is_number_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'\'' | b'_')
}

fn is_identifier_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

fn newlines(bytes: &[u8]) -> u32 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u32
}

/// The end of a line, which backslashes may continue. Compilers ignore white space after such a backslash.
fn end_of_line(bytes: &[u8], start: usize) -> usize {
    let mut position = start;
    while position < bytes.len()
        && (bytes[position] != b'\n' || is_continued(&bytes[start..position]))
    {
        position += 1;
    }
    position
}

fn is_continued(line: &[u8]) -> bool {
    let blank = |byte: &&u8| matches!(**byte, b' ' | b'\t' | b'\r' | 0x0b | 0x0c);
    line.iter().rev().find(|byte| !blank(byte)) == Some(&b'\\')
}

/// As `end_of_line`, but a comment inside the directive may span lines; the directive continues after it.
fn end_of_directive(source: &str, start: usize) -> usize {
    let bytes = source.as_bytes();
    let mut position = start;
    while position < bytes.len() {
        position = match bytes[position] {
            b'\n' if !is_continued(&bytes[start..position]) => return position,
            b'/' if bytes.get(position + 1) == Some(&b'/') => return end_of_line(bytes, position),
            b'/' if bytes.get(position + 1) == Some(&b'*') => end_of_comment(source, position),
            b'"' | b'\'' => end_of_literal(source, position),
            _ => position + 1,
        };
    }
    position
}

/// A literal ends at its quote or at the end of its line. The compiler reports unterminated literals.
fn end_of_literal(source: &str, start: usize) -> usize {
    let bytes = source.as_bytes();
    let mut position = start + 1;
    while position < bytes.len() && bytes[position] != bytes[start] && bytes[position] != b'\n' {
        position += match &bytes[position..] {
            [b'\\', b'\r', b'\n', ..] => 3,
            [b'\\', ..] => 2,
            _ => 1,
        };
    }
    // A backslash may have skipped into the middle of a UTF-8 sequence.
    let closing = usize::from(bytes.get(position) == Some(&bytes[start]));
    let mut end = (position + closing).min(bytes.len());
    while !source.is_char_boundary(end) {
        end += 1;
    }
    end
}

fn end_of_raw_string(source: &str, quote: usize) -> usize {
    let Some(open) = source[quote..].find('(') else {
        return source.len();
    };
    let closing = format!("){}\"", &source[quote + 1..quote + open]);
    source[quote..]
        .find(&closing)
        .map_or(source.len(), |offset| quote + offset + closing.len())
}

/// A directive as the preprocessor reads it: continuation lines joined, each comment replaced by a space.
pub(super) fn strip_comments(directive: &str) -> String {
    let mut joined = String::new();
    for line in directive.split_inclusive('\n') {
        let text = line.trim_end();
        joined.push_str(text.strip_suffix('\\').unwrap_or(line));
    }
    let mut plain = String::new();
    let mut rest = joined.as_str();
    while let Some(start) = rest.find("/*") {
        plain.push_str(&rest[..start]);
        plain.push(' ');
        rest = rest[start + 2..]
            .find("*/")
            .map_or("", |end| &rest[start + 2 + end + 2..]);
    }
    plain + rest
}

/// Whether the text after `#` starts with the directive `name`.
pub(super) fn starts_with_directive(body: &str, name: &str) -> bool {
    body.strip_prefix(name).is_some_and(|rest| {
        !rest.starts_with(|next: char| next.is_ascii_alphanumeric() || next == '_')
    })
}

/// Whether nothing separates the first three lexemes.
pub(super) fn are_adjacent(lexemes: &[Lexeme]) -> bool {
    lexemes
        .windows(2)
        .take(2)
        .all(|pair| pair[0].range.end == pair[1].range.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_exclude_comments_literals_and_directives() {
        let source = "#define A \\\n  asm\n/* asm\n */ x = \"asm\"; // asm\nR\"(asm)\" 'a' 1.5e3f y\n# pragma once";
        let identifiers: Vec<_> = lex(source)
            .into_iter()
            .filter(|token| token.kind == LexemeKind::Identifier)
            .map(|token| (&source[token.range], token.line))
            .collect();
        assert_eq!(identifiers, [("x", 4), ("y", 5)]);
        assert_eq!(
            lex(source)
                .iter()
                .filter(|token| token.kind == LexemeKind::Directive)
                .count(),
            2
        );
    }

    #[test]
    fn directives_end_where_a_compiler_ends_them() {
        for (source, expected) in [
            ("#a \\\r\n b\nx", "#a \\\r\n b"),
            ("#a \\ \t\n b\nx", "#a \\ \t\n b"),
            ("#a /* \n */ b\nx", "#a /* \n */ b"),
            ("#a \"/*\"\nx */", "#a \"/*\""),
            ("#a // /*\nx */", "#a // /*"),
            ("#a don't\n#b", "#a don't"),
            ("#a '\n", "#a '"),
            ("#\\", "#\\"),
        ] {
            let tokens = lex(source);
            assert_eq!(tokens[0].kind, LexemeKind::Directive);
            assert_eq!(&source[tokens[0].range.clone()], expected);
        }
        let source = "'a\n#b";
        assert_eq!(lex(source)[1].kind, LexemeKind::Directive);
    }

    #[test]
    fn any_prefix_of_odd_text_is_lexed_without_panic() {
        let source = "\"\\é R\"x( /* 'é #\\\n";
        for end in (0..=source.len()).filter(|end| source.is_char_boundary(*end)) {
            for token in lex(&source[..end]) {
                assert!(source.is_char_boundary(token.range.start) && token.range.end <= end);
            }
        }
    }
}
